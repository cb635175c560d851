"""Published curves come back from their points; intervals hold the truth."""

import functools
import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.optimize import curve_fit

from rlpt_jax.analysis import scaling
from rlpt_jax.analysis.scaling import POWER_LAW, SIGMOID, STRETCHED

# Cmid (GPU-hours), B and A of Table 1 of ScaleRL (2510.13786).
TABLE_1 = {
  'ScaleRL': (2542, 1.92, 0.610),
  '32k tokens': (11272, 1.89, 0.645),
  '8 generations': (2542, 2.44, 0.585),
  '24 generations': (3054, 2.22, 0.590),
  '32 generations': (2936, 2.07, 0.595),
  'Scout': (4242, 1.65, 0.710),
  'batch of 512': (2818, 1.77, 0.605),
  'batch of 2048': (10909, 1.70, 0.645),
  'maths and code: maths': (2896, 2.05, 0.595),
  'maths and code: code': (1675, 1.09, 0.615),
}
START = 0.3  # Not in the table.


def published(middle, rate, limit, x):
  """Equation 1 as it is printed."""
  return START + (limit - START) / (1 + (middle / x) ** rate)


def with_rate(x, rate, *, middle, limit):
  return published(middle, rate, limit, x)


@pytest.mark.parametrize('name', TABLE_1)
def test_published_curves_come_back(name):
  middle, rate, limit = TABLE_1[name]
  x = np.linspace(1500, 50000, 75)
  y = published(middle, rate, limit, x)
  fit = scaling.fit_least_squares(scaling.sigmoid(START), x, y)
  assert fit.parameters == pytest.approx(
    {'A': limit, 'B': rate, 'Cmid': middle, 'R0': START}, rel=1e-5
  )
  np.testing.assert_allclose(fit(x), y, atol=1e-8)
  # R0 may be fitted, too, if the start is among the points.
  fit = scaling.fit_least_squares(SIGMOID, np.append(0, x), np.append(START, y))
  assert fit.parameters == pytest.approx(
    {'A': limit, 'B': rate, 'Cmid': middle, 'R0': START}, rel=1e-5
  )
  # On the paper's grid A comes back to a step; no Cmid of Table 1 is on it.
  fit = scaling.fit_grid(
    x, y, START, limits=np.arange(0.45, 0.8025, 0.005),
    middles=np.linspace(100, 40000, 100),
  )  # fmt: skip
  assert fit.limit == pytest.approx(limit, abs=0.0051)
  assert fit.parameters['Cmid'] == pytest.approx(middle, abs=403)
  assert fit.parameters['B'] == pytest.approx(rate, rel=0.05)


def test_the_grid_by_default_covers_other_rewards_and_units():
  x = np.linspace(0, 3e20, 40)
  with np.errstate(divide='ignore'):
    y = 0.02 + 0.2 / (1 + (4e19 / x) ** 1.3)
  fit = scaling.fit_grid(x, y, 0.02)
  assert fit.limit == pytest.approx(0.22, abs=0.0026)
  assert fit.parameters['Cmid'] == pytest.approx(4e19, rel=0.03)
  assert fit.parameters['B'] == pytest.approx(1.3, rel=0.02)


def test_the_grid_is_a_curve_fit_of_b_for_each_pair():
  rng = np.random.default_rng(0)
  x = np.linspace(500, 20000, 30)
  y = published(4000, 1.5, 0.6, x) + rng.normal(0, 0.01, 30)
  limits, middles = np.array([0.55, 0.6, 0.65]), np.array([3000.0, 4000, 6000])
  found = []
  for limit, middle in itertools.product(limits, middles):
    curve = functools.partial(with_rate, middle=middle, limit=limit)
    (rate,), _ = curve_fit(curve, x, y, p0=1.0)
    found.append((np.sum((curve(x, rate) - y) ** 2), limit, middle, rate))
  squares, limit, middle, rate = min(found)
  fit = scaling.fit_grid(x, y, START, limits=limits, middles=middles)
  assert (fit.limit, fit.parameters['Cmid']) == (limit, pytest.approx(middle))
  assert fit.parameters['B'] == pytest.approx(rate, rel=1e-3)
  assert fit.squares == pytest.approx(squares, rel=1e-4)


def test_the_grid_takes_little_memory():
  x = np.linspace(0, 1, 100)
  tracemalloc.start()
  scaling.fit_grid(x, 0.2 + 0.3 * x, 0.2)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # A gain for each A, Cmid, B and point would take 24 GB.
  assert peak < 20e6


def fitted(curve, x, y):
  return scaling.fit_least_squares(curve, x, y)


def test_at_cmid_half_of_the_gain_is_made():
  x = np.linspace(1500, 50000, 75)
  fit = fitted(scaling.sigmoid(START), x, published(2542, 1.92, 0.61, x))
  assert fit(2542) == pytest.approx((START + 0.61) / 2)
  assert fit(0) == START


def test_log_efficiency_against_log_compute_has_slope_b():
  x = np.linspace(1500, 50000, 75)
  y = published(2542, 1.92, 0.61, x)
  fit = fitted(scaling.sigmoid(START), x, y)
  found = scaling.efficiency(y, fit)
  np.testing.assert_allclose(found, x**1.92, rtol=1e-3)  # F(R) = C^B.
  slope, _ = np.polyfit(np.log(x), np.log(found), 1)
  assert slope == pytest.approx(1.92, rel=1e-4)
  # Rewards outside of (R0, A) have none.
  assert np.isnan(scaling.efficiency(np.array([0.2, 0.3, 0.7]), fit)).all()


def test_far_beyond_cmid_the_sigmoid_is_a_power_law():
  middle, rate, limit = TABLE_1['ScaleRL']
  x = np.geomspace(100, 300, 30) * middle
  fit = fitted(POWER_LAW, x, published(middle, rate, limit, x))
  assert fit.parameters == pytest.approx(
    {'A': limit, 'B': rate, 'D': (limit - START) * middle**rate}, rel=1e-2
  )


def test_rlpts_curves_come_back():
  # Figure 1 of RLPT (2509.19249): MATH, and AIME25 whose exponent is larger.
  x = np.linspace(1, 50, 40)
  for limit, scale, power in ((0.89413, 0.068, 0.284), (0.2671, 0.254, 0.857)):
    fit = fitted(STRETCHED, x, limit * np.exp(-scale * x**-power))
    assert fit.parameters == pytest.approx(
      {'A': limit, 'b': scale, 'c': power}, rel=1e-4
    )
