"""What runs on the devices: in place, and no longer than it must."""

import math
import re

import jax
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.models.cache import Readers
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import SIZES, Table
from tests.sampling import decode_test


def test_donated_caches_are_written_in_place(one_device):
  decoder, params = decode_test.tiny(one_device, 'tiny_qwen3')
  params = publish(decoder, params)
  prefixes = caches.empty(decoder, 2, 8, 'float32')
  own = caches.empty(decoder, 8, 2048, 'float32')
  slots = Table(8, SIZES).slots(np.array([3, 5]), None)
  compiled = (
    chunks.compiled_for('cpu', 'float32')
    .lower(decoder, params, prefixes, own, slots, steps=4)
    .compile()
  )
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(own))
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes == num_bytes
  assert memory.temp_size_in_bytes < num_bytes / 4


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
@pytest.mark.parametrize('sizes', [None, {'fsdp': 2, 'data': 2, 'tensor': 2}])
def test_blocks_are_written_in_place_and_stay_on_their_device(sizes, dtype):
  layout = make_layout(**(sizes or {'devices': jax.devices()[:1]}))
  decoder, params = decode_test.tiny(layout, 'tiny_qwen3')
  prefixes = caches.empty(decoder, 8, 8, dtype)
  own = caches.empty(decoder, 2048, 32, dtype)
  readers = Readers(
    np.arange(16, dtype=np.int32).reshape(8, 2), np.arange(16, dtype=np.int32)
  )
  slots = Table(16, SIZES).slots(
    np.full(8, 3), readers, blocks_BM=np.zeros((16, 128), np.int32)
  )
  compiled = (
    chunks.compiled_for('cpu', 'float32')
    .lower(decoder, publish(decoder, params), prefixes, own, slots, steps=4)
    .compile()
  )
  memory = compiled.memory_analysis()
  num_bytes = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(own)
  )
  assert memory.alias_size_in_bytes == num_bytes
  # Neither the pool nor a layer of it is copied, in the loop or after it.
  layer = num_bytes // decoder.config.num_layers
  assert memory.temp_size_in_bytes < layer / 2
  names = 'all-gather|all-to-all|all-reduce|collective-permute'
  results = re.findall(rf'= (.*?) (?:{names})\(', compiled.as_text())
  assert bool(results) == bool(sizes)
  for shape in re.findall(r'\w\[([0-9,]*)\]', ' '.join(results)):
    # As much as weights and queries, but no blocks.
    assert math.prod(map(int, filter(None, shape.split(',')))) < 10_000, shape


def test_recorded_tokens_are_repeated(one_device):
  decoder, params = decode_test.tiny(one_device, 'tiny_qwen3')
  params = publish(decoder, params)
  prefixes = caches.empty(decoder, 1, 4, 'float32')
  table = Table(2, SIZES)
  request = Request(prompt_tokens=(5,), id='one', samples=2, max_new_tokens=8)
  for row in range(2):
    table.enter(row, request, 0)  # The same sample twice.
  replay_BT = np.full((2, 4), chunks.NO_TOKEN, np.int32)
  replay_BT[1, :2] = 7, 9
  slots = table.slots(np.array([0]), None, replay_BT=replay_BT)
  own = caches.empty(decoder, 2, 8, 'float32')
  _, report = chunks.decode_chunk(
    decoder, params, prefixes, own, slots, steps=4
  )
  free, repeated = report.tokens_BT.tolist()
  assert free[:2] != [7, 9] and repeated[:2] == [7, 9]
  # What follows is sampled after them.
  policy = decode_test.score(
    decoder, decode_test.tiny(one_device, 'tiny_qwen3')[1], (5,), repeated
  )
  np.testing.assert_allclose(report.policy_logprobs_BT[1], policy, atol=1e-5)


def test_a_chunk_ends_when_all_rows_are_done(one_device):
  decoder, params = decode_test.tiny(one_device, 'tiny_qwen3')
  params = publish(decoder, params)
  prefixes = caches.empty(decoder, 1, 4, 'float32')
  own = caches.empty(decoder, 2, 8, 'float32')
  table = Table(2, SIZES)
  request = Request(
    prompt_tokens=(5,), id='one', samples=2, max_new_tokens=(3, 1)
  )
  table.enter(0, request, 0)
  table.enter(1, request, 1)
  slots = table.slots(np.array([0]), None)
  own, report = chunks.decode_chunk(
    decoder, params, prefixes, own, slots, steps=8
  )
  assert report.count_B.tolist() == [3, 1]
  assert (report.finish_B == chunks.LENGTH).all()
  # Three steps wrote keys; a fourth would have left some behind the third.
  k_BKHS = np.asarray(own.k_LBKHS[0])
  assert (np.abs(k_BKHS[..., :3]).sum(axis=(1, 2)) > 0).all()
  assert (k_BKHS[..., 3:] == 0).all()
