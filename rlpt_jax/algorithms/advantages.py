"""Advantages from rewards: how much better a completion is than its group.

Each function is rewards_PG -> advantages_PG, float32, for P prompts with G
completions each. A reward of NaN says that the completion has no verdict:
averages skip it, and the advantage is 0. The completion must also be removed
from the mask before a reduction (reductions.py) gets the mask; otherwise the
reduction's denominators would count it:

  keep_PG = judged(rewards_PG)
  keep_PG &= varies(rewards_PG)[:, None]  # Only to filter equal rewards.
  mask_BT &= keep_PG.reshape(-1, 1)

A group with equal rewards gets advantages of exactly 0, filtered or not.
Without this rule, normalization would divide one rounding error by another.

A function with state between steps is (rewards_PG, carried) -> (advantages_PG,
carried) instead. `carried` is None at the first step and then a plain number,
to be saved with the run. Such a function has `carries = True`; `Carried` calls
both kinds the same way.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import NonNegative, PositiveShare


def judged(rewards_PG):
  """[P, G]: True where the reward is a verdict, not NaN."""
  return ~jnp.isnan(rewards_PG)


def varies(rewards_PG, *, tolerance=1e-6):
  """[P]: True where rewards of a group differ by more than the tolerance.

  The filter of DAPO (arXiv 2503.14476) and ScaleRL (arXiv 2510.13786, Section
  4: 0 < mean(r) < 1), for any rewards, not only 0 and 1. It uses the range
  instead of the standard deviation: for equal floats the range is exactly 0,
  however large they are.
  """
  # With jnp, a program would be compiled for every number of groups, which in
  # some runs differs from step to step.
  xp = jnp if isinstance(rewards_PG, jax.Array) else np
  rewards_PG = xp.asarray(rewards_PG, xp.float32)
  kept_PG = ~xp.isnan(rewards_PG)
  low_P = xp.min(rewards_PG, axis=1, where=kept_PG, initial=xp.inf)
  high_P = xp.max(rewards_PG, axis=1, where=kept_PG, initial=-xp.inf)
  return high_P - low_P > tolerance


def group_centered(rewards_PG):
  """A = r - mean(group).

  Dr. GRPO (arXiv 2503.20783, Section 3): GRPO without the division by the std;
  that division weights prompts by their difficulty. The paper's other change is
  the reduction `constant`.
  """
  advantages_PG, _ = _center(rewards_PG)
  return advantages_PG


def group_normalized(rewards_PG, *, eps: NonNegative = 1e-4):
  """A = (r - mean(group)) / (std(group) + eps).

  GRPO (arXiv 2402.03300, Section 4.1.2), which has no eps; 1e-4 is TRL's. The
  std of n rewards divides by n; implementations with torch.std divide by n - 1,
  so that their advantages are sqrt((n - 1) / n) times ours.
  """
  advantages_PG, kept_PG = _center(rewards_PG)
  return advantages_PG / (_rms(advantages_PG, kept_PG, axis=1) + eps)


def leave_one_out(rewards_PG):
  """A = r - mean(the others of the group), 0 if there are no others.

  RLOO (Kool et al. 2019; arXiv 2402.14740): the baseline does not include the
  reward itself, so the gradient is unbiased. Equals n / (n - 1) times
  `group_centered`, where n is the number of verdicts in the group.
  """
  advantages_PG, kept_PG = _center(rewards_PG)
  count_P1 = jnp.sum(kept_PG, axis=1, keepdims=True)
  return advantages_PG * count_P1 / jnp.maximum(count_P1 - 1, 1)


def batch_normalized(rewards_PG, *, eps: NonNegative = 1e-4):
  """A = (r - mean(group)) / (std of r - mean(group) over the batch + eps).

  ScaleRL (arXiv 2510.13786, Section 4), which does not say if groups with equal
  rewards count in the std. Here they do not, so that filtering them does not
  rescale the other advantages. The paper has no eps; 1e-4 is TRL's. TRL also
  smooths the std over steps. `rewards_PG` must be the batch of all hosts.
  """
  advantages_PG, kept_PG = _center(rewards_PG)
  return advantages_PG / (_rms(advantages_PG, kept_PG) + eps)


@dataclasses.dataclass(frozen=True)
class RunningNormalized:
  """A = (r - mean(group)) / (running std of r - mean(group) + eps).

  `batch_normalized` with a std that is not noisy in small batches: ScaleRL
  (arXiv 2510.13786, Section 4) as TRL implements it. The mean square is a
  moving average that each completion updates by `rate`, except in groups with
  equal rewards (with 0.001, half the weight is on the last 700 completions).
  There are three differences from TRL: the average starts from the mean of the
  first batch, not from the first completion; a whole batch is divided by the
  value after that batch; completions without a verdict do not update the
  average.
  """

  rate: PositiveShare = 0.001
  eps: NonNegative = 1e-4

  carries = True

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, rewards_PG, mean_square: float | None):
    advantages_PG, kept_PG = map(np.asarray, _center(rewards_PG))
    squares_C = np.square(advantages_PG[kept_PG], dtype=np.float64)
    if len(squares_C) and mean_square is None:
      mean_square = float(squares_C.mean())
    elif len(squares_C):
      # m <- (1 - rate) m + rate a^2, for each advantage a in turn.
      ages_C = np.arange(len(squares_C))[::-1]
      mean_square = float(
        (1 - self.rate) ** len(squares_C) * mean_square
        + self.rate * np.sum((1 - self.rate) ** ages_C * squares_C)
      )
    std = math.sqrt(mean_square or 0.0)
    return (advantages_PG / (std + self.eps)).astype(np.float32), mean_square


class Carried:
  """Wraps an advantage function of either kind as rewards_PG -> advantages_PG.

  value: the carried state; save it, and pass it in when the run resumes.
  """

  def __init__(self, function: Callable, value: float | None = None):
    self._function, self.value = function, value

  def __call__(self, rewards_PG):
    if not getattr(self._function, 'carries', False):
      return self._function(rewards_PG)
    advantages_PG, self.value = self._function(rewards_PG, self.value)
    return advantages_PG


def needs_groups(function: Callable) -> bool:
  """Returns True if a completion alone in its group always gets advantage 0.

  This holds if the baseline is the group mean, which then is the reward of that
  completion itself.
  """
  alone_P1 = np.array([[0.0], [1.0]], np.float32)
  return not np.any(np.asarray(Carried(function)(alone_P1)))


# Jitted, for one program takes less time to compile than one per operation.


@jax.jit
def _center(rewards_PG):
  """(r - mean(group), True where there is a verdict and the group varies).

  Where the second array is False, the first is 0.
  """
  rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
  kept_PG = judged(rewards_PG) & varies(rewards_PG)[:, None]
  rewards_PG = jnp.where(kept_PG, rewards_PG, 0.0)
  count_P1 = jnp.sum(kept_PG, axis=1, keepdims=True)
  sum_P1 = jnp.sum(rewards_PG, axis=1, keepdims=True)
  mean_P1 = sum_P1 / jnp.maximum(count_P1, 1)
  return jnp.where(kept_PG, rewards_PG - mean_P1, 0.0), kept_PG


@functools.partial(jax.jit, static_argnames='axis')
def _rms(x_PG, kept_PG, axis=None):
  """The root mean square; the standard deviation if x is centered."""
  count = jnp.sum(kept_PG, axis=axis, keepdims=True)
  return jnp.sqrt(
    jnp.sum(x_PG**2, axis=axis, keepdims=True) / jnp.maximum(count, 1)
  )
