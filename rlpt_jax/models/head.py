"""From hidden states to log-probabilities, float32 from end to end.

Logits of all positions never exist together: `score` walks over a few positions
at a time and, unless those are all, computes them again in the backward pass.
"""

import jax
import jax.numpy as jnp

from rlpt_jax.models.config import Decoder


def head_weights(decoder: Decoder, params):
  """[V, D]: the head, which a tied model shares with its embedding."""
  return params['embed' if decoder.config.tied_head else 'head']


def logits(decoder: Decoder, params, hidden_BTD):
  """Next-token logits, [B, T, V]: for the few positions that decoding reads."""
  w_VD = head_weights(decoder, params).astype(jnp.float32)
  logits_BTV = jnp.einsum(
    'BTD,VD->BTV',
    hidden_BTD.astype(jnp.float32),
    w_VD,
    # On TPU and GPU a float32 product is rounded unless asked not to be.
    precision=jax.lax.Precision.HIGHEST,
  )
  return decoder.layout.constrain(logits_BTV, 'batch', None, 'vocab')


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
