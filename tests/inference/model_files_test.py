"""Finding a model on disk, and writing a directory whole or not at all."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from rlpt_jax.core import tokenizer as tokenizer_lib
from rlpt_jax.inference import model_files
from rlpt_jax.models import huggingface
from rlpt_jax.programs import quickstart
from rlpt_jax.training.checkpoints import Store

BASE = quickstart.FILES / 'base'  # It has 748 tokens.


def test_what_is_no_model_is_said(tmp_path):
  with pytest.raises(ValueError, match='Expected a Hugging Face'):
    model_files.find(tmp_path / 'x')
  with pytest.raises(ValueError, match='no checkpoint found'):
    model_files.find(tmp_path)
  with Store(tmp_path / 'foreign') as store:
    store.save(0, {}, {'something': 'else'})
  with pytest.raises(ValueError, match=r"names no model; it has \['something'"):
    model_files.find(tmp_path / 'foreign')
  (tmp_path / 'run/checkpoints').mkdir(parents=True)
  (tmp_path / 'run/config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'its model is .*run/checkpoints\.'):
    model_files.find(tmp_path / 'run')


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
  with pytest.raises(ValueError, match='already exists; pass --overwrite'):
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
  with pytest.raises(
    ValueError, match='keepme: is not a model that rlpt wrote'
  ):
    with model_files.new_directory(target, overwrite=True):
      raise AssertionError
  for name, text in files.items():
    assert (target / name).read_text() == text
  assert [path.name for path in tmp_path.iterdir()] == ['keepme']


def test_weights_that_another_wrote_are_not_replaced(tmp_path):
  """transformers' save_pretrained keeps what it does not know of a config."""
  (tmp_path / 'config.json').write_text(WRITTEN)
  weights, x = tmp_path / 'model.safetensors', np.ones(2, np.float32)
  shard = {'x': (x.dtype, x.shape, x.nbytes)}
  huggingface._write_safetensors(weights, shard, iter([x]))
  assert model_files.is_written(tmp_path)
  safetensors.numpy.save_file({'x': x}, weights, {'format': 'pt'})
  assert not model_files.is_written(tmp_path)
  weights.write_bytes(b'')
  assert not model_files.is_written(tmp_path)


# Tokenizers.


@pytest.fixture
def other(tmp_path):
  """The tokenizer of the model BASE, in a folder of its own."""
  folder = tmp_path / 'other'
  folder.mkdir()
  huggingface.copy_companions(BASE, folder)
  return folder


def _change_vocabulary(folder, change):
  path = folder / 'tokenizer.json'
  written = json.loads(path.read_text())
  change(written['model']['vocab'])
  path.write_text(json.dumps(written))


def test_a_models_own_tokenizer_is_the_default(other):
  files = model_files.find(BASE)
  assert files.tokenizer_source() == str(BASE)
  own = files.load_tokenizer()
  assert own.vocab_size == 748 and files.config.vocab_size == 800  # Padded.
  # So is a copy, also with another template and other ends.
  (other / 'generation_config.json').write_text('{"eos_token_id": [7]}')
  (other / 'chat_template.jinja').write_text('{{ messages[0].content }}')
  assert files.load_tokenizer(str(other)).eos_ids != own.eos_ids
  random = model_files.find('random:tiny_qwen3')
  assert random.tokenizer_source() == 'bytes'


def test_another_tokenizer_is_refused(other):
  files = model_files.find(BASE)
  with pytest.raises(
    ValueError, match=r"bytes differs from the model's.*: id 0 is"
  ):
    files.load_tokenizer('bytes')

  def swap(vocabulary):
    one, two = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]

  _change_vocabulary(other, swap)
  with pytest.raises(
    ValueError, match=r"other differs from the model's.*: id 300 "
  ):
    files.load_tokenizer(str(other))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
  files = model_files.find('random:tiny_qwen3')
  with pytest.raises(ValueError, match=r'has 259 tokens, .* has 748'):
    files.load_tokenizer(str(BASE))


@pytest.mark.parametrize('source', [str(BASE), 'bytes'])
def test_checkpoints_keep_the_tokenizer_of_their_run(source, other, tmp_path):
  assets = tmp_path / 'checkpoints' / 'assets'
  assets.mkdir(parents=True)
  files = model_files.find(BASE if source == 'bytes' else 'random:tiny_qwen3')
  model_files.keep_assets(files, source, assets)
  kept = tokenizer_lib.load(tmp_path / 'checkpoints')
  assert kept.pieces() == tokenizer_lib.load(source).pieces()
  # Those of a run that begins with these, too.
  again = tmp_path / 'again'
  again.mkdir()
  model_files.keep_assets(files, str(tmp_path / 'checkpoints'), again)
  assert tokenizer_lib.load(again).pieces() == kept.pieces()


def test_a_model_without_a_tokenizer_says_so(other, tmp_path):
  (other / 'config.json').write_bytes((BASE / 'config.json').read_bytes())
  (other / 'tokenizer.json').unlink()
  files = model_files.find(other)
  with pytest.raises(
    ValueError, match=r'no tokenizer.* config\.Data\.tokenizer'
  ):
    files.tokenizer_source()
