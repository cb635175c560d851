"""A learner and samplers as real processes, which a test may kill or stop.

They are forked from a server that has imported everything once.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import traceback

import jax

from rlpt_jax.core import output_files
from rlpt_jax.core.layout import Axes
from rlpt_jax.planning.run import Given
from rlpt_jax.programs import sample as sample_lib
from rlpt_jax.programs import train_rl as train_rl_lib
from rlpt_jax.rollout import rollout_files
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Separate
from rlpt_jax.sampling.sampler import Sampler
from tests.programs import learning_task

LEARNED = 'learned'
MAX_STALENESS = 2
CONTACT = Contact(host='localhost', lease_s=3.0, patience_s=30.0)


def config(folder, **changes):
  """A run in which groups are replaced, and completions outlive a step."""
  options = {
    'reward': learning_task.by_length,
    'sampling': Sampling(samples=2, max_new_tokens=40),
    'schedule': Separate(max_staleness=MAX_STALENESS),
    'hardware': learning_task.hardware(slots=4, contact=CONTACT),
    'num_steps': 16,
  }
  return learning_task.short(folder, 'random:tiny_qwen3', **options | changes)


def start(role, workdir, *arguments):
  """Returns the running process of a learner or a sampler."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload([__name__])
  process = context.Process(target=_run, args=(role, str(workdir), *arguments))
  process.start()
  return process


def _run(role, workdir, *arguments):
  workdir = pathlib.Path(workdir)
  workdir.parent.mkdir(parents=True, exist_ok=True)
  printed = (workdir.parent / f'{role}.txt').open('a')
  os.dup2(printed.fileno(), 1)
  os.dup2(1, 2)
  sys.stdout = sys.stderr = os.fdopen(1, 'w', buffering=1)
  print('pid', os.getpid())
  try:
    {'learner': learner, 'sampler': sampler}[role](workdir, *arguments)
  except OSError as error:
    traceback.print_exc()
    raise SystemExit(getattr(error, 'exit_status', 2)) from None


def learner(workdir, folder, changes, process=None):
  """process: (its number, a port) of a learner of two processes."""
  if process:
    _join_other(*process)
    changes = changes | {
      'hardware': train_rl_lib.Hardware(
        layout=Axes(fsdp=2), contact=CONTACT, num_microbatches=2
      )
    }
  keep = rollout_files.keep

  def noted(workdir, step, kept, experience, rollouts):
    note(workdir, step, experience)
    keep(workdir, step, kept, experience, rollouts)

  rollout_files.keep = noted
  settings = config(pathlib.Path(folder), **changes)
  if jax.process_index() > 0:
    rollout_files.keep = keep
  train_rl_lib.train_rl(settings, workdir=workdir)


def _join_other(number, port):
  """Makes one mesh of two processes with a device each."""
  jax.config.update('jax_num_cpu_devices', 1)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(
    f'127.0.0.1:{port}', num_processes=2, process_id=number
  )


def note(workdir, step, experience):
  """Writes which groups a step learns from, and the versions of each token."""
  (role,) = experience.roles
  versions = [
    [sample.completion.versions.tolist() for sample in group]
    for group in role.judged.samples
  ]
  output_files.replace(
    workdir / LEARNED / f'{step}.json',
    [json.dumps([experience.names, versions]).encode()],
  )


def learned(workdir):
  """[(names, versions) of each step], as it was learned from last."""
  folder = workdir / LEARNED
  return [
    json.loads((folder / f'{step}.json').read_text())
    for step in range(len([*folder.glob('*.json')]))
  ]


def hang_a_sampler(workdir) -> int:
  """Lets a fast sampler hang that has unfinished groups; returns its pid."""
  asked, hung = workdir.parent / 'asked', workdir.parent / 'hung'
  hung.unlink(missing_ok=True)
  asked.touch()
  while not (hung.exists() and hung.read_text()):
    time.sleep(0.01)
  return int(hung.read_text())


def hang_if_asked(workdir):
  with contextlib.suppress(FileNotFoundError):
    hung = (workdir.parent / 'asked').rename(workdir.parent / 'hung')
    hung.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def sampler(workdir, folder, changes, slow_s):
  """slow_s: seconds that each chunk takes longer."""
  step = Sampler.step

  def watched(self):
    time.sleep(slow_s)
    step(self)
    if self.engine.running and not slow_s:
      hang_if_asked(workdir)

  Sampler.step = watched
  settings = config(pathlib.Path(folder), **changes)
  sample_lib.sample(Given(settings, {}), workdir=workdir)
