"""The sampler's keys and values: one array per layer, optionally in int8.

A store has a row per text, or is a pool with a row per block (models/cache.py).
`Stored` holds a tuple of arrays, one per layer, in each field. In int8, each
position of each head has a scale, chosen so that the entry of the largest
magnitude becomes 127 or -127. With other dtypes, the scales are None.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlpt_jax.core.layout import Layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models.cache import Cache, Readers
from rlpt_jax.models.config import Decoder

HEADS = cache_lib.AXES[1:3]
POSITIONS = (3, 2, 2, 2)  # The axis of positions, in each field of `Stored`.


class Stored(NamedTuple):
  k_LBKHS: Any
  v_LBKSH: Any
  k_scale_LBKS: Any = None
  v_scale_LBKS: Any = None


@functools.partial(
  jax.jit, static_argnames=('decoder', 'rows', 'length', 'dtype')
)
def empty(decoder: Decoder, rows: int, length: int, dtype: str) -> Stored:
  """An empty store with room for `length` tokens per row."""
  c, layout = decoder.config, decoder.layout
  k_shape, v_shape = (shape[1:] for shape in cache_lib.shapes(c, rows, length))
  scale_shape = (*v_shape[:2], length)

  def zeros(shape, dtype, *axes):
    # The constraint is needed with one device too: that device need not be the
    # default one.
    place = functools.partial(
      jax.lax.with_sharding_constraint, shardings=layout.sharding(shape, axes)
    )
    return tuple(place(jnp.zeros(shape, dtype)) for _ in range(c.num_layers))

  k = zeros(k_shape, dtype, *HEADS, None, None)
  v = zeros(v_shape, dtype, *HEADS, None, None)
  if jnp.dtype(dtype) != jnp.int8:
    return Stored(k, v)
  scales = [zeros(scale_shape, jnp.float32, *HEADS, None) for _ in range(2)]
  return Stored(k, v, *scales)


def store(cache: Cache, dtype) -> Stored:
  """The keys and values of a `Cache`, converted to `dtype`."""
  if jnp.dtype(dtype) != jnp.int8:
    cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype))
    return Stored(cast(cache.k_LBKHS), cast(cache.v_LBKSH))
  k, k_scale = zip(*(_int8(x, axis=2) for x in cache.k_LBKHS), strict=True)
  v, v_scale = zip(*(_int8(x, axis=3) for x in cache.v_LBKSH), strict=True)
  return Stored(k, v, k_scale, v_scale)


def _int8(x, axis):
  x = x.astype(jnp.float32)
  scale = jnp.max(jnp.abs(x), axis=axis) / 127
  rounded = jnp.round(x / jnp.expand_dims(jnp.maximum(scale, 1e-20), axis))
  return rounded.astype(jnp.int8), scale


def dtype_of(stored: Stored):
  return stored.v_LBKSH[0].dtype


def context(
  stored: Stored, length_B, readers: Readers | None = None, blocks_BM=None
) -> Cache:
  """Each row's first `length_B` positions, as a `Cache` to attend to.

  blocks_BM: the blocks of each row, if the store is a pool of blocks.
  """
  S = stored.v_LBKSH[0].shape[2]
  S *= 1 if blocks_BM is None else blocks_BM.shape[1]
  mask_BS = jnp.arange(S) < length_B[:, None]
  k, v, k_scale, v_scale = stored
  return Cache(k, v, mask_BS, k_scale, v_scale, readers, length_B, blocks_BM)


def append(stored: Stored, new: Stored, length_B) -> Stored:
  """The store with `new` written after `length_B` positions of each row."""

  def one_row(axis, old, update, start):
    return jax.lax.dynamic_update_slice_in_dim(old, update, start, axis)

  def put(axis, old_L, new_L):
    rows = jax.vmap(functools.partial(one_row, axis - 1))
    return old_L and tuple(
      rows(old, x, length_B) for old, x in zip(old_L, new_L, strict=True)
    )

  return Stored(*map(put, POSITIONS, stored, new))


def append_to_blocks(
  pool: Stored, new: Stored, length_B, blocks_BM, is_kept_B, *, layout: Layout
) -> Stored:
  """As `append`, for rows in blocks; drops rows where `is_kept_B` is False.

  What is new in a row must lie within one of its blocks.
  """
  N, _, size = pool.v_LBKSH[0].shape[:3]
  column_B1 = (length_B // size)[:, None]
  block_B = jnp.take_along_axis(blocks_BM, column_B1, axis=1, mode='clip')[:, 0]
  block_B = jnp.where(is_kept_B, block_B, N)

  def put(axis, pool_L, new_L):
    return pool_L and tuple(
      cache_lib.put_blocks(
        old, x, block_B, length_B % size, axis=axis, layout=layout
      )
      for old, x in zip(pool_L, new_L, strict=True)
    )

  return Stored(*map(put, POSITIONS, pool, new))


def replace_rows(stored: Stored, new: Stored, rows_P) -> Stored:
  """The store with its rows `rows_P` overwritten by the rows of `new`.

  The new rows may be shorter. Those whose index is out of range are dropped.
  """

  def put(old, x):
    # Behind a shorter new row, old entries remain, but they are masked. Padding
    # the new row instead would copy more.
    place = (rows_P, *(slice(size) for size in x.shape[1:]))
    return old.at[place].set(x, mode='drop')

  return jax.tree.map(put, stored, new)
