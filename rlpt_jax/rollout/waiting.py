"""The groups of a run that no update has learned from, and who may enter.

How far sampling may run ahead of the updates is bounded by admission: a group
may enter only if all groups before it could still be learned from in time. No
group is ever discarded for its age, and none waits longer because its
completions are long.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Completion, in_pieces
from rlpt_jax.sampling.sampler import Sample, SampleGroup

Arrays = Mapping[str, np.ndarray]


class Taken(NamedTuple):
  """Examples, their names, and their samples."""

  examples: Sequence[Example]
  names: Sequence[str]
  groups: Sequence[Sequence[Sample]]


@dataclasses.dataclass
class Streamed:
  """An example of the stream with its samples.

  oldest: the version of the weights that were published at its admission; older
    ones may not sample it.
  """

  example: Example
  name: str
  group: SampleGroup
  oldest: int


class Waiting:
  """Admits groups in the order of the data, and hands out the oldest.

  The weights of version v have seen v updates; batch v is the one that update v
  learns from, and the first one is batch 0. While version v is published, no
  group may enter behind the groups of batch v + max_staleness. So a token is
  learned from after at most `max_staleness` updates since the weights that
  sampled it.
  """

  def __init__(
    self,
    prompts: Prompts,
    make_group: Callable[[Example, str], SampleGroup],
    *,
    batch: int,
    max_staleness: int,
    version: int,
    record: Mapping[str, Any],
    arrays: Arrays,
  ):
    """Continues from the record and the arrays of an earlier run, if any.

    batch: the number of groups that an update learns from.
    """
    self._prompts, self._make_group = prompts, make_group
    self._max_staleness, self.batch = max_staleness, batch
    saved = record.get('stream', {'taken': 0, 'groups': []})
    # The first of all groups that no update has learned from were handed out.
    self.groups = collections.deque(
      self._restored(saved, arrays, version) if saved['groups'] else ()
    )
    self.handed: dict[str, Streamed] = {}
    # Groups handed out in the whole run, and before the published weights.
    self.taken = self._before_version = saved['taken']
    self._version = version
    self.has_ended = saved.get('has_ended', False)

  def limit(self, version: int) -> int:
    """The number of groups that may have entered under these weights."""
    if self._version != version:
      self._version, self._before_version = version, self.taken
    return self._before_version + (self._max_staleness + 1) * self.batch

  def admit(self, limit: int) -> Streamed | None:
    """Returns the next group of the data, which enters; None if none may."""
    if self.has_ended or self.taken + len(self.groups) >= limit:
      return None
    examples, names = self._prompts.take(1)
    if not examples:
      self.has_ended = True
      return None
    group = self._make_group(examples[0], names[0])
    self.groups.append(Streamed(examples[0], names[0], group, self._version))
    return self.groups[-1]

  def oldest(self, count: int) -> list[Streamed]:
    return list(itertools.islice(self.groups, count))

  def are_done(self, count: int) -> bool:
    """Returns True if the oldest `count` groups are, or all if data ended."""
    oldest = self.oldest(count)
    is_enough = len(oldest) == count or self.has_ended
    return is_enough and all(each.group.is_done for each in oldest)

  def hand_out(self, count: int) -> Taken:
    """Returns the oldest groups; fewer if there are no more.

    Raises if a token is older than the bound allows, which a `collect` may
    cause that takes fewer groups than a batch has.
    """
    some = [self.groups.popleft() for _ in self.oldest(count)]
    for each in some:
      self._check_age(each)
    self.taken += len(some)
    self.handed |= {each.name: each for each in some}
    return Taken(
      [each.example for each in some],
      [each.name for each in some],
      [each.group.samples for each in some],
    )

  def _check_age(self, each: Streamed):
    versions = [s.completion.versions for s in each.group.samples]
    staleness = self._version - min(int(v.min()) for v in versions)
    if staleness > self._max_staleness:
      raise ValueError(
        f'{each.name}: sampled {staleness} updates ago, more than '
        f'max_staleness={self._max_staleness}. Expected a Config.collect that '
        f'takes at least Config.prompts={self.batch} groups for each update.'
      )

  def forget(self, names: Iterable[str]):
    """Drops groups that were handed out, once they are learned from."""
    for name in names:
      self.handed.pop(name, None)

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    """Returns additions to a checkpoint's record, and arrays to save."""
    groups = [*self.handed.values(), *self.groups]
    described, arrays = group_state.pack(
      (each.example, each.name, each.group) for each in groups
    )
    return {
      **self._prompts.resume(),
      'stream': {
        'taken': self.taken - len(self.handed),
        'has_ended': self.has_ended,
        'groups': described,
        'oldest': [each.oldest for each in groups],
        'draws': self._prompts.curriculum.draws,
      },
    }, arrays

  def _restored(
    self, saved: Mapping[str, Any], arrays: Arrays, version: int
  ) -> Iterable[Streamed]:
    groups = group_state.unpack(saved['groups'], arrays)
    # Earlier versions of rlpt have not saved which weights are too old.
    oldest = saved.get('oldest', itertools.repeat(version))
    for (example, name, completions), its_oldest in zip(
      groups, oldest, strict=False
    ):
      group = self._make_group(example, name)
      add_sampled(group, completions)
      yield Streamed(example, name, group, its_oldest)


def add_sampled(group: SampleGroup, completions: Iterable[Completion | None]):
  """Adds what was sampled before a restart, or by another process.

  It is added in the pieces in which it was sampled: how a broken character
  becomes text may depend on the piece that it is in.
  """
  for sample, completion in zip(group.samples, completions, strict=True):
    if completion is not None:
      for piece in in_pieces(completion, Plan.chunk):
        sample.add(piece)
