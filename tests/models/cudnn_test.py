"""Attention in two calls of a kernel, with the kernel written in plain JAX."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

from rlpt_jax.models import attention as lib
from rlpt_jax.models import cudnn

P, G, T, S, N, K, H = 2, 3, 6, 8, 4, 2, 16
B = P * G


def _scores(q, k, causal, length_B):
  k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
  scores = jnp.einsum('BTNH,BSNH->BNTS', q, k) * q.shape[-1] ** -0.5
  seen = jnp.ones(scores.shape, bool)
  if causal:
    seen &= jnp.tril(seen[0, 0])
  if length_B is not None:
    seen &= (jnp.arange(seen.shape[-1]) < length_B[:, None])[:, None, None]
  return jnp.where(seen, scores, -jnp.inf)


def _forward(q, k, v, *, causal=False, length_B=None):
  scores = _scores(q, k, causal, length_B)
  lse = jax.nn.logsumexp(scores, axis=-1)
  v = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
  values = jnp.einsum('BNTS,BSNH->BTNH', jnp.exp(scores - lse[..., None]), v)
  return values, lse


def _backward(q, k, v, values, lse, gradient, *, causal=False, length_B=None):
  """A flash backward pass: weights from `lse`, row sums from `values`."""

  def per_head(x):
    return jnp.repeat(x, q.shape[2] // k.shape[2], axis=2)

  def per_kv_head(x):
    return x.reshape(*k.shape[:3], -1, k.shape[3]).sum(3)

  weights = jnp.exp(_scores(q, k, causal, length_B) - lse[..., None])
  rows = jnp.swapaxes(jnp.sum(gradient * values, axis=-1), 1, 2)
  d_weights = jnp.einsum('BTNH,BSNH->BNTS', gradient, per_head(v))
  d_scores = weights * (d_weights - rows[..., None]) * q.shape[-1] ** -0.5
  return (
    jnp.einsum('BNTS,BSNH->BTNH', d_scores, per_head(k)),
    per_kv_head(jnp.einsum('BNTS,BTNH->BSNH', d_scores, q)),
    per_kv_head(jnp.einsum('BNTS,BTNH->BSNH', weights, gradient)),
  )


def _inputs(dtype=jnp.float32):
  shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H), (P, S, K, H), (P, S, K, H)
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [
    jax.random.normal(key, shape, dtype)
    for key, shape in zip(keys, shapes, strict=True)
  ]


def test_values_and_gradients_are_those_of_one_softmax(monkeypatch, one_device):
  monkeypatch.setattr(cudnn, 'forward', _forward)
  monkeypatch.setattr(cudnn, 'backward', _backward)
  length_P = jnp.array([5, 8])
  # Rows of different lengths, whose padding is in no loss.
  present_BT = np.arange(T) < np.array([6, 1, 3, 2, 6, 5])[:, None]
  weights = jnp.cos(jnp.arange(B * T * N * H)).reshape(B, T, N, H)
  weights *= present_BT[..., None, None]

  def in_two_calls(*inputs):
    return cudnn.attend_with_prefix(*inputs, length_P)

  def in_one(q, k, v, prefix_k, prefix_v):
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    prefix = lib.Part(
      jnp.transpose(prefix_k, (0, 2, 3, 1)),
      jnp.swapaxes(prefix_v, 1, 2),
      jnp.arange(S) < length_P[:, None],
    )
    segments = jnp.asarray(present_BT, jnp.int32)
    return lib.xla_attention(q, k, v, segments, [prefix], layout=one_device)

  def loss(attend, *inputs):
    values = attend(*inputs)
    return jnp.sum(values * weights), values * present_BT[..., None, None]

  found, expected = (
    jax.jit(
      jax.grad(
        functools.partial(loss, attend), argnums=tuple(range(5)), has_aux=True
      )
    )(*_inputs())
    for attend in (in_two_calls, in_one)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_an_empty_prefix_gives_finite_gradients(monkeypatch):
  monkeypatch.setattr(cudnn, 'forward', _forward)
  monkeypatch.setattr(cudnn, 'backward', _backward)

  def loss(*inputs):
    return jnp.sum(cudnn.attend_with_prefix(*inputs, jnp.array([0, 8])))

  gradients = jax.grad(loss, argnums=tuple(range(5)))(*_inputs())
  assert all(jnp.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize('remat', [True, False])
def test_what_xla_is_asked_to_do(remat):
  """Lowered for a GPU: which kernels, with which masks, how many of them."""

  def attend(*inputs):
    return cudnn.attend_with_prefix(*inputs, jnp.array([5, 8]))

  if remat:  # Keeps what attention returns, so nothing is computed twice.
    policies = jax.checkpoint_policies
    attend = jax.checkpoint(
      attend, policy=policies.save_only_these_names(cudnn.ATTENDED)
    )

  def loss(*inputs):
    return jnp.sum(attend(*inputs).astype(jnp.float32) ** 2)

  step = jax.jit(jax.grad(loss, argnums=tuple(range(5))))
  inputs = _inputs(jnp.bfloat16)
  lowered = step.trace(*inputs).lower(lowering_platforms=('cuda',))
  calls = re.findall(
    r'custom_call @(__cudnn\$\w+)\(.*?backend_config = "(.*?)", ',
    lowered.as_text(),
  )
  masks = []
  for name, config in calls:
    config = json.loads(config.replace(r'\22', '"'))
    config = config['cudnn_fmha_backend_config']
    masks.append((name.removeprefix('__cudnn$'), config['mask_type']))
    rows, length = (B, T) if config['mask_type'] == 'CAUSAL' else (P, S)
    assert config['intermediate_tensor_shape']['dimensions'] == [
      str(x) for x in (rows, N, B * T // rows, length)
    ]
    assert config['intermediate_tensor_shape']['element_type'] == 'BF16'
    assert config['fmha_scale'] == H**-0.5
  forward, backward = 'fmhaSoftmax', 'fmhaSoftmaxBackward'
  assert masks == [
    (forward, 'CAUSAL'), (forward, 'PADDING'),
    (backward, 'CAUSAL'), (backward, 'PADDING'),
  ]  # fmt: skip


@pytest.mark.parametrize('products', ['FORWARD', 'BACKWARD'])
@pytest.mark.parametrize('mask', ['CAUSAL', 'PADDING', 'NO_MASK'])
def test_the_configuration_is_the_one_that_jax_writes(mask, products):
  # JAX's own is private, so it may be gone in a later version.
  jax_cudnn = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  q, _, _, k, _ = _inputs(jnp.bfloat16)
  length = jnp.ones(B) if mask == 'PADDING' else None
  found = cudnn._config(
    q, k, mask == 'CAUSAL', length, getattr(cudnn, products)
  )
  with mlir.make_ir_context():
    expected = jax_cudnn.create_dot_product_attention_backend_config(
      B, N, T, S, mlir.dtype_to_ir_type(jnp.dtype('bfloat16')), H**-0.5, 42,
      0.0, jax_cudnn.MaskType[mask], 0, None, 1, False, products == 'BACKWARD',
    )  # fmt: skip

  def without_defaults(config):  # Of protobuf, which need not be written.
    if not isinstance(config, dict):
      return config
    values = {key: without_defaults(x) for key, x in config.items()}
    return {key: x for key, x in values.items() if x not in ([], '0', 0)}

  assert without_defaults(json.loads(found)) == without_defaults(
    json.loads(expected)
  )
