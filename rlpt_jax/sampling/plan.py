"""What an engine will take, before it takes it."""

import dataclasses
import math
import os
from typing import Literal

import jax

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import SIZES, Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The shapes of an engine; what they take is known before anything runs.

  slots: completions that run at the same time.
  group: those of one prompt that do; a larger group runs so many at a time.
  prompts: prefixes kept at the same time; None: four times as many as full
    groups fit, so that stragglers, each of which keeps its prefix alive, do not
    keep slots empty.
  max_prompt_tokens, max_new_tokens: the longest of each that a request may ask.
  chunk: tokens between two looks at who is done: fewer fill slots sooner, more
    keep the host out of the way.
  cache_dtype: None: the type of the activations. int8 halves bfloat16.
  memory: bytes of a device that weights and caches may take; None: nine tenths
    of what the device says it has.
  """

  slots: int
  group: int = 8
  prompts: int | None = None
  max_prompt_tokens: int = 1024
  max_new_tokens: int = 1024
  chunk: int = 16
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
  memory: int | None = None
  sizes: Sizes = SIZES

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, int) and value < 1:
        raise ValueError(f'{field.name}={value}: expected at least 1.')
    if self.cache_dtype not in (None, 'float32', 'bfloat16', 'int8'):
      raise ValueError(
        f'cache_dtype={self.cache_dtype!r}: expected float32, bfloat16 or int8.'
      )

  @property
  def num_prompts(self) -> int:
    return self.prompts or 4 * max(1, self.slots // self.group)

  @property
  def prefix_length(self) -> int:
    """The last token of a prompt is a row's own."""
    return max(1, self.max_prompt_tokens - 1)

  @property
  def own_length(self) -> int:
    return -(-self.max_new_tokens // self.chunk) * self.chunk

  def dtype(self, decoder: Decoder) -> str:
    return self.cache_dtype or decoder.compute.dtype

  def check(self, request: Request):
    """Raises where no slot could ever take a request."""
    for name, found, room in (
      ('prompt tokens', len(request.prompt_tokens), self.max_prompt_tokens),
      ('new tokens', max(request.limits), self.max_new_tokens),
    ):
      if found > room:
        field = f'max_{name.replace(" ", "_")}'
        raise ValueError(
          f'request {request.id}: {found} {name}, the plan has room for {room}:'
          f' shorten it or raise {field}.'
        )
    self.sizes.check(request)


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each device."""

  weights: int
  prefixes: int
  own: int
  recent: int

  @property
  def total(self) -> int:
    return self.weights + self.prefixes + self.own + self.recent


def memory(plan: Plan, decoder: Decoder) -> Memory:
  """What weights and caches take on each device."""
  dtype = plan.dtype(decoder)
  specs = decoder_lib.specs(decoder.config)
  shapes = weights.shapes(specs, layout=decoder.layout)
  itemsize = 4 if decoder.compute.dtype == 'float32' else 2
  layers = sum(_per_device(x) for x in jax.tree.leaves(shapes['layers']))
  rest = sum(
    _per_device(x)
    for name in shapes
    if name != 'layers'
    for x in jax.tree.leaves(shapes[name])
  )

  def cache(rows, length, dtype):
    whole = cache_lib.num_bytes(decoder.config, rows, length, dtype=dtype)
    mask = rows * length  # Made for each chunk, not kept.
    return (whole - mask) // _ways(decoder, rows)

  return Memory(
    weights=layers * itemsize + rest * 4,
    prefixes=cache(plan.num_prompts, plan.prefix_length, dtype),
    own=cache(plan.slots, plan.own_length, dtype),
    recent=cache(plan.slots, plan.chunk, decoder.compute.dtype),
  )


def check(plan: Plan, decoder: Decoder) -> Memory:
  """What the plan takes; raises where that is more than there is."""
  needed, room = memory(plan, decoder), plan.memory or _room(decoder.layout)
  if room is not None and needed.total > room:
    longest = 'slots or max_new_tokens'
    if needed.prefixes > needed.own:
      longest = 'prompts or max_prompt_tokens'
    raise ValueError(
      f'The sampler would take {_gib(needed.total)} on each device (weights '
      f'{_gib(needed.weights)}, prompts {_gib(needed.prefixes)}, completions '
      f'{_gib(needed.own + needed.recent)}), there is room for {_gib(room)}: '
      f'lower {longest}, choose a smaller cache_dtype, or spread the model '
      'over more devices.'
    )
  return needed


def _per_device(x) -> int:
  shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
  return math.prod(shape)


def _ways(decoder: Decoder, rows: int) -> int:
  """Devices among which a cache is split."""
  c = decoder.config
  shape, _ = cache_lib.shapes(c, rows, 1)
  sharding = decoder.layout.sharding(shape, cache_lib.AXES)
  return math.prod(shape) // math.prod(sharding.shard_shape(shape))


def _room(layout: Layout) -> int | None:
  """Bytes of each device that may be planned with, as far as it says."""
  device = layout.mesh.local_devices[0]
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit is None and layout.platform == 'cpu':
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    limit = pages // len(layout.mesh.local_devices)
  return limit and int(limit * 0.9)


def _gib(num_bytes: int) -> str:
  return f'{num_bytes / 2**30:.2f} GiB'
