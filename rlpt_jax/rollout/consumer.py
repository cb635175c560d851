"""Prepares experiences for their updates, in the order of the updates.

Some state is carried from step to step: totals, counts, and what advantages
depend on. A schedule may sample ahead of the updates. So this state changes
when an experience is learned from, and not already when it is sampled.
"""

from collections.abc import Callable
from typing import Any

from rlpt_jax.algorithms.advantages import Carried
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.ledger import Ledger
from rlpt_jax.rollout.verdicts import Verdicts


class Consumer:
  """Computes advantages, counts compute, and watches for missing verdicts."""

  def __init__(
    self,
    advantages: Callable,
    verdicts: Verdicts,
    ledger: Ledger,
    record: dict[str, Any],
  ):
    """Continues from the record of an earlier run, if there is one."""
    self._advantages = Carried(advantages, record.get('advantages'))
    self._verdicts, self.ledger = verdicts, ledger

  def __call__(self, step: int, experience: Experience) -> Experience:
    """Returns the experience with advantages; raises if the judge is broken."""
    self._verdicts.check(step + 1, experience.judged)
    return experience.with_advantages(self._advantages)

  def metrics(self, experience: Experience) -> dict[str, float]:
    """Returns the metrics of a step's compute, advantages and curriculum.

    Call it once for a step: it adds the compute to the totals of the run.
    """
    learned = experience.learned_P.tolist()
    return self.ledger.add(experience.judged, learned) | experience.metrics()

  def record(self, experience: Experience) -> dict[str, Any]:
    """Returns the record from which a run resumes after this experience.

    Call it after `metrics`, which counts the compute of the experience.
    """
    return {
      **experience.resume,
      'ledger': dict(self.ledger.totals),
      'advantages': self._advantages.value,
      'unjudged': self._verdicts.in_a_row,
    }
