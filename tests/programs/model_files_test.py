"""Finding a model on disk, and writing a directory whole or not at all."""

import pathlib

import pytest

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


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
  target = tmp_path / 'deep' / 'target'
  with pytest.raises(KeyboardInterrupt):
    with model_files.new_directory(target) as directory:
      (directory / 'half').write_text('')
      assert not target.exists()
      raise KeyboardInterrupt
  assert list((tmp_path / 'deep').iterdir()) == []
  for text in ('one', 'two'):
    with model_files.new_directory(target, overwrite=True) as directory:
      (directory / text).write_text(text)
  assert [path.name for path in target.iterdir()] == ['two']
  with pytest.raises(ValueError, match='exists already; --overwrite'):
    with model_files.new_directory(target):
      pass


def test_stopped_between_two_renames(tmp_path, monkeypatch):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'old').write_text('')
  rename = pathlib.Path.rename

  def stopped(path, to):
    if path.name == 'new':
      raise KeyboardInterrupt
    return rename(path, to)

  monkeypatch.setattr(pathlib.Path, 'rename', stopped)
  with pytest.raises(KeyboardInterrupt):
    with model_files.new_directory(target, overwrite=True):
      pass
  assert [path.name for path in target.iterdir()] == ['old']


def test_a_failed_replacement_keeps_what_was_there(tmp_path):
  target = tmp_path / 'target'
  target.mkdir()
  (target / 'old').write_text('')
  with pytest.raises(RuntimeError):
    with model_files.new_directory(target, overwrite=True):
      raise RuntimeError('half-way')
  assert [path.name for path in target.iterdir()] == ['old']
