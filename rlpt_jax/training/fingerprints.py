"""Fingerprints of arrays: 32 bits that are the same on every mesh."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import weights

HOST_PIECE = 2**24  # Elements of a host array that are hashed at a time.


def of_host(x: np.ndarray) -> int:
  """Returns `of_array` of a host array, in pieces to avoid a full copy."""
  if not x.ndim:
    return int(of_array(x))
  size = max(1, x[0].size)
  rows = max(1, HOST_PIECE // size)
  return (
    sum(
      int(of_array(x[row : row + rows], np.uint32(row * size % 2**32)))
      for row in range(0, len(x), rows)
    )
    % 2**32
  )


def of_tree(tree: weights.Tree) -> int:
  """Returns one fingerprint of the names and arrays of nested dicts."""
  prints = {path: of_array(x) for path, x in weights.named(tree)}
  prints = {path: int(x) for path, x in jax.device_get(prints).items()}
  return zlib.crc32(json.dumps(prints, sort_keys=True).encode())


@jax.jit
def of_array(x, start=0) -> jax.Array:
  """Returns 32 bits that change if any one bit of the array changes.

  They are the sum, modulo 2^32, of the bits of every element times an odd hash
  of its position, which counts from `start`. An integer sum is the same on
  every mesh; an odd factor never maps a change of one element to 0; the hash
  detects moved elements.
  """
  x = jnp.asarray(x)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  position, stride = jnp.uint32(start), 1
  for axis in reversed(range(x.ndim)):
    iota = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    position += iota * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  return jnp.sum(bits * (_mix(position) | 1), dtype=jnp.uint32)


def _mix(x):
  """The finalizer of Murmur3: every bit of the result depends on all of x."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
