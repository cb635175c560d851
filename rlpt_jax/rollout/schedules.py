"""Schedules: the order of sampling experience and publishing new weights.

A schedule is (collect, publish, source) -> Iterator[Experience]. `collect()`
returns the next experience, None once the data has ended; `publish()` gives the
newest weights to the sampler; `source` is what `collect` takes its samples from
(stream.py).
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from rlpt_jax.core import checks, settings
from rlpt_jax.core.checks import Natural
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.jobs.sampler_jobs import FromJobs
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.stream import OnDemand, Source, Stream
from rlpt_jax.rollout.waiting import Waiting

CollectNext = Callable[[], Experience | None]


def synchronous(
  collect: CollectNext, publish: Callable[[], None], source: Source
) -> Iterator[Experience]:
  """Samples every batch with the weights of the last update (on-policy)."""
  del source  # It samples what is asked for.
  while True:
    publish()
    experience = collect()
    if experience is None:
      return
    yield experience


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ahead(abc.ABC):
  """A schedule that samples ahead of the updates; see its subclasses.

  max_staleness: the most updates between the weights that sample a token and
    the update that learns from it; 8 in ScaleRL (2510.13786, section 4).
  after_update: 'recompute' computes the keys and values of the tokens that
    running completions have already under the new weights. 'keep' goes on with
    those of the old weights, as in the paper. That saves time, but a run that
    resumes must recompute them, so it is a slightly different run.
  """

  max_staleness: Natural = 8
  after_update: Literal['recompute', 'keep'] = 'recompute'

  def __post_init__(self):
    checks.check_fields(self)

  @property
  def recompute(self) -> bool:
    return self.after_update == 'recompute'

  @abc.abstractmethod
  def source(self, waiting: Waiting, rollouts: Rollouts) -> Source:
    """Returns what samples the groups that wait to be learned from."""

  def __call__(
    self, collect: CollectNext, publish: Callable[[], None], source: Source
  ) -> Iterator[Experience]:
    return synchronous(collect, publish, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipelined(Ahead):
  """Samples ahead of the updates, so that all slots stay full (PipelineRL).

  A batch is the oldest groups of the stream of prompts; completions that are
  still running go on after the update, under its weights. With max_staleness=0,
  this is `synchronous`, to the last bit. With after_update='recompute', a run
  that is killed and resumes is equal to one that was never stopped.

  max_staleness, after_update: see Ahead.
  overlap: samples the next batch while an update is computed, and publishes the
    new weights when this batch is done. This costs up to one update of
    staleness. It saves time only if the sampler has devices of its own
    (Hardware.sampler_layout). A run that has ended, and is extended by a larger
    num_steps, is not bit for bit the longer run: at its end, it has published
    the last weights early.
  """

  overlap: bool = False

  def source(self, waiting: Waiting, rollouts: Rollouts) -> Source:
    return Stream(
      waiting, rollouts, recompute=self.recompute, overlap=self.overlap
    )

  def __call__(
    self, collect: CollectNext, publish: Callable[[], None], source: Source
  ) -> Iterator[Experience]:
    if self.overlap:  # It samples the next batch before it publishes.
      publish = functools.partial(source.catch_up, publish)
    return synchronous(collect, publish, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separate(Ahead):
  """Takes samples from other processes, which `rlpt sample` starts.

  They sample ahead as `Pipelined` does, and go on during an update. A process
  may die, hang or come at any time: each group is learned from once. Which
  weights sample a token depends on the speed of the processes, so no two runs
  are equal.

  max_staleness, after_update: see Ahead.
  """

  def source(self, waiting: Waiting, rollouts: Rollouts) -> Source:
    return FromJobs(waiting, rollouts)


def check(config: Any):
  """Raises if a run's schedule does not fit; config: that of train_rl."""
  if isinstance(config.schedule, Ahead) and not config.collector.streams:
    raise checks.setting_error(
      type(config), 'schedule', settings.describe(config.schedule),
      f'schedules.synchronous with {type(config.collector).__name__}, which '
      'asks for more prompts when it has seen the completions of others',
    )  # fmt: skip


def open_source(
  config: Any,
  prompts: Prompts,
  rollouts: Rollouts,
  record: Mapping[str, Any],
) -> Source:
  """Returns the source that a run's schedule needs.

  config: that of train_rl.
  record: what an earlier start has saved; empty if there was none.
  """
  if not isinstance(config.schedule, Ahead):
    return OnDemand(prompts, rollouts, config.sampling)
  waiting = Waiting(
    prompts, functools.partial(rollouts.group, config.sampling),
    batch=config.prompts, max_staleness=config.schedule.max_staleness,
    version=rollouts.version, record=record,
    arrays=record.get('stream', {}).get('arrays', {}),
  )  # fmt: skip
  return config.schedule.source(waiting, rollouts)
