"""A run's folder."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlpt_jax.programs import runs


@dataclasses.dataclass(frozen=True)
class Config:
  rate: float = 0.1
  num_steps: int = 3


def test_a_run_is_refused_where_another_is(tmp_path):
  workdir = tmp_path / 'new' / 'run'
  runs.check_config(workdir, Config(), ('num_steps',))
  assert json.loads((workdir / 'config.json').read_text())['rate'] == 0.1
  runs.check_config(workdir, Config(num_steps=9), ('num_steps',))
  with pytest.raises(ValueError, match=r'rate was 0.1, now 0.2. Go on with'):
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
    'workdir, or mend this one.'
  )


def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
  code = (
    'import pathlib, sys, time; from rlpt_jax.programs import runs\n'
    'with runs.alone(pathlib.Path(sys.argv[1])): print(1, flush=True); '
    'time.sleep(600)'
  )
  first = subprocess.Popen(
    [sys.executable, '-c', code, tmp_path], stdout=subprocess.PIPE
  )
  first.stdout.readline()
  with pytest.raises(ValueError, match='another process is at this run'):
    with runs.alone(tmp_path):
      pass
  first.kill()  # Kill -9: nobody tidies up.
  first.wait()
  for _ in range(2):
    with runs.alone(tmp_path):
      pass
