"""Keys and values of tokens already seen: what a forward pass leaves behind.

A `Cache` serves as context for later tokens in two ways that differ only in
its number of rows: one row for each prompt (the prefix that a group of
rollouts shares) or one for each rollout (its own earlier tokens).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.layout import Layout
from rlpt_jax.models.config import DecoderConfig

# Positions are last in keys and next to last in values: both products of
# attention then run along contiguous memory (7x on a CPU, for the keys).
AXES = ('layers', 'batch', 'kv_heads', None, None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readers:
  """Who reads which row, where the groups are not consecutive rows.

  Row p is read by the rows `rows_PG[p]` of the batch (any number where there
  is no such reader), and row b reads as the reader `place_B[b]` of P * G.
  """

  rows_PG: jax.Array
  place_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of every layer; `mask_BS` is True where there is one.

  Layers are the first dimension of an array, or a tuple of arrays. Of int8
  there are scales: a key is `k_LBKHS * k_scale_LBKS` over its head.
  """

  k_LBKHS: Any
  v_LBKSH: Any
  mask_BS: jax.Array
  k_scale_LBKS: Any = None
  v_scale_LBKS: Any = None
  readers: Readers | None = None

  @property
  def layers(self):
    """What differs from layer to layer, in the order of `attention.Part`."""
    return self.k_LBKHS, self.v_LBKSH, self.k_scale_LBKS, self.v_scale_LBKS


def shapes(config: DecoderConfig, rows: int, length: int):
  """Of the keys and of the values."""
  c = config
  heads = (c.num_layers, rows, c.num_kv_heads)
  return (*heads, c.head_dim, length), (*heads, length, c.head_dim)


def num_bytes(config: DecoderConfig, rows: int, length: int, *, dtype) -> int:
  """Of a whole cache, over all devices, before anything is allocated."""
  c, dtype = config, jnp.dtype(dtype)
  positions = np.int64(2) * c.num_layers * rows * c.num_kv_heads * length
  scale = 4 if dtype == jnp.int8 else 0
  entry = c.head_dim * dtype.itemsize + scale
  return int(positions * entry + rows * length)


def empty(
  config: DecoderConfig, rows: int, length: int, *, dtype, layout: Layout
) -> Cache:
  """Room for `length` tokens a row."""

  def zeros(shape, dtype, axes):
    return jnp.zeros(shape, dtype, device=layout.sharding(shape, axes))

  k_shape, v_shape = shapes(config, rows, length)
  return Cache(
    k_LBKHS=zeros(k_shape, dtype, AXES),
    v_LBKSH=zeros(v_shape, dtype, AXES),
    mask_BS=zeros((rows, length), bool, ('batch', None)),
  )


def put(old, update, start, *, axis: int):
  """An array with `update` at start, start + 1, ... of one axis."""
  return jax.lax.dynamic_update_slice_in_dim(
    old, update.astype(old.dtype), start, axis=axis
  )


def per_row(x_P, rows: int, readers: Readers | None = None):
  """[rows, ...]: what every row of the batch finds in the row that it reads."""
  if readers is None:
    return jnp.repeat(x_P, rows // x_P.shape[0], axis=0)
  return x_P[readers.place_B // readers.rows_PG.shape[1]]
