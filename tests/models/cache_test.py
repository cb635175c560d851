"""A cache says what it takes before it takes it, and is written in place."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_write_changes_its_positions_and_no_other(one_device):
  cache = lib.empty(CONFIG, 2, 6, dtype='float32', layout=one_device)
  new = jax.tree.map(
    jnp.ones_like, lib.empty(CONFIG, 2, 2, dtype='float32', layout=one_device)
  )
  written = jax.jit(lib.write)(cache, new, 3)
  assert written.mask_BS.tolist() == [[False] * 3 + [True] * 2 + [False]] * 2
  for x in (np.asarray(written.k_LBKHS).swapaxes(3, 4), written.v_LBKSH):
    x = np.asarray(x)
    assert (x[..., 3:5, :] == 1).all()
    assert x.sum() == x[..., 3:5, :].size


def test_a_donated_cache_is_written_in_place(one_device):
  cache = lib.empty(CONFIG, 2, 600, dtype='float32', layout=one_device)
  new = lib.empty(CONFIG, 2, 1, dtype='float32', layout=one_device)
  compiled = jax.jit(lib.write, donate_argnums=0).lower(cache, new, 0).compile()
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= cache.k_LBKHS.nbytes * 2
  assert memory.temp_size_in_bytes < cache.k_LBKHS.nbytes / 10


def test_a_cache_is_spread_over_its_layout():
  layout = make_layout(fsdp=4, tensor=2)
  cache = lib.empty(CONFIG, 8, 10, dtype='float32', layout=layout)
  shard = cache.k_LBKHS.addressable_shards[0].data
  assert shard.shape == (2, 2, 1, 32, 10)
