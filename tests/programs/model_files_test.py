"""Finding a model on disk, and writing a directory whole or not at all."""

import json
import pathlib

import numpy as np
import pytest

from rlpt_jax.models import huggingface
from rlpt_jax.programs import model_files
from rlpt_jax.training.checkpoints import Store


def test_what_is_no_model_is_said(tmp_path):
  with pytest.raises(ValueError, match='Expected a Hugging Face'):
    model_files.find(tmp_path / 'x')
  with pytest.raises(ValueError, match='no checkpoint there'):
    model_files.find(tmp_path)
  with Store(tmp_path / 'foreign') as store:
    store.save(0, {}, {'something': 'else'})
  with pytest.raises(ValueError, match=r"names no model; it has \['something'"):
    model_files.find(tmp_path / 'foreign')


WRITTEN = json.dumps(huggingface.WRITTEN_BY)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
  target = tmp_path / 'deep' / 'target'
  with pytest.raises(KeyboardInterrupt):
    with model_files.new_directory(target) as directory:
      (directory / 'half').write_text('')
      assert not target.exists()
      raise KeyboardInterrupt
  assert list((tmp_path / 'deep').iterdir()) == []
  link = tmp_path / 'link'
  link.symlink_to(target)
  for number, path in enumerate((target, target, link)):
    with model_files.new_directory(path, overwrite=True) as directory:
      (directory / 'config.json').write_text(WRITTEN)
      (directory / 'merges.txt').write_text(str(number))
  assert link.is_symlink() and (target / 'merges.txt').read_text() == '2'
  with pytest.raises(ValueError, match='exists already; --overwrite'):
    with model_files.new_directory(target):
      pass


def test_stopped_between_two_renames(tmp_path, monkeypatch):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'config.json').write_text(WRITTEN)
  rename = pathlib.Path.rename

  def stopped(path, to):
    if path.name == 'new':
      raise KeyboardInterrupt
    return rename(path, to)

  monkeypatch.setattr(pathlib.Path, 'rename', stopped)
  with pytest.raises(KeyboardInterrupt):
    with model_files.new_directory(target, overwrite=True):
      pass
  assert [path.name for path in target.iterdir()] == ['config.json']


def test_a_failed_replacement_keeps_what_was_there(tmp_path):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'config.json').write_text(WRITTEN)
  with pytest.raises(RuntimeError):
    with model_files.new_directory(target, overwrite=True):
      raise RuntimeError('half-way')
  assert [path.name for path in target.iterdir()] == ['config.json']


def saved(directory, **trees):
  (directory / 'assets').mkdir(parents=True)
  with Store(directory) as store:
    ones = {name: {'x': np.ones(1, np.float32)} for name in trees}
    store.save(0, ones, {})


def test_a_model_that_was_written_here_is_known(tmp_path):
  assert not model_files.is_written(tmp_path / 'nothing')
  (tmp_path / 'empty').mkdir()
  assert model_files.is_written(tmp_path / 'empty')
  saved(tmp_path / 'converted', params=1)
  assert model_files.is_written(tmp_path / 'converted')
  saved(tmp_path / 'learned', params=1, optimizer=1)
  assert not model_files.is_written(tmp_path / 'learned')


@pytest.mark.parametrize(
  'files',
  [
    {'notes.txt': ''},
    {'config.json': WRITTEN, 'notes.txt': ''},
    {'config.json': '{"model_type": "qwen3"}', 'model.safetensors': ''},
    {'config.json': '[]'},
    {'config.json': '{'},
    {'0/notes.txt': '', 'assets/config.json': WRITTEN},
  ],
)
def test_nothing_else_is_replaced(files, tmp_path):
  target = tmp_path / 'keepme'
  for name, text in files.items():
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_text(text)
  with pytest.raises(ValueError, match='keepme: is no model that rlpt wrote'):
    with model_files.new_directory(target, overwrite=True):
      raise AssertionError
  for name, text in files.items():
    assert (target / name).read_text() == text
  assert [path.name for path in tmp_path.iterdir()] == ['keepme']
