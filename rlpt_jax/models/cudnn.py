"""Attention of a group of rows to a prefix and to themselves, by cuDNN.

To merge the attention to two sets of keys, each result gets a weight computed
from its log-sum-exp. `jax.nn.dot_product_attention` passes no gradient through
the log-sum-exp, so the kernels that it uses are called directly here. The
backward pass over some of the keys is given the output and the log-sum-exp over
*all* keys, so that

  weights = exp(scores - lse)
  gradient of the scores = weights * (dO V^T - rowsum(dO * O))

hold for each key, whatever the others are. So attention to the prefix can be
computed apart from attention within the rows: the prefix is read once for the
whole group instead of being copied for each row, and no mask is read.
"""

import json
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# The name of attention's results, which rematerialization may keep.
ATTENDED = 'attended'


@jax.custom_vjp
def attend_with_prefix(q_BTNH, k_BTKH, v_BTKH, k_PSKH, v_PSKH, length_P):
  """Attention of rows to the prefix of their group and to themselves.

  B / P consecutive rows form a group. A row is one segment followed by padding;
  results at padding are arbitrary. length_P: the number of tokens in each
  prefix, which is padded on the right.
  """
  inputs = q_BTNH, k_BTKH, v_BTKH, k_PSKH, v_PSKH, length_P
  return _forward_of_parts(*inputs)[0]


def _forward_of_parts(q_BTNH, k_BTKH, v_BTKH, k_PSKH, v_PSKH, length_P):
  B, T, N, _ = q_BTNH.shape
  P = k_PSKH.shape[0]
  # At least one key: over none, results are not finite. (A prefix has no tokens
  # only if its whole group is padding.)
  length_P = jnp.maximum(length_P, 1)
  own_BTNH, own_lse_BNT = forward(q_BTNH, k_BTKH, v_BTKH, causal=True)
  # The rows of a group form one sequence of M = G * T queries.
  shared_PMNH, lse_PNM = forward(
    _as_group(q_BTNH, P), k_PSKH, v_PSKH, length_B=length_P
  )
  lse_PNGT = lse_PNM.reshape(P, N, B // P, T)
  shared_lse_BNT = jnp.swapaxes(lse_PNGT, 1, 2).reshape(B, N, T)
  lse_BNT = jnp.logaddexp(own_lse_BNT, shared_lse_BNT)

  def weighted(x_BTNH, x_lse_BNT):
    weight_BNT = jnp.exp(x_lse_BNT - lse_BNT)
    return x_BTNH * jnp.swapaxes(weight_BNT, 1, 2)[..., None]

  values_BTNH = weighted(own_BTNH, own_lse_BNT)
  values_BTNH += weighted(shared_PMNH.reshape(q_BTNH.shape), shared_lse_BNT)
  values_BTNH = checkpoint_name(values_BTNH.astype(q_BTNH.dtype), ATTENDED)
  lse_BNT = checkpoint_name(lse_BNT, ATTENDED)
  inputs = q_BTNH, k_BTKH, v_BTKH, k_PSKH, v_PSKH, length_P
  return values_BTNH, (*inputs, values_BTNH, lse_BNT)


def _backward_of_parts(kept, gradient_BTNH):
  q_BTNH, k_BTKH, v_BTKH, k_PSKH, v_PSKH, length_P, values_BTNH, lse_BNT = kept
  B, T, N, _ = q_BTNH.shape
  P = k_PSKH.shape[0]
  own_dq_BTNH, dk_BTKH, dv_BTKH = backward(
    q_BTNH, k_BTKH, v_BTKH, values_BTNH, lse_BNT, gradient_BTNH, causal=True
  )
  lse_PGNT = lse_BNT.reshape(P, B // P, N, T)
  lse_PNM = jnp.swapaxes(lse_PGNT, 1, 2).reshape(P, N, -1)
  q_PMNH, values_PMNH, gradient_PMNH = (
    _as_group(x, P) for x in (q_BTNH, values_BTNH, gradient_BTNH)
  )
  dq_PMNH, dk_PSKH, dv_PSKH = backward(
    q_PMNH, k_PSKH, v_PSKH, values_PMNH, lse_PNM, gradient_PMNH,
    length_B=length_P,
  )  # fmt: skip
  # Whether the kernel writes the gradients of padding is not documented.
  exists_PS = jnp.arange(k_PSKH.shape[1]) < length_P[:, None]
  dk_PSKH, dv_PSKH = (
    jnp.where(exists_PS[..., None, None], x, 0) for x in (dk_PSKH, dv_PSKH)
  )
  dq_BTNH = own_dq_BTNH + dq_PMNH.reshape(q_BTNH.shape)
  return dq_BTNH, dk_BTKH, dv_BTKH, dk_PSKH, dv_PSKH, None


attend_with_prefix.defvjp(_forward_of_parts, _backward_of_parts)


def _as_group(x_BTNH, P):
  """[P, B / P * T, N, H]: the rows of each group as one sequence."""
  return x_BTNH.reshape(P, -1, *x_BTNH.shape[2:])


def forward(q_BTNH, k_BSKH, v_BSKH, *, causal=False, length_B=None):
  """(values_BTNH, lse_BNT) of attention to the given keys.

  causal: query t sees keys s <= t.
  length_B: the number of keys in each row, before the padding.
  """
  B, T, N, H = q_BTNH.shape
  return _call(
    '__cudnn$fmhaSoftmax',
    [q_BTNH, k_BSKH, v_BSKH, *_lengths(q_BTNH, length_B)],
    [
      jax.ShapeDtypeStruct((B, N, T, H), q_BTNH.dtype),
      jax.ShapeDtypeStruct((B, N, T), jnp.float32),
    ],
    _config(q_BTNH, k_BSKH, causal, length_B, FORWARD),
  )


def backward(
  q_BTNH, k_BSKH, v_BSKH, values_BTNH, lse_BNT, gradient_BTNH,
  *, causal=False, length_B=None,
):  # fmt: skip
  """The gradients of q, k and v, given the values and lse over *all* keys."""
  B, T, N, H = q_BTNH.shape
  _, S, K, _ = k_BSKH.shape
  return _call(
    '__cudnn$fmhaSoftmaxBackward',
    [q_BTNH, k_BSKH, v_BSKH, lse_BNT, gradient_BTNH, values_BTNH,
     *_lengths(q_BTNH, length_B)],
    [
      jax.ShapeDtypeStruct((B, N, T, H), q_BTNH.dtype),
      jax.ShapeDtypeStruct((B, K, S, H), k_BSKH.dtype),
      jax.ShapeDtypeStruct((B, K, S, H), v_BSKH.dtype),
    ],
    _config(q_BTNH, k_BSKH, causal, length_B, BACKWARD),
  )  # fmt: skip


def _lengths(q_BTNH, length_B):
  if length_B is None:
    return []
  B, T, _, _ = q_BTNH.shape
  return [jnp.full((B,), T, jnp.int32), length_B.astype(jnp.int32)]


def _call(name, operands, results, config):
  """Calls a kernel; returns 4-dimensional results as [B, T, N, H]."""
  # For XLA, the shape is [B, N, T, H], and its memory is in the order B T N H.
  orders = [(0, 2, 1, 3) if len(x.shape) == 4 else None for x in results]
  call = jax.ffi.ffi_call(
    name,
    [*results, jax.ShapeDtypeStruct((0,), jnp.uint8)],  # The workspace.
    output_layouts=[*orders, None],
    custom_call_api_version=2,
    legacy_backend_config=config,
  )
  return tuple(
    jnp.swapaxes(x, 1, 2) if x.ndim == 4 else x for x in call(*operands)[:-1]
  )


# The products of the kernels, as XLA describes them: the contracted dimension
# of each operand, then the batch dimensions of each.
FORWARD = {
  'bmm1': (3, 3, (0, 2), (0, 2)),
  'bmm2': (3, 1, (0, 1), (0, 2)),
}
BACKWARD = {
  'bmm1_grad_gemm1': (2, 1, (0, 1), (0, 2)),
  'bmm1_grad_gemm2': (3, 1, (0, 1), (0, 2)),
  'bmm2_grad_gemm1': (2, 1, (0, 1), (0, 2)),
  'bmm2_grad_gemm2': (3, 3, (0, 2), (0, 2)),
}


def _config(q_BTNH, k_BSKH, causal, length_B, products) -> str:
  """XLA's configuration of a kernel (CudnnfMHABackendConfig), as JSON."""
  assert q_BTNH.dtype == jnp.bfloat16
  B, T, N, H = q_BTNH.shape
  config = {
    'algorithm': {
      'algo_id': '0',
      'math_type': 'TENSOR_OP_MATH',
      'tuning_knobs': {'17': '1', '24': '0'},
      'is_cudnn_frontend': True,
      'workspace_size': '0',
    },
    'fmha_scale': 1 / math.sqrt(H),
    'intermediate_tensor_shape': {
      'element_type': 'BF16',
      'dimensions': [str(size) for size in (B, N, T, k_BSKH.shape[1])],
      'tuple_shapes': [],
      'layout': {
        'minor_to_major': ['3', '2', '1', '0'],
        'index_primitive_type': 'PRIMITIVE_TYPE_INVALID',
        'pointer_primitive_type': 'PRIMITIVE_TYPE_INVALID',
      },
      'is_dynamic_dimension': [False] * 4,
    },
    'is_flash_attention': True,
    'mask_type': (
      'CAUSAL' if causal else 'NO_MASK' if length_B is None else 'PADDING'
    ),
    'dropout_rate': 0.0,
    'seed': 42,
    'sliding_window_length': 0,
    'max_seg_per_batch': 1,
    'is_paged_attention': False,
  }
  for name, (left, right, left_batch, right_batch) in products.items():
    config[f'{name}_dot_dimension_numbers'] = {
      'lhs_contracting_dimensions': [str(left)],
      'rhs_contracting_dimensions': [str(right)],
      'lhs_batch_dimensions': [str(i) for i in left_batch],
      'rhs_batch_dimensions': [str(i) for i in right_batch],
    }
  return json.dumps(
    {'operation_queue_id': '0', 'cudnn_fmha_backend_config': config}
  )
