"""Learners and samplers that die, hang and come back: each group is learned
from once, and no token is too old.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import time

import pytest

from rlpt_jax.training.checkpoints import Store
from tests import jobs
from tests.programs import learning_task

# More where there is time: RLPT_KILLS=20 pytest -n0 -s -k killed.
ROUNDS = int(os.environ.get('RLPT_KILLS', 1))
PATIENCE_S = 120.0


class Troupe:
  """A learner and three samplers; `kill` also starts the next of its kind."""

  def __init__(self, workdir, folder, changes):
    self.workdir, self._task = workdir, (str(folder), changes)
    self.learner = jobs.start('learner', workdir, *self._task)
    # The last is slow: each of its chunks takes so many seconds longer.
    self.slow_s = [0.0, 0.0, 0.2]
    self.samplers = [self._sampler(i) for i in range(3)]

  def _sampler(self, i):
    return jobs.start('sampler', self.workdir, *self._task, self.slow_s[i])

  def kill(self, i: int | None, number=signal.SIGKILL):
    """i: the number of a sampler; None: the learner."""
    process = self.learner if i is None else self.samplers[i]
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    if i is None:
      self.learner = jobs.start('learner', self.workdir, *self._task)
    else:
      self.samplers[i] = self._sampler(i)
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
  def begin(**changes):
    found.append(Troupe(tmp_path / 'run', folder, changes))
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
def test_whoever_is_killed_each_group_is_learned_from_once(troupe):
  steps = 6 + 8 * ROUNDS
  run, rng = troupe(num_steps=steps, held_out=None), random.Random(ROUNDS)
  kills = []

  def later():
    time.sleep(rng.uniform(0, 0.5))

  for first in range(1, 8 * ROUNDS, 8):
    run.wait(first)
    hung = rng.randrange(2)
    later()
    os.kill(run.samplers[hung].pid, signal.SIGSTOP)
    run.wait(first + 1)
    kills.append((run.steps(), 'sampler', run.kill(1 - hung)))
    run.wait(first + 3)
    later()
    kills.append((run.steps(), 'learner', run.kill(None)))
    # It has groups of a learner that is gone, and learns of the next.
    os.kill(run.samplers[hung].pid, signal.SIGCONT)
    run.wait(first + 5)
    later()
    kills.append((run.steps(), 'slow sampler', run.kill(2)))
    run.wait(first + 6)
    later()
    kills.append((run.steps(), 'learner', run.kill(None)))
  assert run.end() == [0, 0, 0, 0]
  assert {status for *_, status in kills} == {-signal.SIGKILL}
  staleness = check_learned(run.workdir, steps)
  assert max(staleness) > 0
  print(f'\nkilled (learned steps, who, status): {kills}')
  counts = {k: staleness.count(k) for k in sorted(set(staleness))}
  print(f'{steps} steps; tokens by staleness: {counts}')
