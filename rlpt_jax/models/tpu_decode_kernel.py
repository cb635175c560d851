"""Attention of a decode step on a TPU: softmax sums over one part of the keys.

Each step of the kernel's grid takes one or several blocks of positions of one
row. The steps are listed from the number of filled positions, and the length of
the grid is dynamic: blocks that are reserved but not filled are neither read
nor visited. While a step is computed, Pallas's pipeline fetches the blocks of
the next one, which may belong to another row.

The sums have the form of those that XLA computes in `attention`, where they are
merged. So parts that the kernel does not support are left to XLA.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from rlpt_jax.core.layout import Layout

MASKED = -1e30  # Finite, so that a row that has seen no key gets no NaN.
LANES = 128  # Blocks are multiples of it.

# By our estimate, a step takes 0.35 us besides its computation, the time in
# which a v5e reads 0.3 MB. Longer steps hide that, but compute more masked
# positions.
STEP_BYTES = 2**20
LONGEST_STEP = 1024

MOST_BLOCKS = 2**15  # Lists of int32 for each must fit into scalar memory.


def fits(q_BTNH, part, layout: Layout) -> bool:
  """Returns True if the kernel can be used; XLA's attention is used otherwise.

  part: an `attention.Part`.
  """
  k, blocks = part.k_PKHS, part.blocks_BM
  if part.filled_P is None or part.k_scale_PKS is not None:
    return False
  rows, K, H, S = _sharding(part, layout).shard_shape(k.shape)
  step = step_positions(k.dtype, K, H)
  if blocks is None:
    # In less than two steps, there is next to nothing to leave out.
    fits_steps, num_blocks = 2 * step <= S, rows * pl.cdiv(S, step)
  else:
    shards = k.shape[0] // rows
    fits_steps, num_blocks = S % LANES == 0, blocks.size // shards
  return (
    fits_steps
    and num_blocks <= MOST_BLOCKS
    and q_BTNH.dtype == k.dtype
    and k.dtype in (jnp.bfloat16, jnp.float32)
  )


def step_positions(dtype, heads: int, head_dim: int) -> int:
  """The number of positions that a step reads."""
  num_bytes = 2 * heads * head_dim * jnp.dtype(dtype).itemsize
  positions = LONGEST_STEP
  while positions > LANES and positions * num_bytes > STEP_BYTES:
    positions //= 2
  return positions


def softmax_sums(q_PKMH, part, *, layout: Layout, interpret=False):
  """Softmax sums of M queries over the filled keys of each row of the part.

  Returns the sum of the weighted values, [P, K, M, H], the sum of the weights
  and the largest score, [P, K, M, 1] each. A weight is exp(score - largest).
  The largest score of a row without keys is `MASKED`, and its values are 0.
  """
  run = functools.partial(_softmax_sums, interpret=interpret)
  if layout.mesh.size > 1:
    # XLA cannot partition a kernel, so each device runs it on its own rows and
    # heads. The blocks of its rows are in its own shard of the pool.
    spec = _sharding(part, layout).spec
    run = jax.shard_map(
      functools.partial(run, axes=spec[0]),
      mesh=layout.mesh,
      in_specs=(
        spec,
        spec,
        spec,
        PartitionSpec(spec[0]),
        PartitionSpec(spec[0]),
      ),
      out_specs=spec,
      check_vma=False,  # The kernel declares no varying axes.
    )
  return run(q_PKMH, part.k_PKHS, part.v_PKSH, part.filled_P, part.blocks_BM)


def _sharding(part, layout):
  axes = ('batch', 'kv_heads', None, None)
  return layout.sharding(part.k_PKHS.shape, axes)


def _softmax_sums(
  q_BKMH, k_PKHS, v_PKSH, filled_B, blocks_BM, *, interpret, axes=None
):
  """As `softmax_sums`, on one device.

  axes: the mesh axes that split the pool of blocks, if there are any.
  """
  B, K, M, H = q_BKMH.shape
  S = k_PKHS.shape[3]
  positions = step_positions(k_PKHS.dtype, K, H)
  if blocks_BM is None:
    # A row of S positions is seen as blocks of the size of a step.
    size, num, columns = positions, 1, pl.cdiv(S, positions)
    blocks_BM = np.arange(B * columns, dtype=np.int32).reshape(B, columns)
  else:
    size, num, columns = S, max(1, positions // S), 1
    if axes:
      blocks_BM -= jax.lax.axis_index(axes) * k_PKHS.shape[0]
  # XLA on TPU puts the dimension last in memory that needs less padding to a
  # multiple of 128. A kernel expects the logical order, and would get a copy.
  is_swapped = H % LANES > 0
  k, v = k_PKHS, jnp.swapaxes(v_PKSH, 2, 3) if is_swapped else v_PKSH
  if not interpret:
    # Otherwise, XLA may move a whole small cache to VMEM before the kernel.
    k, v = (pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in (k, v))

  def of_row(*shape):
    return pl.BlockSpec(
      (None, *shape), lambda i, row_W, *_: (row_W[i], 0, 0, 0)
    )

  def of_block(j, *, is_last):
    def index(i, row_W, place_W, block_X, filled_B):
      block = block_X[i * num + j]
      row, column = jax.lax.div(block, columns), jax.lax.rem(block, columns)
      return (row, 0, 0, column) if is_last else (row, 0, column, 0)

    shape = (H, size) if is_last else (size, H)
    return pl.BlockSpec((None, K, *shape), index)

  k_specs = [of_block(j, is_last=True) for j in range(num)]
  v_specs = [of_block(j, is_last=is_swapped) for j in range(num)]
  *lists, num_steps = _steps(filled_B, blocks_BM, size, num)
  sums = [(K, M, H), (K, M, 1), (K, M, 1)]
  return pl.pallas_call(
    functools.partial(_kernel, num=num, is_swapped=is_swapped),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=4,
      grid=(num_steps,),
      in_specs=[of_row(K, M, H), *k_specs, *v_specs],
      out_specs=[of_row(*shape) for shape in sums],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((B, *shape), jnp.float32) for shape in sums
    ],
    # The steps of a row add to the same sums.
    compiler_params=pltpu.CompilerParams(dimension_semantics=('arbitrary',)),
    interpret=interpret,
    name='softmax_sums',
  )(*lists, q_BKMH, *[k] * num, *[v] * num)


def _steps(filled_B, blocks_BM, size, num):
  """Lists the steps of the grid, each of which takes `num` blocks of a row.

  Returns, for W steps, the row of each, its place among the steps of that row
  and the blocks that it reads, [W * num]; then `filled_B` and the number of
  steps that are taken. A row without keys takes one too, because every row
  needs results.
  """
  B, columns = blocks_BM.shape
  filled_B = filled_B.astype(jnp.int32)
  count_B = jnp.maximum(pl.cdiv(filled_B, size * num), 1)
  end_B = jnp.cumsum(count_B, dtype=jnp.int32)
  step_W = jnp.arange(B * pl.cdiv(columns, num), dtype=jnp.int32)
  row_W = (step_W[:, None] >= end_B).sum(1, dtype=jnp.int32)
  row_W = jnp.minimum(row_W, B - 1)  # Unused steps get the last row.
  place_W = step_W - (end_B - count_B)[row_W]
  column_WJ = place_W[:, None] * num + np.arange(num, dtype=np.int32)
  # Blocks that are not filled repeat those of an earlier step: the pipeline
  # does not fetch a block again for the same input.
  is_filled_WJ = column_WJ * size < filled_B[row_W][:, None]
  last_WJ = jax.lax.cummax(jnp.where(is_filled_WJ, step_W[:, None], 0), axis=0)
  column_WJ = jnp.take_along_axis(column_WJ, last_WJ, axis=0)
  column_WJ = jnp.minimum(column_WJ, columns - 1)
  block_WJ = jnp.asarray(blocks_BM)[row_W[last_WJ], column_WJ]
  return row_W, place_W, block_WJ.reshape(-1), filled_B, end_B[-1]


def _kernel(
  row_ref, place_ref, block_ref, filled_ref, q_ref, *refs, num, is_swapped
):
  """Adds the blocks of one step to the sums of their row."""
  del block_ref  # Only the pipeline needs it.
  k_refs, v_refs = refs[:num], refs[num : 2 * num]
  values_ref, total_ref, top_ref = refs[2 * num :]
  K, H, size = k_refs[0].shape
  i = pl.program_id(0)
  start, filled = place_ref[i] * size * num, filled_ref[row_ref[i]]

  @pl.when(start == 0)
  def _():
    values_ref[...] = jnp.zeros_like(values_ref)
    total_ref[...] = jnp.zeros_like(total_ref)
    top_ref[...] = jnp.full_like(top_ref, MASKED)

  def seen(shape, axis):
    ids = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return start + ids < filled

  def product(left, right, axis):
    return jax.lax.dot_general(
      left,
      right,
      (((1,), (axis,)), ((), ())),
      preferred_element_type=jnp.float32,
    )

  axis = 1 if is_swapped else 0  # Of the positions of values.
  for k in range(K):
    k_HS = jnp.concatenate([ref[k] for ref in k_refs], axis=1)
    v = jnp.concatenate([ref[k] for ref in v_refs], axis=axis)
    scores_MS = product(q_ref[k], k_HS, 0) * H**-0.5
    scores_MS = jnp.where(seen(scores_MS.shape, 1), scores_MS, MASKED)
    old_M1 = top_ref[k]
    top_M1 = jnp.maximum(old_M1, scores_MS.max(axis=1, keepdims=True))
    shrink_M1 = jnp.exp(old_M1 - top_M1)
    weights_MS = jnp.exp(scores_MS - top_M1)
    # A weight of 0 would not cancel a NaN in values that were never filled.
    v = jnp.where(seen(v.shape, axis), v, 0)
    top_ref[k] = top_M1
    total_ref[k] = total_ref[k] * shrink_M1 + weights_MS.sum(1, keepdims=True)
    values_ref[k] = values_ref[k] * shrink_M1 + product(
      weights_MS.astype(v.dtype), v, axis
    )
