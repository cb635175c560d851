"""Evaluates the policy on held-out examples during a run."""

import contextlib

from rlpt_jax.core.timers import Timers
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.rollout.collecting import Sampling, mean


class HeldOut:
  """Evaluates the policy on the same held-out examples each time.

  They are the first `count` of the data, and their samples have the same seeds.
  """

  def __init__(self, data: Data, count: int, sampling: Sampling):
    self._sampling = sampling
    loader = Loader(data, count)
    with contextlib.closing(iter(loader)) as batches:
      self.examples = next(batches).examples
    loader.close()

  def metrics(self, name: str, judge, timers: Timers) -> dict[str, float]:
    """Returns mean rewards and the pass rate, as metrics `name`/...

    judge: collecting.judge with the run's engine, tokenizer and reward bound.
    """
    names = [f'held_out/{example.id}' for example in self.examples]
    found = judge(
      self._sampling, self.examples, names, lambda part: timers('held_out')
    )
    rewards_PG = found.scores.rewards_PG
    return {
      f'{name}/reward': mean(rewards_PG),
      f'{name}/pass_rate': mean(rewards_PG > 0, of=rewards_PG),
      **{
        f'{name}/reward/{part}': mean(scores.rewards_PG)
        for part, scores in found.scores.parts.items()
      },
    }
