"""Records come back from disk one by one; damage is noticed."""

import numpy as np
import pytest

from rlpt_jax.data import cache


class Stage:
  columns = ('tokens', 'targets')

  def sizes(self, record):
    return len(record['tokens']), 7


def record(number):
  return {
    'document': f'文書@{number}',
    'tokens': np.arange(number, dtype=np.int32),
  }


@pytest.fixture
def folder(tmp_path):
  shards = [
    cache.write_part(str(tmp_path), part, 2, map(record, numbers), Stage())
    for part, numbers in enumerate([range(5), range(5, 8)])
  ]
  cache.write_json(str(tmp_path), 'manifest.json', {'shards': shards})
  (tmp_path / 'COMPLETED').touch()
  return tmp_path


def test_any_record_at_once(folder):
  records = cache.Cache(str(folder))
  assert len(records) == 8
  assert records.sizes.tolist() == [[number, 7] for number in range(8)]
  for number in (7, 0, 4, 5, 3):
    found = records.read(number)
    assert found['document'] == f'文書@{number}'
    assert found['tokens'].tolist() == list(range(number))
    assert found['tokens'].dtype == np.int32
  records.close()


def test_what_is_not_prepared_says_what_to_do(folder):
  (folder / 'COMPLETED').unlink()
  with pytest.raises(ValueError, match=r'is not fully prepared.*rlpt prepare'):
    cache.Cache(str(folder))


def test_a_shard_that_was_cut_is_noticed(folder):
  shard = folder / cache.shard_name(1, 2)
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(ValueError, match='the manifest says'):
    cache.Cache(str(folder))
  shard.unlink()
  with pytest.raises(ValueError, match='has no bytes'):
    cache.Cache(str(folder))


def test_a_flipped_bit_is_noticed_where_it_is(folder):
  shard = folder / cache.shard_name(1, 2)
  data = bytearray(shard.read_bytes())
  data[-10] ^= 1
  shard.write_bytes(data)
  records = cache.Cache(str(folder))
  assert records.read(6)['document'] == '文書@6'
  with pytest.raises(ValueError, match='record 7 is damaged'):
    records.read(7)


def test_a_part_without_records(tmp_path):
  shard = cache.write_part(str(tmp_path), 0, 1, [], Stage())
  assert (shard['records'], shard['bytes']) == (0, 0)
  cache.write_json(str(tmp_path), 'manifest.json', {'shards': [shard]})
  (tmp_path / 'COMPLETED').touch()
  records = cache.Cache(str(tmp_path))
  assert len(records) == 0 and records.sizes.shape == (0, 2)


def test_in_a_store_that_is_not_a_disk():
  folder = 'ram://cache_test'
  shard = cache.write_part(folder, 0, 1, [record(3)], Stage())
  cache.write_json(folder, 'manifest.json', {'shards': [shard]})
  cache.write_json(folder, 'COMPLETED', '')
  assert cache.Cache(folder).read(0)['tokens'].tolist() == [0, 1, 2]
