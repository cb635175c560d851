"""Schedules: the order of sampling experience and publishing new weights.

A schedule is (collect, publish, source) -> Iterator[Experience]. `collect()`
returns the next experience, None once the data has ended; `publish()` gives the
newest weights to the sampler; `source` is what `collect` takes its samples from
(stream.py).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from rlpt_jax.core import checks, settings
from rlpt_jax.core.checks import Natural
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampler_jobs import FromJobs
from rlpt_jax.rollout.stream import Ahead, OnDemand, Source, Stream

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
class Pipelined:
  """Samples ahead of the updates, so that all slots stay full (PipelineRL).

  A batch is the oldest groups of the stream of prompts; completions that are
  still running go on after the update, under its weights. With max_staleness=0,
  this is `synchronous`, to the last bit.

  max_staleness: the most updates between the weights that sample a token and
    the update that learns from it; 8 in ScaleRL (2510.13786, section 4).
  after_update: 'recompute' computes the keys and values of the tokens that
    running completions have already under the new weights; a run that is killed
    and resumes is then equal to one that was never stopped. 'keep' goes on with
    those of the old weights, as in the paper. That saves time, but a run that
    resumes must recompute them, so it is a slightly different run.
  overlap: samples the next batch while an update is computed, and publishes the
    new weights when this batch is done. This costs up to one update of
    staleness. It saves time only if the sampler has devices of its own
    (Hardware.sampler_layout). A run that has ended, and is extended by a larger
    num_steps, is not bit for bit the longer run: at its end, it has published
    the last weights early.
  """

  max_staleness: Natural = 8
  after_update: Literal['recompute', 'keep'] = 'recompute'
  overlap: bool = False

  def __post_init__(self):
    checks.check_fields(self)

  @property
  def ahead(self) -> Ahead:
    return Ahead(
      max_staleness=self.max_staleness,
      recompute=self.after_update == 'recompute',
      overlap=self.overlap,
    )

  def __call__(
    self, collect: CollectNext, publish: Callable[[], None], source: Source
  ) -> Iterator[Experience]:
    if self.overlap:  # It samples the next batch before it publishes.
      publish = functools.partial(source.catch_up, publish)
    return synchronous(collect, publish, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separate:
  """Takes samples from other processes, which `rlpt sample` starts.

  They sample ahead as `Pipelined` does, and go on during an update. A process
  may die, hang or come at any time: each group is learned from once. Which
  weights sample a token depends on the speed of the processes, so no two runs
  are equal.

  max_staleness, after_update: see Pipelined.
  """

  max_staleness: Natural = 8
  after_update: Literal['recompute', 'keep'] = 'recompute'

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(
    self, collect: CollectNext, publish: Callable[[], None], source: Source
  ) -> Iterator[Experience]:
    return synchronous(collect, publish, source)


def check(config: Any):
  """Raises if a run's schedule does not fit; config: that of train_rl."""
  if isinstance(config.schedule, Pipelined | Separate) and (
    not config.collector.streams
  ):
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
  arrays = record.get('stream', {}).get('arrays', {})
  if isinstance(config.schedule, Separate):
    return FromJobs(
      prompts, rollouts, config.sampling, batch=config.prompts,
      max_staleness=config.schedule.max_staleness, record=record, arrays=arrays,
    )  # fmt: skip
  if not isinstance(config.schedule, Pipelined):
    return OnDemand(prompts, rollouts, config.sampling)
  return Stream(
    prompts, rollouts, config.sampling, config.schedule.ahead,
    batch=config.prompts, record=record, arrays=arrays,
  )  # fmt: skip
