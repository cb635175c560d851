"""Candidate kernels for attention in a decode step over long caches, on a GPU.

Each is a function (q_PKMH, k_PKSH, v_PKSH, length_P) -> (values_PKMH, lse_PKM),
both float32: M queries for each of K heads read the first length_P positions of
their row. A row is a prompt shared by a group (M = G * R) or a completion
(M = R). Both parts are merged by log-sum-exp, as in models/attention.py.

`accelerator.py attention` measures them; benchmarks/README.md has the figures.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

LOG2E = math.log2(math.e)
MASKED = -1e30


def xla(q_PKMH, k_PKSH, v_PKSH, length_P):
  """Attention in plain XLA operations, which read the whole cache."""
  scores_PKMS = jnp.einsum(
    'PKMH,PKSH->PKMS', q_PKMH, k_PKSH, preferred_element_type=jnp.float32
  )
  filled_PS = jnp.arange(k_PKSH.shape[2]) < length_P[:, None]
  scores_PKMS = jnp.where(
    filled_PS[:, None, None], scores_PKMS * q_PKMH.shape[-1] ** -0.5, MASKED
  )
  lse_PKM = jax.nn.logsumexp(scores_PKMS, axis=-1)
  weights_PKMS = jnp.exp(scores_PKMS - lse_PKM[..., None])
  values_PKMH = jnp.einsum(
    'PKMS,PKSH->PKMH',
    weights_PKMS.astype(q_PKMH.dtype),
    v_PKSH,
    preferred_element_type=jnp.float32,
  )
  return values_PKMH, lse_PKM


def mosaic(q_PKMH, k_PKSH, v_PKSH, length_P, *, block=128, stages=2):
  """Flash attention by Pallas's Mosaic GPU backend, for Hopper.

  Each row and head has a program of one warpgroup, which copies `stages` blocks
  ahead. Tensor cores take 64 queries. Those beyond M are uninitialized memory,
  which is harmless because rows of a product do not mix.
  """
  P, K, M, H = q_PKMH.shape
  rows = -(-M // 8) * 8  # Swizzled tiles have 8 rows.
  assert rows <= 64 and k_PKSH.shape[2] % block == 0, (M, k_PKSH.shape)
  q_PKMH = jnp.pad(q_PKMH, ((0, 0), (0, 0), (0, rows - M), (0, 0)))
  dtype = q_PKMH.dtype

  def kernel(
    q_ref, k_ref, v_ref, length_ref, values_ref, lse_ref,
    q_smem, values_smem, lse_smem, k_smem, v_smem,
    q_barrier, k_barriers, v_barriers,
  ):  # fmt: skip
    p, head = jax.lax.axis_index('p'), jax.lax.axis_index('k')
    length = length_ref[p]
    steps = jnp.maximum(pl.cdiv(length, jnp.int32(block)), 1)
    plgpu.copy_gmem_to_smem(
      q_ref.at[p, head], q_smem.at[pl.ds(0, rows)], q_barrier
    )

    def fetch(step, slot):
      place = (p, head, pl.ds(step * block, block))
      for ref, smem, barriers in (
        (k_ref, k_smem, k_barriers),
        (v_ref, v_smem, v_barriers),
      ):
        plgpu.copy_gmem_to_smem(ref.at[place], smem.at[slot], barriers.at[slot])

    for i in range(stages):
      pl.when(i < steps)(functools.partial(fetch, i, i))

    def full(shape, value, layout):
      return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)

    per_row = plgpu.Layout.WGMMA.reduce(1)
    start = (
      full((64, H), 0, plgpu.Layout.WGMMA),
      full((64,), MASKED, per_row),
      full((64,), 0, per_row),
    )
    plgpu.barrier_wait(q_barrier)

    def body(step, carry):
      values, top, total = carry
      slot = jax.lax.rem(step, jnp.int32(stages))
      plgpu.barrier_wait(k_barriers.at[slot])

      def multiply_keys(scores_ref):
        plgpu.wgmma(scores_ref, q_smem, k_smem.at[slot].transpose((1, 0)))
        return scores_ref[...]

      # In base 2, since the hardware computes exp2.
      scores = pl.run_scoped(multiply_keys, plgpu.ACC((64, block), jnp.float32))
      scores *= H**-0.5 * LOG2E
      place = plgpu.broadcasted_iota(
        jnp.int32, (64, block), 1, layout=plgpu.Layout.WGMMA
      )
      scores = jnp.where(place + step * block < length, scores, MASKED)
      new_top = jnp.maximum(top, scores.max(axis=1))
      shrink = jnp.exp2(top - new_top)
      weights = jnp.exp2(
        scores - jax.lax.broadcast_in_dim(new_top, scores.shape, [0])
      )
      total = total * shrink + weights.sum(axis=1)
      values *= jax.lax.broadcast_in_dim(shrink, values.shape, [0])
      rounded = weights.astype(dtype)
      plgpu.barrier_wait(v_barriers.at[slot])

      def multiply_values(values_ref):
        plgpu.wgmma(values_ref, rounded, v_smem.at[slot])

      values = pl.run_state(multiply_values)(plgpu.ACC.init(values))

      @pl.when(step + stages < steps)
      def _():
        fetch(step + stages, slot)

      return values, new_top, total

    values, top, total = jax.lax.fori_loop(0, steps, body, start)
    values_smem[...] = values / jax.lax.broadcast_in_dim(
      total, values.shape, [0]
    )
    lse_smem[...] = top / LOG2E + jnp.log(total)
    plgpu.commit_smem()
    for smem, ref in ((values_smem, values_ref), (lse_smem, lse_ref)):
      plgpu.copy_smem_to_gmem(smem.at[pl.ds(0, rows)], ref.at[p, head])
    plgpu.wait_smem_to_gmem(0)

  swizzled = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
  blocks = plgpu.SMEM((stages, block, H), dtype, transforms=swizzled)
  values_PKMH, lse_PKM = plgpu.kernel(
    kernel,
    out_type=[
      jax.ShapeDtypeStruct((P, K, rows, H), jnp.float32),
      jax.ShapeDtypeStruct((P, K, rows), jnp.float32),
    ],
    grid=(P, K),
    grid_names=('p', 'k'),
    scratch_types=[
      plgpu.SMEM((64, H), dtype, transforms=swizzled),
      plgpu.SMEM((64, H), jnp.float32),
      plgpu.SMEM((64,), jnp.float32),
      blocks,
      blocks,
      plgpu.Barrier(),
      plgpu.Barrier(num_barriers=stages),
      plgpu.Barrier(num_barriers=stages),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
  )(q_PKMH, k_PKSH, v_PKSH, length_P)
  return values_PKMH[:, :, :M], lse_PKM[:, :, :M]


def triton(
  q_PKMH, k_PKSH, v_PKSH, length_P, *, block=64, stages=3, warps=2,
  interpret=False,
):  # fmt: skip
  """Flash attention by Pallas's Triton backend, which JAX has deprecated."""
  from jax.experimental.pallas import triton as plt

  P, K, M, H = q_PKMH.shape
  S = k_PKSH.shape[2]
  rows = max(16, 1 << (M - 1).bit_length())
  q_PKMH = jnp.pad(q_PKMH, ((0, 0), (0, 0), (0, rows - M), (0, 0)))

  def kernel(q_ref, k_ref, v_ref, length_ref, values_ref, lse_ref):
    length, q = length_ref[pl.program_id(0)], q_ref[0, 0]

    def body(step, carry):
      values, top, total = carry
      place = pl.ds(step * block, block)
      k, v = k_ref[0, 0, place], v_ref[0, 0, place]
      scores = jnp.dot(q, k.T, preferred_element_type=jnp.float32)
      scores *= H**-0.5 * LOG2E
      ids = step * block + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
      scores = jnp.where(ids < length, scores, MASKED)
      new_top = jnp.maximum(top, scores.max(axis=1))
      shrink = jnp.exp2(top - new_top)
      weights = jnp.exp2(scores - new_top[:, None])
      values = values * shrink[:, None] + jnp.dot(
        weights.astype(v.dtype), v, preferred_element_type=jnp.float32
      )
      return values, new_top, total * shrink + weights.sum(axis=1)

    start = (
      jnp.zeros((rows, H), jnp.float32),
      jnp.full((rows,), MASKED, jnp.float32),
      jnp.zeros((rows,), jnp.float32),
    )
    steps = jnp.maximum(pl.cdiv(length, block), 1)
    values, top, total = jax.lax.fori_loop(0, steps, body, start)
    values_ref[0, 0] = values / total[:, None]
    lse_ref[0, 0] = top / LOG2E + jnp.log(total)

  def spec(*shape):
    return pl.BlockSpec((1, 1, *shape), lambda p, k: (p, k) + (0,) * len(shape))

  values_PKMH, lse_PKM = pl.pallas_call(
    kernel,
    grid=(P, K),
    in_specs=[
      spec(rows, H), spec(S, H), spec(S, H),
      pl.BlockSpec((P,), lambda p, k: (0,)),
    ],
    out_specs=[spec(rows, H), spec(rows)],
    out_shape=[
      jax.ShapeDtypeStruct((P, K, rows, H), jnp.float32),
      jax.ShapeDtypeStruct((P, K, rows), jnp.float32),
    ],
    compiler_params=plt.CompilerParams(num_warps=warps, num_stages=stages),
    interpret=interpret,
  )(q_PKMH, k_PKSH, v_PKSH, length_P)  # fmt: skip
  return values_PKMH[:, :, :M], lse_PKM[:, :, :M]
