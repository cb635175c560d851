"""Probability ratios between two policies on sampled tokens.

Losses involve up to three policies. The learner's policy gets the gradient. The
behavior policy sampled the tokens. If a batch serves several updates, there is
also the old policy: the learner's policy before the first of these updates. It
then takes the place of behavior_BT in a loss, and `truncated_weight` multiplies
the result.

Inputs outside the mask are never used: infinities and NaN there reach neither
results nor gradients.
"""

import jax
import jax.numpy as jnp

# exp(20) is 5e8. A larger ratio has no gradient, as if clipped; an infinite one
# would give NaN gradients even if a clip drops the token: 0 * inf.
MAX_LOG_RATIO = 20.0


def token_log_ratio(logprobs_BT, behavior_BT, mask_BT):
  """log(pi / behavior) of each token, 0 outside the mask.

  There is no gradient through behavior_BT, so a loss that gets logprobs as both
  arguments is the on-policy loss.
  """
  behavior_BT = jax.lax.stop_gradient(behavior_BT)
  return jnp.where(mask_BT, logprobs_BT - behavior_BT, 0.0)


def sequence_log_ratio(logprobs_BT, behavior_BT, mask_BT):
  """The mean of `token_log_ratio` over the completion, at each of its tokens.

  Its exponential is GSPO's ratio (arXiv 2507.18071, Eq 7). Each token's
  gradient goes to its own log-probability only, as in GSPO-token (Eq 14). The
  average of these values over the completion still has the gradient of the mean
  log ratio, and any other reduction can be used as well.
  """
  own_BT = token_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  count_B1 = jnp.count_nonzero(mask_BT, axis=1, keepdims=True)
  mean_B1 = jnp.sum(own_BT, axis=1, keepdims=True) / jnp.maximum(count_B1, 1)
  gradient_only_BT = own_BT - jax.lax.stop_gradient(own_BT)
  return jnp.where(
    mask_BT, gradient_only_BT + jax.lax.stop_gradient(mean_B1), 0.0
  )


def ratio(log_ratio_BT):
  """pi / behavior, bounded so that it is finite."""
  return jnp.exp(jnp.minimum(log_ratio_BT, MAX_LOG_RATIO))


def truncated_weight(old_BT, behavior_BT, mask_BT, *, max_weight=2.0):
  """min(old / behavior, max_weight), without gradient, to multiply a loss by.

  Corrects for a sampler whose kernels or weights differ from the learner's (Yao
  et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
  training", which uses max_weight = 2 for a 32B model). Multiplied with
  `ppo(logprobs, old, ...)`, it gives decoupled PPO (arXiv 2110.00641) with a
  truncated weight; with old = logprobs, multiplied with `reinforce`, it gives
  `cispo`.
  """
  log_ratio_BT = token_log_ratio(old_BT, behavior_BT, mask_BT)
  weight_BT = jnp.minimum(ratio(log_ratio_BT), max_weight)
  return jax.lax.stop_gradient(weight_BT)


def ratio_statistics(log_ratio_BT, mask_BT):
  """Scalar statistics of the ratio over the tokens of the mask, for the log.

  The expected mean ratio is 1, because pi is a distribution. The gap is
  |log(pi / behavior)|; before the first update on a batch it shows how well
  sampler and learner agree. `kl` estimates KL(behavior || pi) by k3 (kl.py), as
  the tokens are sampled from behavior. `effective_share` is the effective
  sample size as a share of the tokens: 1 if all ratios are equal. Needs the
  whole batch: maxima and quantiles of microbatches cannot be added.
  """
  mask_BT = jnp.asarray(mask_BT, bool)
  count = jnp.maximum(jnp.count_nonzero(mask_BT), 1)

  def mean(x_BT):
    return jnp.sum(x_BT, where=mask_BT) / count

  ratio_BT, gap_BT = ratio(log_ratio_BT), jnp.abs(log_ratio_BT)

  def p99(x_BT):
    quantile = jnp.nanquantile(jnp.where(mask_BT, x_BT, jnp.nan), 0.99)
    return jnp.where(mask_BT.any(), quantile, 0.0)

  square = jnp.maximum(mean(ratio_BT**2), jnp.finfo(jnp.float32).tiny)
  return {
    'ratio_mean': mean(ratio_BT),
    'ratio_p99': p99(ratio_BT),
    'ratio_max': jnp.max(ratio_BT, where=mask_BT, initial=0.0),
    'gap_mean': mean(gap_BT),
    'gap_p99': p99(gap_BT),
    'gap_max': jnp.max(gap_BT, where=mask_BT, initial=0.0),
    'kl': mean(ratio_BT - 1 - log_ratio_BT),
    'effective_share': mean(ratio_BT) ** 2 / square,
  }
