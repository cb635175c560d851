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
much where it is small by chance: with 3 seeds that differ much, its 95%
intervals held the truth in 93% of simulated data sets. Banerjee's interval
(Sankhya 22, 1960) uses each part with its own t,

  mean +- sqrt(t(S - 1)^2 part_S + t(Q - 1)^2 part_Q),

and holds the truth at least as often as it says for independent normal parts.

A difference of two methods is paired by question. Their seeds are not paired:
seed 0 of one has nothing in common with seed 0 of the other but the questions
(if it has, the interval is too wide, not too narrow). The part of seeds is then
the sum of both methods', with Welch's degrees of freedom, as a method may be
less stable than another. Where a method has but two seeds, this held the truth
in 89%, so each method's part has its own t instead, and intervals are wide.

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

Parts = tuple[tuple[float, float], ...]  # Variances, degrees of freedom.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its interval.

  low, high: None if there is one seed, which cannot say how much seeds differ.
  p: of the hypothesis that a difference is 0.
  parts: of the variance, with their degrees of freedom: those of seeds, and at
    last that of questions.
  """

  value: float
  low: float | None = None
  high: float | None = None
  p: float | None = None
  parts: Parts = ()

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
  parts = _parts(
    seeds, by_question=by_question - rest, num_questions=num_questions
  )
  return _share(value, parts)


def mean_of_one(right_Q: np.ndarray) -> Estimate:
  """Returns the accuracy of one model, for other questions like these."""
  if len(right_Q) < 2:
    return Estimate(float(right_Q.mean()))
  by_question = float(right_Q.var(ddof=1)) / len(right_Q)
  parts = _parts(by_question=by_question, num_questions=len(right_Q))
  return _share(float(right_Q.mean()), parts)


def difference(right_SQ: np.ndarray, other_SQ: np.ndarray) -> Estimate:
  """Returns how much better a method is than another, paired by question."""
  each_Q = right_SQ.mean(axis=0) - other_SQ.mean(axis=0)
  if min(len(right_SQ), len(other_SQ), len(each_Q)) < 2:
    return Estimate(float(each_Q.mean()))
  (first, rest), (second, other_rest) = map(_of_seeds, (right_SQ, other_SQ))
  seeds = ((first, len(right_SQ) - 1), (second, len(other_SQ) - 1))
  if min(len(right_SQ), len(other_SQ)) > 2:
    seeds = (_welch(seeds),)
  by_question = float(each_Q.var(ddof=1)) / len(each_Q) - rest - other_rest
  parts = _parts(*seeds, by_question=by_question, num_questions=len(each_Q))
  return _difference(float(each_Q.mean()), parts)


def _welch(parts: Parts) -> tuple[float, float]:
  """Returns the sum of variances, and Welch's degrees of freedom."""
  total = sum(variance for variance, _ in parts)
  if total == 0:
    return 0.0, min(freedom for _, freedom in parts)
  return total, total**2 / sum(
    variance**2 / freedom for variance, freedom in parts
  )


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
  parts = _parts(seeds, by_question=by_question, num_questions=len(each_Q))
  return _difference(float(each_Q.mean()), parts)


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


def _parts(*seeds, by_question: float, num_questions: int) -> Parts:
  # If no answer varies, as when all are wrong, that to one question still
  # might: no interval is narrower than this makes it.
  by_question = max(by_question, 1 / num_questions**2)
  return *seeds, (by_question, num_questions - 1)


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
  from scipy.optimize import brentq

  def beyond(log_alpha):
    return _reach(parts, math.exp(log_alpha)) - abs(value)

  least = math.log(1e-9)
  if beyond(least) <= 0:
    return 1e-9
  return math.exp(brentq(beyond, least, 0.0, xtol=1e-9))


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
  p_all: corrected for those of all families, at the same budget and so on.
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
  num_all: int = 0

  @property
  def together(self):
    """What comparisons have in common that are corrected for each other."""
    return self.scale, self.at, self.file, self.other == START

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
  in_family = _corrected(found, lambda each: (each.family, each.together))
  in_all = _corrected(found, lambda each: each.together)
  return {
    (each.scale, each.cell, each.other, each.at, each.file): (
      dataclasses.replace(
        each, p_family=p_family, num_family=num_family, p_all=p_all,
        num_all=num_all,
      )
    )
    for each, (p_family, num_family), (p_all, num_all) in zip(
      found, in_family, in_all, strict=True
    )
  }  # fmt: skip


def _corrected(found: Sequence[Comparison], group):
  """Returns each one's p-value, corrected in its group, and the group's size.

  Comparisons of one seed have no p-value, and do not count.
  """
  members = {}
  for i, each in enumerate(found):
    if each.found.p is not None:
      members.setdefault(group(each), []).append(i)
  corrected = [(None, 0)] * len(found)
  for numbers in members.values():
    p_values = holm([found[i].found.p for i in numbers])
    for i, p in zip(numbers, p_values, strict=True):
      corrected[i] = p, len(numbers)
  return corrected


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


@dataclasses.dataclass(frozen=True)
class Alike:
  """What would be significant if seeds varied alike in all cells.

  One variance of seeds for all has many degrees of freedom, so more becomes
  significant. But it is wrong for a cell that is less stable than the others,
  so conclusions do not follow from it.

  p_family: for each cell against its baseline.
  doubt: the p-value of Bartlett's test that seeds do vary alike.
  """

  freedom: int
  p_family: Mapping[str, float]
  doubt: float


def if_alike(
  results: Results, found: Mapping[Key, Comparison], at: At, file: str
) -> Alike:
  """Returns corrected p-values with one variance of seeds for all cells."""
  means = [results.right_SQ(cell, at, file).mean(axis=1)
           for cell in results.runs if results.measured(cell, at)]  # fmt: skip
  freedom = sum(len(mean_S) - 1 for mean_S in means)
  variance = sum(float(mean_S.var() * len(mean_S)) for mean_S in means)
  variance /= max(freedom, 1)
  compared = []
  for each in found.values():
    place = (each.scale, each.at, each.file)
    if place != (results.scale, at, file) or each.found.p is None:
      continue
    if each.other == START:
      continue
    inverse = sum(
      1 / len(results.measured(cell, at)) for cell in (each.cell, each.other)
    )
    parts = ((variance * inverse, freedom), each.found.parts[-1])
    p = _p_value(each.found.value, parts)
    again = dataclasses.replace(each.found, p=p)
    compared.append(dataclasses.replace(each, found=again))
  corrected = _corrected(compared, lambda each: each.family)
  p_family = {
    each.cell: p for each, (p, _) in zip(compared, corrected, strict=True)
  }
  return Alike(freedom, p_family, _bartlett(means))


def _bartlett(groups: Sequence[np.ndarray]) -> float:
  """Returns the p-value of equal variances; 1 if there is nothing to test."""
  from scipy.stats import bartlett

  groups = [group for group in groups if len(group) > 1]
  if len(groups) < 2 or not any(group.var() for group in groups):
    return 1.0
  with np.errstate(divide='ignore'):  # A variance of 0 is unlike others.
    return float(bartlett(*groups).pvalue)


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
  values = np.array([str(each[field]) for each in results.kinds[file]])
  estimate = mean
  if cell == START:
    start, estimate = results.started(at), mean_of_one
    right = start.right_Q[file] if start else ()
  else:
    right = results.right_SQ(cell, at, file)
  if not len(right):
    return {}
  return {
    value: estimate(right[..., values == value]) for value in sorted({*values})
  }


def seeds_needed(
  found: Estimate, num_seeds: int, alpha: float, most: int = 99
) -> int | None:
  """Returns how many seeds each would make this difference significant.

  As if it, and the variances, stayed as they are. Returns None if more seeds
  than `most` would not.
  """
  *seeds, questions = found.parts
  by_seed = sum(variance for variance, _ in seeds)
  for count in range(num_seeds + 1, most + 1):
    part = (by_seed * num_seeds / count, 2 * count - 2)
    if _reach((part, questions), alpha) < abs(found.value):
      return count
  return None
