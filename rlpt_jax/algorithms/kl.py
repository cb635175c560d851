"""Estimates of KL(pi || reference) on sampled tokens: k1, k2 and k3.

Each function is (logprobs_BT, reference_BT, mask_BT) -> kl_BT, 0 outside the
mask. Names and derivations: Schulman 2020, "Approximating KL divergence". For
tokens sampled from pi, with x = log(pi / reference):

        value             mean            mean gradient as a loss term
  k1    x                 the KL          0: no constraint at all
  k2    x^2 / 2           biased          that of KL(pi || reference)
  k3    e^-x - 1 + x      the KL          that of KL(reference || pi)

So use k3 (as GRPO does) or k2 in the loss, `ppo(...) + beta * k3(...)`, and k1
in the reward, `reward - beta * sum(k1)`. A good estimate of the value can have
the wrong gradient: the gradient must also account for how the samples change
(arXiv 2510.01555). Tokens sampled from another policy need a weight, the ratio
of pi to that policy: ratio * k3, with gradients through both factors, has the
gradient of KL(pi || reference).
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from rlpt_jax.algorithms.ratios import MAX_LOG_RATIO, token_log_ratio
from rlpt_jax.core import checks
from rlpt_jax.core.checks import Positive


def k1(logprobs_BT, reference_BT, mask_BT):
  """log(pi / reference): unbiased, of either sign. For rewards, not losses.

  The penalty of RLHF with PPO (DeepSeekMath, arXiv 2402.03300, Eq 2).
  """
  return token_log_ratio(logprobs_BT, reference_BT, mask_BT)


def k2(logprobs_BT, reference_BT, mask_BT):
  """Half the squared log ratio: never negative, biased."""
  return token_log_ratio(logprobs_BT, reference_BT, mask_BT) ** 2 / 2


def k3(logprobs_BT, reference_BT, mask_BT):
  """reference / pi - 1 - log(reference / pi): unbiased and never negative.

  GRPO (DeepSeekMath, arXiv 2402.03300, Eq 4), except that the log ratio is
  bounded, with zero gradient beyond the bound.
  """
  log_ratio_BT = -token_log_ratio(logprobs_BT, reference_BT, mask_BT)
  log_ratio_BT = jnp.minimum(log_ratio_BT, MAX_LOG_RATIO)
  return jnp.expm1(log_ratio_BT) - log_ratio_BT


@dataclasses.dataclass(frozen=True, kw_only=True)
class InLoss:
  """A KL penalty in the loss of each token: `weight` times the estimate."""

  estimator: Callable = k3
  weight: Positive

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, logprobs_BT, reference_BT, mask_BT):
    return self.weight * self.estimator(logprobs_BT, reference_BT, mask_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InReward:
  """A KL penalty in the reward: `weight` times the completion's sum of k1."""

  weight: Positive

  def __post_init__(self):
    checks.check_fields(self)
