"""Curves of reward against compute, and their fits.

Every curve has the form R(C) = A - d q(C): the reward in the limit of endless
compute, minus a gap of which the share q(C) is left. The share falls to 0.

ScaleRL's sigmoid (2510.13786, equation 1) R - R0 = (A - R0) / (1 + (Cmid/C)^B)
has the gap A - R0 and the share 1 / (1 + (C/Cmid)^B). RLPT's stretched
exponential (2509.19249, figure 1) a exp(-b C^-c) has A = a, the gap a and the
share 1 - exp(-b C^-c). A power law A - D C^-B has the gap D and the share C^-B.

In the names of arrays, L stands for limits A, M for Cmid, F for rates B, P for
points.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

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

  x, y, unit = scaled(curve, x, y)
  # A, then d if it is free, then the logarithms of the shape.
  free = curve.start is None
  lower = [-np.inf if free else curve.start, *[0.0] * free]
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
  return make_fit(curve, limit, gap, shape, x, y, unit)


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

  (low, high), _ = curve.box
  rates_F = np.geomspace(low, high, 769)  # In steps of 0.5%.
  gap_L1 = (limits_L - start)[:, None]

  def best_of(middle):
    """Returns the least squares, up to a constant, and their A, B and Cmid."""
    gain_FP = 1 - curve.left(x, rates_F[:, None], middle)
    squared_F = np.einsum('fp,fp->f', gain_FP, gain_FP)
    squares_LF = (gap_L1 * squared_F - 2 * (gain_FP @ (y - start))) * gap_L1
    i, j = np.unravel_index(squares_LF.argmin(), squares_LF.shape)
    return squares_LF[i, j], limits_L[i], (rates_F[j], middle)

  # One Cmid at a time: all at once may take gigabytes.
  _, limit, shape = min(map(best_of, middles_M))
  return make_fit(curve, limit, limit - start, shape, x, y, unit)


def scaled(curve: Curve, x, y) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns the points that the curve is fitted to, and their unit of x."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  unit, usable = float(x.max()), (x > 0) | curve.at_zero
  return x[usable] / unit, y[usable], unit


def make_fit(curve: Curve, limit, gap, shape, x, y, unit: float) -> Fit:
  """Returns a curve with its squares at points, whose x is in units."""
  residuals = limit - gap * curve.left(x, *shape) - y
  squares = float(residuals @ residuals)
  shape = tuple(float(value) for value in shape)
  return Fit(curve, float(limit), float(gap), shape, unit, squares, len(x))
