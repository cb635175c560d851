"""Keys and values of tokens already seen: what a forward pass leaves behind.

A `Cache` serves as context for later tokens in two ways that differ only in
its number of rows: one row for each prompt (the prefix that a group of
rollouts shares) or one for each rollout (its own earlier tokens).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.layout import Layout
from rlpt_jax.models.config import DecoderConfig

# Heads before positions: the order in which every kernel reads, so that none
# of them has to transpose a cache.
AXES = ('layers', 'batch', 'kv_heads', None, None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of every layer; `mask_BS` is True where there is one."""

  k_LBKSH: jax.Array
  v_LBKSH: jax.Array
  mask_BS: jax.Array


def shape(config: DecoderConfig, rows: int, length: int) -> tuple[int, ...]:
  c = config
  return (c.num_layers, rows, c.num_kv_heads, length, c.head_dim)


def num_bytes(config: DecoderConfig, rows: int, length: int, *, dtype) -> int:
  """Of a whole cache, over all devices, before anything is allocated."""
  entries = np.prod(shape(config, rows, length), dtype=np.int64)
  return int(2 * entries * jnp.dtype(dtype).itemsize + rows * length)


def empty(
  config: DecoderConfig, rows: int, length: int, *, dtype, layout: Layout
) -> Cache:
  """Room for `length` tokens a row."""
  full = shape(config, rows, length)
  zeros = jnp.zeros(full, dtype, device=layout.sharding(full, AXES))
  mask_sharding = layout.sharding((rows, length), ('batch', None))
  mask_BS = jnp.zeros((rows, length), bool, device=mask_sharding)
  # Two buffers: one that appears twice could not be donated.
  return Cache(k_LBKSH=zeros, v_LBKSH=zeros.copy(), mask_BS=mask_BS)


def write(cache: Cache, new: Cache, start) -> Cache:
  """The cache with `new` at positions start, start + 1, ... of every row."""

  def put(old, update, axis):
    return jax.lax.dynamic_update_slice_in_dim(
      old, update.astype(old.dtype), start, axis=axis
    )

  return Cache(
    k_LBKSH=put(cache.k_LBKSH, new.k_LBKSH, 3),
    v_LBKSH=put(cache.v_LBKSH, new.v_LBKSH, 3),
    mask_BS=put(cache.mask_BS, new.mask_BS, 1),
  )
