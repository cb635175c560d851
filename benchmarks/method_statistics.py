"""What the comparison of methods shows: intervals, differences and p-values.

A method's accuracy depends on the seeds that it was run with and on the
questions that it was asked. Both are samples of what they could have been, and
all seeds got the same questions: seeds and questions are crossed random
effects. The share of right answers of seed s to question q is

  mean + a_s + b_q + e_sq,

and a mean over S seeds and Q questions has the variance

  (var(a) + var(e) / Q) / S + var(b) / Q.

The two-way analysis of variance estimates the first part from the seeds' means
(S - 1 degrees of freedom), the second from the questions' means, less the
residual that they contain (Q - 1). With 3 to 5 seeds the first estimate is
rough. Satterthwaite's one t-distribution for the sum of both believes it too
much where it is small by chance: with 3 seeds its 95% intervals held the truth
in as few as 92%. Banerjee's interval (Sankhya 22, 1960) uses each part with
its own t,

  mean +- sqrt(t(S - 1)^2 part_S + t(Q - 1)^2 part_Q),

and holds the truth at least as often as it says for independent normal parts.

A difference of two methods is paired by question. Their seeds are not paired:
seed 0 of one has nothing in common with seed 0 of the other but the questions
(if it has, the interval is too wide, not too narrow). The part of seeds is then
the sum of both methods', with Welch's degrees of freedom, as a method may be
less stable than another.

tests/method_statistics_test.py simulates how often all this holds.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from method_results import QUESTIONS, RLVR, START, At, Results

LEVEL = 0.95  # Of all intervals.
ALIKE = 0.02  # Two methods within this of each other are equivalent.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its interval.

  low, high: None if there is one seed, which cannot say how much seeds differ.
  p: of the hypothesis that a difference is 0.
  parts: variances, with their degrees of freedom: of seeds, and of questions.
  """

  value: float
  low: float | None = None
  high: float | None = None
  p: float | None = None
  parts: tuple[tuple[float, float], ...] = ()

  @property
  def is_alike(self) -> bool:
    """True if the interval is within ALIKE of 0."""
    return self.low is not None and -ALIKE < self.low <= self.high < ALIKE


def mean(right_SQ: np.ndarray) -> Estimate:
  """Returns the accuracy, for other seeds and other questions like these."""
  num_seeds, num_questions = right_SQ.shape
  value = float(right_SQ.mean())
  if min(num_seeds, num_questions) < 2:
    return Estimate(value)
  by_seed, rest = _of_seeds(right_SQ)
  by_question = float(right_SQ.mean(axis=0).var(ddof=1)) / num_questions
  seeds = (by_seed, num_seeds - 1)
  return _share(value, _parts(seeds, by_question - rest, num_questions))


def mean_of_one(right_Q: np.ndarray) -> Estimate:
  """Returns the accuracy of one model, for other questions like these."""
  by_question = float(right_Q.var(ddof=1)) / len(right_Q)
  parts = _parts((0.0, 1), by_question, len(right_Q))
  return _share(float(right_Q.mean()), parts)


def difference(right_SQ: np.ndarray, other_SQ: np.ndarray) -> Estimate:
  """Returns how much better a method is than another, paired by question."""
  each_Q = right_SQ.mean(axis=0) - other_SQ.mean(axis=0)
  if min(len(right_SQ), len(other_SQ), len(each_Q)) < 2:
    return Estimate(float(each_Q.mean()))
  (first, rest), (second, other_rest) = map(_of_seeds, (right_SQ, other_SQ))
  by_seed = first + second
  freedom = min(len(right_SQ), len(other_SQ)) - 1
  if by_seed > 0:
    freedom = by_seed**2 / (
      first**2 / (len(right_SQ) - 1) + second**2 / (len(other_SQ) - 1)
    )
  by_question = float(each_Q.var(ddof=1)) / len(each_Q) - rest - other_rest
  parts = _parts((by_seed, freedom), by_question, len(each_Q))
  return _difference(float(each_Q.mean()), parts)


def gain(right_SQ: np.ndarray, start_Q: np.ndarray) -> Estimate:
  """Returns how much better a method is than the one model it started from.

  All seeds have the same start, so only the method's seeds could be others.
  """
  each_Q = right_SQ.mean(axis=0) - start_Q
  if min(len(right_SQ), len(each_Q)) < 2:
    return Estimate(float(each_Q.mean()))
  by_seed, rest = _of_seeds(right_SQ)
  by_question = float(each_Q.var(ddof=1)) / len(each_Q) - rest
  seeds = (by_seed, len(right_SQ) - 1)
  return _difference(
    float(each_Q.mean()), _parts(seeds, by_question, len(each_Q))
  )


def over_seeds(values: Sequence[float]) -> Estimate:
  """Returns a mean over seeds alone, with Student's interval."""
  value, count = float(np.mean(values)), len(values)
  if count < 2:
    return Estimate(value)
  variance = float(np.var(values, ddof=1)) / count
  reach = _reach(((variance, count - 1),), 1 - LEVEL)
  return Estimate(value, value - reach, value + reach)


def _of_seeds(right_SQ: np.ndarray) -> tuple[float, float]:
  """Returns variances of the mean: seeds with the residual, and the latter."""
  num_seeds, num_questions = right_SQ.shape
  seeds_S, questions_Q = right_SQ.mean(axis=1), right_SQ.mean(axis=0)
  rest_SQ = right_SQ - seeds_S[:, None] - questions_Q + right_SQ.mean()
  rest = np.sum(rest_SQ**2) / ((num_seeds - 1) * (num_questions - 1))
  by_seed = seeds_S.var(ddof=1) / num_seeds
  return float(by_seed), float(rest) / right_SQ.size


def _parts(seeds, by_question: float, num_questions: int):
  # If no answer varies, as when all are wrong, that to one question still
  # might: no interval is narrower than this makes it.
  by_question = max(by_question, 1 / num_questions**2)
  return seeds, (by_question, num_questions - 1)


def _share(value: float, parts) -> Estimate:
  reach = _reach(parts, 1 - LEVEL)
  low, high = max(value - reach, 0.0), min(value + reach, 1.0)
  return Estimate(value, low, high, parts=parts)


def _difference(value: float, parts) -> Estimate:
  reach = _reach(parts, 1 - LEVEL)
  p = _p_value(value, parts)
  return Estimate(value, value - reach, value + reach, p, parts)


def _reach(parts, alpha: float) -> float:
  """Returns half of Banerjee's interval of level 1 - alpha."""
  from scipy.special import stdtrit

  return math.sqrt(
    sum(variance * stdtrit(df, 1 - alpha / 2) ** 2 for variance, df in parts)
  )


def _p_value(value: float, parts) -> float:
  """Returns the alpha whose interval ends at 0; at least 1e-9."""
  low, high = math.log(1e-9), 0.0
  for _ in range(50):
    middle = (low + high) / 2
    if _reach(parts, math.exp(middle)) < abs(value):
      high = middle
    else:
      low = middle
  return math.exp(high)


def holm(p_values: Sequence[float]) -> list[float]:
  """Returns Holm's corrected p-values: of all below alpha, none is chance,
  with the probability 1 - alpha.
  """
  order = np.argsort(p_values)
  corrected, largest = [0.0] * len(order), 0.0
  for rank, i in enumerate(order):
    largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
    corrected[i] = largest
  return corrected


class Cell(Protocol):
  """What a line of the table in method_cells.py says, at least."""

  name: str
  question: str
  family: str
  baseline: str | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A cell against another, or the start, at one budget and file of questions.

  p_family: corrected for the comparisons of the same family, at the same budget
    and file of questions, against baselines or against the start. Conclusions
    follow from this one.
  p_all: corrected for all comparisons there are.
  """

  scale: str
  cell: str
  other: str
  family: str
  at: At
  file: str
  found: Estimate
  p_family: float | None = None
  p_all: float | None = None
  num_family: int = 0

  @property
  def group(self):
    is_gain = self.other == START
    return self.scale, self.family, self.at, self.file, is_gain

  @property
  def verdict(self) -> str:
    """Returns better, worse, equivalent, undecided, or one seed."""
    if self.p_family is None:
      return 'one seed'
    if self.p_family <= 1 - LEVEL:
      return 'better' if self.found.value > 0 else 'worse'
    return 'equivalent' if self.found.is_alike else 'undecided'


Key = tuple[str, str, str, At, str]  # Scale, cell, other, at, file.


def comparisons(
  every: Sequence[Results], cells: Sequence[Cell]
) -> dict[Key, Comparison]:
  """Returns all that can be compared, with corrected p-values."""
  found = [
    each for results in every for cell in cells for each in _of(results, cell)
  ]
  groups = {}
  for each in found:
    groups.setdefault(each.group, []).append(each)
  in_family = {}
  for group, members in groups.items():
    for each, p in _corrected(members):
      in_family[id(each)] = p, sum(one.group == group for one in members)
  done = [
    dataclasses.replace(
      each,
      p_family=in_family[id(each)][0],
      num_family=in_family[id(each)][1],
      p_all=p_all,
    )
    for each, p_all in _corrected(found)
  ]
  return {
    (each.scale, each.cell, each.other, each.at, each.file): each
    for each in done
  }


def _corrected(found: Sequence[Comparison]):
  """Returns pairs of a comparison and its p-value; None if there is none."""
  p_values = [each.found.p for each in found if each.found.p is not None]
  left = iter(holm(p_values))
  return [
    (each, None if each.found.p is None else next(left)) for each in found
  ]


def _of(results: Results, cell: Cell) -> list[Comparison]:
  made = []
  for at in [*results.budgets, RLVR]:
    for file in results.files:
      right_SQ = results.right_SQ(cell.name, at, file)
      if not len(right_SQ):
        continue
      place = (cell.family, at, file)
      if cell.baseline and cell.baseline != START:
        other_SQ = results.right_SQ(cell.baseline, at, file)
        if len(other_SQ):
          found = difference(right_SQ, other_SQ)
          names = (results.scale, cell.name, cell.baseline)
          made.append(Comparison(*names, *place, found))
      # After RLVR, against a start that had RLVR too.
      start = results.started(at if at == RLVR else 0)
      if start:
        found = gain(right_SQ, start.right_Q[file])
        names = (results.scale, cell.name, START)
        made.append(Comparison(*names, *place, found))
  return made


def accuracy(results: Results, cell: str, at: At, file: str = QUESTIONS):
  """Returns a cell's accuracy, or the start's; None if it is missing."""
  if cell == START:
    start = results.started(at)
    return mean_of_one(start.right_Q[file]) if start else None
  right_SQ = results.right_SQ(cell, at, file)
  return mean(right_SQ) if len(right_SQ) else None


def by_field(
  results: Results, cell: str, at: At, field: str, file: str = QUESTIONS
) -> Mapping[str, Estimate]:
  """Returns accuracies by a field of the questions: kind, task, difficulty."""
  right_SQ = results.right_SQ(cell, at, file)
  values = np.array([str(each[field]) for each in results.kinds[file]])
  if not len(right_SQ):
    return {}
  return {
    value: mean(right_SQ[:, values == value]) for value in sorted({*values})
  }


def seeds_needed(found: Estimate, num_seeds: int, most: int = 99) -> int | None:
  """Returns how many seeds each would make this difference significant.

  As if it, and the variances, stayed as they are, and before any correction.
  Returns None if more seeds than `most` would not.
  """
  (by_seed, _), questions = found.parts
  for count in range(2, most + 1):
    seeds = (by_seed * num_seeds / count, 2 * count - 2)
    if _reach((seeds, questions), 1 - LEVEL) < abs(found.value):
      return count
  return None
