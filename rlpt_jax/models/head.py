"""The head: maps hidden states to log-probabilities, all in float32.

`score` computes the logits of a few positions at a time and recomputes them in
the backward pass, so that the logits of a long row never exist all at once.
"""

import functools

import jax
import jax.numpy as jnp

from rlpt_jax.models.config import Decoder

# How the head's float32 products are computed. On tensor cores, each number is
# split into two or three bfloat16 parts, which take three or six products;
# 'highest' does not use tensor cores. Relative error against float64 and speed
# on an H200 (jax 0.11, 2026-11-26):
PRODUCTS = {
  'bf16_x3': jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,  # 4.4e-6, 226 TFLOP/s
  'bf16_x6': jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,  # 9.0e-8, 117 TFLOP/s
  'highest': jax.lax.Precision.HIGHEST,  # 2.9e-7, 50 TFLOP/s
}


# The parameter with the low parts of the head, if it is stored split (`split`).
LOW = 'head_low'


def name_of_weights(decoder: Decoder) -> str:
  """The name of the head's parameter; a tied model uses its embedding."""
  return 'embed' if decoder.config.tied_head else 'head'


def logits(decoder: Decoder, params, hidden_BTD):
  """Next-token logits, [B, T, V]; meant for few positions, as in decoding."""
  w_VD = params[name_of_weights(decoder)]
  hidden_BTD = hidden_BTD.astype(jnp.float32)
  if LOW in params:
    logits_BTV = _multiply_parts(hidden_BTD, w_VD, params[LOW])
  else:
    logits_BTV = _product(decoder)(hidden_BTD, w_VD.astype(jnp.float32))
  return decoder.layout.constrain(logits_BTV, 'batch', None, 'vocab')


def _product(decoder: Decoder):
  """The function (hidden_BTD, w_VD) -> logits_BTV of this decoder's head."""
  # Not split into bfloat16 parts if exact: a float32 model must not be rounded,
  # and CPUs multiply in full float32 anyway.
  if _is_exact(decoder):
    return functools.partial(_multiply, precision=PRODUCTS['highest'])
  return functools.partial(_rounded_backward, PRODUCTS[_algorithm(decoder)])


def _is_exact(decoder: Decoder) -> bool:
  is_float32 = decoder.compute.dtype == 'float32'
  return is_float32 or decoder.layout.platform == 'cpu'


def _algorithm(decoder: Decoder) -> str:
  """The entry of PRODUCTS that this decoder's devices support."""
  # XLA does not support split products on GPUs before Ampere (T4, V100).
  capability = decoder.layout.compute_capability
  is_old = capability is not None and capability < 8
  return 'highest' if is_old else decoder.compute.head


def is_split(decoder: Decoder) -> bool:
  """True if weights that do not change should be stored in two parts (`split`).

  Otherwise XLA splits them again at every step, in a kernel that takes twice as
  long as `_multiply_parts` (1.3 ms against 0.7 for 256 rows, Qwen3-0.6B, H200).
  """
  is_gpu = decoder.layout.platform == 'gpu' and not _is_exact(decoder)
  return is_gpu and _algorithm(decoder) == 'bf16_x3'


def split(x):
  """(high, low): bfloat16 numbers whose sum is x, to 16 bits."""
  # Casting to bfloat16 and back would not do: XLA may leave out both casts.
  high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _multiply_parts(hidden_BTD, high_VD, low_VD):
  """The 'bf16_x3' product, with weights that are already split."""
  T = hidden_BTD.shape[1]
  high_BTD, low_BTD = split(hidden_BTD)
  product = functools.partial(
    jnp.einsum, 'BTD,VD->BTV', preferred_element_type=jnp.float32
  )
  # Side by side in T, which no layout divides among devices.
  both = product(jnp.concatenate([high_BTD, low_BTD], axis=1), high_VD)
  return both[:, :T] + both[:, T:] + product(high_BTD, low_VD)


def _multiply(hidden_BTD, w_VD, *, precision):
  # Set explicitly: by default, TPUs and GPUs round the inputs of a float32
  # product.
  return jnp.einsum(
    'BTD,VD->BTV',
    hidden_BTD,
    w_VD,
    precision=precision,
    preferred_element_type=jnp.float32,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_backward(precision, hidden_BTD, w_VD):
  """`_multiply` with gradients from bfloat16 products, as in every layer.

  Log-probabilities need the precision; gradients are averaged anyway. The two
  products of the backward pass take a third of the time that they would take
  with `bf16_x3`.
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

  hidden_BTD[:, t] predicts targets_BT[:, t]. Both results are of the
  distribution at `temperature`, which must be the sampling temperature.
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
    # Recomputing saves nothing: the backward pass starts with these logits.
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
