"""Policy gradient losses of each token.

Each function is (logprobs_BT, behavior_BT, advantages_B1, mask_BT) -> loss_BT,
0 outside of the mask. Minimizing raises the probability of what has a positive
advantage. A loss becomes a number by one of reductions.py:

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
  """-A log pi: the policy gradient itself (Williams 1992).

  Only right for tokens that pi sampled; others need a weight: see `cispo`.
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

  PPO (arXiv 1707.06347, Eq 7), and the token's part of GRPO (arXiv 2402.03300,
  Eq 3), of Dr. GRPO (arXiv 2503.20783), which differs from it in advantages and
  reduction only, and of DAPO (arXiv 2503.14476), which sets clip_high to 0.28;
  ScaleRL's DAPO has 0.26. No KL: kl.py gives a term to add.
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
  """`ppo` with one ratio for the completion: the geometric mean of the tokens'.

  GSPO (arXiv 2507.18071, Eq 5), in the form of GSPO-token (Eq 13): with the
  reduction `completion_mean` its gradient is Eq 5's. The clips are the paper's;
  ScaleRL (arXiv 2510.13786) needed 4e-3 and 5e-3.
  """
  log_ratio_BT = sequence_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  return _clip(log_ratio_BT, advantages_B1, mask_BT, clip_low, clip_high)


def cispo(
  logprobs_BT, behavior_BT, advantages_B1, mask_BT, *, max_ratio: Positive = 5.0
):
  """-min(ratio, max_ratio) A log pi, the first factor a constant.

  MiniMax-M1 (arXiv 2506.13585, Section 3), without its lower bound, as in
  ScaleRL (arXiv 2510.13786, Section 4), which finds 4, 5 and 8 alike. A weight
  is clipped, a gradient never. max_ratio bounds the ratio itself, where ppo's
  clip_high bounds its distance from 1.
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
  """min(pi / behavior, max_weight) times `loss` against the learner itself.

  Truncated importance sampling (Yao et al. 2025): the sampler's kernels or
  weights are not quite the learner's, and the ratio to it is a weight, not what
  is clipped. For batches that serve one update, where the learner is the old
  policy: `loss` then sees ratios of 1.
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
