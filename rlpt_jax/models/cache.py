"""Caches of keys and values: what a forward pass returns for later tokens.

A `Cache` is used as context in two ways that differ only in its number of rows:
one row per prompt (the prefix that a group of rollouts shares) or one per
rollout (its own earlier tokens).
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
  `rows_PG`; it is arbitrary too if b reads no cache row.
  """

  rows_PG: jax.Array
  place_B: jax.Array


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
