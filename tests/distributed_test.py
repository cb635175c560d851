"""Two processes of four devices each are one mesh of eight, and one device."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.programs.train_sft import train_sft
from rlpt_jax.training.checkpoints import Store
from rlpt_jax.training.preemption import EXIT_PREEMPTED
from tests import distributed_worker
from tests.models import decoder_test
from tests.programs import learning_task

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """(folder with one of each task, what each process printed).

  Two processes do all tasks, one after the other, since to start costs as much
  as most of them. The last one waits for a signal.
  """
  # At a path that each of them goes around by a descriptor of its own.
  folder = tmp_path_factory.mktemp('tasks') / 'run[1]'
  folder.mkdir()
  for task in distributed_worker.TASKS:
    (folder / task.__name__).mkdir()
  learning_task.write(folder / 'learn')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  outs = [folder / f'out_{i}' for i in range(distributed_worker.PROCESSES)]
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.distributed_worker', str(process),
       str(port), str(folder)],
      cwd=ROOT, stdout=out.open('w'), stderr=subprocess.STDOUT,
      env=environment | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'},
    )
    for process, out in enumerate(outs)
  ]  # fmt: skip
  try:
    while not all('\nready\n' in out.read_text() for out in outs):
      for process, out in zip(processes, outs, strict=True):
        assert process.poll() is None, out.read_text()[-5000:]
      time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    found = [process.wait() for process in processes]
  finally:
    for process in processes:  # One that waits for another never ends.
      process.kill()
      process.wait()
  said = [out.read_text() for out in outs]
  assert found == [EXIT_PREEMPTED] * len(outs), said
  return folder, said


@pytest.mark.slow
def test_two_processes_are_one(done, one_device):
  folder, model = done[0] / 'loss_and_gradients', distributed_worker.MODEL
  decoder = decoder_test._decoder(model, one_device)
  params = decoder_test._params(model, one_device)
  (_, logprobs), gradients = decoder_test._loss_and_gradients(
    decoder_test._grouped, decoder, params, decoder_test._group_batch()
  )
  expected = {'logprobs': logprobs, 'gradients': gradients}
  found = weights.unnamed(dict(np.load(folder / 'found.npz')))
  decoder_test._assert_close(found, expected, 5e-6)

  # What two processes saved, one restores on a mesh of its own.
  layout = make_layout(data=8, fsdp=1)
  like = weights.map_named(
    lambda _, x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=layout.replicated()
    ),
    gradients,
  )
  with Store(folder / 'store', read_only=True) as store:
    restored = store.restore({'gradients': like})
  assert (restored.step, restored.record) == (3, {'position': 7})
  for a, b in zip(
    *map(jax.tree.leaves, (restored.trees['gradients'], found['gradients'])),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_damage_that_one_process_sees_is_damage_for_all(done):
  for said in done[1]:
    assert 'restored after damage\n' in said


@pytest.mark.slow
def test_two_processes_learn_what_one_device_does(done):
  folder = done[0] / 'learn'
  cold, warm = learning_task.two_steps(folder)
  train_sft(cold, workdir=folder / 'one' / 'sft')
  train_rl(warm, workdir=folder / 'one' / 'rl')
  for program in ('sft', 'rl'):
    assert_learned_the_same(folder, program, steps=2)


@pytest.mark.slow
def test_two_processes_sample_ahead_as_one_does(done):
  """And they resume, where the one is not interrupted."""
  folder = done[0] / 'learn'
  _, warm = learning_task.two_steps(folder)
  config = distributed_worker.ahead(warm)
  train_rl(config, workdir=folder / 'one' / 'ahead')
  lines = assert_learned_the_same(folder, 'ahead', steps=4)
  assert max(line['staleness/max'] for line in lines) > 0


def assert_learned_the_same(folder, program, steps):
  """Returns the metrics of the steps."""
  expected, found = (
    [
      json.loads(line)
      for line in (folder / name / program / 'metrics.jsonl').open()
    ]
    for name in ('one', 'two')
  )
  assert len(found) == len(expected) == steps
  for mine, other in zip(expected, found, strict=True):
    assert mine.keys() == other.keys()
    for name, value in mine.items():
      if not name.startswith(('sampler/', 'compute/')):
        np.testing.assert_allclose(
          other[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )
  if program != 'sft':
    rollouts = [
      (folder / name / program / 'rollouts' / f'{steps - 1:08}.jsonl.gz')
      for name in ('one', 'two')
    ]
    assert rollouts[0].read_bytes() == rollouts[1].read_bytes()
  return found


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_the_same_step(done):
  folder, said = done
  (step,) = {int(out.split('saved')[1]) for out in said}
  with Store(folder / 'leave_when_told', read_only=True) as store:
    assert store.steps() == [step]
    found = store.arrays('params', step=step)['x'].load()
  np.testing.assert_array_equal(found, np.full((8, 4), step + 1, np.float32))
