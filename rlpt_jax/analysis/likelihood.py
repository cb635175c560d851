"""Which curves points do not exclude, and what these predict.

In the names of arrays, S stands for shapes of a curve (combinations of the
parameters of q; see scaling.py), P for points.
"""

import dataclasses
import math

import numpy as np

from rlpt_jax.analysis import scaling
from rlpt_jax.analysis.scaling import Curve, Fit, Interval

LEVEL = 0.9  # The level of all intervals.


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


def of(
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

  xs, ys, unit = scaling.scaled(curve, x, y)
  freedom = len(xs) - curve.num_parameters
  assert freedom > 0, (len(xs), curve.name)
  # How much worse than the best a curve may be: by Student's t.
  worse = stdtrit(freedom, (1 + LEVEL) / 2) ** 2 / freedom
  box = curve.box
  for _ in range(20):
    axes = tuple(np.geomspace(low, high, size) for low, high in box)
    grid = _grid(curve, axes, most, xs, ys)
    best = _best(curve, grid, xs, ys, unit)
    allowed = best.squares * (1 + worse * _persistence(best, xs, ys))
    squares = grid.squares_S.reshape([size] * len(axes))
    inside = squares <= max(allowed, squares.min())
    found = _around(inside, axes, curve.box)
    if all(
      math.log(found_high / found_low) > 0.6 * math.log(high / low)
      for (low, high), (found_low, found_high) in zip(box, found, strict=True)
    ):
      break
    box = found
  polished = scaling.fit_least_squares(curve, x, y, most=most, first=best)
  fit = min(best, polished, key=lambda each: each.squares)
  persistence = _persistence(fit, xs, ys)
  allowed = fit.squares * (1 + worse * persistence)
  allowed = max(allowed, grid.squares_S.min())
  return Likelihood(fit, grid, persistence, allowed)


def _best(curve: Curve, grid: Grid, x, y, unit: float) -> Fit:
  """Returns the best curve of a grid."""
  i = grid.squares_S.argmin()
  limit = grid.limits_S[i]
  gap = grid.gap_S[i] + grid.slope_S[i] * (limit - grid.best_S[i])
  return scaling.make_fit(
    curve, limit, gap, _product(grid.axes)[:, i], x, y, unit
  )


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
