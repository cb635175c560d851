"""Two processes of four devices each are one mesh of eight, and one device."""

import json
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys

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
from tests.sampling import decode_test, engine_test

ROOT = pathlib.Path(__file__).parents[1]


def _start(task, folder):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.distributed_worker', task, str(process),
       str(port), str(folder)],
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=environment | {'PYTHONPATH': str(ROOT)},
    )
    for process in range(distributed_worker.PROCESSES)
  ]  # fmt: skip


def _finish(processes, status=0):
  results = [process.communicate(timeout=240) for process in processes]
  for process, (out, err) in zip(processes, results, strict=True):
    assert process.returncode == status, out + err[-3000:]
  return [out for out, _ in results]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, one_device):
  _finish(_start('loss_and_gradients', tmp_path))
  for model, sizes in distributed_worker.CASES:
    decoder = decoder_test._decoder(model, one_device)
    params = decoder_test._params(model, one_device)
    (_, logprobs), gradients = decoder_test._loss_and_gradients(
      decoder_test._grouped, decoder, params, decoder_test._group_batch()
    )
    expected = {'logprobs': logprobs, 'gradients': gradients}
    name = f'{model}_{"_".join(f"{k}{v}" for k, v in sizes.items())}'
    found = dict(np.load(tmp_path / f'{name}.npz'))
    found = weights.unnamed(found)
    decoder_test._assert_close(found, expected, 5e-6)

    # What two processes saved, one restores on a mesh of its own.
    layout = make_layout(data=8, fsdp=1)
    like = weights.map_named(
      lambda _, x, layout=layout: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=layout.replicated()
      ),
      gradients,
    )
    with Store(tmp_path / name, read_only=True) as store:
      restored = store.restore({'gradients': like})
    assert (restored.step, restored.record) == (3, {'position': 7})
    for a, b in zip(
      *map(jax.tree.leaves, (restored.trees['gradients'], found['gradients'])),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_processes_sample_what_one_device_does(tmp_path, one_device):
  _finish(_start('rollouts', tmp_path))
  for model, _ in distributed_worker.CASES:
    decoder, params = decode_test.tiny(one_device, model)
    expected = {
      'engine': engine_test.run(
        decoder, params, engine_test.mixed(), engine_test.SHARDED
      ),
      'static': decode_test.sample(
        decoder, params, decode_test.requests(samples=4)
      ),
    }
    for process in range(distributed_worker.PROCESSES):
      file = tmp_path / f'{model}_{process}.pickle'
      found = pickle.loads(file.read_bytes())
      for name, groups in expected.items():
        decode_test.assert_same(found[name], groups)


@pytest.mark.slow
def test_damage_that_one_process_sees_is_damage_for_all(tmp_path):
  # At a path that each of them goes around by a descriptor of its own.
  for out in _finish(_start('restore_after_damage', tmp_path / 'run[1]')):
    assert 'restored' in out


@pytest.mark.slow
def test_two_processes_learn_what_one_device_does(tmp_path):
  learning_task.write(tmp_path)
  _finish(_start('learn', tmp_path))
  cold, warm = learning_task.two_steps(tmp_path)
  train_sft(cold, workdir=tmp_path / 'one' / 'sft')
  train_rl(warm, workdir=tmp_path / 'one' / 'rl')
  for program in ('sft', 'rl'):
    expected, found = (
      (tmp_path / name / program / 'metrics.jsonl').read_text().splitlines()
      for name in ('one', 'two')
    )
    assert len(found) == len(expected) == 2
    for mine, other in zip(expected, found, strict=True):
      mine, other = json.loads(mine), json.loads(other)
      assert mine.keys() == other.keys()
      for name, value in mine.items():
        if not name.startswith(('sampler/', 'compute/')):
          np.testing.assert_allclose(
            other[name], value, rtol=1e-4, atol=1e-5, err_msg=name
          )
  rollouts = [
    (tmp_path / name / 'rl' / 'rollouts' / '00000001.jsonl.gz').read_bytes()
    for name in ('one', 'two')
  ]
  assert rollouts[0] == rollouts[1]


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_the_same_step(tmp_path):
  processes = _start('leave_when_told', tmp_path)
  for process in processes:
    assert 'ready\n' in iter(process.stdout.readline, '')
  processes[1].send_signal(signal.SIGTERM)
  outs = _finish(processes, status=EXIT_PREEMPTED)
  (step,) = {int(out.split('saved')[1]) for out in outs}
  with Store(tmp_path, read_only=True) as store:
    assert store.steps() == [step]
    found = store.arrays('params', step=step)['x'].load()
  np.testing.assert_array_equal(found, np.full((8, 4), step + 1, np.float32))
