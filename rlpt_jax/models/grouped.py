"""Products of rows with the matrix of their group, for rows sorted by group.

`jax.lax.ragged_dot` computes them on every platform, with gradients. But only a
TPU has a kernel for it, which skips groups without rows. Elsewhere, XLA copies
all rows once per group, with zeros for the rows of other groups, and multiplies
them by all matrices. `grouped_product` multiplies each row once and reads only
the matrices of groups with rows. It has no gradient.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LEAST = 16  # The smallest dimension that tensor cores multiply.


def grouped_product(x_JD, w_EDF, sizes_E, *, platform: str):
  """[J, F]: each row of x times the matrix of its group.

  The first `sizes_E[0]` rows are those of the first group, and so on. The
  results of rows beyond the groups are undefined.
  """
  if platform == 'cpu':
    return _by_loop(x_JD, w_EDF, sizes_E)
  if platform == 'gpu' and _fits(x_JD, w_EDF):
    return _by_kernel(x_JD, w_EDF, sizes_E)
  return jax.lax.ragged_dot(x_JD, w_EDF, sizes_E)


def _tiles(sizes_E, J: int, size: int):
  """Cuts the rows of each group into tiles of `size` rows.

  Returns, for W tiles, the group of each, its first row and the end of its
  group; then the number of tiles that are used, the first ones.
  """
  E = len(sizes_E)
  sizes_E = sizes_E.astype(jnp.int32)
  stop_E = jnp.cumsum(sizes_E, dtype=jnp.int32)
  count_E = pl.cdiv(sizes_E, size)
  end_E = jnp.cumsum(count_E, dtype=jnp.int32)
  tile_W = jnp.arange(min(E, J) + J // size, dtype=jnp.int32)
  group_W = (tile_W[:, None] >= end_E).sum(1, dtype=jnp.int32)
  group_W = jnp.minimum(group_W, E - 1)  # Unused tiles get the last one.
  place_W = tile_W - (end_E - count_E)[group_W]
  start_W = (stop_E - sizes_E)[group_W] + place_W * size
  return group_W, start_W, stop_E[group_W], end_E[-1]


# A loop over tiles, in XLA. On a CPU, it first converts all matrices of half
# precision to float32.


def _by_loop(x_JD, w_EDF, sizes_E):
  J, (E, _, F) = len(x_JD), w_EDF.shape
  # Twice the average, so that most groups are one tile.
  size = min(max(8, 1 << max(0, 2 * J // E - 1).bit_length()), 128)
  group_W, start_W, _, count = _tiles(sizes_E, J, size)
  x_JD = jnp.pad(x_JD, ((0, size), (0, 0)))

  def tile(i, y_JF):
    x_MD = jax.lax.dynamic_slice_in_dim(x_JD, start_W[i], size)
    y_MF = x_MD @ jax.lax.dynamic_index_in_dim(w_EDF, group_W[i], 0, False)
    # Rows of the next group are overwritten by its own tiles, which come later.
    return jax.lax.dynamic_update_slice_in_dim(y_JF, y_MF, start_W[i], 0)

  y_JF = jnp.zeros((J + size, F), x_JD.dtype)
  return jax.lax.fori_loop(0, count, tile, y_JF)[:J]


# A kernel for NVIDIA GPUs, in Pallas's Triton backend (see decode_kernel.py).
# Each program multiplies a tile of rows by some columns of a matrix.


def _fits(x_JD, w_EDF) -> bool:
  _, D, F = w_EDF.shape
  is_half = x_JD.dtype == w_EDF.dtype and x_JD.dtype in (
    jnp.bfloat16,
    jnp.float16,
  )
  return is_half and min(_block(D), _block(F)) >= LEAST


def _block(size: int, most: int = 128) -> int:
  """The largest power of two that divides `size`, but at most `most`."""
  return min(size & -size, most)


def _by_kernel(x_JD, w_EDF, sizes_E, *, interpret=False):
  J, (_, D, F) = len(x_JD), w_EDF.shape
  group_W, start_W, stop_W, count = _tiles(sizes_E, J, LEAST)
  d_size, f_size = _block(D), _block(F, 64)
  return pl.pallas_call(
    functools.partial(_kernel, d_size=d_size, f_size=f_size),
    grid=(len(group_W), F // f_size),
    out_shape=jax.ShapeDtypeStruct((J, F), x_JD.dtype),
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    interpret=interpret,
    name='grouped_product',
  )(group_W, start_W, stop_W, count[None], x_JD, w_EDF)


def _kernel(
  group_ref, start_ref, stop_ref, count_ref, x_ref, w_ref, y_ref, *, d_size,
  f_size,
):  # fmt: skip
  J, D = x_ref.shape
  i, f = pl.program_id(0), pl.program_id(1) * f_size

  @pl.when(i < count_ref[0])
  def _():
    group = group_ref[i]
    row_M = start_ref[i] + _iota(LEAST)
    is_inside_M = row_M < stop_ref[i]
    # Rows of the next group get an index out of bounds: otherwise the
    # interpreter would store their results in spite of the mask.
    row_M1 = jnp.where(is_inside_M, row_M, J)[:, None]

    def mask(width):
      return jnp.broadcast_to(is_inside_M[:, None], (LEAST, width))

    def step(i, y_MF):
      d = i * d_size
      x_MD = triton.load(
        x_ref.at[row_M1, d + _iota(d_size)[None]], mask=mask(d_size), other=0.0
      )
      w_DF = triton.load(w_ref.at[group, pl.ds(d, d_size), pl.ds(f, f_size)])
      return y_MF + jnp.dot(x_MD, w_DF, preferred_element_type=jnp.float32)

    y_MF = jnp.zeros((LEAST, f_size), jnp.float32)
    y_MF = jax.lax.fori_loop(0, D // d_size, step, y_MF)
    triton.store(
      y_ref.at[row_M1, f + _iota(f_size)[None]],
      y_MF.astype(y_ref.dtype),
      mask=mask(f_size),
    )


def _iota(size):
  return jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
