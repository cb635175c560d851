"""Stops a run whose reward gives no verdicts any more.

A broken judge must not use up the data, whatever it answers.
"""

import collections
import logging
from collections.abc import Iterator

import numpy as np

from rlpt_jax.programs import collecting, judges
from rlpt_jax.programs.collecting import Judged
from rlpt_jax.rewards.scores import Scores

ENOUGH = 8  # Asked, and not one verdict: no accident.
FEW = 0.05  # Of those asked: as good as none.

logger = logging.getLogger(__name__)


class NoVerdicts(ValueError):
  """A reward is broken; `answers`: what its judge answered instead."""

  def __init__(self, message: str, answers: frozenset[str] = frozenset()):
    super().__init__(message, answers)
    self.answers = answers

  def __str__(self):
    return self.args[0]


class Verdicts:
  """Watches the verdicts of a run, step by step."""

  def __init__(self, patience: int, in_a_row: int = 0):
    """patience: steps in a row with as good as no verdict, before it raises.
    in_a_row: those of them that an earlier run has counted.
    """
    self._patience, self.in_a_row = patience, in_a_row
    self._has_warned = False

  def check(self, step: int, judged: Judged):
    """Warns where the first verdicts are missing; raises where there is none of
    enough that were asked for, or hardly any for some steps.
    """
    rewards_PG = judged.scores.rewards_PG
    asked_PG = collecting.asked(judged)
    missing_PG = asked_PG & np.isnan(rewards_PG)
    asked, missing = int(asked_PG.sum()), int(missing_PG.sum())
    if asked:
      is_bad = asked - missing <= FEW * asked
      self.in_a_row = self.in_a_row + 1 if is_bad else 0
    is_nothing = bool(np.isnan(rewards_PG).all())
    if is_nothing and not asked:  # Nothing to compare with, say.
      asked_PG = missing_PG = np.isnan(rewards_PG)
      asked = missing = missing_PG.sum()
    if not missing:
      return
    problem = _problem(judged.scores, asked, missing_PG)
    if (
      is_nothing
      or (missing == asked and asked >= ENOUGH)
      or self.in_a_row >= self._patience
    ):
      for_long = f', {self.in_a_row} steps in a row' * (self.in_a_row > 1)
      raise NoVerdicts(
        f'step {step}: {problem}{for_long}. {_advice(step)}',
        frozenset(answer for _, answer in _unread(judged.scores)),
      )
    if not self._has_warned:
      self._has_warned = True
      logger.warning(
        'step %d: %s. Those completions are left out. (Said once.)',
        step,
        problem,
      )


def _advice(step: int) -> str:
  if step <= 1:
    return (
      'Mend that and start again: the run goes on with the same completions.'
    )
  # What has learned from one reward does not go on with another.
  return (
    'Mend that without other settings and start again: the run goes on with '
    'the same completions. Other settings of the reward need another workdir; '
    'its model may be the checkpoints of this one.'
  )


def _problem(scores: Scores, asked: int, missing_PG: np.ndarray) -> str:
  """What is missing and why, with an answer as an example and a cure."""
  reasons = collections.Counter(scores.reasons_PG[missing_PG].tolist())
  said = ', '.join(f'{n:,} {reason}' for reason, n in reasons.most_common())
  found = f'{missing_PG.sum():,} of {asked:,} verdicts are missing ({said})'
  reason, answer = next(_unread(scores), (reasons.most_common(1)[0][0], None))
  return f'{found}. {judges.cure(reason, answer)}'


def _unread(scores: Scores) -> Iterator[tuple[str, str]]:
  """(reason, what the judge answered) where that is no verdict."""
  if scores.answers_PG is not None:
    for place in zip(*np.nonzero(np.isnan(scores.rewards_PG)), strict=True):
      if scores.answers_PG[place] is not None:
        yield str(scores.reasons_PG[place]), scores.answers_PG[place]
  for part in scores.parts.values():
    yield from _unread(part)
