"""From hidden states to log-probabilities, float32 from end to end.

Logits of all positions never exist together: `score` walks over a few positions
at a time and, unless those are all, computes them again in the backward pass.
"""

import functools
import re

import jax
import jax.numpy as jnp

from rlpt_jax.models.config import Decoder

# How tensor cores compute the head's float32 products: of two or three bfloat16
# parts of each number, in three or six products; or not at all. Relative error
# against float64 and speed on an H200 (jax 0.11, 2026-11-26):
PRODUCTS = {
  'bf16_x3': jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,  # 4.4e-6, 226 TFLOP/s
  'bf16_x6': jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,  # 9.0e-8, 117 TFLOP/s
  'highest': jax.lax.Precision.HIGHEST,  # 2.9e-7, 50 TFLOP/s
}


def head_weights(decoder: Decoder, params):
  """[V, D]: the head, which a tied model shares with its embedding."""
  return params['embed' if decoder.config.tied_head else 'head']


def logits(decoder: Decoder, params, hidden_BTD):
  """Next-token logits, [B, T, V]: for the few positions that decoding reads."""
  w_VD = head_weights(decoder, params).astype(jnp.float32)
  logits_BTV = _product(decoder)(hidden_BTD.astype(jnp.float32), w_VD)
  return decoder.layout.constrain(logits_BTV, 'batch', None, 'vocab')


def _product(decoder: Decoder):
  """The function (hidden_BTD, w_VD) -> logits_BTV of this decoder's head."""
  compute = decoder.compute
  # A CPU computes float32 as it is. A float32 model asks for no rounding.
  if compute.dtype == 'float32' or decoder.layout.platform == 'cpu':
    return functools.partial(_multiply, precision=PRODUCTS['highest'])
  # XLA has no products of parts for the GPUs before Ampere (T4, V100).
  mesh = decoder.layout.mesh
  is_abstract = isinstance(mesh, jax.sharding.AbstractMesh)
  devices = () if is_abstract else mesh.devices.flat
  old = any(
    re.match(r'[1-7]\.', getattr(device, 'compute_capability', ''))
    for device in devices
  )
  return functools.partial(
    _rounded_backward, PRODUCTS['highest' if old else compute.head]
  )


def _multiply(hidden_BTD, w_VD, *, precision):
  # On TPU and GPU a float32 product is rounded unless asked not to be.
  return jnp.einsum(
    'BTD,VD->BTV',
    hidden_BTD,
    w_VD,
    precision=precision,
    preferred_element_type=jnp.float32,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_backward(precision, hidden_BTD, w_VD):
  """`_multiply`, with gradients from products of bfloat16 as in every layer.

  Log-probabilities need the digits; a gradient is about to be averaged. Its two
  products take a third of the time that they would take by `bf16_x3`.
  """
  return _multiply(hidden_BTD, w_VD, precision=precision)


def _forward(precision, hidden_BTD, w_VD):
  return _multiply(hidden_BTD, w_VD, precision=precision), (hidden_BTD, w_VD)


def _backward(precision, kept, gradient_BTV):
  del precision
  hidden_BTD, w_VD, gradient_BTV = (
    x.astype(jnp.bfloat16) for x in (*kept, gradient_BTV)
  )
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  return (
    product('BTV,VD->BTD', gradient_BTV, w_VD),
    product('BTV,BTD->VD', gradient_BTV, hidden_BTD),
  )


_rounded_backward.defvjp(_forward, _backward)


def score(decoder: Decoder, params, hidden_BTD, targets_BT, *, temperature=1.0):
  """(log-probability of each target, entropy of each position), [B, T] each.

  hidden_BTD[:, t] predicts targets_BT[:, t]. Both are of the distribution at
  `temperature`, the one that was sampled from.
  """

  def score_chunk(params, hidden_BCD, targets_BC):
    logits_BCV = logits(decoder, params, hidden_BCD) / temperature
    lse_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
    target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)
    # H = -sum p log p = lse - sum p * logit.
    probs_BCV = jnp.exp(logits_BCV - lse_BC[..., None])
    mean_logit_BC = jnp.sum(probs_BCV * logits_BCV, axis=-1)
    return target_BC[..., 0] - lse_BC, lse_BC - mean_logit_BC

  B, T = targets_BT.shape
  chunk = min(decoder.compute.head_chunk, T)
  num_chunks = -(-T // chunk)
  if num_chunks == 1:
    # The backward pass, which begins here, needs room for them anyway.
    return score_chunk(params, hidden_BTD, targets_BT)
  padding = ((0, 0), (0, num_chunks * chunk - T))

  def chunks(x):  # [B, T, ...] -> [num_chunks, B, chunk, ...]
    x = jnp.pad(x, padding + ((0, 0),) * (x.ndim - 2))
    return jnp.swapaxes(x.reshape(B, num_chunks, chunk, *x.shape[2:]), 0, 1)

  _, results = jax.lax.scan(
    lambda _, xs: (None, jax.checkpoint(score_chunk)(params, *xs)),
    None,
    (chunks(hidden_BTD), chunks(targets_BT)),
  )
  return tuple(
    jnp.swapaxes(x, 0, 1).reshape(B, num_chunks * chunk)[:, :T] for x in results
  )
