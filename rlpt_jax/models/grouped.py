"""Products of rows with the matrix of their group, for rows sorted by group.

`jax.lax.ragged_dot` computes them on every platform. But only a TPU has a
kernel for it. Elsewhere, XLA copies all rows once per group, with zeros for the
rows of other groups, and multiplies them by all matrices; so it does in both
gradients. `grouped_product` multiplies each row once, and reads only the
matrices of groups with rows. Its gradients do the same:

  y[j] = x[j] @ w[group of j]
  dx[j] = dy[j] @ w[group of j]^T        the same product, transposed
  dw[e] = sum of x[j]^T dy[j] over the rows j of group e

What rows beyond the groups hold, in x or dy, reaches no other row and no dw.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from rlpt_jax.core.layout import Layout

LEAST = 16  # The smallest dimension that tensor cores multiply.


def grouped_product(x_JD, w_EDF, sizes_E, *, layout: Layout):
  """[J, F]: each row of x times the matrix of its group.

  The first `sizes_E[0]` rows are those of the first group, and so on. The
  results of rows beyond the groups are undefined, and so are their gradients.
  """
  if layout.platform == 'cpu':
    way = LOOP
  elif layout.has_large_kernels and _fits(x_JD, w_EDF):
    way = KERNEL
  else:
    return jax.lax.ragged_dot(x_JD, w_EDF, sizes_E)
  return product(way, *_alike(x_JD, w_EDF, sizes_E))


class Way(NamedTuple):
  """How to compute a product and its gradients.

  rows: (x_JD, w_EDF, sizes_E) -> each row times the matrix of its group;
    `transposed` says that the matrices are w_EFD, to be transposed.
  matrices: (x_JD, y_JF, sizes_E, dtype) -> [E, D, F]: for each group, the sum
    of x[j]^T y[j] over its rows; 0 without rows.
  """

  rows: Callable
  matrices: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(way: Way, x_JD, w_EDF, sizes_E):
  """`grouped_product`, in a given way."""
  return way.rows(x_JD, w_EDF, sizes_E)


def _forward(way, x_JD, w_EDF, sizes_E):
  return way.rows(x_JD, w_EDF, sizes_E), (x_JD, w_EDF, sizes_E)


def _backward(way, kept, dy_JF):
  x_JD, w_EDF, sizes_E = kept
  dx_JD = way.rows(dy_JF, w_EDF, sizes_E, transposed=True)
  dw_EDF = way.matrices(x_JD, dy_JF, sizes_E, w_EDF.dtype)
  return dx_JD, dw_EDF, None


product.defvjp(_forward, _backward)


def _alike(*arrays):
  """The arrays, declared to vary along the same axes of a `shard_map`'s mesh.

  So that gradients are summed along the axes that an array did not vary along.
  """
  along = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  every = frozenset.union(*along)
  return [
    jax.lax.pcast(x, tuple(every - own), to='varying')
    for x, own in zip(arrays, along, strict=True)
  ]


def _rows_of_tile(J: int, E: int, least: int) -> int:
  # Twice the average, so that most groups are one tile.
  return min(max(least, 1 << max(0, 2 * J // E - 1).bit_length()), 128)


def _tiles(sizes_E, J: int, size: int):
  """Cuts the rows of each group into tiles of `size` rows.

  Returns, for W tiles, the group of each, its first row and the end of its
  group; then the number of tiles that are used, the first ones.
  """
  E = len(sizes_E)
  start_E, stop_E = _bounds(sizes_E)
  count_E = pl.cdiv(stop_E - start_E, size)
  end_E = jnp.cumsum(count_E, dtype=jnp.int32)
  tile_W = jnp.arange(min(E, J) + J // size, dtype=jnp.int32)
  group_W = (tile_W[:, None] >= end_E).sum(1, dtype=jnp.int32)
  group_W = jnp.minimum(group_W, E - 1)  # Unused tiles get the last one.
  place_W = tile_W - (end_E - count_E)[group_W]
  start_W = start_E[group_W] + place_W * size
  return group_W, start_W, stop_E[group_W], end_E[-1]


def _bounds(sizes_E):
  """The first row of each group, and the one after its last."""
  sizes_E = sizes_E.astype(jnp.int32)
  stop_E = jnp.cumsum(sizes_E, dtype=jnp.int32)
  return stop_E - sizes_E, stop_E


# Loops over tiles, in XLA. On a CPU, they first convert all matrices of half
# precision to float32.


def _rows_by_loop(x_JD, w_EDF, sizes_E, *, transposed=False):
  J, E, F = len(x_JD), len(w_EDF), w_EDF.shape[1 if transposed else 2]
  size = _rows_of_tile(J, E, 8)
  group_W, start_W, _, count = _tiles(sizes_E, J, size)
  x_JD = jnp.pad(x_JD, ((0, size), (0, 0)))

  def tile(i, y_JF):
    x_MD = jax.lax.dynamic_slice_in_dim(x_JD, start_W[i], size)
    w_DF = jax.lax.dynamic_index_in_dim(w_EDF, group_W[i], 0, False)
    y_MF = x_MD @ (w_DF.T if transposed else w_DF)
    # Rows of the next group are overwritten by its own tiles, which come later.
    return jax.lax.dynamic_update_slice_in_dim(y_JF, y_MF, start_W[i], 0)

  y_JF = _zeros((J + size, F), x_JD)
  return jax.lax.fori_loop(0, count, tile, y_JF)[:J]


def _matrices_by_loop(x_JD, y_JF, sizes_E, dtype):
  (J, D), F, E = x_JD.shape, y_JF.shape[1], len(sizes_E)
  size = _rows_of_tile(J, E, 8)
  start_E, stop_E = _bounds(sizes_E)
  x_JD, y_JF = (jnp.pad(x, ((0, size), (0, 0))) for x in (x_JD, y_JF))

  def group(e, w_EDF):
    def tile(i, w_DF):
      start = start_E[e] + i * size
      is_inside_M = start + jnp.arange(size) < stop_E[e]
      x_MD, y_MF = (
        jnp.where(
          is_inside_M[:, None], jax.lax.dynamic_slice_in_dim(x, start, size), 0
        )
        for x in (x_JD, y_JF)
      )
      return w_DF + jnp.dot(x_MD.T, y_MF, preferred_element_type=jnp.float32)

    count = pl.cdiv(stop_E[e] - start_E[e], size)
    w_DF = _zeros((D, F), x_JD, jnp.float32)
    w_DF = jax.lax.fori_loop(0, count, tile, w_DF).astype(dtype)
    return jax.lax.dynamic_update_index_in_dim(w_EDF, w_DF, e, 0)

  return jax.lax.fori_loop(0, E, group, _zeros((E, D, F), x_JD, dtype))


def _zeros(shape, like, dtype=None):
  """Zeros that vary along the mesh axes along which `like` does."""
  varying = tuple(jax.typeof(like).manual_axis_type.varying)
  zeros = jnp.zeros(shape, dtype or like.dtype)
  return jax.lax.pcast(zeros, varying, to='varying')


LOOP = Way(_rows_by_loop, _matrices_by_loop)


# Kernels for NVIDIA GPUs, in Pallas's Triton backend (see decode_kernel.py).
# Each program computes a block of the result: a tile of rows and some columns,
# or a part of one matrix. Programs that share rows are next to each other, so
# that all but the first find them in the GPU's cache.


class _Blocks(NamedTuple):
  """The columns of a block, and how many numbers it adds up at a time."""

  columns: int
  depth: int
  warps: int
  stages: int


# By the rows of a tile. For the 128 experts of Qwen3-30B-A3B, vLLM found about
# these to be the fastest on an H100 (the table of its fused_moe kernel).
BLOCKS = {
  16: _Blocks(64, 128, 4, 3),
  32: _Blocks(128, 128, 4, 3),
  64: _Blocks(128, 64, 4, 3),
  128: _Blocks(256, 64, 8, 4),
}


def _fits(x_JD, w_EDF) -> bool:
  _, D, F = w_EDF.shape
  is_half = x_JD.dtype == w_EDF.dtype and x_JD.dtype in (
    jnp.bfloat16,
    jnp.float16,
  )
  return is_half and min(_block(D), _block(F)) >= LEAST


def _block(size: int, most: int = LEAST) -> int:
  """The largest power of two that divides `size`, but at most `most`."""
  return min(size & -size, most)


def _rows_by_kernel(x_JD, w_EDF, sizes_E, *, transposed=False, interpret=False):
  (J, D), E, F = x_JD.shape, len(w_EDF), w_EDF.shape[1 if transposed else 2]
  size = _rows_of_tile(J, E, LEAST)
  group_W, start_W, stop_W, count = _tiles(sizes_E, J, size)
  columns, depth, warps, stages = BLOCKS[size]
  columns, depth = _block(F, columns), _block(D, depth)
  return pl.pallas_call(
    functools.partial(
      _rows_kernel,
      size=size, columns=columns, depth=depth, transposed=transposed,
    ),
    grid=(F // columns, len(group_W)),
    out_shape=_like((J, F), x_JD),
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    interpret=interpret,
    name='grouped_product',
  )(group_W, start_W, stop_W, count[None], x_JD, w_EDF)  # fmt: skip


def _rows_kernel(
  group_ref, start_ref, stop_ref, count_ref, x_ref, w_ref, y_ref, *, size,
  columns, depth, transposed,
):  # fmt: skip
  J, D = x_ref.shape
  f, i = pl.program_id(0) * columns, pl.program_id(1)

  @pl.when(i < count_ref[0])
  def _():
    group = group_ref[i]
    row_M = start_ref[i] + _iota(size)
    is_inside_M = row_M < stop_ref[i]
    # What is read for rows of the next group is not stored.
    read_M1 = jnp.minimum(row_M, J - 1)[:, None]

    def step(i, y_MF):
      d = i * depth
      x_MD = triton.load(x_ref.at[read_M1, d + _iota(depth)[None]])
      here = pl.ds(d, depth), pl.ds(f, columns)
      w = triton.load(w_ref.at[group, *(here[::-1] if transposed else here)])
      return y_MF + _dot(x_MD, w, 1, 1 if transposed else 0)

    y_MF = jnp.zeros((size, columns), jnp.float32)
    y_MF = jax.lax.fori_loop(0, D // depth, step, y_MF)
    # They get an index out of bounds: otherwise the interpreter would store
    # their results in spite of the mask.
    row_M1 = jnp.where(is_inside_M, row_M, J)[:, None]
    triton.store(
      y_ref.at[row_M1, f + _iota(columns)[None]],
      y_MF.astype(y_ref.dtype),
      mask=jnp.broadcast_to(is_inside_M[:, None], y_MF.shape),
    )


def _matrices_by_kernel(x_JD, y_JF, sizes_E, dtype, *, interpret=False):
  D, F, E = x_JD.shape[1], y_JF.shape[1], len(sizes_E)
  columns, depth, warps, stages = BLOCKS[128]
  rows, columns = _block(D, 128), _block(F, columns)
  return pl.pallas_call(
    functools.partial(
      _matrices_kernel, rows=rows, columns=columns, depth=depth
    ),
    grid=(F // columns, D // rows, E),
    out_shape=_like((E, D, F), x_JD, dtype),
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    interpret=interpret,
    name='grouped_gradient',
  )(*_bounds(sizes_E), x_JD, y_JF)


def _matrices_kernel(
  start_ref, stop_ref, x_ref, y_ref, w_ref, *, rows, columns, depth
):
  f, d, group = (pl.program_id(i) for i in range(3))
  f, d = f * columns, d * rows
  start, stop = start_ref[group], stop_ref[group]

  def step(i, w_DF):
    row_M = start + i * depth + _iota(depth)

    def load(ref, first, width):
      # Rows of the next group must not count, even if they are NaN.
      is_inside_M1 = (row_M < stop)[:, None]
      return triton.load(
        ref.at[row_M[:, None], first + _iota(width)[None]],
        mask=jnp.broadcast_to(is_inside_M1, (depth, width)),
        other=0.0,
      )

    return w_DF + _dot(load(x_ref, d, rows), load(y_ref, f, columns), 0, 0)

  w_DF = jnp.zeros((rows, columns), jnp.float32)
  w_DF = jax.lax.fori_loop(0, pl.cdiv(stop - start, depth), step, w_DF)
  w_ref[group, pl.ds(d, rows), pl.ds(f, columns)] = w_DF.astype(w_ref.dtype)


def _dot(a, b, a_axis, b_axis):
  """The float32 product of two matrices, summed over the given axes."""
  return jax.lax.dot_general(
    a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32
  )


def _like(shape, like, dtype=None):
  return jax.ShapeDtypeStruct(
    shape, dtype or like.dtype,
    manual_axis_type=jax.typeof(like).manual_axis_type,
  )  # fmt: skip


def _iota(size):
  return jax.lax.broadcasted_iota(jnp.int32, (size,), 0)


KERNEL = Way(_rows_by_kernel, _matrices_by_kernel)
