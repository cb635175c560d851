"""Policy gradient losses of each token.

Each function is (logprobs_BT, behavior_BT, advantages_B1, mask_BT) -> loss_BT,
0 outside the mask. Minimizing it makes tokens with a positive advantage more
probable. A reduction of reductions.py turns it into a scalar:

  weights_BT = prompt_mean(mask_BT, group_size)
  loss = jnp.sum(weights_BT * cispo(logprobs_BT, behavior_BT, ...))

All log-probabilities are of the distribution at the sampling temperature.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlpt_jax.algorithms.ratios import (
  ratio,
  sequence_log_ratio,
  token_log_ratio,
  truncated_weight,
)
from rlpt_jax.core.checks import NonNegative, Positive


def reinforce(logprobs_BT, behavior_BT, advantages_B1, mask_BT):
  """-A log pi: the plain policy gradient (Williams 1992).

  Only correct for tokens sampled from pi; others need a weight, see `cispo`.
  """
  del behavior_BT
  return jnp.where(mask_BT, -advantages_B1 * logprobs_BT, 0.0)


def ppo(
  logprobs_BT,
  behavior_BT,
  advantages_B1,
  mask_BT,
  *,
  clip_low: NonNegative = 0.2,
  clip_high: NonNegative = 0.2,
):
  """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

  PPO (arXiv 1707.06347, Eq 7). It is also the token loss of GRPO (arXiv
  2402.03300, Eq 3) and of Dr. GRPO (arXiv 2503.20783), which only changes
  advantages and reduction. DAPO (arXiv 2503.14476) uses it with clip_high =
  0.28 (0.26 in ScaleRL's DAPO). It has no KL term; add one from kl.py.
  """
  log_ratio_BT = token_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  return _clip(log_ratio_BT, advantages_B1, mask_BT, clip_low, clip_high)


def gspo(
  logprobs_BT,
  behavior_BT,
  advantages_B1,
  mask_BT,
  *,
  clip_low: NonNegative = 3e-4,
  clip_high: NonNegative = 4e-4,
):
  """`ppo` with one ratio per completion: the geometric mean over its tokens.

  GSPO (arXiv 2507.18071, Eq 5), in the form of GSPO-token (Eq 13), whose
  gradient equals that of Eq 5 under the reduction `completion_mean`. The clip
  defaults are the paper's; ScaleRL (arXiv 2510.13786) needed 4e-3 and 5e-3.
  """
  log_ratio_BT = sequence_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  return _clip(log_ratio_BT, advantages_B1, mask_BT, clip_low, clip_high)


def cispo(
  logprobs_BT, behavior_BT, advantages_B1, mask_BT, *, max_ratio: Positive = 5.0
):
  """-min(ratio, max_ratio) A log pi, with no gradient through the first factor.

  MiniMax-M1 (arXiv 2506.13585, Section 3) without its lower bound, as in
  ScaleRL (arXiv 2510.13786, Section 4), which finds that 4, 5 and 8 work
  equally well. It only clips the weight: unlike in ppo, a clipped token keeps
  its gradient. max_ratio bounds the ratio itself, whereas ppo's clip_high
  bounds its distance from 1.
  """
  weight_BT = truncated_weight(
    logprobs_BT, behavior_BT, mask_BT, max_weight=max_ratio
  )
  return weight_BT * reinforce(logprobs_BT, behavior_BT, advantages_B1, mask_BT)


def truncated(
  logprobs_BT,
  behavior_BT,
  advantages_B1,
  mask_BT,
  *,
  loss: Callable = ppo,
  max_weight: Positive = 2.0,
):
  """min(pi / behavior, max_weight) times `loss` with pi as behavior policy.

  Truncated importance sampling (Yao et al. 2025), for a sampler whose kernels
  or weights differ slightly from the learner's. The ratio of the two policies
  becomes a weight and is not clipped by `loss`. For batches used for one update
  only: the learner then is the old policy, and `loss` sees ratios of 1.
  """
  old_BT = jax.lax.stop_gradient(logprobs_BT)
  weight_BT = truncated_weight(
    old_BT, behavior_BT, mask_BT, max_weight=max_weight
  )
  return weight_BT * loss(logprobs_BT, old_BT, advantages_B1, mask_BT)


def _clip(log_ratio_BT, advantages_B1, mask_BT, clip_low, clip_high):
  ratio_BT = ratio(log_ratio_BT)
  near_BT = jnp.clip(ratio_BT, 1 - clip_low, 1 + clip_high)
  gain_BT = jnp.minimum(ratio_BT * advantages_B1, near_BT * advantages_B1)
  return jnp.where(mask_BT, -gain_BT, 0.0)
