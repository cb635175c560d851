"""Samples for a run of train_rl that learns in another process."""

import contextlib
import logging
import os
import pathlib
import secrets
import signal
import socket
import sys
import time
from typing import Any

import jax

from rlpt_jax.completions import progress
from rlpt_jax.core import checks, settings
from rlpt_jax.data.config import load_tokenizer
from rlpt_jax.inference import model_files
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning.run import Given
from rlpt_jax.rollout import samplers
from rlpt_jax.rollout.jobs import weights_folder
from rlpt_jax.rollout.jobs.learner_link import Link
from rlpt_jax.rollout.jobs.sampler_work import Work
from rlpt_jax.rollout.jobs.starts import Start
from rlpt_jax.rollout.schedules import Separate
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.training.preemption import EXIT_PREEMPTED, preemption

PAUSE_S = 0.1  # Between two calls to the learner.

logger = logging.getLogger(__name__)


def sample(run: Given, *, workdir: pathlib.Path):
  """Samples for a run of train_rl that learns in another process.

  The run's schedule is schedules.Separate. Start as many samplers as there are
  machines for, before the learner or after it, with its settings and its
  workdir, which all of them must see; only train_rl.Hardware may differ. A
  sampler may be stopped, or die, at any time: others get its groups. It ends
  with the run.

  Args:
    workdir: The run's folder.
  """
  config = run.config
  check(config)
  runs.check_on_disk(workdir)
  files = model_files.find(config.model)
  config = runs.with_tokenizer(config, files)
  tokenizer = load_tokenizer(config.data.tokenizer)
  layout = config.hardware.sampler_layout.layout()
  decoder = Decoder(files.config, config.compute, layout)
  name = f'{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}'

  def open_sampler(params, version: int):
    progress.waiting('compiling: the first chunk takes the longest')
    return samplers.open_own_sampler(config, files, params, tokenizer, version)

  with contextlib.ExitStack() as stack:
    opened = stack.enter_context
    stopped = opened(preemption())
    link = opened(
      contextlib.closing(Link(workdir, name, config.hardware.contact))
    )
    work = opened(
      contextlib.closing(
        Work(
          open_sampler, tokenizer, config.sampling, seed=config.seed,
          recompute=config.schedule.recompute,
        )
      )
    )  # fmt: skip
    progress.waiting(f'waiting for the learner of {workdir}')
    called = count = 0
    while not stopped.signals:
      if time.monotonic() > called + PAUSE_S:
        called = time.monotonic()
        if not link.is_open and link.open():
          runs.check_recorded(workdir, config)
          work.follow(link.start)
        if link.is_over(config.num_steps):
          print(f'the run is over: sampled {count:,} groups')
          return
        if link.is_open:
          count += bring_results(link, work)
        if link.is_open and (told := link.sync(work)):
          if told.version != work.version:
            load_newest(work, workdir, link.start, decoder)
          work.drop(told.lost)
          work.add(told.tasks)
      if not work.step():
        time.sleep(PAUSE_S)
    if stopped.signals[0] == signal.SIGINT:
      raise KeyboardInterrupt('other samplers get its groups')
    print('stopped: other samplers get its groups', file=sys.stderr)
    raise SystemExit(EXIT_PREEMPTED)


def check(config: Any):
  """Raises if no process but the learner may sample for the run."""
  schedule = getattr(config, 'schedule', None)
  if not isinstance(schedule, Separate):
    raise checks.setting_error(
      type(config), 'schedule', settings.describe(schedule),
      'schedules.Separate(); with other schedules, train_rl samples itself',
    )  # fmt: skip
  if jax.process_count() > 1:
    raise ValueError(
      f'{jax.process_count()} processes: expected one for a sampler. Start '
      'several samplers, without --distributed.'
    )


def bring_results(link: Link, work: Work) -> int:
  """Sends finished groups; returns the number that the learner has taken."""
  count = 0
  for name, data in work.finished():
    answer = link.give(data)
    if answer is None:  # The learner is gone: try again later.
      break
    if 'error' in answer:
      logger.warning('the learner refuses a group: %s', answer['error'])
    count += answer.get('is_accepted', False)
    work.drop([name])
  return count


def load_newest(work: Work, workdir: pathlib.Path, start: Start, decoder):
  """Loads the newest weights that are complete, if they are new."""
  version = weights_folder.newest(workdir, start.number)
  if version is None or version == work.version:
    return
  params = weights_folder.load(workdir, start.number, version, decoder)
  if params is not None:
    work.publish(params, version)
