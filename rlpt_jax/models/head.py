"""The head: maps hidden states to log-probabilities in float32.

`score` computes the logits of a few positions at a time and computes them again
in the backward pass, so the logits of a long row never exist all at once. The
backward pass multiplies in bfloat16, except for float32 models and on CPUs.
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


def name_of_weights(decoder: Decoder) -> str:
  """The name of the head's parameter; a tied model uses its embedding."""
  return 'embed' if decoder.config.tied_head else 'head'


def embed(params, tokens_BT):
  """The embeddings of tokens; a tied head's table may be `split` into parts."""
  table = params['embed']
  if table.ndim == 3:
    return table[tokens_BT, 0]
  return jnp.take(table, tokens_BT, axis=0)


def logits(decoder: Decoder, params, hidden_BTD):
  """Next-token logits, [B, T, V]; meant for few positions, as in decoding."""
  return _logits(decoder, params[name_of_weights(decoder)], hidden_BTD)


def _logits(decoder: Decoder, weights, hidden_BTD):
  """The logits; both may have one more dimension, in front (see `_copies`).

  weights: w_VD, or w_VPD if they are `split`.
  """
  hidden_BTD = hidden_BTD.astype(jnp.float32)
  if weights.ndim == hidden_BTD.ndim:
    logits_BTV = _multiply_parts(hidden_BTD, weights)
  else:
    logits_BTV = _product(decoder)(hidden_BTD, weights.astype(jnp.float32))
  return _constrain(decoder, logits_BTV)


def _product(decoder: Decoder):
  """The function (hidden_BTD, w_VD) -> logits_BTV of this decoder's head."""
  # Do not split a product into bfloat16 parts for float32 models, which must
  # not be rounded, or on CPUs, which multiply in full float32 anyway.
  if _is_exact(decoder):
    return functools.partial(_multiply, precision=PRODUCTS['highest'])
  if is_split(decoder):
    return _split_and_multiply
  return functools.partial(_multiply, precision=PRODUCTS[_algorithm(decoder)])


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
  """True if the sampler should store the head's weights in parts (`split`).

  Otherwise they would be split again at every step.
  """
  is_gpu = decoder.layout.platform == 'gpu' and not _is_exact(decoder)
  return is_gpu and _algorithm(decoder) == 'bf16_x3'


def bytes_of_a_weight(decoder: Decoder) -> int:
  """The bytes that the sampler stores per weight of the head."""
  return 3 * 2 if is_split(decoder) else 4


def split(w_VD):
  """[..., V, 3, D]: bfloat16 parts of the weights for the 'bf16_x3' product.

  The first part is the weights rounded to bfloat16.
  """
  high_VD, low_VD = _parts(w_VD)
  return jnp.stack([high_VD, high_VD, low_VD], axis=-2)


def _multiply_parts(hidden_BTD, w_VPD):
  """The 'bf16_x3' product: high high + low high + high low.

  It is one product over joined parts. As three products (XLA's way), or as two
  with one copy of the high part, each would write all logits, to be read again
  and added.
  """
  high_BTD, low_BTD = _parts(hidden_BTD)
  return jnp.einsum(
    '...BTPD,...VPD->...BTV',
    jnp.stack([high_BTD, low_BTD, high_BTD], axis=-2),
    w_VPD,
    preferred_element_type=jnp.float32,
  )


def _split_and_multiply(hidden_BTD, w_VD):
  return _multiply_parts(hidden_BTD, split(w_VD))


def _parts(x):
  """(high, low): bfloat16 numbers whose sum is x, to 16 bits."""
  # Casting to bfloat16 and back would not do: XLA may leave out both casts.
  high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _multiply(hidden_BTD, w_VD, *, precision):
  # Set explicitly: by default, TPUs and GPUs round the inputs of a float32
  # product.
  return jnp.einsum(
    '...BTD,...VD->...BTV',
    hidden_BTD,
    w_VD,
    precision=precision,
    preferred_element_type=jnp.float32,
  )


def score(decoder: Decoder, params, hidden_BTD, targets_BT, *, temperature=1.0):
  """(log-probability of each target, entropy of each position), [B, T] each.

  hidden_BTD[:, t] predicts targets_BT[:, t]. Both results are of the
  distribution at `temperature`, which must be the sampling temperature.
  """
  B, T = targets_BT.shape
  shares, w_VD = _copies(decoder, params[name_of_weights(decoder)], B)
  chunk = min(decoder.compute.head_chunk, T)
  num_chunks = -(-T // chunk)
  is_exact = _is_exact(decoder)
  score_chunk = functools.partial(
    _score_chunk if is_exact else _rounded_backward, decoder, temperature
  )
  if num_chunks > 1 and is_exact:  # The other function keeps no logits.
    score_chunk = jax.checkpoint(score_chunk)
  padding = ((0, 0), (0, num_chunks * chunk - T))

  def chunks(x):  # [B, T, ...] -> [num_chunks, *shares, rows, chunk, ...]
    x = jnp.pad(x, padding + ((0, 0),) * (x.ndim - 2))
    x = x.reshape(*shares, -1, num_chunks, chunk, *x.shape[2:])
    return jnp.moveaxis(x, len(shares) + 1, 0)

  def whole(x):  # The inverse.
    x = jnp.moveaxis(x, 0, len(shares) + 1)
    return x.reshape(B, num_chunks * chunk)[:, :T]

  _, results = jax.lax.scan(
    lambda _, xs: (None, score_chunk(w_VD, *xs)),
    None,
    (chunks(hidden_BTD), chunks(targets_BT)),
  )
  return tuple(map(whole, results))


def _copies(decoder: Decoder, weights, rows: int):
  """Returns (A,), the shares of a batch of `rows`, and weights for each.

  These are w_AVD, and the other arrays of a chunk begin with A, too. Chips that
  split a batch have the copy of their share. So they gather weights
  once, and add up gradients once. With weights that all shares have in common,
  XLA does both for every chunk: 64 times for 8,192 positions. On one device:
  () and the weights.
  """
  layout = decoder.layout
  if layout.mesh.size == 1:
    return (), weights
  A = layout.shares(rows)
  copies = jnp.broadcast_to(weights, (A, *weights.shape))
  rest = (None,) * (weights.ndim - 1)
  return (A,), layout.constrain(copies, 'batch', 'vocab', *rest)


def _constrain(decoder: Decoder, logits_BTV):
  between = (None,) * (logits_BTV.ndim - 2)
  return decoder.layout.constrain(logits_BTV, 'batch', *between, 'vocab')


def _score_chunk(decoder, temperature, w_VD, hidden_BCD, targets_BC):
  logits_BCV = _logits(decoder, w_VD, hidden_BCD) / temperature
  target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)
  # Both sums in one pass over the logits.
  max_BC1 = jax.lax.stop_gradient(jnp.max(logits_BCV, -1, keepdims=True))
  exp_BCV = jnp.exp(logits_BCV - max_BC1)
  sum_BC = jnp.sum(exp_BCV, axis=-1)
  mean_BC = jnp.sum(exp_BCV * logits_BCV, axis=-1) / sum_BC
  lse_BC = jnp.log(sum_BC) + max_BC1[..., 0]
  # H = -sum p log p = lse - sum p * logit.
  return target_BC[..., 0] - lse_BC, lse_BC - mean_BC


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded_backward(decoder, temperature, w_VD, hidden_BCD, targets_BC):
  """`_score_chunk` with gradients from bfloat16 products, as in every layer.

  Log-probabilities need the precision; gradients are averaged anyway. All three
  products of the backward pass, one of which computes the logits again, take a
  third of the time that they would take with 'bf16_x3'.
  """
  return _score_chunk(decoder, temperature, w_VD, hidden_BCD, targets_BC)


def _forward(decoder, temperature, w_VD, hidden_BCD, targets_BC):
  inputs = w_VD, hidden_BCD, targets_BC
  return _score_chunk(decoder, temperature, *inputs), inputs


def _backward(decoder, temperature, inputs, gradients):
  w_VD, hidden_BCD, targets_BC = inputs
  dtypes = w_VD.dtype, hidden_BCD.dtype
  gradient_BC1, entropy_gradient_BC1 = (g[..., None] for g in gradients)
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  w_VD, hidden_BCD = (x.astype(jnp.bfloat16) for x in (w_VD, hidden_BCD))
  logits_BCV = product('...BCD,...VD->...BCV', hidden_BCD, w_VD) / temperature
  logits_BCV = _constrain(decoder, logits_BCV)
  # The probabilities must sum to 1: with the exact log-sum-exp and these
  # rounded logits, 1 - p would be wrong for a token that is nearly certain.
  exp_BCV = jnp.exp(logits_BCV - jnp.max(logits_BCV, -1, keepdims=True))
  sum_BC1 = jnp.sum(exp_BCV, axis=-1, keepdims=True)
  mean_BC1 = jnp.sum(exp_BCV * logits_BCV, axis=-1, keepdims=True) / sum_BC1
  probs_BCV = exp_BCV / sum_BC1
  is_target_BCV = jnp.arange(w_VD.shape[-2]) == targets_BC[..., None]
  # d log p(target) / d logits = [is target] - p; dH / d logits = p (mean - x).
  of_entropy_BCV = probs_BCV * (mean_BC1 - logits_BCV)
  gradient_BCV = (
    gradient_BC1 * (is_target_BCV - probs_BCV)
    + entropy_gradient_BC1 * of_entropy_BCV
  ) / temperature
  gradient_BCV = gradient_BCV.astype(jnp.bfloat16)
  return (
    product('...BCV,...BCD->...VD', gradient_BCV, hidden_BCD).astype(dtypes[0]),
    product('...BCV,...VD->...BCD', gradient_BCV, w_VD).astype(dtypes[1]),
    None,
  )


_rounded_backward.defvjp(_forward, _backward)
