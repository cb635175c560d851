"""What a sampler job has: groups of its run, and the newest weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.jobs.starts import NO_VERSION, Start
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.sampler import SampleGroup, Sampler


class Work:
  """Samples groups for a learner in another process.

  It samples nothing without current weights: at first, and when the learner has
  lost the weights that it has. Until then, its version is NO_VERSION, and it
  gets no groups.
  """

  def __init__(
    self,
    open_sampler: Callable[[Any, int], Sampler],
    tokenizer: Tokenizer,
    sampling: Sampling,
    *,
    seed: int,
    recompute: bool,
  ):
    """open_sampler: (params, version) -> Sampler.

    recompute: see schedules.Pipelined.after_update.
    """
    self._open_sampler, self._tokenizer = open_sampler, tokenizer
    self._sampling, self._seed, self._recompute = sampling, seed, recompute
    self._groups: dict[str, tuple[Example, SampleGroup]] = {}
    self._sampler: Sampler | None = None
    self._start: Start | None = None  # The learner's.
    self._is_current = False

  @property
  def names(self) -> list[str]:
    return [*self._groups]

  @property
  def version(self) -> int:
    return self._sampler.version if self._is_current else NO_VERSION

  @property
  def wanted(self) -> int:
    """The number of groups that fill the free slots.

    No more than these, since another sampler may have room for them.
    """
    if not self._is_current:
      return 0
    engine = self._sampler.engine
    free = self._sampler.plan.slots - engine.running - engine.waiting
    return max(-(-free // self._sampling.samples), 0)

  def take_slots_in_use(self) -> float | None:
    """The share of rows that sampled a token since the last call, if any."""
    if not self._sampler or not self._sampler.engine.counts['row_steps']:
      return None
    return self._sampler.take_slots_in_use()

  def add(self, tasks: Iterable[Mapping[str, Any]]):
    for task in tasks:
      name, example = task['name'], group_state.from_json(task['example'])
      group = self._sampling.group(example, name, self._tokenizer, self._seed)
      self._groups[name] = example, group
      group.enter(self._sampler)

  def drop(self, names: Iterable[str]):
    for name in names:
      _, group = self._groups.pop(name)
      group.leave()

  def follow(self, start: Start):
    """Drops groups with tokens of weights that the learner has lost."""
    earlier, self._start = self._start, start
    newest = earlier and start.newest_of(earlier)
    if newest is None:
      return
    if self._is_current and self._sampler.version > newest:
      self._is_current = False
    for name, (_, group) in [*self._groups.items()]:
      versions = [
        sample.completion.versions.max()
        for sample in group.samples
        if sample.has_tokens
      ]
      if max(versions, default=newest) > newest:
        self.drop([name])

  def publish(self, params, version: int):
    """Goes on with new weights."""
    if self._sampler is None:
      self._sampler = self._open_sampler(params, version)
    else:
      # Keys and values of lost weights are not kept in any case.
      recomputed = [
        group
        for _, group in self._groups.values()
        if not group.is_done and (self._recompute or not self._is_current)
      ]
      for group in recomputed:
        group.leave()
      self._sampler.publish(params, version=version)
      for group in recomputed:
        group.enter(self._sampler)
    self._is_current = True

  def step(self) -> bool:
    """Samples a chunk of tokens; returns False if there is nothing to do."""
    if not self._is_current or self._sampler.is_idle:
      return False
    self._sampler.step()
    return True

  def finished(self) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the bytes of each finished group."""
    for name, (example, group) in [*self._groups.items()]:
      if group.is_done:
        yield name, group_state.to_bytes([(example, name, group)])

  def close(self):
    if self._sampler:
      self._sampler.close()
