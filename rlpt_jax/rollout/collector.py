"""Turns the next prompts into the next experience."""

import functools
from collections.abc import Callable, Sequence

from rlpt_jax.rollout.collect import Collect, Exclude, Groups
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling


class Collector:
  """Draws prompts, samples completions, judges them, and collects groups.

  A schedule calls it once for each experience.
  """

  def __init__(
    self,
    prompts: Prompts,
    rollouts: Rollouts,
    make_experience: Callable[..., Experience],
    *,
    sampling: Sampling,
    count: int,
    collect: Collect,
    exclude: Sequence[Exclude] = (),
    penalize: Callable[[Groups], Groups] | None = None,
  ):
    """Sets the parts.

    make_experience: (groups, names, curriculum, resume) -> Experience.
    count: the number of prompts that an experience should have in the loss.
    penalize: changes the rewards of the groups, once all are collected.
    """
    self._prompts, self._rollouts = prompts, rollouts
    self._make_experience, self._penalize = make_experience, penalize
    self._sampling, self._count = sampling, count
    self._collect, self._exclude = collect, exclude

  def __call__(self) -> Experience | None:
    """Returns the next experience; None if the data has ended."""
    names: list[str] = []
    sample = functools.partial(self._sample, names)
    groups = self._collect(sample, self._count)
    if groups is None:
      return None
    if self._penalize:
      groups = self._penalize(groups)
    return self._make_experience(
      groups,
      names=names,
      curriculum=self._prompts.curriculum.metrics(),
      resume=self._prompts.resume(),
    )

  def _sample(self, sampled: list[str], count: int) -> Judged | None:
    """Samples and judges the next groups; adds their names to `sampled`."""
    examples, names = self._prompts.take(count)
    if not examples:
      return None
    sampled += names
    judged = self._rollouts(self._sampling, examples, names)
    self._prompts.curriculum.note(examples, judged.scores.rewards_PG)
    for exclude in self._exclude:
      judged = judged.without(exclude(judged))
    return judged
