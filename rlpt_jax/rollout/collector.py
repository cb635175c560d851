"""Turns the next prompts into the next experience."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rlpt_jax.algorithms.kl import InReward
from rlpt_jax.rollout.collect import Collect, Exclude, Groups
from rlpt_jax.rollout.experience import (
  Collected,
  Experience,
  make_experience,
)
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.reference import Reference
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.stream import Source, Taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """The parts of a run that a collector works with.

  take: returns the next groups, of a source (stream.py).
  make_experience: (roles, names, curriculum, resume, scored=()) -> Experience.
  count: the number of prompts to learn from.
  penalize: changes the rewards of the groups, once all are collected.
  """

  prompts: Prompts
  rollouts: Rollouts
  take: Callable[[int], Taken]
  make_experience: Callable[..., Experience]
  sampling: Sampling
  count: int
  collect: Collect
  exclude: Sequence[Exclude] = ()
  penalize: Callable[[Groups], Groups] | None = None

  def without_excluded(self, judged: Judged) -> Judged:
    for exclude in self.exclude:
      judged = judged.without(exclude(judged))
    return judged

  def penalized(self, groups: Groups) -> Groups:
    return self.penalize(groups) if self.penalize else groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collector:
  """Draws prompts, samples completions, judges them, and collects groups.

  A schedule calls it once for each experience. A subclass may sample prompts in
  several rounds, or give the policy a second role.

  roles: the names of the roles; '' for the first, whose metrics have no prefix.
  varies: True if a step may have fewer groups than `sizes`.
  streams: True if all that it samples comes from `Parts.take`, so that a
    schedule may sample ahead.
  """

  roles: ClassVar[tuple[str, ...]] = ('',)
  varies: ClassVar[bool] = False
  streams: ClassVar[bool] = True

  def check(self, config):
    """Raises if the settings of a run do not fit this collector."""

  def samplings(self, sampling: Sampling) -> tuple[Sampling, ...]:
    """Returns the settings of all that it samples, given those of the run."""
    return (sampling,)

  def sizes(self, count: int, sampling: Sampling) -> tuple[int, ...]:
    """Returns the most groups of each role, for `count` prompts."""
    del sampling
    return (count,)

  def parts(self, config) -> tuple[int, ...]:
    """Returns the number of microbatches of each role, for a run's settings.

    All microbatches have the same number of prompts.
    """
    each = config.prompts // config.hardware.num_microbatches
    return tuple(
      size // each for size in self.sizes(config.prompts, config.sampling)
    )

  def __call__(self, parts: Parts) -> Experience | None:
    """Returns the next experience; None if the data has ended."""
    names: list[str] = []
    sample = functools.partial(self._sample, parts, names)
    groups = parts.collect(sample, parts.count)
    if groups is None:
      return None
    groups = parts.penalized(groups)
    return parts.make_experience(
      [Collected(groups, parts.count, parts.sampling.samples)],
      names=names,
      curriculum=parts.prompts.curriculum.metrics(),
      resume=parts.prompts.resume(),
    )

  def _sample(
    self, parts: Parts, sampled: list[str], count: int
  ) -> Judged | None:
    """Samples and judges the next groups; adds their names to `sampled`."""
    examples, names, groups = parts.take(count)
    if not examples:
      return None
    sampled += names
    judged = parts.rollouts.judge(examples, names, groups)
    parts.prompts.curriculum.note(examples, judged.scores.rewards_PG)
    return parts.without_excluded(judged)


def make_collect(
  config: Any, prompts: Prompts, rollouts: Rollouts, source: Source,
  reference: Reference | None,
) -> Callable[[], Experience | None]:  # fmt: skip
  """Returns a function that collects the next experience.

  config: that of train_rl.
  """
  penalize = None
  if isinstance(config.kl, InReward):
    penalize = functools.partial(
      reference.penalized, weight=config.kl.weight,
      num_prompts=config.prompts, longest=config.longest,
    )  # fmt: skip
  experience = functools.partial(
    make_experience, reduction=config.reduction, longest=config.longest,
    share_prompt=config.shares_prompts,
  )  # fmt: skip
  parts = Parts(
    prompts=prompts, rollouts=rollouts, take=source.take,
    make_experience=experience,
    sampling=config.sampling, count=config.prompts, collect=config.collect,
    exclude=config.exclude, penalize=penalize,
  )  # fmt: skip
  return functools.partial(config.collector, parts)
