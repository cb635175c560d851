"""Tries the policy on held-out examples during a run."""

import contextlib
import dataclasses
import pathlib

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.rollout import held_out_files
from rlpt_jax.rollout.judged import mean
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
  """Data that the policy is tried on, with the reward of the run.

  This is done before the first step, every `every` steps, and after the last.

  examples: how many examples to use, from the beginning of the data.
  sampling: by default, that of the run with one sample per example. If it
    allows longer completions than the run does, every slot of the sampler takes
    the memory for them.
  """

  data: Data
  examples: Count = 64
  every: Count = 50
  sampling: Sampling | None = None

  def __post_init__(self):
    checks.check_fields(self)


class Trial:
  """Tries the policy on the same examples, with the same seeds, each time."""

  def __init__(self, held_out: HeldOut, sampling: Sampling):
    self._sampling = sampling
    loader = Loader(held_out.data, held_out.examples)
    with contextlib.closing(iter(loader)) as batches:
      self.examples = next(batches).examples
    loader.close()
    self.names = [f'held_out/{example.id}' for example in self.examples]

  def metrics(
    self, name: str, rollouts: Rollouts, workdir: pathlib.Path, updates: int
  ) -> dict[str, float]:
    """Samples the policy; returns mean rewards and pass rate as `name`/...

    Writes the reward of each example to the run's folder, too.

    updates: how many the policy has had.
    """
    judged = rollouts(
      self._sampling, self.examples, self.names, timer='held_out'
    )
    held_out_files.write(workdir, updates, judged)
    rewards_PG = judged.scores.rewards_PG
    return {
      f'{name}/reward': mean(rewards_PG),
      f'{name}/pass_rate': mean(rewards_PG > 0, of=rewards_PG),
      **{
        f'{name}/reward/{part}': mean(scores.rewards_PG)
        for part, scores in judged.scores.parts.items()
      },
    }
