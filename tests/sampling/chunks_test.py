"""What runs on the devices: in place, and no longer than it must."""

import jax
import numpy as np

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
  compiled = chunks.decode_chunk.lower(
    decoder, params, prefixes, own, slots, steps=4
  ).compile()
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(own))
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes == num_bytes
  assert memory.temp_size_in_bytes < num_bytes / 4


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
