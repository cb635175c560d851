"""How far one policy is from another on sampled tokens.

Three policies meet in the losses: the learner's, which has the gradient;
behavior, which sampled; and, where a batch serves several updates, the old one,
the learner's before the first of them. It takes the place of behavior_BT in a
loss, and `truncated_weight` multiplies what comes back.

What lies outside of the mask is never read: infinities and NaN there reach
neither values nor gradients.
"""

import jax
import jax.numpy as jnp

# exp(20) is 5e8. Beyond it a ratio has no gradient, as if it were clipped; an
# infinite one would make it NaN even where a clip drops the token: 0 * inf.
MAX_LOG_RATIO = 20.0


def token_log_ratio(logprobs_BT, behavior_BT, mask_BT):
  """log(pi / behavior) of each token, 0 outside of the mask.

  No gradient for the second policy, so a loss of (logprobs, logprobs) is the
  on-policy one.
  """
  behavior_BT = jax.lax.stop_gradient(behavior_BT)
  return jnp.where(mask_BT, logprobs_BT - behavior_BT, 0.0)


def sequence_log_ratio(logprobs_BT, behavior_BT, mask_BT):
  """Its mean over the completion, on each of the completion's tokens.

  The exponential is GSPO's ratio (arXiv 2507.18071, Eq 7). The gradient of each
  is that of its own token only, as in GSPO-token (Eq 14): the mean over a
  completion then has the gradient of the mean, and any reduction may follow.
  """
  own_BT = token_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  count_B1 = jnp.count_nonzero(mask_BT, axis=1, keepdims=True)
  mean_B1 = jnp.sum(own_BT, axis=1, keepdims=True) / jnp.maximum(count_B1, 1)
  gradient_only_BT = own_BT - jax.lax.stop_gradient(own_BT)
  return jnp.where(
    mask_BT, gradient_only_BT + jax.lax.stop_gradient(mean_B1), 0.0
  )


def ratio(log_ratio_BT):
  """pi / behavior, finite however far apart they are."""
  return jnp.exp(jnp.minimum(log_ratio_BT, MAX_LOG_RATIO))


def truncated_weight(old_BT, behavior_BT, mask_BT, *, max_weight=2.0):
  """min(old / behavior, max_weight), a constant: what to multiply a loss by.

  Corrects for a sampler that is not quite the learner, whether its kernels or
  its weights differ (Yao et al. 2025, "Your efficient RL framework secretly
  brings you off-policy RL training", 2 at 32B). Times `ppo(logprobs, old,
  ...)` it is decoupled PPO (arXiv 2110.00641), truncated; times `reinforce` at
  old = logprobs it is `cispo`.
  """
  log_ratio_BT = token_log_ratio(old_BT, behavior_BT, mask_BT)
  weight_BT = jnp.minimum(ratio(log_ratio_BT), max_weight)
  return jax.lax.stop_gradient(weight_BT)


def clipped(log_ratio_BT, advantages_B1, *, clip_low=0.2, clip_high=0.2):
  """[B, T]: True where `ppo` or `gspo` leaves a token no gradient."""
  ratio_BT = ratio(log_ratio_BT)
  too_high_BT = (ratio_BT > 1 + clip_high) & (advantages_B1 > 0)
  too_low_BT = (ratio_BT < 1 - clip_low) & (advantages_B1 < 0)
  return too_high_BT | too_low_BT


def ratio_statistics(log_ratio_BT, mask_BT):
  """Scalars for the log, over the tokens of the mask.

  The mean ratio is 1 in expectation, pi being a distribution. The gap is
  |log(pi / behavior)|; before the first update of a batch it says how well
  sampler and learner agree. `kl` estimates KL(behavior || pi) by k3 (kl.py),
  for the tokens are behavior's. Of the whole batch: maxima and quantiles of
  microbatches do not add up.
  """
  mask_BT = jnp.asarray(mask_BT, bool)
  count = jnp.maximum(jnp.count_nonzero(mask_BT), 1)

  def mean(x_BT):
    return jnp.sum(x_BT, where=mask_BT) / count

  ratio_BT, gap_BT = ratio(log_ratio_BT), jnp.abs(log_ratio_BT)
  p99 = jnp.nanquantile(jnp.where(mask_BT, gap_BT, jnp.nan), 0.99)
  return {
    'ratio_mean': mean(ratio_BT),
    'ratio_max': jnp.max(ratio_BT, where=mask_BT, initial=0.0),
    'gap_mean': mean(gap_BT),
    'gap_p99': jnp.where(mask_BT.any(), p99, 0.0),
    'gap_max': jnp.max(gap_BT, where=mask_BT, initial=0.0),
    'kl': mean(ratio_BT - 1 - log_ratio_BT),
  }
