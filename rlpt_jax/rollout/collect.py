"""Decides which groups a step learns from, and which completions of them.

A group whose rewards are all equal is flat: its advantages are 0, so it teaches
nothing. `keep`, `drop` and `Refill` treat flat groups differently. Each is
(sample, count) -> Groups, or None if the data has ended. `sample(n)` samples
and judges the next n prompts, fewer if the data ends, and returns None once it
has ended.

An `Exclude` chooses completions to leave out of their groups and the loss.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rlpt_jax.algorithms import advantages
from rlpt_jax.core import checks, settings
from rlpt_jax.core.checks import Count
from rlpt_jax.rollout import judged as judged_lib
from rlpt_jax.rollout.judged import Judged

Sample = Callable[[int], Judged | None]
Exclude = Callable[[Judged], np.ndarray]  # -> [P, G], True: left out.


@dataclasses.dataclass(frozen=True)
class Groups:
  """Sampled groups; `learned_P` is True for those that are in the loss."""

  judged: Judged
  learned_P: np.ndarray


Collect = Callable[[Sample, int], Groups | None]


def keep(sample: Sample, count: int) -> Groups | None:
  """Samples groups and puts all in the loss, even those with equal rewards.

  Such groups have advantages of 0, but count in the loss's denominators.
  """
  judged = sample(count)
  if judged is None:
    return None
  return Groups(judged, np.ones(len(judged.examples), bool))


def drop(sample: Sample, count: int) -> Groups | None:
  """Samples groups; leaves those with equal rewards out of the loss (ScaleRL).

  Such groups do not count in its denominators either.
  """
  judged = sample(count)
  return None if judged is None else _without_flat(judged)


@dataclasses.dataclass(frozen=True)
class Refill:
  """Samples groups, and more to replace those with equal rewards (DAPO).

  rounds: the maximum number of rounds of sampling, including the first.
  """

  rounds: Count = 4

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, sample: Sample, count: int) -> Groups | None:
    parts = list(self._parts(sample, count))
    return _without_flat(judged_lib.concatenate(parts)) if parts else None

  def _parts(self, sample: Sample, missing: int) -> Iterator[Judged]:
    for _ in range(self.rounds):
      if not missing or (part := sample(missing)) is None:
        return
      missing -= int((~part.flat).sum())
      yield part


def _without_flat(judged: Judged) -> Groups:
  learned_P = ~judged.flat
  return Groups(judged.without(~learned_P[:, None]), learned_P)


def truncated(judged: Judged) -> np.ndarray:
  """An `Exclude` of completions that were cut at the length limit (ScaleRL)."""
  return judged.truncated_PG


def check_single_sample(config: Any):
  """Raises if a completion that is alone in its group would teach nothing.

  config: that of train_rl.
  """
  if advantages.needs_groups(config.advantages):
    why = f'{settings.describe(config.advantages)} compares it with its group'
  elif config.collect is not keep:
    why = 'Config.collect treats it as a flat group'
  else:
    return
  raise ValueError(
    'sampling.Sampling.samples=1: a single completion teaches nothing, since '
    f'{why}; expected at least 2.'
  )
