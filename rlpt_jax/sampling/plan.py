"""The shapes of an engine and its memory, checked before it allocates any."""

import dataclasses
import math
import os
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import SIZES, Sizes

# The limit of a container's memory, in bytes or 'max'.
CONTAINER = pathlib.Path('/sys/fs/cgroup/memory.max')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The shapes of an engine, which determine its memory.

  slots: completions that run at the same time.
  group: the most completions of one prompt that run at the same time; if a
    request has more samples, they take turns. (Where devices split the batch,
    and each has fewer slots than that, it is a limit for each device.)
  prompts: prefixes kept at the same time; by default, `spread` times the number
    of groups that it takes to fill the slots. With heavy-tailed lengths, a
    straggler keeps its prefix after the rest of its group has ended; a spare
    prefix lets a new group use the free slots.
  spread: see `prompts`. 2 is enough until the last groups of a batch; if groups
    never end together, as in asynchronous training, 3 to 6 keep the slots full.
  max_prompt_tokens, max_new_tokens: the most tokens that a request may have.
  own_tokens: positions in the cache for the tokens of all running completions;
    by default, and at most, enough for all slots to run to max_new_tokens. A
    completion takes positions as it grows, so fewer are enough if most end
    early. When none are left, the completion that entered its slot last leaves
    it, and is computed again later, from the weights at that time.
  block: positions that a completion takes at a time, a multiple of `chunk`; by
    default, an eighth of max_new_tokens, but at least 32 and at most 128; on a
    TPU, whose kernel needs multiples of 128, the smallest of these.
  chunk: tokens between two checks for finished rows. A short chunk refills
    slots sooner; a long one reduces the overhead of the host.
  cache_dtype: by default, the dtype of the activations. int8 takes about half
    the memory of bfloat16, but gains nothing on a CPU, which computes both in
    float32.
  memory: bytes that weights, caches and logits may take on a device; by
    default, nine tenths of the memory that the device reports as free (on a
    CPU: of all the machine's memory, divided among its devices).
  """

  slots: int
  group: int = 8
  prompts: int | None = None
  spread: int = 2
  own_tokens: int | None = None
  block: int | None = None
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
    if self.block_size % self.chunk:
      raise ValueError(
        f'block={self.block}: expected a multiple of chunk={self.chunk}.'
      )

  @property
  def num_prompts(self) -> int:
    return self.prompts or self.spread * -(-self.slots // self.group)

  @property
  def prefix_length(self) -> int:
    """Positions of a prefix: a prompt without its last token, rounded up."""
    return bucket(self.max_prompt_tokens - 1)

  @property
  def block_size(self) -> int:
    size = self.block or min(max(32, self.max_new_tokens // 8), 128)
    # A chunk must lie within a block.
    return self.block or max(1, size // self.chunk) * self.chunk

  @property
  def columns(self) -> int:
    """Blocks of a completion of max_new_tokens."""
    return -(-self.max_new_tokens // self.block_size)

  @property
  def num_blocks(self) -> int:
    most = self.slots * self.columns
    if self.own_tokens is None:
      return most
    return min(most, -(-self.own_tokens // self.block_size))

  def dtype(self, decoder: Decoder) -> str:
    return self.cache_dtype or decoder.compute.dtype

  def check(self, request: Request):
    """Raises if no slot could ever take the request."""
    for name, count, room in (
      ('prompt tokens', len(request.prompt_tokens), self.max_prompt_tokens),
      ('new tokens', max(request.limits), self.max_new_tokens),
    ):
      if count > room:
        field = f'max_{name.replace(" ", "_")}'
        raise ValueError(
          f'request {request.id}: {count} {name}, but at most {room} fit: '
          f'shorten it or raise {field}.'
        )
    self.sizes.check(request)


@dataclasses.dataclass(frozen=True)
class Memory:
  """The bytes that an engine takes on each device."""

  weights: int
  gathered: int  # Weights gathered for use, if a batch axis shards them.
  prefixes: int
  own: int
  recent: int
  column: int  # A block of every row, which XLA's attention gathers.
  logits: int  # Logits of a step, with their noise.
  float32_copies: int  # Copies of the caches that XLA makes on a CPU.

  @property
  def completions(self) -> int:
    return self.own + self.recent + self.column + self.float32_copies

  @property
  def total(self) -> int:
    return sum(dataclasses.astuple(self))


def memory(plan: Plan, decoder: Decoder) -> Memory:
  """The bytes of weights, caches and logits on each device.

  Excludes the activations of prefill and temporary copies made by `publish`.
  """
  c, layout, dtype = decoder.config, decoder.layout, plan.dtype(decoder)

  def of_weights(place):
    num_bytes = 0
    for name, spec in weights.named(decoder_lib.specs(c)):
      itemsize = 4
      if name == head.name_of_weights(decoder):
        itemsize = head.bytes_of_a_weight(decoder)
      elif name == 'embed' or name.startswith('layers/'):
        itemsize = jnp.dtype(decoder.compute.dtype).itemsize
      shard = place(spec.shape, spec.axes).shard_shape(spec.shape)
      num_bytes += math.prod(shard) * itemsize
    return num_bytes

  kept = of_weights(layout.weight_sharding)
  used = of_weights(layout.gathered_weight_sharding)
  logits_shape = (plan.slots, c.vocab_size)
  logits = layout.sharding(logits_shape, ('batch', 'vocab'))

  def float32_copies():
    """Bytes of the float32 copies of the caches that XLA on CPU makes.

    The caches do not change in a chunk's loop, so XLA moves their conversion
    out of the loop, and converts all layers at once. Blocks in int8 are
    converted when they have been gathered, in the loop; in bfloat16, the whole
    pool is, because XLA on CPU gathers no halves.
    """
    if layout.platform != 'cpu' or dtype == 'float32':
      return 0
    prefixes = cache(plan.num_prompts, plan.prefix_length, 'float32')
    if dtype == 'int8':
      return prefixes
    return prefixes + cache(plan.num_blocks, plan.block_size, 'float32')

  def cache(rows, length, dtype):
    whole = cache_lib.num_bytes(decoder.config, rows, length, dtype=dtype)
    mask = rows * length  # Made for each chunk, not stored.
    return (whole - mask) // _ways(decoder, rows)

  return Memory(
    weights=kept,
    gathered=used if used > kept else 0,
    prefixes=cache(plan.num_prompts, plan.prefix_length, dtype),
    own=cache(plan.num_blocks, plan.block_size, dtype),
    recent=cache(plan.slots, plan.chunk, decoder.compute.dtype),
    column=cache(plan.slots, plan.block_size, dtype) // c.num_layers,
    logits=4 * 4 * math.prod(logits.shard_shape(logits_shape)),
    float32_copies=float32_copies(),
  )


def fitted(plan: Plan, layout: Layout) -> Plan:
  """The plan, with its defaults and `own_tokens` rounded up for the layout."""
  block, own_tokens = plan.block_size, plan.own_tokens
  if plan.block is None and layout.platform == 'tpu':
    # The smallest block that a TPU does not pad.
    block = math.lcm(128, plan.chunk)
  if own_tokens is not None:
    own_tokens = layout.whole_batch(-(-own_tokens // block)) * block
  # A group larger than a device's slots has a prefix on several devices.
  seats = min(plan.group, max(1, plan.slots // layout.batch_size))
  groups = -(-plan.slots // seats)
  return dataclasses.replace(
    plan,
    prompts=plan.prompts or layout.whole_batch(plan.spread * groups),
    block=block,
    own_tokens=own_tokens,
  )


def check_rows(plan: Plan, layout: Layout):
  """Raises unless the devices can share slots and prompts equally."""
  for name, rows in (('slots', plan.slots), ('prompts', plan.num_prompts)):
    if rows != layout.whole_batch(rows):
      raise ValueError(
        f'{name}={rows}: expected a multiple of {layout.batch_size}, the '
        f'devices that split a batch; the next is {layout.whole_batch(rows)}.'
      )


def check(plan: Plan, decoder: Decoder, *, loaded=()) -> Memory:
  """The memory of the plan; raises if it does not fit the devices.

  loaded: arrays that will be freed; those on other devices do not count.
  """
  asked, layout = plan.own_tokens, decoder.layout
  plan = fitted(plan, layout)
  check_rows(plan, layout)
  least = plan.columns * plan.block_size * layout.batch_size
  if plan.num_blocks * plan.block_size < least:
    raise ValueError(
      f'own_tokens={asked}: expected at least {least}, room for a completion '
      f'of max_new_tokens={plan.max_new_tokens}, in blocks of '
      f'{plan.block_size}, on each of the {layout.batch_size} devices that '
      'split a batch: raise own_tokens, or lower max_new_tokens.'
    )
  needed = memory(plan, decoder)
  room = plan.memory or _room(layout, loaded)
  if room is not None and needed.total > room:
    longest = 'slots or max_new_tokens, set own_tokens'
    if asked is not None:
      longest = 'own_tokens'
    if needed.prefixes > needed.own:
      longest = 'prompts or max_prompt_tokens'
    raise ValueError(
      f'The sampler needs {_gib(needed.total)} on each device (weights '
      f'{_gib(needed.weights + needed.gathered)}, prompts '
      f'{_gib(needed.prefixes)}, completions '
      f'{_gib(needed.completions)}, logits '
      f'{_gib(needed.logits)}), but only {_gib(room)} is available: lower '
      f'{longest}, choose a smaller cache_dtype, or split the model over more '
      'devices.'
    )
  return needed


def _ways(decoder: Decoder, rows: int) -> int:
  """The number of shards that a cache is split into."""
  c = decoder.config
  shape, _ = cache_lib.shapes(c, rows, 1)
  sharding = decoder.layout.sharding(shape, cache_lib.AXES)
  return math.prod(shape) // math.prod(sharding.shard_shape(shape))


def _room(layout: Layout, loaded=()) -> int | None:
  """The bytes that a plan may take on each device; None if unknown."""
  device = layout.mesh.local_devices[0]
  stats = device.memory_stats() or {}
  limit = capacity(layout)
  if 'bytes_limit' in stats:  # Memory in use, mostly by a learner, is not free.
    limit -= stats.get('bytes_in_use', 0)
    limit += sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(loaded)
      if device in x.devices()
    )
  return limit and int(limit * 0.9)


def capacity(layout: Layout) -> int | None:
  """The bytes of each device, free or not; None if unknown.

  A CPU's are those of the machine or container, divided among its devices.
  """
  devices = layout.mesh.local_devices
  limit = (devices[0].memory_stats() or {}).get('bytes_limit')
  if limit is None and layout.platform == 'cpu':
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    limit = min(pages, _of_container() or pages) // len(devices)
  return limit


def _of_container() -> int | None:
  """The bytes that Linux lets this container take; None without a limit."""
  try:
    return int(CONTAINER.read_text())
  except (OSError, ValueError):  # No such file, or 'max'.
    return None


def _gib(num_bytes: int) -> str:
  return f'{num_bytes / 2**30:.2f} GiB'
