"""A cache says what it takes before it takes it."""

import jax

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
