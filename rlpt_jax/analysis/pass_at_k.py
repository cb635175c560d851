"""Estimates pass@k, the probability that at least one of k samples is right.

With n samples of a problem, c of them right, 1 - C(n - c, k) / C(n, k) is the
unbiased estimate of pass@k (Chen et al., 2107.03374; RLPT 2509.19249, section
4.2, with n = 64).
"""

import dataclasses
import math

import numpy as np

Z = 1.959964  # A standard normal variable is within +-Z with probability 0.95.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over problems and its 95% interval; NaN if there are no problems."""

  mean: float
  low: float
  high: float
  problems: int  # The number of problems that have a value.


def pass_at_k(n_P: np.ndarray, c_P: np.ndarray, k: int) -> np.ndarray:
  """Returns 1 - C(n - c, k) / C(n, k) for each problem, NaN where n < k.

  The fraction is a product of k factors of at most 1, so no factorial overflows
  and no difference of large logarithms loses digits. If fewer than k samples
  are wrong, one factor is 0 and those after it do not matter.
  """
  if k < 1:
    raise ValueError(f'k={k}: expected at least 1.')
  n_P, c_P = np.asarray(n_P, np.float64), np.asarray(c_P, np.float64)
  if ((c_P < 0) | (c_P > n_P)).any():
    raise ValueError(
      f'{c_P} correct of {n_P}: expected between 0 and all of them.'
    )
  i_k = np.arange(k)
  # C(n - c, k) / C(n, k) = product over i < k of (n - c - i) / (n - i).
  with np.errstate(divide='ignore', invalid='ignore'):
    factors_Pk = ((n_P - c_P)[:, None] - i_k) / (n_P[:, None] - i_k)
    wrong_P = factors_Pk.prod(axis=1)
  return np.where(n_P >= k, 1 - wrong_P, np.nan)


def estimate(values_P: np.ndarray, samples: int = 1) -> Estimate:
  """Returns the mean of values in [0, 1], one per problem, and its interval.

  NaN values are skipped.

  samples: the number of samples that each value was computed from.

  The interval is Wilson's. The normal interval is wrong at the ends: if none of
  200 problems is right, it claims that the true mean is exactly 0.

  Wilson's interval needs a number of independent trials, but samples of one
  problem are not independent. We take the number of independent trials whose
  mean would have the observed variance, but at least the number of problems and
  at most the number of all samples. If all values are equal, we take the number
  of problems.
  """
  values_P = np.asarray(values_P, np.float64)
  values_P = values_P[~np.isnan(values_P)]
  count = len(values_P)
  if not count:
    return Estimate(math.nan, math.nan, math.nan, 0)
  mean = float(np.clip(values_P.mean(), 0, 1))
  trials = float(count)
  if count > 1:
    variance = float(values_P.var(ddof=1)) / count
    if variance > 0:
      trials = mean * (1 - mean) / variance
    trials = min(max(trials, count), count * max(samples, 1))
  return Estimate(mean, *wilson(mean, trials), count)


def wilson(mean: float, trials: float) -> tuple[float, float]:
  """Returns Wilson's 95% interval (1927) for a mean of `trials` 0s and 1s."""
  z2 = Z * Z / trials
  middle = (mean + z2 / 2) / (1 + z2)
  half = Z / (1 + z2) * math.sqrt(mean * (1 - mean) / trials + z2 / trials / 4)
  # Rounding must not put the mean outside the interval.
  return min(mean, max(0.0, middle - half)), max(mean, min(1.0, middle + half))
