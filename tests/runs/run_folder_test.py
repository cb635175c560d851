"""A run's folder."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from rlpt_jax.core import run_files
from rlpt_jax.programs import quickstart, train_rl, train_sft
from rlpt_jax.runs import run_folder as runs
from tests.programs import learning_task

BASE = quickstart.FILES / 'base'


@dataclasses.dataclass(frozen=True)
class Config:
  rate: float = 0.1
  num_steps: int = 3


def test_a_run_is_refused_where_another_is(tmp_path):
  workdir = tmp_path / 'new' / 'run'
  runs.check_config(workdir, Config(), ('num_steps',))
  assert json.loads((workdir / 'config.json').read_text())['rate'] == 0.1
  runs.check_config(workdir, Config(num_steps=9), ('num_steps',))
  with pytest.raises(ValueError, match=r'rate was 0.1, now 0.2. Restore those'):
    runs.check_config(workdir, Config(rate=0.2), ('num_steps',))
  with pytest.raises(ValueError, match='num_steps was nothing, now 3'):
    runs.check_config(workdir, Config())


def test_a_folder_that_is_not_a_runs_is_refused(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(ValueError, match=r'has checkpoints but no config\.json'):
    runs.check_config(tmp_path, Config())
  (tmp_path / 'config.json').write_text('{"rate"')
  with pytest.raises(ValueError, match='not JSON'):
    runs.check_config(tmp_path, Config())


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='cannot be written to'):
    runs.check_config(tmp_path / 'file' / 'run', Config())


@pytest.mark.parametrize('code', [errno.EROFS, errno.ENOSPC])
def test_nor_is_a_run_that_is_there_gone_on_with(code, tmp_path, monkeypatch):
  runs.check_config(tmp_path, Config())

  def refuse(*_):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(pathlib.Path, 'write_text', refuse)
  with pytest.raises(ValueError) as caught:
    runs.check_config(tmp_path, Config())
  assert str(caught.value) == (
    f'{tmp_path}: cannot be written to ({os.strerror(code)}). Choose another '
    'workdir, or fix this one.'
  )


def claim(workdir, **changes):
  with runs.claimed(workdir, Config(**changes)):
    return json.loads((workdir / 'config.json').read_text())


@pytest.mark.parametrize('address', ['gs://bucket/run', 's3://bucket'])
def test_a_store_is_no_folder(address, tmp_path, monkeypatch):
  """Or the run would be kept in a folder 'gs:' of its machine."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='expected a folder on a disk, found'):
    claim(pathlib.Path(address))
  assert not [*tmp_path.iterdir()]
  claim(tmp_path / 'a:' / 'run')


def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
  claim(tmp_path)
  # What a run does that has no step yet; nothing that is slow to import.
  code = (
    'import fcntl, sys, time; file = open(sys.argv[1], "w"); '
    'fcntl.lockf(file, fcntl.LOCK_EX); print(1, flush=True); time.sleep(600)'
  )
  first = subprocess.Popen(
    [sys.executable, '-c', code, tmp_path / run_files.LOCK],
    stdout=subprocess.PIPE,
  )
  first.stdout.readline()
  with pytest.raises(
    ValueError, match='another process is using this run folder'
  ):
    claim(tmp_path, rate=0.2)
  assert json.loads((tmp_path / 'config.json').read_text())['rate'] == 0.1
  first.kill()  # Kill -9: nobody tidies up.
  first.wait()
  for _ in range(2):
    claim(tmp_path)


def test_what_a_run_begins_with_is_not_saved():
  runs.save(None, types.SimpleNamespace(step=0), None, {}, max_skipped=1)


def test_what_was_not_finite_for_too_long_is_not_saved():
  saved = []
  store = types.SimpleNamespace(
    steps=lambda: [], save=lambda step, *rest: saved.append(step)
  )
  files = types.SimpleNamespace(
    config=types.SimpleNamespace(to_dict=lambda: {})
  )

  def save(step, in_a_row):
    state = types.SimpleNamespace(
      step=step, params={}, optimizer={}, skipped=9, skipped_in_a_row=in_a_row
    )
    runs.save(store, state, files, {}, max_skipped=5)

  save(8, 4)
  with pytest.raises(ValueError, match='step 9: 5 updates in a row had a loss'):
    save(9, 5)
  assert saved == [8]


def test_a_folder_without_a_step_is_free(tmp_path):
  claim(tmp_path)
  # What a run leaves that ended before its first step.
  (tmp_path / 'checkpoints' / 'assets').mkdir(parents=True)
  (tmp_path / 'checkpoints' / '.assets').mkdir()
  for name in ('metrics.jsonl', 'timing.jsonl'):
    (tmp_path / name).write_text('')
  assert claim(tmp_path, rate=0.2)['rate'] == 0.2


@pytest.mark.parametrize(
  'path',
  [
    'metrics.jsonl', 'timing.jsonl', 'rollouts/00000000.jsonl.gz',
    'checkpoints/0/record', 'checkpoints/damaged_1/record',
    'checkpoints/1.orbax-checkpoint-tmp/record',
  ],
)  # fmt: skip
def test_a_folder_with_anything_of_a_step_is_not(path, tmp_path):
  claim(tmp_path)
  (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / path).write_text('{"step": 0}\n')
  with pytest.raises(ValueError, match=r'rate was 0\.1, now 0\.2\. Restore'):
    claim(tmp_path, rate=0.2)
  assert claim(tmp_path)['rate'] == 0.1


@pytest.mark.parametrize('content', ['{"model_type": "qwen3"}', '[]'])
def test_the_config_of_something_else_is_not_replaced(content, tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(content)
  with pytest.raises(ValueError, match=r'config\.json: expected the settings'):
    claim(tmp_path)
  with pytest.raises(ValueError, match=r'config\.json: expected the settings'):
    runs.check_config(tmp_path, {'n': 1}, may_replace=True)
  assert path.read_text() == content


def test_the_tokenizer_of_a_model_that_was_tried_does_not_stay(tmp_path):
  found = []
  for name in 'ab':
    model = tmp_path / name
    model.mkdir()
    (model / 'tokenizer.json').write_text(name)
    files = types.SimpleNamespace(assets=model)
    with runs.checkpoints(
      tmp_path, files, str(model), runs.Saving(keep_last=1)
    ):
      found.append((tmp_path / 'checkpoints/assets/tokenizer.json').read_text())
  assert found == ['a', 'b']


@pytest.mark.parametrize('program', [train_rl.train_rl, train_sft.train_sft])
def test_a_run_reads_with_the_tokenizer_of_its_model(
  program, tmp_path, monkeypatch
):
  write = learning_task.write(tmp_path / 'data')
  make = {
    'train_rl': lambda **changes: learning_task.learning(
      write, BASE, **changes
    ),
    'train_sft': lambda **changes: learning_task.cold_start(
      write, model=str(BASE), **changes
    ),
  }[program.__name__]
  config = make()

  class Begun(Exception):
    pass

  def claimed(_, config, *__):
    assert config.data.tokenizer == str(BASE)
    if held_out := config.held_out:
      assert getattr(held_out, 'data', held_out).tokenizer == str(BASE)
    raise Begun

  monkeypatch.setattr(runs, 'claimed', claimed)
  with pytest.raises(Begun):
    program(config, workdir=tmp_path / 'run')
  data = dataclasses.replace(config.data, tokenizer='bytes')
  held_out = data
  if program is train_rl.train_rl:
    held_out = dataclasses.replace(config.held_out, data=data)
  for changes in ({'data': data}, {'held_out': held_out}):
    message = f"{BASE}: the tokenizer bytes differs from the model's"
    with pytest.raises(ValueError, match=message):
      program(make(**changes), workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_microbatches_divide_a_batch(tmp_path):
  learning_task.cold_start(tmp_path, batch_size=12, num_microbatches=3)
  with pytest.raises(
    ValueError, match=r'num_microbatches=5: expected a divisor of batch_size=12'
  ):
    learning_task.cold_start(tmp_path, batch_size=12, num_microbatches=5)
  hardware = learning_task.hardware(num_microbatches=5)
  with pytest.raises(
    ValueError, match=r'Hardware\.num_microbatches=5: .* of Config\.prompts=12'
  ):
    learning_task.learning(tmp_path, 'm', prompts=12, hardware=hardware)


def test_the_check_of_skipped_updates_starts_no_program():
  """A comparison of arrays would wait for the update that is running."""

  class OnDevice:
    def __int__(self):
      return 3

  runs.check_skipped(4, 9, OnDevice())
  with pytest.raises(ValueError, match='step 9: '):
    runs.check_skipped(3, 9, OnDevice())
