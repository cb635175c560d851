"""Curves of reward against compute, their fits and their likelihoods.

Every curve has the form R(C) = A - d q(C): the reward in the limit of endless
compute, minus a gap of which the share q(C) is left. The share falls to 0.

ScaleRL's sigmoid (2510.13786, equation 1) R - R0 = (A - R0) / (1 + (Cmid/C)^B)
has the gap A - R0 and the share 1 / (1 + (C/Cmid)^B). RLPT's stretched
exponential (2509.19249, figure 1) a exp(-b C^-c) has A = a, the gap a and the
share 1 - exp(-b C^-c). A power law A - D C^-B has the gap D and the share C^-B.

In the names of arrays, P stands for points, L for limits, S for shapes.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

LEVEL = 0.9  # The level of all intervals.
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Curve:
  """A family of curves A - d q(C), with C in units of the largest C fitted.

  names: of the parameters of q.
  left: q as a function of C and its parameters.
  box: the smallest and largest value of each parameter of q.
  start: the reward at C = 0, which ties d to A; None: d is fitted, above 0.
  at_zero: True if a measurement at C = 0 is fitted too. RLPT's curve is 0
    there, which no cold start is, and the power law is infinite.
  """

  name: str
  formula: str
  names: tuple[str, ...]
  left: Callable[..., np.ndarray]
  box: tuple[Interval, ...]
  start: float | None = None
  at_zero: bool = True

  @property
  def num_parameters(self) -> int:
    return 1 + (self.start is None) + len(self.box)


def _sigmoid_left(x, rate, middle):
  with np.errstate(over='ignore'):
    return 1 / (1 + (x / middle) ** rate)


def _stretched_left(x, scale, power):
  with np.errstate(divide='ignore', over='ignore'):
    return -np.expm1(-scale * x**-power)


def _power_left(x, rate):
  with np.errstate(divide='ignore'):
    return x**-rate


def sigmoid(start: float | None = None) -> Curve:
  """ScaleRL's curve.

  start: R0, held fixed as in the paper. By default it is fitted: the reward at
    the start is measured with the same noise as all others.
  """
  return Curve(
    'sigmoid',
    'R0 + (A - R0) / (1 + (Cmid / C)^B)',
    ('B', 'Cmid'),
    _sigmoid_left,
    box=((0.2, 8.0), (1e-3, 1e2)),
    start=start,
  )


SIGMOID = sigmoid()
STRETCHED = Curve(
  'stretched exponential',
  'A exp(-b C^-c)',
  ('b', 'c'),
  _stretched_left,
  box=((1e-3, 30.0), (0.02, 5.0)),
  start=0.0,
  at_zero=False,
)
POWER_LAW = Curve(
  'power law', 'A - D C^-B', ('B',), _power_left, box=((0.02, 5.0),),
  at_zero=False,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fit:
  """A curve through points.

  limit, gap: A and d.
  shape: the parameters of q, for C / unit.
  squares: the sum of the squared residuals of the `count` points.
  """

  curve: Curve
  limit: float
  gap: float
  shape: tuple[float, ...]
  unit: float
  squares: float
  count: int

  def __call__(self, x) -> np.ndarray:
    share = self.curve.left(np.asarray(x, float) / self.unit, *self.shape)
    return self.limit - self.gap * share

  @property
  def noise(self) -> float:
    """The standard deviation of a measurement around the curve."""
    freedom = self.count - self.curve.num_parameters
    return math.sqrt(self.squares / freedom)

  @property
  def parameters(self) -> dict[str, float]:
    """The parameters of the curve's formula, with C in its own unit."""
    values = dict(zip(self.curve.names, self.shape, strict=True))
    if self.curve.name == 'sigmoid':
      values['Cmid'] *= self.unit
      return {'A': self.limit, **values, 'R0': self.limit - self.gap}
    if self.curve is POWER_LAW:
      gap = self.gap * self.unit ** values['B']
      return {'A': self.limit, **values, 'D': gap}
    values['b'] *= self.unit ** values['c']
    return {'A': self.limit, **values}


def efficiency(rewards: np.ndarray, fit: Fit) -> np.ndarray:
  """Returns F(R) of a sigmoid, for which log F against log C has slope B.

  F is Cmid^B / ((A - R0) / (R - R0) - 1), and NaN where R is not between R0
  and A (ScaleRL, section A.6).
  """
  gain = rewards - (fit.limit - fit.gap)
  inside = (gain > 0) & (gain < fit.gap)
  odds = np.where(inside, gain, np.nan) / (fit.gap - gain)
  return fit.parameters['Cmid'] ** fit.parameters['B'] * odds


def fit_least_squares(
  curve: Curve,
  x: np.ndarray,
  y: np.ndarray,
  *,
  most: float = 1.0,
  first: Fit | None = None,
) -> Fit:
  """Returns the curve with the least squares that SciPy finds within bounds.

  most: A may not exceed this.
  first: where the search starts; by default, at several places.
  """
  from scipy.optimize import least_squares

  x, y, unit = _scaled(curve, x, y)
  # A, then d if it is free, then the logarithms of the shape.
  free = curve.start is None
  lower = [y.min() if free else curve.start, *[0.0] * free]
  upper = [most, *[np.inf] * free]
  lower += [math.log(low) for low, _ in curve.box]
  upper += [math.log(high) for _, high in curve.box]

  def unpacked(values):
    limit, *rest = values
    gap = rest[0] if free else limit - curve.start
    return limit, gap, np.exp(rest[free:])

  def residuals(values):
    limit, gap, shape = unpacked(values)
    return limit - gap * curve.left(x, *shape) - y

  found = [
    least_squares(
      residuals, np.clip(start, lower, upper), bounds=(lower, upper),
      x_scale='jac', ftol=1e-12, xtol=1e-12, gtol=1e-12, max_nfev=400,
    )
    for start in _starts(curve, y, most, first)
  ]  # fmt: skip
  limit, gap, shape = unpacked(min(found, key=lambda each: each.cost).x)
  return _fit(curve, limit, gap, shape, x, y, unit)


def _starts(curve, y, most, first) -> list[list[float]]:
  """Returns values of the parameters from which a search starts."""
  free = curve.start is None
  if first:
    return [[first.limit, *[first.gap] * free, *np.log(first.shape)]]
  # The middles of the thirds of each range, on a logarithmic scale.
  thirds = [
    np.log(low) + np.log(high / low) * np.array([1, 3, 5]) / 6
    for low, high in curve.box
  ]
  return [
    [limit, *[np.ptp(y)] * free, *shape]
    for limit in (y.max(), (y.max() + most) / 2)
    for shape in itertools.product(*thirds)
  ]


def fit_grid(
  x: np.ndarray,
  y: np.ndarray,
  start: float,
  *,
  limits: np.ndarray | None = None,
  middles: np.ndarray | None = None,
  most: float = 1.0,
) -> Fit:
  """Returns the best sigmoid of a grid, as ScaleRL fits it (section A.5).

  For each pair of A and Cmid, B has the least squares; the best pair wins. The
  paper's grid is np.arange(0.45, 0.8025, 0.005) and np.linspace(100, 40000,
  100), in GPU-hours. But the Cmid of its Table 1 are not on this grid.

  start: R0, which is not fitted.
  limits: of A; by default 200 values from `start` to `most`, to cover the
    rewards of any run.
  middles: of Cmid; by default 200 values at even ratios, from a hundredth of
    the largest C to ten times as much, as C may have any unit.
  """
  curve, unit = sigmoid(start), float(x.max())
  if limits is None:
    limits = np.linspace(start, most, 201)[1:]
  if middles is None:
    middles = unit * np.geomspace(0.01, 10, 200)
  limits_L, middles_M = np.asarray(limits), np.asarray(middles) / unit
  x = np.asarray(x, float) / unit

  def squares(rates_LMF):
    """Returns the squares of a curve for each A, Cmid and B; or 1 for all A."""
    gain_LMFP = 1 - curve.left(
      x, rates_LMF[..., None], middles_M[:, None, None]
    )
    gap_L = (limits_L - start)[:, None, None]
    squared_LMF = np.einsum('lmfp,lmfp->lmf', gain_LMFP, gain_LMFP)
    return (gap_L * squared_LMF - 2 * (gain_LMFP @ (y - start))) * gap_L

  (low, high), _ = curve.box
  factors = np.geomspace(low, high, 49)
  rates_LM, reach = np.ones((1, len(middles_M))), factors[1] / factors[0]
  for _ in range(5):  # Finer from round to round, around the best B so far.
    best = squares(rates_LM[..., None] * factors).argmin(axis=-1)
    rates_LM = rates_LM * factors[best]
    factors, reach = np.geomspace(1 / reach, reach, 5), math.sqrt(reach)
  squares_LM = squares(rates_LM[..., None])[..., 0]
  i, j = np.unravel_index(squares_LM.argmin(), squares_LM.shape)
  limit, shape = limits_L[i], (rates_LM[i, j], middles_M[j])
  return _fit(curve, limit, limit - start, shape, x, y, unit)


@dataclasses.dataclass(frozen=True)
class Grid:
  """The squares of curves: for each shape, least + bend (A - best)^2.

  d is the best one for A, gap + slope (A - best), and must be above 0, so A
  must be above `lowest`. weight is the sum of q^2, the information about d.

  axes: the values of the parameters of q; a shape is a combination of these.
  """

  axes: tuple[np.ndarray, ...]
  most: float
  best_S: np.ndarray
  least_S: np.ndarray
  bend_S: np.ndarray
  gap_S: np.ndarray
  slope_S: np.ndarray
  weight_S: np.ndarray
  lowest_S: np.ndarray

  @property
  def limits_S(self) -> np.ndarray:
    """The best A of those that are possible."""
    return np.clip(self.best_S, self.lowest_S, self.most)

  @property
  def squares_S(self) -> np.ndarray:
    return self.least_S + self.bend_S * (self.limits_S - self.best_S) ** 2


def _grid(curve: Curve, axes, most: float, x, y) -> Grid:
  """Returns the squares of all curves with these shapes."""
  left_SP = curve.left(x, *_product(axes)[..., None])
  weight_S = np.einsum('sp,sp->s', left_SP, left_SP)
  # A curve is A basis + a known part. If d is free, both without their share
  # in the direction of q.
  if curve.start is None:
    slope_S = left_SP.sum(axis=1) / weight_S
    basis_SP = 1 - slope_S[:, None] * left_SP
    rest_SP = y - (left_SP @ y / weight_S)[:, None] * left_SP
  else:
    slope_S = np.ones_like(weight_S)
    basis_SP = 1 - left_SP
    rest_SP = y - curve.start * left_SP
  # Above 0 also where q is the same at all points, and A can be anything.
  bend_S = np.einsum('sp,sp->s', basis_SP, basis_SP) + 1e-12
  best_S = np.einsum('sp,sp->s', basis_SP, rest_SP) / bend_S
  rest_SP = rest_SP - best_S[:, None] * basis_SP
  if curve.start is None:
    gap_S = slope_S * best_S - left_SP @ y / weight_S
  else:
    gap_S = best_S - curve.start
  return Grid(
    axes, most, best_S, np.einsum('sp,sp->s', rest_SP, rest_SP), bend_S, gap_S,
    slope_S, weight_S, lowest_S=np.minimum(best_S - gap_S / slope_S, most),
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """A curve's best fit, and which others the points do not exclude.

  persistence: how many measurements in a row say as much as one.
  allowed: the squares of a curve at the edge of the confidence region.
  """

  fit: Fit
  grid: Grid
  persistence: float
  allowed: float

  @property
  def intervals(self) -> dict[str, Interval]:
    """Profile likelihood intervals of A and of the parameters of q."""
    grid, inside_S = self.grid, self.grid.squares_S <= self.allowed
    reach_S = self._room_S / np.sqrt(grid.bend_S)
    low_S = np.maximum(grid.best_S - reach_S, grid.lowest_S)
    high_S = np.minimum(grid.best_S + reach_S, grid.most)
    found = {'A': (float(low_S[inside_S].min()), float(high_S[inside_S].max()))}
    squares = grid.squares_S.reshape([len(axis) for axis in grid.axes])
    for i, (name, axis) in enumerate(
      zip(self.fit.curve.names, grid.axes, strict=True)
    ):
      others = tuple(j for j in range(len(grid.axes)) if j != i)
      low, high = _crossings(axis, squares.min(axis=others), self.allowed)
      unit = self.fit.unit if name == 'Cmid' else 1.0
      found[name] = (low * unit, high * unit)
    found.pop('b', None)  # Its unit depends on c.
    return found

  def prediction(self, at: float) -> Interval:
    """Returns the interval of one more measurement, at compute `at`.

    A value belongs to it if a curve through it and the points is not much worse
    than the best curve through the points alone. For a curve that is linear in
    its parameters this is the usual interval of Student's t.
    """
    grid, curve = self.grid, self.fit.curve
    left_S = curve.left(at / self.fit.unit, *_product(grid.axes))
    # If A moves from `best` by m, the curve moves by tilt m, and d follows. If
    # d is free, it may move towards the new value too.
    tilt_S = 1 - grid.slope_S * left_S
    # The points say less than their number, the new value says all of itself.
    weight_S = grid.weight_S / self.persistence
    bend_S = grid.bend_S / self.persistence
    room_S = self._room_S / math.sqrt(self.persistence)
    lever_S = 1 + (curve.start is None) * left_S**2 / weight_S
    reach_S = room_S / np.sqrt(bend_S)
    low_S = np.maximum(grid.lowest_S - grid.best_S, -reach_S)
    high_S = np.minimum(grid.most - grid.best_S, reach_S)
    inside_S, ends = grid.squares_S <= self.allowed, []
    for sign in (-1, 1):
      # The move that reaches farthest, within the squares that are allowed.
      move_S = sign * tilt_S * reach_S / np.sqrt(bend_S * lever_S + tilt_S**2)
      move_S = np.clip(move_S, low_S, high_S)
      rest_S = np.maximum(room_S**2 - bend_S * move_S**2, 0)
      end_S = grid.best_S - grid.gap_S * left_S + tilt_S * move_S
      end_S = end_S + sign * np.sqrt(lever_S * rest_S)
      ends.append(float(sign * (sign * end_S[inside_S]).max()))
    return ends[0], ends[1]

  @property
  def _room_S(self) -> np.ndarray:
    return np.sqrt(np.maximum(self.allowed - self.grid.least_S, 0))


def likelihood(
  curve: Curve,
  x: np.ndarray,
  y: np.ndarray,
  *,
  most: float = 1.0,
  size: int = 49,
) -> Likelihood:
  """Returns the likelihood of a curve, on a grid that fits the points.

  The grid spans all shapes at first, then, from round to round, those that the
  points do not exclude.

  most: A may not exceed this.
  size: the number of values of each parameter of q.
  """
  from scipy.special import stdtrit

  scaled_x, scaled_y, unit = _scaled(curve, x, y)
  freedom = len(scaled_x) - curve.num_parameters
  assert freedom > 0, (len(scaled_x), curve.name)
  # How much worse than the best a curve may be: by Student's t.
  worse = stdtrit(freedom, (1 + LEVEL) / 2) ** 2 / freedom
  box = curve.box
  for _ in range(20):
    axes = tuple(np.geomspace(low, high, size) for low, high in box)
    grid = _grid(curve, axes, most, scaled_x, scaled_y)
    best = _best(curve, grid, scaled_x, scaled_y, unit)
    allowed = best.squares * (
      1 + worse * _persistence(best, scaled_x, scaled_y)
    )
    squares = grid.squares_S.reshape([size] * len(axes))
    inside = squares <= max(allowed, squares.min())
    found = _around(inside, axes, curve.box)
    if all(
      math.log(found_high / found_low) > 0.6 * math.log(high / low)
      for (low, high), (found_low, found_high) in zip(box, found, strict=True)
    ):
      break
    box = found
  polished = fit_least_squares(curve, x, y, most=most, first=best)
  fit = min(best, polished, key=lambda each: each.squares)
  persistence = _persistence(fit, scaled_x, scaled_y)
  allowed = fit.squares * (1 + worse * persistence)
  allowed = max(allowed, grid.squares_S.min())
  return Likelihood(fit, grid, persistence, allowed)


def _best(curve: Curve, grid: Grid, x, y, unit: float) -> Fit:
  i = grid.squares_S.argmin()
  limit = grid.limits_S[i]
  gap = grid.gap_S[i] + grid.slope_S[i] * (limit - grid.best_S[i])
  return _fit(curve, limit, gap, _product(grid.axes)[:, i], x, y, unit)


def _persistence(fit: Fit, x, y) -> float:
  """Returns how many measurements in a row say as much as one.

  Held-out examples are the same each time, and so are their seeds, so the noise
  of neighbours is correlated. With a correlation r, the answer for a mean is
  (1 + r) / (1 - r).
  """
  residuals = fit(x * fit.unit) - y
  variance = fit.noise**2
  # Residuals alternate more than the noise does: a curve with p parameters
  # takes about p variances out of the sum of the products of neighbours.
  products = residuals[1:] @ residuals[:-1]
  products += fit.curve.num_parameters * variance
  correlation = products / max(fit.count * variance, 1e-300)
  correlation = min(max(correlation, 0.0), 0.9)
  return (1 + correlation) / (1 - correlation)


def _around(inside: np.ndarray, axes, widest) -> tuple[Interval, ...]:
  """Returns a box around a region of the grid, wider where it is cut off."""
  box = []
  for i, (axis, (lowest, highest)) in enumerate(zip(axes, widest, strict=True)):
    others = tuple(j for j in range(len(axes)) if j != i)
    (where,) = np.nonzero(inside.any(axis=others))
    first, last, width = where[0], where[-1], math.sqrt(axis[-1] / axis[0])
    low = axis[first - 1] if first > 0 else axis[0] / width
    high = axis[last + 1] if last + 1 < len(axis) else axis[-1] * width
    box.append((max(low, lowest), min(high, highest)))
  return tuple(box)


def _product(axes) -> np.ndarray:
  """Returns all combinations, as an array with a row for each axis."""
  return np.stack(np.meshgrid(*axes, indexing='ij')).reshape(len(axes), -1)


def _crossings(values, squares, allowed) -> Interval:
  """Returns where the squares first and last cross what is allowed."""
  (where,) = np.nonzero(squares <= allowed)

  def edge(inside, outside):
    if not 0 <= outside < len(values):
      return float(values[inside])
    share = (allowed - squares[inside]) / (squares[outside] - squares[inside])
    return float(values[inside] + share * (values[outside] - values[inside]))

  return edge(where[0], where[0] - 1), edge(where[-1], where[-1] + 1)


def _scaled(curve, x, y) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns the points that the curve is fitted to, and their unit of x."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  unit, usable = float(x.max()), (x > 0) | curve.at_zero
  return x[usable] / unit, y[usable], unit


def _fit(curve, limit, gap, shape, x, y, unit) -> Fit:
  residuals = limit - gap * curve.left(x, *shape) - y
  squares = float(residuals @ residuals)
  shape = tuple(float(value) for value in shape)
  return Fit(curve, float(limit), float(gap), shape, unit, squares, len(x))
