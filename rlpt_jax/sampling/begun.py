"""Computes the caches of samples that have tokens already.

A sample that enters a slot with earlier tokens, from before an update or a
restart, needs their keys and values under the newest weights. They are computed
by whole rows, in far less time than by repeating the tokens one by one.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.cache import Cache
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling import caches
from rlpt_jax.sampling.blocks import Blocks
from rlpt_jax.sampling.caches import Stored
from rlpt_jax.sampling.decode import pad_prompts

# Tokens of a shard that are computed at once, with padding: enough to keep a
# device busy, and few beside those of an update, which takes more memory.
TOKENS = 1024


class Begun(NamedTuple):
  """A row of the batch whose sample has tokens already."""

  slot: int
  prefix: int  # The row of its prompt in the prefix cache.
  prefix_length: int
  inputs: np.ndarray  # The last token of the prompt, and all but its last own.


def prefill(
  decoder: Decoder,
  params,
  prefixes: Stored,
  own: Stored,
  rows: Sequence[Begun],
  blocks: Blocks,
) -> tuple[Stored, int]:
  """Returns the pool with the rows' inputs, and the positions computed.

  own: is consumed. The number of compiled programs is logarithmic in the
    longest row: lengths are rounded up to 1, 2, 4, ... blocks.
  """
  computed = 0
  for length, some in _batches(rows, blocks):
    inputs = [row.inputs if row else () for row in some]
    tokens_BT, segments_BT = pad_prompts(inputs, len(some), length)
    prefix_B = [row.prefix if row else 0 for row in some]
    prefix_length_B = [row.prefix_length if row else 0 for row in some]
    own = _prefill_rows(
      decoder, params, prefixes, own, tokens_BT, segments_BT,
      np.array(prefix_B, np.int32), np.array(prefix_length_B, np.int32),
      _places(some, length, blocks),
    )  # fmt: skip
    computed += tokens_BT.size
  return own, computed


def _batches(
  rows: Sequence[Begun], blocks: Blocks, tokens: int = TOKENS
) -> Iterator[tuple[int, list[Begun | None]]]:
  """Yields (padded length, rows), with equally many rows of each shard.

  None is a row of padding. Longest rows come first, so that rows of similar
  length share a batch.
  """
  waiting = [[] for _ in range(blocks.shards)]
  for row in sorted(rows, key=lambda row: (-len(row.inputs), row.slot)):
    waiting[blocks.shard(row.slot)].append(row)
  while any(waiting):
    longest = max(len(rows[0].inputs) for rows in waiting if rows)
    columns = 1 << (blocks.count(longest) - 1).bit_length()
    length = min(columns, blocks.columns) * blocks.size
    each = max(1, tokens // length)
    batch = []
    for rows_of_shard in waiting:
      some, rows_of_shard[:each] = rows_of_shard[:each], []
      batch += some + [None] * (each - len(some))
    yield length, batch


def _places(
  rows: Sequence[Begun | None], length: int, blocks: Blocks
) -> np.ndarray:
  """[B, length / block]: where each row keeps its blocks; dropped if unused."""
  table_BM = blocks.table()
  places_BC = np.full((len(rows), length // blocks.size), blocks.total)
  for b, row in enumerate(rows):
    if row:
      count = blocks.count(len(row.inputs))
      places_BC[b, :count] = table_BM[row.slot, :count]
  return places_BC.astype(np.int32)


@functools.partial(jax.jit, static_argnames='decoder', donate_argnames='own')
def _prefill_rows(
  decoder: Decoder, params, prefixes: Stored, own: Stored, tokens_BT,
  segments_BT, prefix_B, prefix_length_B, places_BC,
) -> Stored:  # fmt: skip
  prompts = _gathered(decoder, prefixes, prefix_B)
  mask_BS = jnp.arange(prompts.v_LBKSH[0].shape[2]) < prefix_length_B[:, None]
  context = Cache(prompts.k_LBKHS, prompts.v_LBKSH, mask_BS)
  cache = decoder_lib.forward(
    decoder, params, tokens_BT, segments_BT, (context,)
  ).cache
  new = caches.store(cache, caches.dtype_of(own))
  place_X = places_BC.reshape(-1)
  put = functools.partial(
    cache_lib.put_blocks, index_B=place_X, start_B=jnp.zeros_like(place_X),
    layout=decoder.layout,
  )  # fmt: skip

  def put_all(axis, pool_L, new_L):
    C = places_BC.shape[1]
    return pool_L and tuple(
      put(pool, _in_blocks(x, C, axis), axis=axis)
      for pool, x in zip(pool_L, new_L, strict=True)
    )

  return Stored(*map(put_all, caches.POSITIONS, own, new))


def _gathered(decoder: Decoder, prefixes: Stored, prefix_B) -> Stored:
  """The prefix of each row, in the dtype of the activations."""
  dtype = decoder.compute.dtype

  def take(values_L, scales_L, axis):
    scales_L = scales_L or [None] * len(values_L)
    taken = []
    for values, scale in zip(values_L, scales_L, strict=True):
      x = cache_lib.take(values, prefix_B, layout=decoder.layout).astype(dtype)
      if scale is not None:
        scale = cache_lib.take(scale, prefix_B, layout=decoder.layout)
        x *= jnp.expand_dims(scale, axis).astype(dtype)
      taken.append(x)
    return tuple(taken)

  k, v, k_scale, v_scale = prefixes
  return Stored(take(k, k_scale, 2), take(v, v_scale, 3))


def _in_blocks(x, columns: int, axis: int):
  """[B * columns, ...]: rows cut into blocks along their axis of positions."""
  B, size = x.shape[0], x.shape[axis] // columns
  shape = (*x.shape[:axis], columns, size, *x.shape[axis + 1 :])
  x = jnp.moveaxis(x.reshape(shape), axis, 1)
  return x.reshape(B * columns, *x.shape[2:])
