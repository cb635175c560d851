"""One of several processes of distributed_test.py; each has four devices.

python -m tests.distributed_worker PROCESS PORT FOLDER
"""

import os
import pathlib
import sys

import jax
import numpy as np

from tests import compiled

PROCESSES = 2
# Its experts are on other processes than its tokens; `learn` has a dense one.
MODEL = 'tiny_qwen3_moe'


def loss_and_gradients(folder, process):
  """What decoder_test computes, on a mesh over both processes."""
  from jax.experimental import multihost_utils

  from rlpt_jax.core import weights
  from rlpt_jax.core.layout import make_layout
  from rlpt_jax.training.checkpoints import Store
  from tests.models import decoder_test

  layout = make_layout(fsdp=2, expert=4)
  decoder = decoder_test._decoder(MODEL, layout)
  params = decoder_test._params(MODEL, layout)
  batch = decoder_test._group_batch()
  batch = tuple(layout.put(x, 'batch', None) for x in batch)
  (_, logprobs), gradients = decoder_test._loss_and_gradients(
    decoder_test._grouped, decoder, params, batch
  )
  whole = multihost_utils.process_allgather(
    {'logprobs': logprobs, 'gradients': gradients}, tiled=True
  )
  if process == 0:
    np.savez(folder / 'found.npz', **dict(weights.named(whole)))
  with Store(folder / 'store') as store:
    store.save(3, {'gradients': gradients}, {'position': 7})
  with Store(folder / 'store') as store:
    like = weights.map_named(
      lambda _, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      gradients,
    )
    assert store.restore({'gradients': like}).record == {'position': 7}


def learn(folder, process):
  """Both learning programs; a reward that only one process may ask."""
  import dataclasses

  from rlpt_jax.core.layout import Axes
  from rlpt_jax.programs.train_rl import Hardware, train_rl
  from rlpt_jax.programs.train_sft import train_sft
  from tests.programs import learning_task

  def reward(examples, completions):
    assert jax.process_index() == 0, 'asked by another process'
    return learning_task.by_length(examples, completions)

  cold, warm = learning_task.two_steps(folder)
  mesh = Axes(fsdp=4, tensor=2)
  train_sft(
    dataclasses.replace(cold, layout=mesh), workdir=folder / 'two' / 'sft'
  )
  warm = dataclasses.replace(
    warm,
    reward=reward,
    hardware=Hardware(layout=mesh, sampler_layout=Axes(data=4, fsdp=2)),
  )
  train_rl(warm, workdir=folder / 'two' / 'rl')
  # The second start resumes with the samples that the first has begun.
  for steps in (2, 4):
    config = dataclasses.replace(ahead(warm), num_steps=steps)
    train_rl(config, workdir=folder / 'two' / 'ahead')


def ahead(warm):
  """Samples ahead, on a mesh of eight devices."""
  import dataclasses

  from rlpt_jax.core.layout import Axes
  from rlpt_jax.programs.train_rl import Hardware
  from tests.programs import learning_task

  config = learning_task.pipelined(warm)
  hardware = Hardware(
    layout=Axes(fsdp=4, tensor=2),
    sampler_layout=Axes(data=4, fsdp=2),
    slots=64,
  )
  return dataclasses.replace(config, hardware=hardware, num_steps=4)


def restore_after_damage(folder, process):
  """What one process cannot read, the other must not go on with."""
  from jax.experimental import multihost_utils

  from rlpt_jax.core.layout import make_layout
  from rlpt_jax.training.checkpoints import Store

  layout = make_layout(fsdp=8)
  x = np.random.default_rng(0).normal(size=(8, 4096)).astype(np.float32)
  placed = layout.put(x, 'batch', None)
  like = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed.sharding)
  with Store(folder, keep_last=3) as store:
    for step in (1, 2):
      store.save(step, {'params': {'x': placed * step}}, {'step': step})
  if process == 0:
    files = list(pathlib.Path(folder, '2').rglob('ocdbt.process_1/d/*'))
    assert files
    for file in files:
      file.write_bytes(file.read_bytes()[:100])
  multihost_utils.sync_global_devices('damaged')
  with Store(folder, keep_last=3) as store:
    found = store.restore({'params': {'x': like}})
    store.save(2, found.trees, found.record)
  assert (found.step, found.record) == (1, {'step': 1})
  assert pathlib.Path(folder, 'damaged_2').exists()
  print('restored after damage', flush=True)


def leave_when_told(folder, process):
  """Steps until SIGTERM, to one of the processes; all save the same step."""
  import time

  from rlpt_jax.core.layout import make_layout
  from rlpt_jax.training import checkpoints, preemption

  layout = make_layout(fsdp=8)
  step = jax.jit(lambda x: x + 1)
  x = layout.put(np.zeros((8, 4), np.float32), 'batch', None)
  with (
    preemption.preemption() as preempted,
    checkpoints.Store(folder) as store,
  ):
    for i in range(10_000):
      x = step(x)
      time.sleep(0.02)
      if i == 3:
        print('\nready', flush=True)
      if preempted(i):
        store.save(i, {'params': {'x': x}}, {})
        store.close()
        print('saved', i, flush=True)
        raise SystemExit(preemption.EXIT_PREEMPTED)


TASKS = (
  loss_and_gradients, restore_after_damage, learn, leave_when_told,
)  # fmt: skip


def main(process, port, folder):
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = compiled.flags(devices=4)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(
    f'127.0.0.1:{port}', num_processes=PROCESSES, process_id=int(process)
  )
  assert len(jax.devices()) == 4 * PROCESSES
  for task in TASKS:
    task(pathlib.Path(folder, task.__name__), int(process))


if __name__ == '__main__':
  main(*sys.argv[1:])
