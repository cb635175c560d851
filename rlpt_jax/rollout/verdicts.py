"""Stops a run whose reward gives no verdicts any more.

Otherwise a broken judge would use up the data.
"""

import collections
import logging
from collections.abc import Iterator

import numpy as np

from rlpt_jax.inference import judges
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.judged import Judged, expects_verdict

# If this many verdicts are expected and none comes, it is no accident.
ENOUGH = 8
FEW = 0.05  # A step with at most this share of its verdicts has almost none.

logger = logging.getLogger(__name__)


class NoVerdicts(ValueError):
  """Raised if a reward seems broken.

  answers: what the judge said instead of verdicts.
  """

  def __init__(self, message: str, answers: frozenset[str] = frozenset()):
    super().__init__(message, answers)
    self.answers = answers

  def __str__(self):
    return self.args[0]


class Verdicts:
  """Monitors the verdicts of a run, step by step."""

  def __init__(self, patience: int, in_a_row: int = 0):
    """Continues the count of an earlier start of the run.

    patience: `check` raises after this many steps in a row with almost no
      verdicts.
    in_a_row: the number of such steps that the earlier start has counted.
    """
    self._patience, self.in_a_row = patience, in_a_row
    self._has_warned = False

  def check(self, step: int, judged: Judged):
    """Warns at the first missing verdicts; raises if the reward seems broken.

    It raises in three cases: no completion has a reward; at least ENOUGH
    verdicts were expected, and none came; almost none came in `patience` steps
    in a row.
    """
    rewards_PG = judged.scores.rewards_PG
    expected_PG = expects_verdict(judged)
    missing_PG = expected_PG & np.isnan(rewards_PG)
    expected, missing = int(expected_PG.sum()), int(missing_PG.sum())
    if expected:
      is_bad = expected - missing <= FEW * expected
      self.in_a_row = self.in_a_row + 1 if is_bad else 0
    is_nothing = bool(np.isnan(rewards_PG).all())
    if is_nothing and not expected:  # For example, there are no references.
      expected_PG = missing_PG = np.isnan(rewards_PG)
      expected = missing = missing_PG.sum()
    if not missing:
      return
    problem = _problem(judged.scores, expected, missing_PG)
    if (
      is_nothing
      or (missing == expected and expected >= ENOUGH)
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
        'step %d: %s. Those completions are left out. (This is logged once.)',
        step,
        problem,
      )


def _advice(step: int) -> str:
  if step <= 1:
    return 'Fix this and restart: the run resumes with the same completions.'
  # A policy trained on one reward must not continue with another.
  return (
    'Fix this without changing settings and restart: the run resumes with the '
    'same completions. Other settings of the reward need another workdir; its '
    'model may be the checkpoints of this one.'
  )


def _problem(scores: Scores, expected: int, missing_PG: np.ndarray) -> str:
  """Says what is missing and why, with an example answer and a fix."""
  reasons = collections.Counter(scores.reasons_PG[missing_PG].tolist())
  causes = ', '.join(f'{n:,} {reason}' for reason, n in reasons.most_common())
  problem = (
    f'{missing_PG.sum():,} of {expected:,} verdicts are missing ({causes})'
  )
  reason, answer = next(_unread(scores), (reasons.most_common(1)[0][0], None))
  return f'{problem}. {judges.explain_no_verdict(reason, answer)}'


def _unread(scores: Scores) -> Iterator[tuple[str, str]]:
  """Yields (reason, the judge's answer) for each answer without a verdict."""
  if scores.answers_PG is not None:
    for place in zip(*np.nonzero(np.isnan(scores.rewards_PG)), strict=True):
      if scores.answers_PG[place] is not None:
        yield str(scores.reasons_PG[place]), scores.answers_PG[place]
  for part in scores.parts.values():
    yield from _unread(part)
