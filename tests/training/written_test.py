"""What is on the disk is counted; a path that misleads is gone around."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from rlpt_jax.training import written

ARRAYS = {
  'a/w': [[40, 30], 'float32', 0],
  'a/b': [[7], 'bfloat16', 0],
  'count': [[], 'int32', 0],
}


def _base(directory):
  return {'driver': 'file', 'path': f'{directory}/'}


def _write(directory, **config):
  """As Orbax does: zarr in OCDBT; what is small lies in the index itself."""
  kvstore = {'driver': 'ocdbt', 'base': _base(directory), 'config': config}
  for path, (shape, dtype, _) in ARRAYS.items():
    array = ts.open(
      {
        'driver': 'zarr',
        'kvstore': kvstore | {'path': path.replace('/', '.')},
        'metadata': {'chunks': [20, 16][: len(shape)]},
        'store_data_equal_to_fill_value': True,
      },
      create=True, shape=shape, dtype=jnp.dtype(dtype),
    ).result()  # fmt: skip
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    array.write(values).result()
  return ts.KvStore.open(kvstore).result()


@pytest.mark.parametrize('config', [{}, {'max_decoded_node_bytes': 200}])
def test_what_is_whole_passes(config, tmp_path):
  _write(tmp_path, **config)
  written.check(tmp_path, ARRAYS)


@pytest.mark.parametrize(
  'key, message',
  [
    (b'a.w/1.1', 'a.w has 3 of its 4 chunks'),
    (b'a.b/0', 'a.b has 0 of its 1 chunks'),
    (b'count/0', 'count has 0 of its 1 chunks'),
  ],
)
def test_a_chunk_that_is_missing(key, message, tmp_path):
  _write(tmp_path, max_decoded_node_bytes=200).write(key, None).result()
  with pytest.raises(ValueError, match=message):
    written.check(tmp_path, ARRAYS)


@pytest.mark.parametrize(
  'others', [{}, {'a/w': [[30, 40], 'float32', 0]}, {'b': [[7], 'int8', 0]}]
)
def test_arrays_other_than_those_saved(others, tmp_path):
  _write(tmp_path)
  with pytest.raises(ValueError, match='has 3 arrays, expected'):
    written.check(tmp_path, ARRAYS | others if others else {})


def test_files_that_are_missing_or_short(tmp_path):
  _write(tmp_path)
  files = {file: file.read_bytes() for file in (tmp_path / 'd').iterdir()}
  # What does not fit into the index; older indexes are in other files.
  chunks = [file for file, data in files.items() if len(data) > 1024]
  for file in chunks:
    file.write_bytes(files[file][:-1000])
    with pytest.raises(ValueError, match=rf'{file.name} has \d+ of at least'):
      written.check(tmp_path, ARRAYS)
    file.unlink()
    with pytest.raises(ValueError, match=f'{file.name} has 0 of at least'):
      written.check(tmp_path, ARRAYS)
    file.write_bytes(files[file])
  assert chunks
  written.check(tmp_path, ARRAYS)
  (tmp_path / 'manifest.ocdbt').unlink()
  with pytest.raises(ValueError, match='Manifest not found'):
    written.check(tmp_path, ARRAYS)


def test_a_plain_path_is_taken_as_it_is(tmp_path):
  directory = tmp_path / 'Läufe 2' / 'run_1.a-b'
  with written.plain_path(directory) as path:
    assert path is directory


def test_any_other_is_reached_by_a_path_that_is_plain(tmp_path):
  directory = tmp_path / 'bs\\x[1]'
  directory.mkdir()
  with written.plain_path(directory) as path:
    assert written.PLAIN.fullmatch(str(path)) and path.samefile(directory)
  assert not path.exists()


def test_a_system_without_descriptors_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(written, 'OWN_DESCRIPTORS', tmp_path / 'none')
  with pytest.raises(
    ValueError, match=r"run\[1\]': on this system checkpoints need a path of"
  ):
    with written.plain_path(tmp_path / 'run[1]'):
      pass
  for name in ('a*', 'a?', 'a\\b', 'a.__lock', '\udcff'):
    with pytest.raises(ValueError, match='on this system'):
      with written.plain_path(tmp_path / name):
        pass
  for name in ('lr=1e-6', 'a,b', 'x+y', 'me@host'):
    with written.plain_path(tmp_path / name) as path:
      assert path == tmp_path / name
