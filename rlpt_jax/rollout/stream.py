"""The prompts of a run and their samples, in the order of the data.

A schedule decides which of two sources a run has. `OnDemand` samples the
prompts of a step, and nothing else. A `Stream` samples ahead: prompts enter the
sampler as soon as it has room for them, and a step gets the oldest groups of
the stream once all of these are done. So short completions need not wait for
the longest one of their step.

How far a stream runs ahead is bounded by admission: a group may enter only if
all groups before it could still be learned from in time. No group is ever
discarded for its age, and none waits longer because its completions are long.

All decisions follow from counts, never from the clock. So two runs are equal,
and a run that resumes is equal to one that was never stopped.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.sampling.sampler import Sample, SampleGroup

Arrays = Mapping[str, np.ndarray]


class Taken(NamedTuple):
  """Examples, their names, and their samples."""

  examples: Sequence[Example]
  names: Sequence[str]
  groups: Sequence[Sequence[Sample]]


class Source(Protocol):
  """Where a run's examples and their samples come from."""

  def take(self, count: int) -> Taken:
    """Returns the next groups; fewer if the data ends."""

  def forget(self, names: Iterable[str]):
    """Drops the groups of these names; call it once they are learned from."""

  def catch_up(self, publish: Callable[[], None]):
    """Samples until the source may be saved, and publishes what is pending."""

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    """Returns what a checkpoint's record needs more, and arrays to save."""


class OnDemand:
  """Samples the prompts that are asked for, and no others."""

  def __init__(self, prompts: Prompts, rollouts: Rollouts, sampling: Sampling):
    self._prompts, self._rollouts = prompts, rollouts
    self._sampling = sampling

  def take(self, count: int) -> Taken:
    examples, names = self._prompts.take(count)
    groups = self._rollouts.sample(self._sampling, examples, names)
    return Taken(examples, names, groups)

  def forget(self, names: Iterable[str]):
    self._rollouts.forget(names)

  def catch_up(self, publish: Callable[[], None]):
    pass

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    return {}, {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ahead:
  """How far a stream may run ahead of the updates; see schedules.Pipelined."""

  max_staleness: int
  recompute: bool
  overlap: bool


@dataclasses.dataclass
class Streamed:
  """An example of the stream with its samples."""

  example: Example
  name: str
  group: SampleGroup


class Stream:
  """Samples prompts ahead of the updates that learn from them.

  The weights of version v have seen v updates; batch v is the one that update v
  learns from, and the first one is batch 0. While version v is published, no
  group may enter behind the groups of batch v + max_staleness. So a token is
  learned from after at most `max_staleness` updates since the weights that
  sampled it.

  Between two calls of `take`, no sample is in the sampler, unless caches are
  kept: each returns with its tokens, whose keys and values are computed anew.
  """

  def __init__(
    self,
    prompts: Prompts,
    rollouts: Rollouts,
    sampling: Sampling,
    ahead: Ahead,
    *,
    batch: int,
    record: Mapping[str, Any],
    arrays: Arrays,
  ):
    """Continues from the record and the arrays of an earlier run, if any.

    batch: the number of groups that an update learns from.
    """
    self._prompts, self._rollouts = prompts, rollouts
    self._sampling, self._ahead, self._batch = sampling, ahead, batch
    self._sampler = rollouts.sampler
    saved = record.get('stream', {'taken': 0, 'groups': []})
    # All groups that no update has learned from; the first were handed out.
    self._waiting = collections.deque(
      self._restored(saved['groups'], arrays) if saved['groups'] else ()
    )
    self._handed: dict[str, Streamed] = {}
    self._outside = list(self._waiting)  # To enter the sampler (again).
    # Groups handed out in the whole run, and before the published weights.
    self._taken = self._before_version = saved['taken']
    self._version = self._sampler.version
    self._has_ended = False

  def take(self, count: int) -> Taken:
    """Returns the oldest groups; samples until all of them are done."""
    with self._rollouts.timers('rollout'):
      self._sample(count, publish=lambda: None)
      self._leave()
    some = [
      self._waiting.popleft() for _ in range(min(count, len(self._waiting)))
    ]
    self._taken += len(some)
    self._handed |= {each.name: each for each in some}
    return Taken(
      [each.example for each in some],
      [each.name for each in some],
      [each.group.samples for each in some],
    )

  def forget(self, names: Iterable[str]):
    for name in names:
      self._handed.pop(name, None)
    self._rollouts.forget(names)

  def catch_up(self, publish: Callable[[], None]):
    """Samples the next batch under the old weights, then publishes the new.

    Meanwhile the devices of the learner may compute the new weights. If no more
    groups may enter under the old ones, the new ones are published at once.
    """
    # Groups that were handed out, but not learned from, are the next batch.
    if not self._ahead.overlap or self._handed:
      return
    with self._rollouts.timers('rollout'):
      self._sample(self._batch, publish)
      publish()
      self._leave()

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    groups = [*self._handed.values(), *self._waiting]
    described, arrays = group_state.pack(
      (each.example, each.name, each.group) for each in groups
    )
    taken = self._taken - len(self._handed)
    return {
      **self._prompts.resume(),
      'stream': {
        'taken': taken,
        'groups': described,
        'draws': self._prompts.curriculum.draws,
      },
    }, arrays

  def _restored(self, described, arrays: Arrays) -> Iterable[Streamed]:
    for example, name, pieces in group_state.unpack(described, arrays):
      each = self._streamed(example, name)
      for number, piece in enumerate(pieces):
        if piece is not None:
          each.group.samples[number].add(piece)
      yield each

  def _streamed(self, example: Example, name: str) -> Streamed:
    sampling, tokenizer = self._sampling, self._rollouts.tokenizer
    request = sampling.request(example, name, tokenizer, self._rollouts.seed)
    group = SampleGroup(request, tokenizer, sampling.stop)
    return Streamed(example, name, group)

  def _sample(self, count: int, publish: Callable[[], None]):
    """Samples until the oldest `count` groups are done."""
    limit = self._limit()
    while not self._are_done(count):
      self._admit(limit)
      if self._is_starving() and not self._has_ended:
        publish()
        if self._version != self._sampler.version:
          self._leave()
        # Nothing is pending now: the weights of this batch are published. It
        # may need more groups than others, to replace flat ones.
        limit = max(self._limit(), self._taken + count)
        self._admit(limit)
      self._sampler.step()

  def _limit(self) -> int:
    """The number of groups that may have entered under these weights."""
    if self._version != self._sampler.version:
      self._version = self._sampler.version
      self._before_version = self._taken
    return self._before_version + (self._ahead.max_staleness + 1) * self._batch

  def _are_done(self, count: int) -> bool:
    oldest = list(itertools.islice(self._waiting, count))
    is_enough = len(oldest) == count or self._has_ended
    return is_enough and all(each.group.is_done for each in oldest)

  def _admit(self, limit: int):
    """Enters groups while fewer samples wait than there are slots."""
    sampler = self._sampler
    # Those that have left come back first, and all at once.
    for each in self._outside:
      if not each.group.is_done:
        each.group.enter(sampler)
    self._outside = []
    while (
      not self._has_ended
      and self._taken + len(self._waiting) < limit
      and sampler.engine.waiting < sampler.plan.slots
    ):
      examples, names = self._prompts.take(1)
      self._has_ended = not examples
      for example, name in zip(examples, names, strict=True):
        each = self._streamed(example, name)
        self._waiting.append(each)
        each.group.enter(sampler)

  def _is_starving(self) -> bool:
    engine = self._sampler.engine
    return not engine.waiting and engine.running < self._sampler.plan.slots

  def _leave(self):
    """Takes all samples out of the sampler, unless caches are kept."""
    if self._ahead.recompute and not self._outside:
      for each in self._waiting:
        each.group.leave()
      self._outside = list(self._waiting)
