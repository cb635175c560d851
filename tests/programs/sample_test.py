"""Learners and samplers that die, hang and come back: each group is learned
from once, and no token is too old.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import re
import signal
import socket
import time

import pytest

from rlpt_jax.cli import read_run
from rlpt_jax.inference import model_files
from rlpt_jax.planning.run import Given
from rlpt_jax.programs.sample import sample
from rlpt_jax.programs.train_rl import MAY_CHANGE, train_rl
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.jobs import starts
from rlpt_jax.rollout.jobs.learner_link import LearnerGone
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.schedules import Separate
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.training.checkpoints import Store
from rlpt_jax.training.preemption import EXIT_PREEMPTED
from tests import jobs
from tests.programs import learning_task

# More where there is time: RLPT_KILLS=20 pytest -n0 -s -k killed.
ROUNDS = int(os.environ.get('RLPT_KILLS', 1))
PATIENCE_S = 120.0
ROOT = pathlib.Path(__file__).parents[2]


# Seconds that each chunk of a sampler takes longer.
SLOW_S = (0.0, 0.0, 0.2)


class Troupe:
  """A learner and samplers."""

  def __init__(self, workdir, folder, changes, samplers):
    self.workdir, self._task = workdir, (str(folder), changes)
    self.learner = jobs.start('learner', workdir, *self._task)
    self.samplers = [self.sampler(i) for i in range(samplers)]

  def sampler(self, i):
    return jobs.start('sampler', self.workdir, *self._task, SLOW_S[i])

  def end_one(self, i: int | None, number):
    """Ends a process by a signal, and starts the next; returns its status.

    i: the number of a sampler; None: the learner.
    """
    process = self.learner if i is None else self.samplers[i]
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    if i is None:
      self.learner = jobs.start('learner', self.workdir, *self._task)
    else:
      self.samplers[i] = self.sampler(i)
    return process.exitcode

  def steps(self):
    return len([*(self.workdir / jobs.LEARNED).glob('*.json')])

  def wait(self, steps):
    end = time.monotonic() + PATIENCE_S
    while self.steps() < steps:
      assert time.monotonic() < end and self.learner.is_alive(), self.steps()
      time.sleep(0.02)

  def end(self):
    """The statuses of all, which end by themselves."""
    everyone = [self.learner, *self.samplers]
    for process in everyone:
      process.join(PATIENCE_S)
    return [process.exitcode for process in everyone]

  def close(self):
    for process in (self.learner, *self.samplers):
      with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
      process.join()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return learning_task.write(tmp_path_factory.mktemp('task'))


@pytest.fixture
def troupe(folder, tmp_path):
  def begin(samplers=3, **changes):
    found.append(Troupe(tmp_path / 'run', folder, changes, samplers))
    return found[-1]

  found = []
  yield begin
  for each in found:
    each.close()
  for path in tmp_path.glob('*.txt'):  # Shown if the test fails.
    print(f'{path.name}:\n{path.read_text()}')


def check_learned(workdir, steps):
  """Returns the staleness of all tokens."""
  learned = jobs.learned(workdir)
  assert len(learned) == steps
  names = [name for names, _ in learned for name in names]
  ordinals = [int(name.split('/')[0]) for name in names]
  assert ordinals == list(range(len(names)))
  staleness = [
    step - version
    for step, (_, groups) in enumerate(learned)
    for group in groups
    for version in itertools.chain.from_iterable(group)
  ]
  assert 0 <= min(staleness) <= max(staleness) <= jobs.MAX_STALENESS
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [*range(steps)]
  with Store(workdir / 'checkpoints', read_only=True) as store:
    step, record = store.record()
  assert (step, record['stream']['taken']) == (steps, len(names))
  return staleness


@pytest.mark.slow
def test_whoever_is_killed_each_group_is_learned_from_once(troupe, folder):
  steps = 6 + 10 * ROUNDS
  # Few examples could all be solved before the end.
  data = learning_task.questions(folder, 'train')
  changes = {'num_steps': steps, 'held_out': None, 'data': data}
  run, rng = troupe(**changes), random.Random(ROUNDS)
  ends = []

  def end(who, i, number):
    time.sleep(rng.uniform(0, 0.5))
    ends.append((run.steps(), who, run.end_one(i, number)))

  for first in range(1, 10 * ROUNDS, 10):
    run.wait(first)
    hung = jobs.hang_a_sampler(run.workdir)
    other = next(i for i in range(2) if run.samplers[i].pid != hung)
    end('sampler', other, signal.SIGKILL)
    # More than may be sampled ahead: others had to get what it has.
    run.wait(run.steps() + jobs.MAX_STALENESS + 2)
    end('learner', None, signal.SIGKILL)
    # It has groups of a learner that is gone, and learns of the next.
    os.kill(hung, signal.SIGCONT)
    run.wait(first + 7)
    end('slow sampler', 2, signal.SIGTERM)
    run.wait(first + 8)
    end('learner', None, signal.SIGTERM)
  assert run.end() == [0, 0, 0, 0]
  statuses = [-signal.SIGKILL, -signal.SIGKILL, *[EXIT_PREEMPTED] * 2]
  assert [status for *_, status in ends] == statuses * ROUNDS
  staleness = check_learned(run.workdir, steps)
  assert max(staleness) > 0
  print(f'\nended (learned steps, who, status): {ends}')
  counts = {k: staleness.count(k) for k in sorted(set(staleness))}
  print(f'{steps} steps; tokens by staleness: {counts}')


@pytest.mark.slow
def test_without_staleness_it_is_synchronous_to_the_last_bit(
  troupe, folder, tmp_path
):
  """Weights and samples are the same, by whichever way they went."""
  changes = {'num_steps': 4, 'schedule': Separate(max_staleness=0)}
  run = troupe(samplers=2, **changes)
  config = jobs.config(folder, **changes | {'schedule': schedules.synchronous})
  train_rl(config, workdir=tmp_path / 'synchronous')
  assert run.end() == [0, 0, 0]
  found, expected = (
    (tmp_path / name / 'metrics.jsonl').read_text()
    for name in ('run', 'synchronous')
  )
  assert found == expected and 'held_out/reward' in found


@pytest.mark.slow
def test_samplers_hear_that_the_run_is_over_once_it_is_saved(
  folder, tmp_path, monkeypatch
):
  """Or they were gone when a learner that is killed then has to go on."""
  check_written, saved = Store._check_written, []

  def slowly(self):
    time.sleep(0.5)
    check_written(self)

  def leave(self, *_):
    saved.append((tmp_path / 'checkpoints' / '1').is_dir())
    self.close()

  monkeypatch.setattr(Store, '_check_written', slowly)
  monkeypatch.setattr(Sampler, '__exit__', leave)
  changes = {'num_steps': 1, 'held_out': None}
  config = jobs.config(folder, schedule=schedules.synchronous, **changes)
  train_rl(config, workdir=tmp_path)
  assert saved == [True]


@pytest.mark.slow
def test_a_learner_of_two_processes_takes_groups_for_both(folder, tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  changes = {'num_steps': 4, 'held_out': None}
  task = tmp_path / 'run', str(folder), changes
  everyone = [
    jobs.start('learner', *task, (0, port)),
    jobs.start('learner', *task, (1, port)),
    jobs.start('sampler', *task, 0.0),
  ]
  try:
    for process in everyone:
      process.join(PATIENCE_S)
    assert [process.exitcode for process in everyone] == [0, 0, 0]
  finally:
    for process in everyone:
      process.kill()
    for path in tmp_path.glob('*.txt'):  # Shown if the test fails.
      print(f'{path.name}:\n{path.read_text()}')
  check_learned(tmp_path / 'run', 4)


def given(folder, **changes):
  return Given(jobs.config(folder, **changes), {})


def test_a_sampler_whose_run_is_none_of_its_kind_is_refused(folder, tmp_path):
  with pytest.raises(ValueError, match=r'schedule=.*synchronous.*Separate'):
    sample(
      given(folder, schedule=schedules.synchronous), workdir=tmp_path / 'run'
    )


def test_a_sampler_whose_folder_is_a_store_is_refused(folder):
  with pytest.raises(
    ValueError, match='s3:/b/run: expected a folder on a disk'
  ):
    sample(given(folder), workdir=pathlib.Path('s3://b/run'))


def test_a_sampler_waits_for_a_learner_only_so_long(folder, tmp_path):
  impatient = learning_task.hardware(contact=Contact(patience_s=0.2))
  with pytest.raises(LearnerGone, match='no learner has answered for'):
    sample(given(folder, hardware=impatient), workdir=tmp_path)


def test_a_sampler_with_other_settings_is_refused(folder, tmp_path):
  run = jobs.config(folder)
  with runs.claimed(
    tmp_path, runs.with_tokenizer(run, model_files.find(run.model)), MAY_CHANGE
  ):
    start = starts.following(None, host='localhost', version=0)
    starts.write(tmp_path, start)
  message = 'its learner has other settings: seed was 0, now 1. Start the'
  with pytest.raises(ValueError, match=message):
    sample(given(folder, seed=1), workdir=tmp_path)


def test_a_sampler_that_comes_after_the_end_ends(folder, tmp_path, capsys):
  start = starts.following(None, host='localhost', version=0)
  starts.write(tmp_path, dataclasses.replace(start, over=16))
  sample(given(folder), workdir=tmp_path)
  assert 'the run is over: sampled 0 groups' in capsys.readouterr().out


def test_a_gin_file_may_say_all_of_it(tmp_path, monkeypatch):
  """The file of launch/README.md, with a contact."""
  monkeypatch.chdir(ROOT)
  readme = (ROOT / 'launch' / 'README.md').read_text()
  (text,) = re.findall(r'\$ cat separate.gin\n(.*?)\$ ', readme, re.DOTALL)
  (tmp_path / 'separate.gin').write_text(text)
  (contact,) = re.findall(r'`(train_rl.Hardware.contact = .*?)`', readme)
  config, _ = read_run(
    tmp_path / 'separate.gin', (contact, 'starts.Contact.port = 7000')
  )
  assert config.schedule == Separate()
  assert config.hardware.contact == Contact(port=7000)
