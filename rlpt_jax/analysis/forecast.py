"""Predicts a run's held-out reward at larger compute, with an interval.

Three families of curves are fitted to the first 70% of the measurements, and
the one that predicts the rest best makes the forecast. Which of them fits best
says little: all of them fit what is there, and differ in what comes next. This
choice may be luck, and only the sigmoid may still rise faster than before, so
the interval of the forecast spans that of the sigmoid too.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from rlpt_jax.analysis import curves, scaling
from rlpt_jax.analysis import likelihood as likelihoods
from rlpt_jax.analysis.likelihood import Likelihood
from rlpt_jax.analysis.scaling import Curve, Interval

KEY = 'held_out/reward'
# What compute is measured in -> (its axis in curves.axes, the unit, its name).
AXES = {
  'flops': ('compute', 1.0, 'FLOPs'),
  'hours': ('time', 3600.0, 'hours'),
  'steps': ('step', 1.0, 'steps'),
}
FAMILIES = (scaling.SIGMOID, scaling.STRETCHED, scaling.POWER_LAW)
FIRST = 0.7  # The share of the measurements that the families are fitted to.
FEWEST = 8  # The fewest measurements that are fitted.
FLAT = 0.01  # A flat curve is called a rising one with this probability.


@dataclasses.dataclass(frozen=True)
class Points:
  """A run's measurements: compute, and the held-out reward there.

  rewards_NQ: also those of each question, if the run has recorded them.
  """

  x: np.ndarray
  y: np.ndarray
  rewards_NQ: np.ndarray | None = None

  def part(self, where: np.ndarray) -> 'Points':
    each = None if self.rewards_NQ is None else self.rewards_NQ[where]
    return Points(self.x[where], self.y[where], each)


def points(
  columns: curves.Columns,
  against: str,
  rewards: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
) -> Points:
  """Returns a run's measurements; one before the first step is at 0.

  against: 'flops', 'hours' or 'steps'.
  rewards: {number of updates: {question: reward}}; they are used if they are
    there for all measurements.
  """
  if KEY not in columns or not np.isfinite(columns[KEY]).any():
    raise ValueError(
      f'no {KEY} in metrics.jsonl; expected a run of rlpt train_rl that tries '
      'held-out examples. Set train_rl.Config.held_out.'
    )
  axis, unit, _ = AXES[against]
  axes, y = curves.axes(columns), curves.series(columns, KEY)
  if axis not in axes:
    missing = {'flops': 'compute/total_..._flops', 'hours': 'timing/step_s'}
    raise ValueError(
      f'no {missing[against]} in its logs, so its {against} are unknown; '
      'expected a run of rlpt train_rl. Use --against steps.'
    )
  known = np.isfinite(y)
  rows = [rewards.get(int(updates), {}) for updates in axes['step'][known]]
  names = sorted({name for row in rows for name in row})
  rewards_NQ = np.array([[row.get(x, math.nan) for x in names] for row in rows])
  return Points(
    axes[axis][known] / unit, y[known], rewards_NQ if all(rows) else None
  )


def without_beginning(found: Points, share: float) -> Points:
  """Leaves out measurements in the first `share` of the run's compute.

  ScaleRL leaves out about the first epoch. The measurement at 0 stays, since it
  is the start of the sigmoid.
  """
  return found.part((found.x == 0) | (found.x >= share * found.x[-1]))


def check(found: Points, *, most: float = 1.0):
  """Raises if there is no curve to fit: too few points, a flat or falling one.

  most: the largest reward that is possible.
  """
  x, y = found.x, found.y
  count = len(np.unique(x))  # Hours may be 0 for steps that lack their time.
  if count < FEWEST:
    raise ValueError(
      f'{count} measurements of the held-out reward; expected at least '
      f'{FEWEST}. Measure more often (held_out.HeldOut.every), or run longer.'
    )
  if y.max() > most:
    raise ValueError(
      f'a held-out reward of {y.max():.3g}; expected at most {most:g}. Set '
      '--most of rlpt fit to the largest reward that is possible.'
    )
  third = len(y) // 3
  before, middle, after = (
    float(part.mean()) for part in np.split(y, [third, len(y) - third])
  )
  means = f'{before:.3f}, {middle:.3f}, {after:.3f} in its thirds'
  # Of neighbours, so that a trend does not count as noise.
  noise = math.sqrt(np.mean(np.diff(y) ** 2) / 2)
  # Means of equal numbers differ by rounding.
  beyond = 3 * noise * math.sqrt(2 / third) + 1e-9 * float(np.abs(y).max())
  if max(before, middle) - after > beyond:
    raise ValueError(
      f'the held-out reward falls ({means}); expected one that rises. Look for '
      'the cause in rlpt report: no curve of these forecasts a fall.'
    )
  if _chance_of_flat(x, y, most) > FLAT:
    raise ValueError(
      f'the held-out reward is flat ({means}, noise {noise:.3f}); expected one '
      'that rises by more than its noise. Run longer, or try more examples '
      '(held_out.HeldOut.examples).'
    )


def _chance_of_flat(x: np.ndarray, y: np.ndarray, most: float) -> float:
  """Returns the p-value of a constant reward against a sigmoid, by F."""
  from scipy.special import fdtrc

  if np.ptp(y) == 0:
    return 1.0
  flat = float(np.sum((y - y.mean()) ** 2))
  fit = likelihoods.of(scaling.SIGMOID, x, y, most=most).fit
  more = fit.curve.num_parameters - 1
  freedom = fit.count - fit.curve.num_parameters
  ratio = (flat / max(fit.squares, 1e-12 * flat) - 1) * freedom / more
  return float(fdtrc(more, freedom, max(ratio, 0.0)))


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A family, fitted to all points.

  miss: the root mean square error at the last points, of a fit to the first.
  """

  likelihood: Likelihood
  miss: float

  @property
  def curve(self) -> Curve:
    return self.likelihood.fit.curve


def candidates(found: Points, *, most: float = 1.0) -> list[Candidate]:
  """Returns fits of all families; the one that predicts best is the first.

  A family that begins at 0 is left out if a reward is below 0.
  """
  x, y = found.x, found.y
  first = math.ceil(FIRST * len(x))
  fits = []
  for curve in FAMILIES:
    if curve.start is not None and y.min() < curve.start:
      continue
    fit = likelihoods.of(curve, x[:first], y[:first], most=most).fit
    miss = math.sqrt(np.mean((fit(x[first:]) - y[first:]) ** 2))
    fits.append(Candidate(likelihoods.of(curve, x, y, most=most), miss))
  return sorted(fits, key=lambda each: each.miss)


def interval(fits: Sequence[Candidate], at: float) -> Interval:
  """Returns the interval of a measurement at compute `at`.

  It is that of the family that predicts best, joined with the sigmoid's, and
  does not exceed the largest reward that is possible.

  fits: those of all families, from `candidates`.
  """
  ends = [
    each.likelihood.prediction(at)
    for each in fits
    if each is fits[0] or each.curve is scaling.SIGMOID
  ]
  lows, highs = zip(*ends, strict=True)
  return min(lows), min(max(highs), fits[0].likelihood.grid.most)


@dataclasses.dataclass(frozen=True)
class Forecast:
  """The end of a run, predicted from its beginning.

  seen, unseen: the points that the candidates were fitted to, and the others.
  """

  candidates: list[Candidate]
  seen: Points
  unseen: Points

  @property
  def end(self) -> float:
    return float(self.unseen.x[-1])

  @property
  def measured(self) -> float:
    return float(self.unseen.y[-1])

  @property
  def predicted(self) -> float:
    return float(self.candidates[0].likelihood.fit(self.end))

  @property
  def interval(self) -> Interval:
    return interval(self.candidates, self.end)

  @property
  def error(self) -> float:
    return self.predicted - self.measured

  @property
  def is_covered(self) -> bool:
    low, high = self.interval
    return low <= self.measured <= high

  @property
  def is_wide(self) -> bool:
    """True if the interval is wider than the gain that was seen."""
    y, (low, high) = self.seen.y, self.interval
    return high - low > float(y[-(len(y) // 3) :].mean() - y[0])

  def band(self, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Returns compute, and [low, predicted, high] there, up to the end."""
    # Not from 0: a power law is infinite there.
    x = np.linspace(self.seen.x[self.seen.x > 0][0], self.end, count)
    low, high = zip(*(interval(self.candidates, at) for at in x), strict=True)
    return x, np.array([low, self.candidates[0].likelihood.fit(x), high])


def forecast(
  found: Points, *, share: float = 0.5, most: float = 1.0
) -> Forecast:
  """Returns the forecast of a run's end from the first `share` of its compute.

  Raises if there is no curve to fit in that share.
  """
  is_seen = found.x <= share * found.x[-1]
  seen, unseen = found.part(is_seen), found.part(~is_seen)
  try:
    check(seen, most=most)
  except ValueError as error:
    raise ValueError(f'the first {share:.0%} of the run: {error}') from None
  return Forecast(candidates(seen, most=most), seen, unseen)


def sentence(made: Forecast, share: float, against: str) -> str:
  """Says what was predicted, what was measured, and if the interval held."""
  low, high = made.interval
  held = 'inside' if made.is_covered else 'outside'
  wide = (
    ' The interval is wider than the gain before it: too little to rely on.'
    if made.is_wide
    else ''
  )
  seen = f'{len(made.seen.x)} measurements up to '
  seen += amount(made.seen.x[-1], against)
  return (
    f'From the first {share:.0%} of the run ({seen}), the end is predicted to '
    f'be {made.predicted:.3f}, with a 90% interval of {low:.3f} to {high:.3f} '
    f'({made.candidates[0].curve.name}). Measured: {made.measured:.3f}, '
    f'{held} the interval; error {made.error:+.3f}.{wide}'
  )


def amount(compute: float, against: str) -> str:
  """Formats compute: '1.2e15 FLOPs', '3.5 hours', '300 steps'."""
  if against == 'steps':
    return f'{compute:,.0f} steps'
  return f'{compute:.3g} {AXES[against][2]}'.replace('e+', 'e')


def bootstrap(
  runs: Sequence[Points],
  likelihood: Likelihood,
  at: float,
  rng: np.random.Generator,
  *,
  most: float = 1.0,
  count: int = 200,
) -> dict[str, Interval]:
  """Returns intervals of a curve's parameters, and of its value at `at`.

  Runs that are seeds of one experiment are drawn with replacement, and so are
  questions, the same ones for all measurements, as they were asked each time.
  The intervals say what other seeds and other questions would have given.

  likelihood: that of the points of all runs together.
  """
  fit, draws = likelihood.fit, []
  for _ in range(count):
    drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
    x = np.concatenate([run.x for run in drawn])
    y = np.concatenate(_of_other_questions(drawn, rng))
    known = np.isfinite(y)
    again = scaling.fit_least_squares(
      fit.curve, x[known], y[known], most=most, first=fit
    )
    draws.append(again.parameters | {'value': float(again(at))})
  tail = 50 * (1 - likelihoods.LEVEL)
  return {
    name: tuple(
      np.percentile([draw[name] for draw in draws], [tail, 100 - tail])
    )
    for name in draws[0]
  }


def _of_other_questions(runs, rng) -> list[np.ndarray]:
  """Returns the rewards of runs on questions that are drawn from theirs."""
  rewards, chosen = [], {}
  for run in runs:
    if run.rewards_NQ is None:
      rewards.append(run.y)
      continue
    # The same for all runs, which usually have the same questions.
    size = run.rewards_NQ.shape[1]
    if size not in chosen:
      chosen[size] = rng.integers(size, size=size)
    some_NQ = run.rewards_NQ[:, chosen[size]]
    known_NQ = np.isfinite(some_NQ)
    count_N = known_NQ.sum(axis=1)
    total_N = np.where(known_NQ, some_NQ, 0).sum(axis=1)
    rewards.append(
      np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)
    )
  return rewards
