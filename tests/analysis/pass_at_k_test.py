"""pass@k against all subsets, and intervals against the truth they cover."""

import itertools
import math

import numpy as np
import pytest

from rlpt_jax.analysis.pass_at_k import estimate, pass_at_k, wilson


def _brute_force(n, c, k):
  """The share of all subsets of k samples, of which the first c are right,
  that have one that is.
  """
  subsets = list(itertools.combinations(range(n), k))
  return sum(subset[0] < c for subset in subsets) / len(subsets)


def test_it_is_the_share_of_subsets_with_one_that_is_right():
  for n in range(1, 9):
    for k in range(1, n + 1):
      right = np.arange(n + 1)
      expected = [_brute_force(n, c, k) for c in right]
      found = pass_at_k(np.full(n + 1, n), right, k)
      np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize('k', [1, 8, 32, 64])
def test_64_samples_to_the_last_digits(k):
  # In whole numbers, which do not round.
  right = np.arange(65)
  expected = [1 - math.comb(64 - c, k) / math.comb(64, k) for c in right]
  found = pass_at_k(np.full(65, 64), right, k)
  np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
  assert found[0] == 0 and found[-1] == 1


def test_thousands_of_samples_do_not_overflow():
  found = pass_at_k(np.array([100_000]), np.array([10]), 1000)
  # Nearly with replacement: 1 - (1 - 1e-4)^1000 = 0.0952.
  np.testing.assert_allclose(found, 0.0956, atol=1e-3)


def test_it_is_unbiased():
  rng = np.random.default_rng(0)
  p, n, k = 0.2, 10, 4
  right = rng.binomial(n, p, size=200_000)
  found = pass_at_k(np.full(right.shape, n), right, k).mean()
  assert abs(found - (1 - (1 - p) ** k)) < 2e-3
  # The plain estimate, from the share that is right, is not.
  assert abs((1 - (1 - right / n) ** k).mean() - (1 - 0.8**k)) > 0.02


def test_fewer_samples_than_k_say_nothing():
  found = pass_at_k(np.array([3, 4, 0]), np.array([3, 0, 0]), 4)
  assert np.isnan(found).tolist() == [True, False, True]
  with pytest.raises(ValueError, match='expected between 0 and all'):
    pass_at_k(np.array([3]), np.array([4]), 1)
  with pytest.raises(ValueError, match='k=0: expected at least 1'):
    pass_at_k(np.array([3]), np.array([1]), 0)


def test_wilson_by_its_equation():
  # The two ends solve (x - 0.3)^2 = z^2 x (1 - x) / 40.
  for end in wilson(0.3, 40):
    assert (end - 0.3) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 40)


def test_an_interval_of_nothing_and_of_one():
  assert np.isnan(estimate(np.array([np.nan])).mean)
  one = estimate(np.array([1.0, np.nan]))
  assert (one.mean, one.high, one.problems) == (1, 1, 1) and one.low < 0.3
  none = estimate(np.zeros(200))
  assert (none.mean, none.low) == (0, 0) and 0.01 < none.high < 0.03


@pytest.mark.parametrize(
  ('problems', 'samples', 'a', 'b'),
  [
    (30, 64, 0.3, 0.8),  # AIME: problems are mostly never or always right.
    (200, 1, 0.02, 1.0),  # GSM8K and a model that is seldom right.
    (500, 4, 5.0, 1.0),
    (40, 8, 3.0, 3.0),
  ],
)
def test_intervals_cover_the_truth_95_times_of_100(problems, samples, a, b):
  """Problems are drawn, and so is how hard each is, and then its samples."""
  rng = np.random.default_rng(0)
  truth, runs, covered, naive = a / (a + b), 2000, 0, 0
  for _ in range(runs):
    hard_P = rng.beta(a, b, size=problems)
    values_P = rng.binomial(samples, hard_P) / samples
    found = estimate(values_P, samples)
    covered += found.low <= truth <= found.high
    low, high = wilson(values_P.mean(), problems * samples)
    naive += low <= truth <= high
  assert 0.935 <= covered / runs <= 0.985, covered / runs
  if samples > 4:  # As if all samples were of problems of their own.
    assert naive / runs < 0.9
