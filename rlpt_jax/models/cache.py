"""Caches of keys and values: what a forward pass returns for later tokens.

A `Cache` is used as context in two ways that differ only in its number of rows:
one row per prompt (the prefix that a group of rollouts shares) or one per
rollout (its own earlier tokens).

The tokens of a rollout may instead be spread over blocks of a pool, which rows
take as they grow. The pool has the shapes of a cache with a row per block, and
a table says which blocks belong to a row. On several devices, each has its
share of the pool, and its rows use no other blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlpt_jax.core.layout import Layout
from rlpt_jax.models.config import DecoderConfig

# Positions are the last dimension of keys and the next to last of values, so
# that both products of attention read contiguous memory (7x faster on a CPU for
# the keys).
AXES = ('layers', 'batch', 'kv_heads', None, None)


@struct.dataclass
class Readers:
  """Which batch rows read which cache row, if they are not consecutive.

  Cache row p is read by the batch rows `rows_PG[p]`; unused entries are
  arbitrary. `place_B[b]` is the index of batch row b in the flattened
  `rows_PG`; it is arbitrary too if b reads no cache row. On several devices,
  a batch row must be on the same shard of the batch as the cache row.
  """

  rows_PG: jax.Array
  place_B: jax.Array

  def of_shard(self, shard) -> 'Readers':
    """Returns a shard's readers, with rows counted from the shard's first."""
    rows, entries = len(self.place_B), self.rows_PG.size
    return Readers(
      jnp.clip(self.rows_PG - shard * rows, 0, rows - 1),
      jnp.clip(self.place_B - shard * entries, 0, entries - 1),
    )


@struct.dataclass
class Cache:
  """Keys and values of every layer; `mask_BS` is True at occupied positions.

  Layers are the first dimension of an array or the elements of a tuple. An int8
  cache has scales, one per position and head: a key is `k_LBKHS` times
  `k_scale_LBKS`.
  """

  k_LBKHS: Any
  v_LBKSH: Any
  mask_BS: jax.Array
  k_scale_LBKS: Any = None
  v_scale_LBKS: Any = None
  readers: Readers | None = None
  # The number of occupied positions per row, if they come first; else None.
  filled_B: jax.Array | None = None
  blocks_BM: jax.Array | None = None  # As `attention.Part.blocks_BM`.

  @property
  def layers(self):
    """The arrays with an entry per layer: keys, values and their scales."""
    return self.k_LBKHS, self.v_LBKSH, self.k_scale_LBKS, self.v_scale_LBKS


def shapes(config: DecoderConfig, rows: int, length: int):
  """(shape of the keys, shape of the values)."""
  c = config
  heads = (c.num_layers, rows, c.num_kv_heads)
  return (*heads, c.head_dim, length), (*heads, length, c.head_dim)


def num_bytes(config: DecoderConfig, rows: int, length: int, *, dtype) -> int:
  """The bytes of a whole cache over all devices; allocates nothing."""
  c, dtype = config, jnp.dtype(dtype)
  positions = np.int64(2) * c.num_layers * rows * c.num_kv_heads * length
  scale = 4 if dtype == jnp.int8 else 0
  entry = c.head_dim * dtype.itemsize + scale
  return int(positions * entry + rows * length)


def empty(
  config: DecoderConfig, rows: int, length: int, *, dtype, layout: Layout
) -> Cache:
  """An empty cache with room for `length` tokens per row."""

  def zeros(shape, dtype, axes):
    return jnp.zeros(shape, dtype, device=layout.sharding(shape, axes))

  k_shape, v_shape = shapes(config, rows, length)
  return Cache(
    k_LBKHS=zeros(k_shape, dtype, AXES),
    v_LBKSH=zeros(v_shape, dtype, AXES),
    mask_BS=zeros((rows, length), bool, ('batch', None)),
  )


def put(old, update, start, *, axis: int):
  """`old` with `update` written along one axis, from index `start` on."""
  return jax.lax.dynamic_update_slice_in_dim(
    old, update.astype(old.dtype), start, axis=axis
  )


def per_row(x_P, rows: int, readers: Readers | None = None):
  """[rows, ...]: for each batch row, the entry of the cache row it reads."""
  if readers is None:
    return jnp.repeat(x_P, rows // x_P.shape[0], axis=0)
  return x_P[readers.place_B // readers.rows_PG.shape[1]]


def take(pool, index_B, *, layout: Layout):
  """[B, ...]: an entry of the pool, such as a block, for each batch row."""

  def of_shard(pool, index_B):
    return jnp.take(pool, index_B, axis=0, mode='clip')

  return _on_shards(of_shard, layout, pool, index_B)


def put_blocks(pool, new_B, index_B, start_B, *, axis: int, layout: Layout):
  """The pool with `new_B[b]` written into block `index_B[b]`, for all rows b.

  axis: the axis of the pool that holds positions; `new_B` is written along it,
    from `start_B` on. The index len(pool) drops a row.
  """
  place = jax.lax.ScatterDimensionNumbers(
    update_window_dims=tuple(range(1, pool.ndim)),
    inserted_window_dims=(0,),
    scatter_dims_to_operand_dims=(0, axis),
  )

  def put(pool, index_B, start_B, new_B):
    return jax.lax.scatter(
      pool, jnp.stack([index_B, start_B], axis=1), new_B, place,
      mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
    )  # fmt: skip

  return _on_shards(put, layout, pool, index_B, start_B, new_B)


def _on_shards(function, layout: Layout, pool, index_B, *more_B):
  """Runs a function of a pool and of batch rows on each device's share.

  Rows use entries of their own shard only, so no device needs another's.
  """
  if layout.mesh.size == 1:
    return function(pool, index_B, *more_B)
  axes = layout.batch_axes(len(index_B))
  assert axes == layout.batch_axes(len(pool)), (len(index_B), len(pool))

  def spec(x):
    names = (*AXES[1:3], *(None,) * x.ndim)[: x.ndim]
    return layout.activation_spec(x.shape, names)

  def local(pool, index_B, *more_B):
    first = jax.lax.axis_index(axes) * len(pool) if axes else 0
    return function(pool, index_B - first, *more_B)

  return jax.shard_map(
    local,
    mesh=layout.mesh,
    in_specs=tuple(spec(x) for x in (pool, index_B, *more_B)),
    out_specs=spec(pool),
    check_vma=False,
  )(pool, index_B, *more_B)
