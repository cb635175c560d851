"""The learner's side of samplers that are processes of their own.

`SamplerJobs` takes the place of a sampler: it publishes weights in the run's
folder, and hands out groups at a desk. `FromJobs` is the source of a run's
groups (stream.py).
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from rlpt_jax.core.layout import Layout
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.models.config import Decoder
from rlpt_jax.rollout.jobs import starts
from rlpt_jax.rollout.jobs.desk import Desk, Result
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.jobs.weights_folder import Publisher
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.waiting import (
  Arrays,
  Streamed,
  Taken,
  Waiting,
  add_sampled,
)
from rlpt_jax.sampling.sampler import Sample, Sampler


class SamplerJobs:
  """All samplers of a run, behind the interface of one.

  version: the number of updates that the newest weights have seen.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    decoder: Decoder,
    params,
    *,
    contact: Contact,
    samples: int,
    num_steps: int,
    version: int,
    own: Sampler | None,
  ):
    """Publishes the first weights; samplers may come once `announce` is called.

    samples: the number of samples of a group.
    num_steps: the number of updates that the run is to make.
    own: the learner's own sampler, for held-out examples.
    """
    self.version, self._own, self._workdir = version, own, workdir
    self._num_steps = num_steps
    self._start = self._desk = None
    earlier = on_one_host(starts.read)(workdir)
    number = len(earlier.versions) if earlier else 0
    self._weights = Publisher(workdir, number, decoder)
    self._weights.publish(params, version)
    host = contact.host or on_one_host(starts.own_name)()
    if jax.process_index() == 0:
      start = starts.following(earlier, host=host, version=version)
      self._desk = Desk(contact, start.secret, samples=samples, version=version)
      self._start = dataclasses.replace(start, port=self._desk.port)

  def announce(self):
    """Tells samplers where the learner is.

    Groups of an earlier start must be offered by then: what is not, samplers
    that have it drop.
    """
    if self._desk:
      starts.write(self._workdir, self._start)
      where = f'{self._start.host}:{self._start.port}'
      print(f'samplers reach this learner at {where}')

  def publish(self, params):
    """Gives new weights to all samplers; they go on with them on their own."""
    self.version += 1
    if self._desk:
      self._desk.version = self.version
    self._weights.publish(params, self.version)
    if self._own:
      self._own.publish(params)

  def is_apart_from(self, layout: Layout) -> bool:
    """Returns True: samplers have other machines than the learner."""
    return True

  def complete(self, *arguments, **options) -> Iterator[list[Sample]]:
    """Samples held-out examples with the learner's own sampler."""
    return self._own.complete(*arguments, **options)

  def offer(self, each: Streamed):
    """Lets a sampler have a group."""
    if self._desk:
      self._desk.offer(each.name, each.example, each.oldest)

  def collect(self, names: Iterable[str]) -> dict[str, Result]:
    """Waits for these groups; returns all results since the last call."""
    return on_one_host(lambda: self._desk.collect([*names]))()

  def stop_waiting(self):
    if self._desk:
      self._desk.stop_waiting()

  def take_slots_in_use(self) -> float:
    return self._desk.take_slots_in_use() if self._desk else 0.0

  def __enter__(self) -> 'SamplerJobs':
    return self

  def __exit__(self, kind, *_):
    is_over = kind is None  # Not just interrupted.
    # Even if the disk is full: the desk's thread would keep the process alive.
    with contextlib.ExitStack() as closing:
      if self._own:
        closing.callback(self._own.close)
      closing.callback(self._weights.close, remove=is_over)
      if self._desk:
        closing.callback(self._desk.close)
      if self._desk and is_over:
        over = dataclasses.replace(self._start, over=self._num_steps)
        starts.write(self._workdir, over)


class FromJobs:
  """Groups that samplers of other processes have sampled ahead.

  The order of the groups is that of the data. Which weights sample which token
  depends on the clock, so no two runs are equal; but each group is learned from
  once, whichever process is killed when.
  """

  def __init__(self, waiting: Waiting, rollouts: Rollouts):
    """Offers what may be sampled; then samplers may come."""
    self._waiting, self._rollouts = waiting, rollouts
    self._jobs: SamplerJobs = rollouts.sampler
    self._open: dict[str, Streamed] = {}
    for each in self._waiting.groups:
      if not each.group.is_done:
        self._offer(each)
    self._admit(self._waiting.limit(self._jobs.version))
    self._jobs.announce()

  def take(self, count: int) -> Taken:
    """Returns the oldest groups, once all of them are done."""
    waiting = self._waiting
    with self._rollouts.timers('rollout'):
      # A batch may need more groups than others, to replace flat ones.
      self._admit(max(waiting.limit(self._jobs.version), waiting.taken + count))
      self._collect(each.name for each in waiting.oldest(count))
    return waiting.hand_out(count)

  def forget(self, names: Iterable[str]):
    self._waiting.forget(names)
    self._rollouts.forget(names)

  def catch_up(self, publish: Callable[[], None]):
    """Does nothing: the groups that samplers have go on after a restart."""

  def resume(self) -> tuple[dict[str, Any], Arrays]:
    self._collect(())
    return self._waiting.resume()

  def stop_waiting(self):
    self._rollouts.stop_waiting()
    self._jobs.stop_waiting()

  def _admit(self, limit: int):
    while entering := self._waiting.admit(limit):
      self._offer(entering)

  def _offer(self, each: Streamed):
    self._open[each.name] = each
    self._jobs.offer(each)

  def _collect(self, names: Iterable[str]):
    for name, samples in self._jobs.collect(names).items():
      each = self._open.pop(name)
      add_sampled(each.group, samples)
      self._rollouts.judge_soon(each.example, name, each.group.samples)
