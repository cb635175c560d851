"""Prepares the queries, keys and values of a decode step, in one GPU kernel.

Between the product with the weights and attention, queries and keys are
normalized and rotated, and keys and values are written to a column of the
cache. XLA makes five kernels of this for each layer, and each takes longer to
start than to run. On several GPUs, each runs it on its own rows and heads.
Like decode_kernel.py, this one uses Pallas's Triton backend,
and tests run it in Pallas's interpreter.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec


def fits(decoder, k_BKHS) -> bool:
  """Returns True if the kernel can be used; XLA's are used otherwise."""
  H = decoder.config.head_dim
  return (
    decoder.layout.has_small_kernels
    and decoder.compute.attention != 'xla'
    and H & (H - 1) == 0
    and k_BKHS.dtype in (jnp.bfloat16, jnp.float16)
  )


def rotate_and_write(
  joined_BKXH, scales, rope, k_BKHS, v_BKSH, column, *, layout, **options
):
  """(queries [B, N, H], the keys and the values with a column written).

  joined_BKXH: for each key-value head its queries, its key and its value.
  scales: (of queries, of keys), [H] each: the scales of their norms; or none.
  rope: (cosines, sines), [B, H / 2] each.
  options: as of `_on_one_device`.
  """
  inputs = joined_BKXH, scales, rope, k_BKHS, v_BKSH, column
  run = functools.partial(_on_one_device, **options)
  if layout.mesh.size == 1:
    return run(*inputs)
  heads = layout.activation_spec(k_BKHS.shape[:2], ('batch', 'kv_heads'))
  rows, everywhere = PartitionSpec(heads[0]), PartitionSpec()
  return jax.shard_map(
    run,
    mesh=layout.mesh,
    in_specs=(heads, everywhere, rows, heads, heads, everywhere),
    out_specs=heads,
    check_vma=False,  # The kernel declares no varying axes.
  )(*inputs)


def _on_one_device(
  joined_BKXH, scales, rope, k_BKHS, v_BKSH, column, *, eps, interpret=False
):
  B, K, X, H = joined_BKXH.shape
  R = X - 2
  inputs = (
    jnp.reshape(column, (1,)), joined_BKXH, *rope, *scales, k_BKHS, v_BKSH
  )  # fmt: skip
  q_BKRH, k_BKHS, v_BKSH = pl.pallas_call(
    functools.partial(_kernel, eps=eps),
    grid=(B, K),
    out_shape=[
      jax.ShapeDtypeStruct((B, K, R, H), joined_BKXH.dtype),
      jax.ShapeDtypeStruct(k_BKHS.shape, k_BKHS.dtype),
      jax.ShapeDtypeStruct(v_BKSH.shape, v_BKSH.dtype),
    ],
    input_output_aliases={len(inputs) - 2: 1, len(inputs) - 1: 2},
    compiler_params=triton.CompilerParams(num_warps=1),
    interpret=interpret,
    name='rotate_and_write',
  )(*inputs)
  return q_BKRH.reshape(B, K * R, H), k_BKHS, v_BKSH


def _kernel(column_ref, joined_ref, cos_ref, sin_ref, *refs, eps):
  """One program: the queries, the key and the value of a head of a row."""
  *scale_refs, _, _, q_ref, k_ref, v_ref = refs
  b, k, column = pl.program_id(0), pl.program_id(1), column_ref[0]
  _, _, R, H = q_ref.shape
  # The queries are rows 0 to R - 1 of a block, the key is row R.
  row_M1 = _iota(1 << R.bit_length())[:, None]
  is_query_M1, is_key_M1 = row_M1 < R, row_M1 == R
  first_1C, all_1H = _iota(H // 2)[None], _iota(H)[None]
  halves = first_1C, first_1C + H // 2
  shape = row_M1.shape[0], H // 2

  # All loads come first, so that none waits for another.
  exists_MC = jnp.broadcast_to(is_query_M1 | is_key_M1, shape)
  x = [
    triton.load(joined_ref.at[b, k, row_M1, place], mask=exists_MC, other=0.0)
    for place in halves
  ]
  cos_1C, sin_1C = (
    triton.load(ref.at[b, first_1C]) for ref in (cos_ref, sin_ref)
  )
  scales = [
    [triton.load(ref.at[place]) for place in halves] for ref in scale_refs
  ]
  value_1H = triton.load(joined_ref.at[b, k, R + 1, all_1H])

  if scales:
    scales = [
      jnp.where(is_key_M1, of_keys, of_queries)
      for of_queries, of_keys in zip(*scales, strict=True)
    ]
    x = _normed(x, scales, eps)
  first_MC, second_MC = (half_MC.astype(jnp.float32) for half_MC in x)
  turned = (
    first_MC * cos_1C - second_MC * sin_1C,
    second_MC * cos_1C + first_MC * sin_1C,
  )
  for place_1C, half_MC in zip(halves, turned, strict=True):
    half_MC = half_MC.astype(q_ref.dtype)
    triton.store(
      q_ref.at[b, k, row_M1, place_1C],
      half_MC,
      mask=jnp.broadcast_to(is_query_M1, shape),
    )
    # The sum picks the row of the key, so that all store the same.
    key_1C = jnp.where(is_key_M1, half_MC.astype(jnp.float32), 0)
    key_1C = key_1C.sum(axis=0, keepdims=True)
    triton.store(k_ref.at[b, k, place_1C, column], key_1C.astype(k_ref.dtype))
  triton.store(v_ref.at[b, k, column, all_1H], value_1H.astype(v_ref.dtype))


def _normed(x, scales, eps):
  """As `layers.rms_norm`, of the halves of each row."""
  x32 = [half_MC.astype(jnp.float32) for half_MC in x]
  squares_M1 = sum(
    jnp.sum(half_MC * half_MC, axis=1, keepdims=True) for half_MC in x32
  )
  H = 2 * x[0].shape[1]
  factor_M1 = jax.lax.rsqrt(squares_M1 / H + eps)
  dtype = x[0].dtype
  return [
    (half_MC * factor_M1).astype(dtype) * scale_MC.astype(dtype)
    for half_MC, scale_MC in zip(x32, scales, strict=True)
  ]


def _iota(size):
  return jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
