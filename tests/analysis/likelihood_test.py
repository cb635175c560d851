"""Intervals are those of refits, and hold the truth as often as they say."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import stdtrit

from rlpt_jax.analysis import likelihood, scaling
from rlpt_jax.analysis.scaling import POWER_LAW, SIGMOID, STRETCHED


def noisy(rng, *, noise, middle=0.3, rate=1.7, n=31):
  x = np.linspace(0, 1, n)
  with np.errstate(divide='ignore'):
    y = 0.2 + 0.45 / (1 + (middle / x) ** rate)
  return x, y + rng.normal(0, noise, n)


def squares_of(x, y, limit=None):
  """The least squares of a sigmoid, with A fixed or free, found by SciPy."""

  def residuals(values):
    start, log_rate, middle, top = values
    top = top if limit is None else limit
    return start + (top - start) / (1 + (middle / x) ** np.exp(log_rate)) - y

  bounds = [-1, -2, 1e-3, 0], [1, 2.2, 50, 1]
  with np.errstate(divide='ignore'):
    return 2 * min(
      least_squares(
        residuals, [0.2, np.log(rate), middle, 0.7], bounds=bounds,
        xtol=1e-12, ftol=1e-12,
      ).cost
      for rate, middle in itertools.product((1, 2), (0.2, 1))
    )  # fmt: skip


@pytest.mark.parametrize('noise', [0.03, 0.002])
def test_intervals_are_those_of_refits(noise):
  """At an edge of an interval, the best refit is just as bad as allowed."""
  x, y = noisy(np.random.default_rng(3), noise=noise)
  found = likelihood.of(SIGMOID, x, y)
  assert found.persistence == 1  # Neighbours do not resemble each other.
  least = squares_of(x, y)
  assert found.fit.squares == pytest.approx(least, rel=1e-6)
  freedom = 31 - 4
  allowed = least * (1 + stdtrit(freedom, 0.95) ** 2 / freedom)
  assert found.allowed == pytest.approx(allowed, rel=1e-6)
  low, high = found.intervals['A']
  assert low < 0.65 < high < 1
  for limit in (low, high):
    assert squares_of(x, y, limit) == pytest.approx(allowed, rel=0.03)
  # So with one more measurement beyond the end.
  for value in found.prediction(2.0):
    again = squares_of(np.append(x, 2.0), np.append(y, value))
    assert again == pytest.approx(allowed, rel=0.03)


@pytest.mark.parametrize('seed', [0, 1])
def test_of_a_straight_line_the_interval_is_students(seed):
  """q = 1 - x makes a line, whose interval is in any textbook."""
  line = scaling.Curve(
    'line', '', ('unused',), lambda x, unused: 1 - x + 0 * unused,
    box=((1.0, 1.001),),
  )  # fmt: skip
  rng = np.random.default_rng(seed)
  x = np.linspace(0, 1, 20)
  y = 0.2 + 0.4 * x + rng.normal(0, 0.05, 20)
  found = likelihood.of(line, x, y)
  assert (found.persistence == 1) == (seed == 1)
  low, high = found.prediction(1.5)
  slope, start = np.polyfit(x, y, 1)
  # One degree less than a line's, for the parameter that does nothing.
  noise = math.sqrt(np.sum((start + slope * x - y) ** 2) / 17)
  spread = 1 / 20 + (1.5 - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
  # The line is known less well if noise persists; the new noise is the same.
  spread = 1 + found.persistence * spread
  reach = stdtrit(17, 0.95) * noise * math.sqrt(spread)
  center = start + slope * 1.5
  assert (low, high) == pytest.approx((center - reach, center + reach))


def test_an_interval_ends_where_the_largest_limit_does():
  """As above, but the farthest curve has the largest A that is possible."""
  x, y = noisy(np.random.default_rng(11), noise=0.03, middle=0.6)
  x, y = x[:16], y[:16]
  found = likelihood.of(SIGMOID, x, y)
  assert found.persistence == 1 and found.intervals['A'][1] == 1
  for value in found.prediction(1.0):
    again = squares_of(np.append(x, 1.0), np.append(y, value))
    assert again == pytest.approx(found.allowed, rel=0.03)


@pytest.mark.parametrize(
  ('noise', 'middle'), [(0.02, 0.3), (0.005, 0.2), (0.05, 0.3)]
)
def test_90_percent_intervals_cover_90_percent(noise, middle):
  rng, limits, ends = np.random.default_rng(0), 0, 0
  for _ in range(200):
    x, y = noisy(rng, noise=noise, middle=middle)
    low, high = likelihood.of(SIGMOID, x, y).intervals['A']
    limits += low <= 0.65 <= high
    half = likelihood.of(SIGMOID, x[:16], y[:16])
    low, high = half.prediction(1.0)
    ends += low <= y[-1] <= high
  print(f'A: {limits / 200:.1%}, the end: {ends / 200:.1%}')
  assert 170 <= limits <= 190
  assert 170 <= ends <= 190


def correlated(rng, *, noise, correlation):
  """As `noisy`, but each measurement shares noise with its neighbours."""
  x, y = noisy(rng, noise=0.0)
  fresh = rng.normal(0, noise, len(x))
  for i in range(1, len(x)):
    fresh[i] *= math.sqrt(1 - correlation**2)
    fresh[i] += correlation * fresh[i - 1]
  return x, y + fresh


def test_noise_that_persists_makes_intervals_wider():
  rng = np.random.default_rng(0)
  limits, persistence = {0.0: 0, 0.5: 0}, {0.0: [], 0.5: []}
  for correlation in limits:
    for _ in range(200):
      x, y = correlated(rng, noise=0.02, correlation=correlation)
      found = likelihood.of(SIGMOID, x, y)
      low, high = found.intervals['A']
      limits[correlation] += low <= 0.65 <= high
      persistence[correlation].append(found.persistence)
  medians = {r: np.median(found) for r, found in persistence.items()}
  print(f'A: {limits}, persistence: {medians}')
  assert 1 <= medians[0.0] < 1.3 and 1.7 < medians[0.5] < 3.0
  # With a persistence of 1, 136 of 200 would be.
  assert limits[0.5] >= 160


def test_a_start_that_is_held_fixed_makes_intervals_too_narrow():
  """Why R0 is fitted: it is measured no better than the rest."""
  rng, fitted, fixed = np.random.default_rng(0), 0, 0
  for _ in range(200):
    x, y = noisy(rng, noise=0.02, middle=0.5)
    low, high = likelihood.of(SIGMOID, x, y).intervals['A']
    fitted += low <= 0.65 <= high
    start = scaling.sigmoid(float(y[0]))
    low, high = likelihood.of(start, x, y).intervals['A']
    fixed += low <= 0.65 <= high
  print(f'R0 fitted: {fitted / 200:.1%}, fixed: {fixed / 200:.1%}')
  assert fixed < 0.9 * fitted


def test_limits_stay_below_what_is_possible():
  x = np.linspace(0, 1, 20)
  y = 0.2 + 0.5 * x  # Nothing says where it ends.
  for curve in (SIGMOID, POWER_LAW, STRETCHED, scaling.sigmoid(0.2)):
    found = likelihood.of(curve, x[1:], y[1:], most=0.8)
    assert found.fit.limit <= 0.8 and found.intervals['A'][1] == 0.8
    fit = scaling.fit_least_squares(curve, x[1:], y[1:], most=0.8)
    assert fit.limit <= 0.8
    assert found.fit.squares <= fit.squares * (1 + 1e-6)


def test_nothing_depends_on_the_unit_of_compute():
  x, y = noisy(np.random.default_rng(3), noise=0.02)
  for curve in (SIGMOID, POWER_LAW, STRETCHED):
    one = likelihood.of(curve, x, y)
    big = likelihood.of(curve, x * 1e21, y)
    assert big.fit(3e21) == pytest.approx(float(one.fit(3.0)))
    assert big.prediction(3e21) == pytest.approx(one.prediction(3.0))
    assert big.intervals['A'] == pytest.approx(one.intervals['A'])
  one, big = (likelihood.of(SIGMOID, k * x, y) for k in (1, 1e21))
  middle, again = one.intervals['Cmid'], big.intervals['Cmid']
  assert again == pytest.approx((middle[0] * 1e21, middle[1] * 1e21))
