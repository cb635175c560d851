"""Prepares experiences for their updates, in the order of the updates.

Some state is carried from step to step: totals, counts, and what advantages
depend on. A schedule may sample ahead of the updates. So this state changes
when an experience is learned from, and not already when it is sampled.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rlpt_jax.algorithms.advantages import Carried
from rlpt_jax.inference import judges
from rlpt_jax.models.config import DecoderConfig
from rlpt_jax.rewards.scores import Reward
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
    roles: Sequence[str] = ('',),
  ):
    """Continues from the record of an earlier run, if there is one.

    roles: their names. Each has its own state of advantages.
    """
    carried = record.get('advantages')
    if not isinstance(carried, dict):  # Of one role.
      carried = {'': carried}
    self._advantages = {
      name: Carried(advantages, carried.get(name)) for name in roles
    }
    self._verdicts, self.ledger = verdicts, ledger

  def __call__(self, step: int, experience: Experience) -> Experience:
    """Returns the experience with advantages; raises if the judge is broken."""
    self._verdicts.check(step + 1, experience.first.judged)
    return experience.with_advantages(self._advantages)

  def metrics(self, experience: Experience) -> dict[str, float]:
    """Returns the metrics of a step's compute, advantages and curriculum.

    Call it once for a step: it adds the compute to the totals of the run.
    """
    compute = self.ledger.add(experience.roles, experience.scored)
    return compute | experience.metrics()

  def record(self, experience: Experience) -> dict[str, Any]:
    """Returns the record from which a run resumes after this experience.

    Call it after `metrics`, which counts the compute of the experience.
    """
    carried = {name: x.value for name, x in self._advantages.items()}
    return {
      **experience.resume,
      'ledger': dict(self.ledger.totals),
      'advantages': carried if len(carried) > 1 else carried[''],
      'unjudged': self._verdicts.in_a_row,
    }


def make_consumer(
  config: Any, model: DecoderConfig, reward: Reward, record: dict[str, Any]
) -> Consumer:
  """Returns a consumer that continues from the record of a checkpoint.

  config: that of train_rl.
  """
  ledger = Ledger(
    model, record.get('ledger', {}), remat=config.compute.remat,
    share_prompt=config.shares_prompts, has_reference=config.kl is not None,
    judges=judges.local_models(reward),
  )  # fmt: skip
  verdicts = Verdicts(config.max_unjudged, record.get('unjudged', 0))
  roles = config.collector.roles
  return Consumer(config.advantages, verdicts, ledger, record, roles)
