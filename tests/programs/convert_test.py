"""`rlpt convert`: both ways, byte for byte, atomic, streaming."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.inference import model_files
from rlpt_jax.models import huggingface
from rlpt_jax.programs import convert as convert_lib
from rlpt_jax.training.checkpoints import Store
from tests.models import references


def _source(directory, family='qwen3', dtype='float32'):
  import torch

  model = references.torch_model(family).to(getattr(torch, dtype))
  references.save(model, directory)
  (directory / 'tokenizer.json').write_text('{"not": "read by convert"}')
  (directory / 'chat_template.jinja').write_text('{{ messages }}')
  return directory


def _assert_same_tensors(first, second):
  first, second = map(huggingface.Tensors, (first, second))
  assert set(first) == set(second)
  for name in first:
    assert first.dtype(name) == second.dtype(name)
    np.testing.assert_array_equal(*first.read(name), *second.read(name))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('family', ['llama', 'qwen3_moe'])
def test_there_and_back_is_byte_identical(family, dtype, tmp_path):
  source = _source(tmp_path / 'hf', family, dtype)
  there, back = tmp_path / 'checkpoint', tmp_path / 'back'
  assert cli.main(['convert', str(source), str(there)]) == 0
  assert cli.main(['convert', str(there), str(back)]) == 0
  _assert_same_tensors(source, back)
  for name in ('tokenizer.json', 'chat_template.jinja'):
    assert (back / name).read_bytes() == (source / name).read_bytes()
  generation = json.loads((back / 'generation_config.json').read_text())
  assert generation['eos_token_id'] == 2
  written = json.loads((back / 'config.json').read_text())
  assert (written['bos_token_id'], written['eos_token_id']) == (1, 2)
  assert written['torch_dtype'] == dtype
  assert not list(tmp_path.glob('.*')), 'temporary directories are left'


def test_sharded_files_and_a_tied_head_stored_twice(tmp_path):
  source = tmp_path / 'hf'
  model = references.torch_model('qwen2')
  model.save_pretrained(source, max_shard_size='20KB')
  assert (source / 'model.safetensors.index.json').exists()
  # As Qwen3-0.6B is published.
  import safetensors.numpy

  tensors = huggingface.Tensors(source)
  tensors = dict(zip(tensors, tensors.read(*tensors), strict=True))
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  for path in source.glob('model*'):
    path.unlink()
  safetensors.numpy.save_file(tensors, source / 'model.safetensors')
  assert cli.main(['convert', str(source), str(tmp_path / 'checkpoint')]) == 0

  tensors['lm_head.weight'] = tensors['lm_head.weight'] + 1
  safetensors.numpy.save_file(tensors, source / 'model.safetensors')
  with pytest.raises(ValueError, match=r'lm_head\.weight differs'):
    convert_lib.convert(source, tmp_path / 'other')


def test_a_dtype_can_be_asked_for(tmp_path):
  source = _source(tmp_path / 'hf')
  there, back = tmp_path / 'checkpoint', tmp_path / 'back'
  convert_lib.convert(source, there)
  convert_lib.convert(there, back, dtype='bfloat16')
  tensors = huggingface.Tensors(back)
  assert {tensors.dtype(name) for name in tensors} == {'bfloat16'}


def test_both_kinds_load_the_same_parameters(tmp_path, one_device):
  source = _source(tmp_path / 'hf')
  convert_lib.convert(source, tmp_path / 'checkpoint')
  trees = [
    model_files.find(path).load_params(layout=one_device, dtype='bfloat16')
    for path in (source, tmp_path / 'checkpoint')
  ]
  for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
    assert a.dtype == 'bfloat16'
    np.testing.assert_array_equal(a, b)


def test_an_existing_destination_is_kept_unless_asked(tmp_path, capsys):
  source = _source(tmp_path / 'hf')
  target = tmp_path / 'there'
  target.mkdir()
  (target / 'precious').write_text('x')
  assert cli.main(['convert', str(source), str(target)]) == 2
  assert '--overwrite' in capsys.readouterr().err
  assert (target / 'precious').exists()
  overwrite = ['convert', str(source), str(target), '--overwrite']
  assert cli.main(overwrite) == 2
  assert f'{target}: is not a model that rlpt wrote' in capsys.readouterr().err
  assert (target / 'precious').exists()
  # What it wrote itself it replaces, of either kind.
  (target / 'precious').unlink()
  assert cli.main(overwrite) == cli.main(overwrite) == 0
  back = tmp_path / 'back'
  overwrite = ['convert', str(target), str(back), '--overwrite']
  assert cli.main(overwrite) == cli.main(overwrite) == 0
  assert huggingface.is_directory(back)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
  source = _source(tmp_path / 'hf')
  monkeypatch.setattr(
    Store, 'save', lambda *_: (_ for _ in ()).throw(OSError('disk full'))
  )
  with pytest.raises(OSError, match='disk full'):
    convert_lib.convert(source, tmp_path / 'there')
  assert [path.name for path in tmp_path.iterdir()] == ['hf']


def test_a_destination_that_holds_the_source_is_refused(tmp_path, capsys):
  source = _source(tmp_path / 'models' / 'hf')
  arguments = ['convert', str(source), str(tmp_path / 'models'), '--overwrite']
  assert cli.main(arguments) == 2
  assert 'which it would replace' in capsys.readouterr().err
  assert (source / 'config.json').exists()


@pytest.mark.parametrize('damage', ['record', 'params', 'byte'])
def test_export_falls_back_to_the_checkpoint_before(
  damage, tmp_path, one_device, capsys
):
  source = _source(tmp_path / 'hf')
  checkpoint, back = tmp_path / 'checkpoint', tmp_path / 'back'
  convert_lib.convert(source, checkpoint)
  with Store(checkpoint) as store:
    # A second step with other weights.
    model = model_files.find(checkpoint)
    params = model.load_params(layout=one_device)
    params = jax.tree.map(lambda x: x + 1, params)
    store.save(7, {'params': params}, store.record()[1])
  if damage == 'byte':
    files = (checkpoint / '7' / 'params').rglob('d/*')
    for file in files:
      content = bytearray(file.read_bytes())
      content[len(content) // 2] ^= 1
      file.write_bytes(content)
  else:
    shutil.rmtree(checkpoint / '7' / damage)
  assert cli.main(['convert', str(checkpoint), str(back)]) == 0
  assert 'exported step 0' in capsys.readouterr().out
  _assert_same_tensors(source, back)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    ('truncate', 'model.safetensors: incomplete or damaged safetensors'),
    ('remove', 'model.safetensors: not found'),
    ('drop', r"1 missing \['model.norm.weight'\]"),
    ('rename', r"1 unexpected \['model.rotary'\]"),
    (
      'reshape',
      'model.norm.weight has shape .35,., but config.json implies .36,',
    ),
    ('integers', 'has dtype I32, expected one of BF16'),
    ('config', r'config\.json: not JSON'),
    ('index', r'index\.json: expected JSON with a "weight_map"'),
  ],
)
def test_a_broken_source_is_named(damage, message, tmp_path):
  import safetensors.numpy

  source = _source(tmp_path / 'hf')
  file = source / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  norm = tensors['model.norm.weight']
  if damage == 'truncate':
    file.write_bytes(file.read_bytes()[:-100])
  elif damage == 'remove':
    file.unlink()
  elif damage == 'index':
    (source / 'model.safetensors.index.json').write_text('{}')
  elif damage == 'config':
    (source / 'config.json').write_text('{"model_type": "qw')
  else:
    if damage == 'drop':
      del tensors['model.norm.weight']
    elif damage == 'rename':
      tensors['model.rotary'] = norm
    elif damage == 'reshape':
      tensors['model.norm.weight'] = norm[:-1]
    else:
      tensors['model.norm.weight'] = norm.astype(np.int32)
    safetensors.numpy.save_file(tensors, file)
  with pytest.raises(ValueError, match=message):
    convert_lib.convert(source, tmp_path / 'there')


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(bad, tmp_path, capsys):
  import safetensors.numpy

  source = _source(tmp_path / 'hf')
  tensors = safetensors.numpy.load_file(source / 'model.safetensors')
  tensors['model.norm.weight'][3] = bad
  safetensors.numpy.save_file(tensors, source / 'model.safetensors')
  assert cli.main(['convert', str(source), str(tmp_path / 'there')]) == 2
  *_, found, _ = capsys.readouterr().err.splitlines()
  assert found == (
    'rlpt convert: norm: has NaN or infinite weights. Is the model damaged?'
  )
  assert not (tmp_path / 'there').exists()


def test_weights_that_overflow_are_refused(tmp_path, capsys):
  import safetensors.numpy

  source = _source(tmp_path / 'hf')
  tensors = safetensors.numpy.load_file(source / 'model.safetensors')
  tensors['model.norm.weight'][3] = 1e5
  safetensors.numpy.save_file(tensors, source / 'model.safetensors')
  there, back = str(tmp_path / 'there'), str(tmp_path / 'back')
  assert cli.main(['convert', str(source), there]) == 0
  assert cli.main(['convert', there, back, '--dtype', 'float16']) == 2
  *_, found, _ = capsys.readouterr().err.splitlines()
  assert 'norm: has weights too large for float16; use --dtype=bf' in found
  assert cli.main(['convert', there, back, '--dtype', 'bfloat16']) == 0


def test_many_rows_and_none_are_looked_at():
  array = np.zeros((3, 2**20), np.float32)
  assert convert_lib._is_finite(array)
  array[2, -1] = np.inf
  assert not convert_lib._is_finite(array)
  assert convert_lib._is_finite(np.zeros((0, 3), np.float32))
  assert not convert_lib._is_finite(np.float32(np.nan))


@pytest.mark.slow
def test_peak_memory_follows_the_largest_array_and_not_the_model(tmp_path):
  # Seven stacked arrays of one size, so the largest is a seventh of the model.
  small, large = (
    _benchmark(tmp_path / str(layers), layers) for layers in (4, 36)
  )
  grown = large['weights_mib'] - small['weights_mib']
  largest = large['largest_array_mib'] - small['largest_array_mib']
  for way in ('to_checkpoint', 'to_huggingface'):
    peak = large[way]['peak_mib'] - small[way]['peak_mib']
    assert peak < 4 * largest < grown, (way, small, large)


def _benchmark(folder, layers):
  root = pathlib.Path(__file__).parents[2]
  sizes = {
    'num_layers': layers, 'embed_dim': 1024, 'mlp_dim': 1024, 'num_heads': 8,
    'num_kv_heads': 8, 'head_dim': 128,
  }  # fmt: skip
  done = subprocess.run(
    [
      sys.executable, str(root / 'benchmarks/convert.py'), '--model',
      'tiny_qwen3', '--folder', str(folder), '--sizes', json.dumps(sizes),
    ],
    check=True, capture_output=True, text=True,
    env=os.environ | {'PYTHONPATH': str(root)},
  )  # fmt: skip
  print(done.stdout)
  return json.loads(done.stdout)


def test_a_random_model_has_no_files_to_convert(tmp_path):
  source = pathlib.Path('random:tiny_qwen3')
  with pytest.raises(ValueError, match='random:tiny_qwen3: a random model is'):
    convert_lib.convert(source, tmp_path / 'there')
  assert not (tmp_path / 'there').exists()
