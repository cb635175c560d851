"""A run that cannot fit is refused, and none that fits."""

import dataclasses
import threading

import jax
import pytest

from rlpt_jax.algorithms.kl import InLoss
from rlpt_jax.core import compilations
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning import memory, start
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.machines import Here
from rlpt_jax.planning.run import Run
from rlpt_jax.programs import train_rl, train_sft
from rlpt_jax.sampling import plan as plan_lib
from tests.planning import runs
from tests.programs import learning_task


def decoder(config):
  layout = make_layout(devices=jax.devices()[:1])
  return Decoder(zoo.get('tiny_qwen3'), config.compute, layout)


@pytest.fixture
def limit(monkeypatch):
  """Sets the bytes of a device."""
  return lambda size: monkeypatch.setattr(plan_lib, 'capacity', lambda _: size)


def check(config, caplog) -> str:
  caplog.clear()
  start.check(config, decoder(config))
  return caplog.text


@pytest.mark.parametrize('config', [runs.rl(), runs.sft()], ids=['rl', 'sft'])
def test_refused_only_if_the_state_does_not_fit(config, limit, caplog):
  # Weights, two moments and a gradient, in float32.
  state = 16 * memory.num_weights(decoder(config))
  limit(state)
  assert 'probably' in check(config, caplog)
  limit(state - 1)
  is_rl = isinstance(config, train_rl.Config)
  name = 'train_rl.Hardware' if is_rl else 'train_sft.Config'
  with pytest.raises(ValueError, match='does not fit') as raised:
    check(config, caplog)
  message = str(raised.value)
  assert f'{name}.layout' in message
  assert 'weights 0.00 GiB, moments 0.00 GiB, gradients 0.00 GiB' in message
  assert '\n' not in message
  limit(None)  # Unknown.
  assert not check(config, caplog)


ONE = learning_task.ONE_DEVICE


@pytest.mark.parametrize(
  'config',
  [
    runs.rl(
      prompts=256, hardware=runs.hardware(layout=ONE, sampler_layout=ONE)
    ),
    runs.sft(batch_size=256, layout=ONE),
  ],
  ids=['rl', 'sft'],
)
def test_the_fewest_microbatches_are_chosen(config, limit, capsys):
  free = run_lib.with_microbatches(config, None)
  place, number = decoder(config), run_lib.num_microbatches

  def total(number):
    changed = run_lib.with_microbatches(config, number)
    run = Run(changed, place.config, Here(jax.device_count(), 'cpu', 1))
    return sum(memory.of_run(run).values()) / memory.ROOM

  limit(int(total(4)) + 1)
  assert number(start.planned(free, place)) == 4
  assert 'num_microbatches=4, chosen' in capsys.readouterr().out
  limit(int(total(4)) - 1)
  assert number(start.planned(free, place)) == 8
  limit(2**40)
  assert number(start.planned(free, place)) == 1
  # A number that is set stays, and says nothing.
  capsys.readouterr()
  assert start.planned(config, place) is config
  assert not capsys.readouterr().out
  limit(None)
  with pytest.raises(ValueError, match='do not report their memory'):
    start.planned(free, place)


def test_a_reference_is_part_of_it(limit, caplog):
  config = runs.rl()
  limit(18 * memory.num_weights(decoder(config)))
  check(config, caplog)
  with pytest.raises(ValueError, match='reference'):
    check(dataclasses.replace(config, kl=InLoss(weight=0.1)), caplog)


def test_a_warning_names_the_microbatches_that_fit(limit, caplog):
  config = runs.sft(batch_size=512, num_microbatches=1)
  totals = {
    number: sum(
      memory.of_learner(
        runs.sft(batch_size=512, num_microbatches=number), decoder(config)
      ).values()
    )
    for number in (1, 4, 8)
  }
  limit(totals[8])
  assert totals[8] < totals[4]
  text = check(config, caplog)
  assert 'Set train_sft.Config.num_microbatches=8' in text
  limit(totals[1])
  assert not check(config, caplog)


@pytest.mark.parametrize(
  ('program', 'config'),
  [
    (train_rl.train_rl, runs.rl()),
    (train_sft.train_sft, runs.sft()),
  ],
  ids=['rl', 'sft'],
)
def test_before_anything_is_written(program, config, limit, tmp_path):
  limit(1000)
  with pytest.raises(ValueError, match='The run does not fit'):
    program(config, workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.fixture
def compiled():
  """Whether the main thread has compiled each update."""
  found = []

  def listen(event, duration, **more):
    if event == compilations.EVENT and more.get('fun_name') == 'jit(update)':
      found.append(threading.current_thread() is threading.main_thread())

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_runs_compile_their_update_ahead(tmp_path, compiled, monkeypatch):
  monkeypatch.setattr(start, 'IN_BACKGROUND', ('cpu',))
  cold, warm = learning_task.two_steps(learning_task.write(tmp_path / 'task'))
  warm = dataclasses.replace(warm, kl=InLoss(weight=0.1))
  train_sft.train_sft(cold, workdir=tmp_path / 'sft')
  assert compiled == [False]
  train_rl.train_rl(warm, workdir=tmp_path / 'rl')
  assert compiled == [False, False]
  # A run that is done needs no update.
  train_rl.train_rl(warm, workdir=tmp_path / 'rl')
  assert len(compiled) == 2


def test_nothing_is_compiled_beside_a_gpus_work():
  layout = dataclasses.replace(make_layout(), platform='gpu')
  update = object()
  with start.compiling(update, runs.rl(), None, layout) as found:
    assert found is update


def test_a_sampler_on_other_chips_takes_nothing_from_the_learner(limit):
  config = runs.rl(
    prompts=256, hardware=runs.apart(num_microbatches=None, slots=384)
  )
  model = zoo.get('tiny_qwen3')
  here = Here(jax.device_count(), 'cpu', 1)

  def side(name, number):
    changed = run_lib.with_microbatches(config, number)
    return sum(memory.of_sides(Run(changed, model, here))[name].values())

  layout = config.hardware.layout.layout()
  assert side('sampler', 1) < side('learner', 4) < 2 * side('sampler', 1)
  limit(int(side('learner', 4) / memory.ROOM) + 1)
  chosen = start.planned(config, Decoder(model, config.compute, layout))
  assert run_lib.num_microbatches(chosen) == 4
