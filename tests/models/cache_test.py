"""A cache says what it takes before it takes it."""

import functools

import jax
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import cache as lib
from rlpt_jax.models import zoo

CONFIG = zoo.get('tiny_qwen3')


def test_num_bytes_are_those_of_the_arrays(one_device):
  cache = lib.empty(CONFIG, 3, 10, dtype='bfloat16', layout=one_device)
  found = sum(x.nbytes for x in jax.tree.leaves(cache))
  assert found == lib.num_bytes(CONFIG, 3, 10, dtype='bfloat16')
  # 2 * layers 2 * rows 3 * heads 2 * positions 10 * size 32 * 2 bytes + mask
  assert found == 2 * 2 * 3 * 2 * 10 * 32 * 2 + 30
  # What a computation at scale would ask for does not overflow.
  large = lib.num_bytes(zoo.get('qwen3_8b'), 4096, 32_768, dtype='bfloat16')
  assert large > 2**40


def test_a_cache_is_spread_over_its_layout():
  layout = make_layout(fsdp=4, tensor=2)
  cache = lib.empty(CONFIG, 8, 10, dtype='float32', layout=layout)
  shard = cache.k_LBKHS.addressable_shards[0].data
  assert shard.shape == (2, 2, 1, 32, 10)


@pytest.mark.parametrize('sizes', [None, {'fsdp': 4, 'tensor': 2}], ids=str)
def test_blocks_are_taken_and_written(sizes):
  layout = make_layout(**(sizes or {'devices': jax.devices()[:1]}))
  rng = np.random.default_rng(0)
  shards = layout.batch_size
  # Two rows and four blocks of six positions on each shard.
  pool = rng.normal(size=(4 * shards, 2, 6, 3)).astype(np.float32)
  first_B = np.repeat(np.arange(shards) * 4, 2)
  index_B = (first_B + rng.integers(0, 4, 2 * shards)).astype(np.int32)
  index_B[1] = (index_B[0] + 1) % 4
  on_devices = layout.put(pool, 'batch', 'kv_heads', None, None)
  take = jax.jit(functools.partial(lib.take, layout=layout))
  np.testing.assert_array_equal(take(on_devices, index_B), pool[index_B])

  new = rng.normal(size=(2 * shards, 2, 2, 3)).astype(np.float32)
  start_B = rng.integers(0, 5, 2 * shards).astype(np.int32)
  index_B[0] = len(pool)  # Dropped.
  put = jax.jit(functools.partial(lib.put_blocks, axis=2, layout=layout))
  found = put(on_devices, new, index_B, start_B)
  assert found.sharding.is_equivalent_to(on_devices.sharding, 4)
  for b in range(1, 2 * shards):
    pool[index_B[b], :, start_B[b] : start_B[b] + 2] = new[b]
  np.testing.assert_array_equal(found, pool)


def test_readers_of_a_shard_count_from_its_first_row():
  # Two shards of a row of the cache and three of the batch; 2 and 4 are idle.
  rows_PG = np.array([[1, 0, 5], [0, 5, 3]])
  place_B = np.array([1, 0, 0, 5, 0, 4])
  found = lib.Readers(rows_PG[1:], place_B[3:]).of_shard(1)
  # Rows and entries of the other shard become any of this one.
  np.testing.assert_array_equal(found.rows_PG, [[0, 2, 0]])
  np.testing.assert_array_equal(found.place_B, [2, 0, 1])
  first = lib.Readers(rows_PG[:1], place_B[:3]).of_shard(0)
  np.testing.assert_array_equal(first.rows_PG, [[1, 0, 2]])
  np.testing.assert_array_equal(first.place_B, [1, 0, 0])
