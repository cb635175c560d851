"""The prompts of a run and their samples, in the order of the data.

A schedule decides which source a run has. `OnDemand` samples the prompts of a
step, and nothing else. A `Stream` samples ahead: prompts enter the sampler as
soon as it has room for them, and a step gets the oldest groups of the stream
once all of these are done. So short completions need not wait for the longest
one of their step. How far it runs ahead of the updates is bounded (waiting.py).
With `FromJobs` (sampler_jobs.py), other processes do this.

All decisions of the first two follow from counts, never from the clock. So two
runs are equal, and a run that resumes is equal to one that was never stopped.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.waiting import Arrays, Taken, Waiting


class Source(Protocol):
  """Where a run's examples and their samples come from."""

  def take(self, count: int) -> Taken:
    """Returns the next groups; fewer if the data ends."""

  def forget(self, names: Iterable[str]):
    """Drops the groups of these names; call it once they are learned from."""

  def catch_up(self, publish: Callable[[], None]):
    """Samples until the source may be saved, and publishes what is pending."""

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    """Returns additions to a checkpoint's record, and arrays to save."""

  def stop_waiting(self):
    """Lets a call that waits raise, because the run is preempted."""


class OnDemand:
  """Samples the prompts that are asked for, and no others."""

  def __init__(self, prompts: Prompts, rollouts: Rollouts, sampling: Sampling):
    self._prompts, self._rollouts = prompts, rollouts
    self._sampling = sampling

  def take(self, count: int) -> Taken:
    examples, names = self._prompts.take(count)
    groups = self._rollouts.sample(
      self._sampling, examples, names, are_judged=True
    )
    return Taken(examples, names, groups)

  def forget(self, names: Iterable[str]):
    self._rollouts.forget(names)

  def catch_up(self, publish: Callable[[], None]):
    pass

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    return {}, {}

  def stop_waiting(self):
    self._rollouts.stop_waiting()


class Stream:
  """Samples prompts ahead of the updates that learn from them.

  Between two calls of `take`, no sample is in the sampler, unless caches are
  kept: each returns with its tokens, whose keys and values are computed anew.
  """

  def __init__(
    self,
    waiting: Waiting,
    rollouts: Rollouts,
    *,
    recompute: bool,
    overlap: bool,
  ):
    """recompute, overlap: see schedules.Pipelined."""
    self._rollouts, self._sampler = rollouts, rollouts.sampler
    self._waiting, self._recompute, self._overlap = waiting, recompute, overlap
    self._outside = list(self._waiting.groups)  # To enter the sampler (again).
    # The version whose keys and values the samples in the sampler have.
    self._version = self._sampler.version

  def take(self, count: int) -> Taken:
    """Returns the oldest groups; samples until all of them are done."""
    with self._rollouts.timers('rollout'):
      self._sample(count, publish=lambda: None)
      self._leave()
    return self._waiting.hand_out(count)

  def forget(self, names: Iterable[str]):
    self._waiting.forget(names)
    self._rollouts.forget(names)

  def catch_up(self, publish: Callable[[], None]):
    """Samples the next batch under the old weights, then publishes the new.

    Meanwhile the devices of the learner may compute the new weights. If no more
    groups may enter under the old ones, the new ones are published at once.
    """
    # Groups that were handed out, but not learned from, are the next batch.
    if not self._overlap or self._waiting.handed:
      return
    with self._rollouts.timers('rollout'):
      self._sample(self._waiting.batch, publish)
      publish()
      self._leave()

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    return self._waiting.resume()

  def stop_waiting(self):
    self._rollouts.stop_waiting()

  def _sample(self, count: int, publish: Callable[[], None]):
    """Samples until the oldest `count` groups are done."""
    waiting = self._waiting
    limit = self._limit()
    while not waiting.are_done(count):
      self._admit(limit)
      if self._is_starving() and not waiting.has_ended:
        publish()
        if self._version != self._sampler.version:
          self._leave()
        # Nothing is pending now: the weights of this batch are published. It
        # may need more groups than others, to replace flat ones.
        limit = max(self._limit(), waiting.taken + count)
        self._admit(limit)
      self._sampler.step()
      self._judge_finished()

  def _judge_finished(self):
    for each in self._waiting.groups:
      if each.group.is_done:
        self._rollouts.judge_soon(each.example, each.name, each.group.samples)

  def _limit(self) -> int:
    self._version = self._sampler.version
    return self._waiting.limit(self._version)

  def _admit(self, limit: int):
    """Enters groups while fewer samples wait than there are slots."""
    sampler = self._sampler
    # Groups that were taken out re-enter first, all at once.
    for each in self._outside:
      if not each.group.is_done:
        each.group.enter(sampler)
    self._outside = []
    while sampler.engine.waiting < sampler.plan.slots and (
      entering := self._waiting.admit(limit)
    ):
      entering.group.enter(sampler)

  def _is_starving(self) -> bool:
    engine = self._sampler.engine
    return not engine.waiting and engine.running < self._sampler.plan.slots

  def _leave(self):
    """Takes all samples out of the sampler, unless caches are kept."""
    if self._recompute and not self._outside:
      for each in self._waiting.groups:
        each.group.leave()
      self._outside = list(self._waiting.groups)
