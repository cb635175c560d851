"""Forecasts: which curve makes them, what they cover, and what is refused."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis import likelihood, scaling
from rlpt_jax.analysis.forecast import Points

NAN = math.nan


def run(
  rng, *, noise=0.02, correlation=0.0, middle=0.3, rate=1.7, limit=0.65,
  start=0.2,
):  # fmt: skip
  """A sigmoid over compute of 1e15; the noise of neighbours may be alike."""
  x = np.linspace(0, 1e15, 31)
  with np.errstate(divide='ignore'):
    y = start + (limit - start) / (1 + (middle * 1e15 / x) ** rate)
  errors = rng.normal(0, noise, 31)
  for i in range(1, 31):
    errors[i] *= math.sqrt(1 - correlation**2)
    errors[i] += correlation * errors[i - 1]
  return Points(x, y + errors)


def columns():
  return {
    'step': np.arange(4.0),
    'compute/total_rollout_flops': np.array([1.0, 2, 3, 4]),
    'compute/total_update_flops': np.array([2.0, 4, 6, 8]),
    'timing/step_s': np.array([1800.0, NAN, 1800, 3600]),
    'held_out_before/reward': np.array([0.1, NAN, NAN, NAN]),
    'held_out/reward': np.array([NAN, 0.2, NAN, 0.4]),
  }


def test_points_are_measurements_at_the_compute_before_them():
  for against, x in (
    ('flops', [0, 6, 12]), ('hours', [0, 0.5, 2]), ('steps', [0, 2, 4]),
  ):  # fmt: skip
    found = forecasts.points(columns(), against)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, [0.1, 0.2, 0.4])
    assert found.rewards_NQ is None


def test_rewards_of_questions_count_if_they_are_all_there():
  rewards = {0: {'a': 0.0, 'b': 0.2}, 2: {'b': 0.3, 'a': 0.1}}
  assert forecasts.points(columns(), 'flops', rewards).rewards_NQ is None
  found = forecasts.points(columns(), 'flops', rewards | {4: {'a': 1.0}})
  np.testing.assert_array_equal(
    found.rewards_NQ, [[0, 0.2], [0.1, 0.3], [1, NAN]]
  )


def test_runs_without_measurements_or_ledger_are_refused():
  with pytest.raises(ValueError, match=r'no held_out/reward in metrics.jsonl;'):
    forecasts.points({'step': np.arange(3.0)}, 'steps')
  with pytest.raises(ValueError, match=r'Set train_rl.Config.held_out.'):
    forecasts.points(columns() | {'held_out/reward': np.full(4, NAN)}, 'steps')
  plain = {k: v for k, v in columns().items() if '/total_' not in k}
  with pytest.raises(
    ValueError, match=r'no compute/total_..._flops in its logs'
  ):
    forecasts.points(plain, 'flops')
  del plain['timing/step_s']
  with pytest.raises(ValueError, match=r'no timing/step_s .* --against steps'):
    forecasts.points(plain, 'hours')


def test_what_is_left_out_at_the_beginning():
  found = Points(np.array([0, 1, 2, 5, 10.0]), np.arange(5.0), np.eye(5))
  found = forecasts.without_beginning(found, 0.2)
  assert found.x.tolist() == [0, 2, 5, 10] and found.y.tolist() == [0, 2, 3, 4]
  np.testing.assert_array_equal(found.rewards_NQ, np.eye(5)[[0, 2, 3, 4]])


def refused(x, y, message, **options):
  with pytest.raises(ValueError, match=message):
    forecasts.check(Points(np.asarray(x, float), np.asarray(y)), **options)


def test_what_has_no_curve_is_refused():
  x, rng = np.arange(20.0), np.random.default_rng(0)
  noise = rng.normal(0, 0.02, 20)
  refused(x[:7], 0.1 * x[:7], '^7 measurements .* expected at least 8. Measure')
  refused(
    np.maximum(x - 14, 0), 0.05 * x, '^6 measurements .* expected at least 8'
  )
  refused(
    x, np.full(20, 0.3), r'is flat \(0.300, 0.300, 0.300 in its thirds, n'
  )
  for n in range(8, 40):  # Their mean is not 0.1, but nearly.
    refused(np.arange(n), np.full(n, 0.1), r'is flat \(0.100')
  refused(x, 0.3 + noise, r'is flat \(0.302, .* noise 0.014.* more examples')
  refused(
    x, 0.5 - 0.02 * x + noise, r'falls \(0.452, 0.* expected one that rises'
  )
  collapse = np.where(x < 14, 0.2 + 0.04 * x, 0.4) + noise
  refused(x, collapse, r'falls \(0.302, 0.573, 0.395 in its thirds')
  refused(x, 0.1 * x, r'reward of 1.9; expected at most 1. Set --most')
  forecasts.check(Points(x, 0.1 * x), most=2.0)
  forecasts.check(Points(x, 0.3 + 0.01 * x + noise))
  # A curve that has saturated early is not flat.
  forecasts.check(Points(x, np.append(0.1, np.full(19, 0.3) + noise[1:])))


def test_noise_alone_is_rarely_called_a_rise():
  rng, called = np.random.default_rng(0), 0
  for _ in range(200):
    y = 0.3 + rng.normal(0, 0.03, 16)
    try:
      forecasts.check(Points(np.arange(16.0), y))
      called += 1
    except ValueError:
      pass
  # 1% by the F test; more, since a sigmoid is not linear in its parameters.
  print(f'{called / 200:.1%} of flat curves are fitted')
  assert called <= 10


def test_the_best_prediction_makes_the_forecast_not_the_best_fit():
  rng, differ = np.random.default_rng(0), 0
  for _ in range(20):
    found = run(rng, noise=0.03)
    fits = forecasts.candidates(found)
    # 70% of 31 are 22.
    for each in fits:
      early = likelihood.of(each.curve, found.x[:22], found.y[:22]).fit
      errors = early(found.x[22:]) - found.y[22:]
      assert each.miss == pytest.approx(np.sqrt(np.mean(errors**2)))
      assert each.likelihood.fit.count == 31 - (not each.curve.at_zero)
    assert fits[0].miss == min(each.miss for each in fits)
    noise = [each.likelihood.fit.noise for each in fits]
    differ += noise[0] > min(noise)
  assert differ >= 5


@pytest.mark.parametrize(
  ('name', 'curve'),
  [
    ('power law', lambda x: 0.9 - 0.2 * x**-0.35),
    ('stretched exponential', lambda x: 0.8 * np.exp(-0.3 * x**-0.8)),
    ('sigmoid', lambda x: 0.2 + 0.45 / (1 + (0.2 / x) ** 2.4)),
  ],
)
def test_the_family_of_the_points_is_found(name, curve):
  x = np.linspace(0.05, 1, 40)
  noise = np.random.default_rng(0).normal(0, 0.001, 40)
  best, *_ = forecasts.candidates(Points(x, curve(x) + noise))
  assert best.curve.name == name


def test_the_interval_spans_that_of_the_sigmoid_too():
  rng, others = np.random.default_rng(4), 0
  for _ in range(6):
    best, *rest = fits = forecasts.candidates(run(rng))
    ends = [best.likelihood.prediction(2e15)]
    if best.curve is not scaling.SIGMOID:
      (sigmoid,) = (x for x in rest if x.curve is scaling.SIGMOID)
      ends, others = [*ends, sigmoid.likelihood.prediction(2e15)], others + 1
    low, high = forecasts.interval(fits, 2e15)
    assert low == min(end for end, _ in ends)
    assert high == max(end for _, end in ends)
  assert 0 < others < 6


def test_of_rewards_below_0_no_curve_begins_at_0():
  found = run(np.random.default_rng(0))
  for y, most in ((found.y - 0.3, 1.0), (np.minimum(found.y - 1, 0), 0.0)):
    fits = forecasts.candidates(Points(found.x, y), most=most)
    assert {each.curve.name for each in fits} == {'sigmoid', 'power law'}
  low, high = forecasts.interval(fits, 2e15)
  assert -0.5 < low < -1 + 0.63 < high < 0


def test_no_interval_exceeds_the_largest_reward():
  found = run(np.random.default_rng(0), limit=0.99, middle=0.1, noise=0.03)
  found = Points(found.x, np.minimum(found.y, 1.0))
  made = forecasts.forecast(found)
  assert made.interval[0] < 1 == made.interval[1]
  assert made.candidates[0].likelihood.prediction(1e15)[1] > 1


def coverage(correlation, *, middles=(0.15, 0.6), runs=200):
  """The shares of ends covered: of all runs, and expected of them.

  The runs have different curves and noises; families are chosen and all.
  """
  rng, chances, covered = np.random.default_rng(1), [], []
  for _ in range(runs):
    noise = rng.uniform(0.01, 0.04)
    curve = {
      'rate': rng.uniform(1, 2.5),
      'middle': np.exp(rng.uniform(*np.log(middles))),
      'limit': rng.uniform(0.45, 0.8),
      'start': rng.uniform(0.1, 0.3),
    }
    found = run(rng, noise=noise, correlation=correlation, **curve)
    try:
      one = forecasts.forecast(found)
    except ValueError:  # Flat: a curve that rises late, with much noise.
      continue
    assert one.seen.x[-1] == 5e14 and one.end == 1e15
    covered.append(one.is_covered)
    # The probability of that, over all ends that might have been measured.
    end = run(rng, noise=0.0, **curve).y[-1]
    low, high = (ndtr((edge - end) / noise) for edge in one.interval)
    chances.append(high - low)
  print(
    f'Cmid {middles}, noise correlated by {correlation}: {np.mean(covered):.1%}'
    f' of {len(covered)} ends covered, {np.mean(chances):.1%} expected'
  )
  return len(covered), np.mean(covered), np.mean(chances)


def test_forecasts_cover_90_percent_of_ends():
  count, covered, expected = coverage(correlation=0.0)
  assert count >= 190
  assert 0.85 <= covered <= 0.95 and 0.85 <= expected <= 0.95


def test_forecasts_cover_ends_of_runs_that_still_speed_up():
  """Half of the gain is not yet made in the first half; many look flat."""
  count, covered, expected = coverage(0.0, middles=(0.6, 1.5), runs=100)
  assert count >= 50
  # Without the sigmoid's interval, about three of four.
  assert covered >= 0.8 and 0.83 <= expected <= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(('correlation', 'least'), [(0.5, 0.8), (0.8, 0.65)])
def test_forecasts_cover_fewer_ends_if_noise_persists(correlation, least):
  """A limit of the method: 16 points hardly show how long noise persists."""
  count, covered, _ = coverage(correlation)
  assert count >= 190
  assert least < covered < 0.9


def test_a_forecast_does_not_see_the_end():
  found = run(np.random.default_rng(5))
  y = np.where(found.x > 5e14, 0.0, found.y)
  one, other = (forecasts.forecast(Points(found.x, z)) for z in (found.y, y))
  assert one.predicted == other.predicted and one.interval == other.interval
  assert one.measured == found.y[-1] and other.measured == 0
  assert not other.is_covered
  with pytest.raises(ValueError, match=r'^the first 10% of the run: 4 measure'):
    forecasts.forecast(found, share=0.1)


def test_a_sentence_says_all_of_it():
  made = forecasts.forecast(run(np.random.default_rng(5)))
  low, high = made.interval
  said = forecasts.sentence(made, 0.5, 'flops')
  held = 'inside' if low <= made.measured <= high else 'outside'
  assert said.startswith(
    'From the first 50% of the run (16 measurements up to 5e14 FLOPs), the end '
    f'is predicted to be {made.predicted:.3f}, with a 90% interval of '
    f'{low:.3f} to {high:.3f} ({made.candidates[0].curve.name}). Measured: '
    f'{made.measured:.3f}, {held} the interval; error '
    f'{made.predicted - made.measured:+.3f}.'
  )
  assert ('too little to rely on' in said) == made.is_wide


def test_a_wide_interval_is_called_wide():
  rng = np.random.default_rng(0)
  # Half of the gain is made where the first half ends.
  late = forecasts.forecast(run(rng, middle=0.6, noise=0.03))
  early = forecasts.forecast(run(rng, middle=0.1, noise=0.01))
  assert late.is_wide and not early.is_wide
  low, high = late.interval
  assert high - low > late.seen.y[-5:].mean() - late.seen.y[0]


def test_the_band_is_that_of_the_forecast():
  made = forecasts.forecast(run(np.random.default_rng(5)))
  x, (low, middle, high) = made.band(20)
  assert (x[0], x[-1], len(x)) == (made.seen.x[1], made.end, 20)
  assert (low[-1], high[-1]) == made.interval
  assert middle[-1] == made.predicted
  assert (low < middle).all() and (middle < high).all()


def test_amounts():
  said = [forecasts.amount(1.234e15, x) for x in ('flops', 'hours', 'steps')]
  assert said == [
    '1.23e15 FLOPs',
    '1.23e15 hours',
    '1,234,000,000,000,000 steps',
  ]
  assert forecasts.amount(2.5, 'hours') == '2.5 hours'


def offset_runs(rng, *, questions, spread, seeds=1, of_seeds=0.0):
  """Runs whose questions, and seeds, are above or below the curve for good."""
  runs = []
  levels_Q = rng.normal(0, spread, questions)
  for _ in range(seeds):
    found = run(rng, noise=0.0)
    y = found.y + rng.normal(0, of_seeds)
    runs.append(Points(found.x, y + levels_Q.mean(), y[:, None] + levels_Q))
  return runs, levels_Q


def bootstrapped(runs):
  x = np.concatenate([run.x for run in runs])
  y = np.concatenate([run.y for run in runs])
  whole = likelihood.of(scaling.SIGMOID, x, y)
  rng = np.random.default_rng(1)
  return forecasts.bootstrap(runs, whole, 1e15, rng, count=300)


def test_a_bootstrap_over_questions_shifts_all_measurements_at_once():
  runs, levels_Q = offset_runs(
    np.random.default_rng(0), questions=50, spread=0.2
  )
  found = bootstrapped(runs)
  low, high = found['value']
  # The standard error of a mean of 50, not that of 31 means of 50.
  error = levels_Q.std() / math.sqrt(50)
  assert (high - low) / 2 == pytest.approx(1.645 * error, rel=0.15)
  # The shape of the curve does not depend on which questions they are.
  assert found['B'] == pytest.approx((1.7, 1.7), abs=0.02)


def test_seeds_that_were_asked_the_same_questions_do_not_average_them():
  runs, levels_Q = offset_runs(
    np.random.default_rng(0), questions=50, spread=0.2, seeds=4
  )
  low, high = bootstrapped(runs)['value']
  error = levels_Q.std() / math.sqrt(50)
  assert (high - low) / 2 == pytest.approx(1.645 * error, rel=0.15)


def test_a_bootstrap_over_seeds():
  runs, _ = offset_runs(
    np.random.default_rng(0), questions=5, spread=0.0, seeds=12, of_seeds=0.03
  )
  low, high = bootstrapped(runs)['value']
  error = np.std([run.y[-1] for run in runs]) / math.sqrt(12)
  assert (high - low) / 2 == pytest.approx(1.645 * error, rel=0.2)


def test_questions_without_a_verdict_are_left_out_of_a_mean():
  runs, _ = offset_runs(np.random.default_rng(0), questions=6, spread=0.1)
  (one,) = runs
  one.rewards_NQ[3, :5] = NAN
  one.rewards_NQ[4] = NAN
  found = bootstrapped([Points(one.x, one.y, one.rewards_NQ)])
  assert all(map(math.isfinite, sum(found.values(), ())))


def test_questions_that_were_always_right_may_be_all_that_are_drawn():
  found = run(np.random.default_rng(0))
  rewards_NQ = np.stack([np.ones(31), found.y], axis=1)
  runs = [Points(found.x, rewards_NQ.mean(axis=1), rewards_NQ)]
  _, high = bootstrapped(runs)['value']
  assert high == pytest.approx(1.0, abs=1e-6)
