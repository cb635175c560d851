"""Learning text: the loss falls, and a run may stop, move and go on."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.core.layout import Axes
from rlpt_jax.data.config import Data
from rlpt_jax.data.sources import Files
from rlpt_jax.data.tasks import Ntp
from rlpt_jax.models import flops, zoo
from rlpt_jax.programs import train_sft
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.checkpoints import Store
from tests.programs import learning_task
from tests.programs.train_rl_test import metrics, weights_of


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return learning_task.write(tmp_path_factory.mktemp('task'))


@pytest.mark.slow
def test_it_learns_what_can_be_known(folder, tmp_path):
  config = learning_task.cold_start(
    folder, num_steps=60, held_out_every=30, held_out_rows=4,
    held_out=learning_task.cold_start(folder).data,
  )  # fmt: skip
  train_sft.train_sft(config, workdir=tmp_path)
  lines = metrics(tmp_path)
  # One of three digits and then the end: log(3) / 2 a token.
  assert lines[0]['held_out_before/loss'] > 4
  assert lines[-1]['held_out/loss'] < 0.75
  assert lines[29]['held_out/loss'] > lines[-1]['held_out/loss']
  assert abs(lines[-1]['loss'] - np.log(3) / 2) < 0.15
  assert lines[0]['learning_rate'] == pytest.approx(3e-3)
  # A question is four tokens with its sign; each row is packed.
  assert lines[0]['compute/tokens'] > 16 * 40
  assert lines[1]['compute/total_tokens'] == (
    lines[0]['compute/tokens'] + lines[1]['compute/tokens']
  )
  assert (tmp_path / 'checkpoints' / 'assets').is_dir()


@pytest.mark.slow
def test_it_stops_and_goes_on_bit_by_bit(folder, tmp_path):
  config = learning_task.cold_start(folder, num_steps=6, saving=Saving(every=2))
  train_sft.train_sft(config, workdir=tmp_path / 'whole')
  for steps in (3, 6):
    part = dataclasses.replace(config, num_steps=steps)
    train_sft.train_sft(part, workdir=tmp_path / 'parts')
  lines = [
    (tmp_path / name / 'metrics.jsonl').read_bytes()
    for name in ('whole', 'parts')
  ]
  assert lines[0] == lines[1]
  a, b = (weights_of(tmp_path / name) for name in ('whole', 'parts'))
  assert all((a[path] == b[path]).all() for path in a)
  # Once more, and it has nothing to do.
  train_sft.train_sft(config, workdir=tmp_path / 'parts')
  assert len(metrics(tmp_path / 'parts')) == 6


@pytest.mark.slow
def test_updates_that_are_not_finite_stop_the_run(
  folder, tmp_path, monkeypatch
):
  sound = train_sft.loss_of_rows

  def broken(*args, **options):
    loss, rows = sound(*args, **options)
    return loss + jnp.inf, rows

  monkeypatch.setattr(train_sft, 'loss_of_rows', broken)
  config = learning_task.cold_start(
    folder, num_steps=9, max_skipped=2, saving=Saving(every=2)
  )
  with pytest.raises(ValueError, match='step 2: 2 updates in a row had a loss'):
    train_sft.train_sft(config, workdir=tmp_path)
  # The next start would begin with one more.
  with Store(tmp_path / 'checkpoints', read_only=True) as store:
    assert store.steps() == []


@pytest.mark.slow
def test_each_line_has_the_time_of_its_own_update(
  folder, tmp_path, monkeypatch
):
  learning_task.slow_updates(monkeypatch)
  config = learning_task.cold_start(folder, num_steps=2)
  train_sft.train_sft(config, workdir=tmp_path)
  lines = metrics(tmp_path, 'timing.jsonl')
  assert len(lines) == 2
  for line, metric in zip(lines, metrics(tmp_path), strict=True):
    assert 1 < line['timing/update_s'] <= line['timing/step_s']
    tokens = metric['compute/tokens']
    assert line['timing/tokens_per_s'] == tokens / line['timing/step_s']


@pytest.mark.slow
def test_devices_and_microbatches_change_nothing(folder, tmp_path):
  config = learning_task.cold_start(folder, num_steps=1)
  ways = {
    'one': {},
    'microbatches': {'num_microbatches': 4},
    # The fewest that fit, which is one.
    'eight': {'layout': Axes(fsdp=4, tensor=2), 'num_microbatches': None},
  }
  for name, change in ways.items():
    changed = dataclasses.replace(config, **change)
    train_sft.train_sft(changed, workdir=tmp_path / name)
  (expected,) = metrics(tmp_path / 'one')
  for name in ways:
    (found,) = metrics(tmp_path / name)
    for key in ('loss', 'gradient_norm', 'entropy'):
      np.testing.assert_allclose(
        found[key], expected[key], rtol=1e-5, err_msg=name
      )
    assert found['tokens_in_loss'] == expected['tokens_in_loss']


@pytest.mark.slow
def test_plain_text_is_learned_too(tmp_path):
  text = tmp_path / 'text.jsonl'
  text.write_text(
    ''.join(json.dumps({'text': 'abcdefgh' * 20}) + '\n' for _ in range(50))
  )
  data = Data(
    corpora=[Files(name='text', files=str(text))], task=Ntp(row_tokens=64),
    epochs=1,
  )  # fmt: skip
  config = learning_task.cold_start(
    tmp_path, data=data, batch_size=8, num_steps=99
  )
  train_sft.train_sft(config, workdir=tmp_path / 'run')
  lines = metrics(tmp_path / 'run')
  # 50 documents of three pieces: 150 rows or fewer, the last batch not full.
  assert 15 < len(lines) < 25
  assert lines[-1]['loss'] < 1 < lines[0]['loss']
  with Store(tmp_path / 'run' / 'checkpoints', read_only=True) as store:
    assert store.steps()[-1] == len(lines)


@pytest.mark.slow
def test_experts_are_kept_in_balance(folder, tmp_path):
  """The loss has it, the held-out loss does not, and a large weight evens out
  what each expert gets.
  """
  config = learning_task.cold_start(
    folder, model='random:tiny_qwen3_moe', num_steps=8, held_out_every=8,
    held_out=learning_task.cold_start(folder).data, held_out_rows=8,
    router_balance=0.0,
  )  # fmt: skip
  found = {}
  for weight in (0.0, 1.0):
    changed = dataclasses.replace(config, router_balance=weight)
    train_sft.train_sft(changed, workdir=tmp_path / str(weight))
    found[weight] = metrics(tmp_path / str(weight))
  free, held = found[0.0], found[1.0]
  for name in ('held_out_before/loss', 'router_balance'):
    assert free[0][name] == held[0][name]
  np.testing.assert_allclose(
    held[0]['loss'], free[0]['loss'] + held[0]['router_balance'], rtol=1e-5
  )
  assert 1 <= held[-1]['router_balance'] < free[-1]['router_balance']


def test_operations_are_those_of_the_texts():
  rows = train_sft.Rows(
    np.zeros((2, 8)),
    np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]),
    np.zeros((2, 8)),
  )
  config, model, totals = (
    learning_task.cold_start(pathlib.Path('x')),
    zoo.get('tiny_qwen3'),
    {},
  )
  found = train_sft.count(model, config, rows, totals)
  assert found['compute/tokens'] == 9
  assert found['compute/flops'] == sum(
    3 * flops.forward(model, n) + 4 * flops.head(model) * (n - 1)
    for n in (3, 2, 4)
  )
  assert totals == {'tokens': 9, 'flops': found['compute/flops']}


def test_mistakes_are_one_line(tmp_path, capsys):
  path = tmp_path / 'run.gin'
  path.write_text(
    'from __gin__ import dynamic_registration\n'
    'from rlpt_jax.programs import train_sft\n'
    "train_sft.Config.model = 'random:tiny_qwen3'\n"
  )
  arguments = ['train_sft', str(path), '--workdir', str(tmp_path / 'run')]
  assert cli.main(arguments) == 2
  said = capsys.readouterr().err
  assert 'train_sft.Config.data, optimizer, num_steps must be set' in said
