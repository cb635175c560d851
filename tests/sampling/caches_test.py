"""Stores of keys and values against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import caches as lib
from rlpt_jax.sampling.caches import Stored

CONFIG = zoo.get('tiny_qwen3')  # 2 layers, 2 heads of 32.
L, K, H = 2, 2, 32


def _decoder(layout):
  return Decoder(CONFIG, Compute(dtype='float32'), layout)


def _cache(rows, length, seed=0, dtype='float32', stacked=False):
  """A cache with numbers in it, as a pass over tuples of layers leaves it."""
  rng = np.random.default_rng(seed)

  def draw(shape):
    # Magnitudes of the positions of a head differ, as those of real keys do.
    x = rng.normal(size=shape) * np.exp(rng.normal(size=(*shape[:3], 1, 1)))
    return jnp.asarray(x, dtype)

  k_shape, v_shape = cache_lib.shapes(CONFIG, rows, length)
  k, v = draw(k_shape), draw(v_shape)
  if not stacked:
    k, v = tuple(k), tuple(v)
  return cache_lib.Cache(k, v, jnp.ones((rows, length), bool))


def _equal(found, expected):
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
@pytest.mark.parametrize('sizes', [{'fsdp': 4, 'tensor': 2}, {'fsdp': 8}, None])
def test_room_is_made_where_it_is_used(sizes, dtype):
  # The only device of a layout need not be the first there is.
  one = make_layout(devices=jax.devices()[5:6])
  layout = make_layout(**sizes) if sizes else one
  stored = lib.empty(_decoder(layout), 8, 10, dtype)
  tensor = (sizes or {}).get('tensor', 1)
  rows = 8 // (sizes or {}).get('fsdp', 1)
  for name, shape, kind in (
    ('k_LBKHS', (8, K, H, 10), dtype),
    ('v_LBKSH', (8, K, 10, H), dtype),
    ('k_scale_LBKS', (8, K, 10), 'float32'),
    ('v_scale_LBKS', (8, K, 10), 'float32'),
  ):
    layers = getattr(stored, name)
    if dtype != 'int8' and 'scale' in name:
      assert layers is None
      continue
    assert len(layers) == L
    for x in layers:
      assert x.shape == shape and x.dtype == kind and not x.any()
      assert x.devices() == set(layout.mesh.devices.flat)
      shard = x.addressable_shards[0].data.shape
      assert shard == (rows, K // tensor, *shape[2:]), name
  # Buffers of their own, or they could not be donated.
  places = {
    x.addressable_shards[0].data.unsafe_buffer_pointer()
    for x in jax.tree.leaves(stored)
  }
  assert len(places) == len(jax.tree.leaves(stored))


@pytest.mark.parametrize('stacked', [True, False])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_what_is_stored_is_cast(dtype, stacked):
  cache = _cache(3, 7, stacked=stacked)
  stored = lib.store(cache, dtype)
  assert lib.dtype_of(stored) == dtype
  assert stored.k_scale_LBKS is None is stored.v_scale_LBKS
  for layer in range(L):
    _equal(stored.k_LBKHS[layer], cache.k_LBKHS[layer].astype(dtype))
    _equal(stored.v_LBKSH[layer], cache.v_LBKSH[layer].astype(dtype))


@pytest.mark.parametrize('stacked', [True, False])
@pytest.mark.parametrize('source', ['float32', 'bfloat16'])
def test_int8_is_rounded_to_half_a_step(source, stacked):
  cache = _cache(3, 7, dtype=source, stacked=stacked)
  stored = jax.jit(lib.store, static_argnums=1)(cache, 'int8')
  assert lib.dtype_of(stored) == jnp.int8
  for whole_L, rounded_L, scale_L, axis in (
    (cache.k_LBKHS, stored.k_LBKHS, stored.k_scale_LBKS, 2),
    (cache.v_LBKSH, stored.v_LBKSH, stored.v_scale_LBKS, 3),
  ):
    assert len(rounded_L) == len(scale_L) == L
    for x, rounded, scale in zip(whole_L, rounded_L, scale_L, strict=True):
      x = np.asarray(x, np.float64)
      # One for each position of each head; 127 is its largest entry.
      largest = np.abs(x).max(axis)
      np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
      assert scale.shape == (3, K, 7) and scale.dtype == jnp.float32
      assert rounded.dtype == jnp.int8 and rounded.shape == x.shape
      assert (np.abs(np.asarray(rounded, int)).max(axis) == 127).all()
      wide = np.expand_dims(np.asarray(scale, np.float64), axis)
      error = np.abs(np.asarray(rounded) * wide - x)
      assert (error <= wide * (0.5 + 1e-4)).all()


def test_int8_of_zeros_of_little_and_of_no_numbers():
  cache = _cache(3, 4)
  k = np.array(cache.k_LBKHS[0])
  k[0] = 0
  k[1] *= 1e-15
  k[2, 0, 5, 1] = np.nan
  stored = lib.store(
    cache_lib.Cache((jnp.asarray(k),), cache.v_LBKSH[:1], cache.mask_BS), 'int8'
  )
  found, scale = stored.k_LBKHS[0], stored.k_scale_LBKS[0]
  assert not found[0].any() and not scale[0].any()
  again = np.asarray(found, np.float32) * np.asarray(scale)[:, :, None]
  np.testing.assert_allclose(again[1], k[1], atol=np.abs(k[1]).max() / 200)
  # What was no number is none afterwards, and nothing else is.
  bad = np.isnan(again).any(2)
  assert bad[2, 0].tolist() == [False, True, False, False]
  assert bad.sum() == 1


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_append_at_ragged_lengths(dtype):
  rows, room, more = 4, 9, 3
  old = lib.store(_cache(rows, room), dtype)
  new = lib.store(_cache(rows, more, seed=1), dtype)
  length_B = np.array([0, 4, 6, 2], np.int32)
  found = jax.jit(lib.append)(old, new, length_B)
  expected = jax.tree.map(np.array, old)
  for layer in range(L):
    for b, start in enumerate(length_B):
      end = start + more
      k, v, k_scale, v_scale = expected
      k[layer][b, :, :, start:end] = new.k_LBKHS[layer][b]
      v[layer][b, :, start:end] = new.v_LBKSH[layer][b]
      if dtype == 'int8':
        k_scale[layer][b, :, start:end] = new.k_scale_LBKS[layer][b]
        v_scale[layer][b, :, start:end] = new.v_scale_LBKS[layer][b]
  _equal(found, expected)
  assert (found.k_scale_LBKS is None) == (dtype != 'int8')


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_append_to_blocks(dtype, one_device):
  size, more = 6, 3
  pool = lib.store(_cache(7, size), dtype)
  new = lib.store(_cache(4, more, seed=1), dtype)
  blocks_BM = np.array([[6, 0], [2, 5], [1, 3], [4, 0]], np.int32)
  # Row 2 is not kept. Rows 0 and 3 write half a block, row 1 its second one.
  length_B = np.array([3, 6, 0, 0], np.int32)
  is_kept_B = np.array([True, True, False, True])
  append = functools.partial(lib.append_to_blocks, layout=one_device)
  found = jax.jit(append)(pool, new, length_B, blocks_BM, is_kept_B)
  expected = jax.tree.map(np.array, pool)
  for layer in range(L):
    for b, block, start in ((0, 6, 3), (1, 5, 0), (3, 4, 0)):
      end = start + more
      k, v, k_scale, v_scale = expected
      k[layer][block, :, :, start:end] = new.k_LBKHS[layer][b]
      v[layer][block, :, start:end] = new.v_LBKSH[layer][b]
      if dtype == 'int8':
        k_scale[layer][block, :, start:end] = new.k_scale_LBKS[layer][b]
        v_scale[layer][block, :, start:end] = new.v_scale_LBKS[layer][b]
  _equal(found, expected)


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_rows_are_replaced_and_those_out_of_range_dropped(dtype):
  old = lib.store(_cache(5, 9), dtype)
  new = lib.store(_cache(4, 6, seed=1), dtype)
  found = jax.jit(lib.replace_rows)(old, new, np.array([3, 5, 0, 99]))
  expected = jax.tree.map(np.array, old)
  for layer in range(L):
    for p, row in ((0, 3), (2, 0)):
      for name, axis in zip(Stored._fields, (2, 1, 1, 1), strict=True):
        if getattr(new, name) is None:
          continue
        update = np.asarray(getattr(new, name)[layer][p])
        # What the row held behind a shorter one is for masks to hide.
        place = [slice(None)] * update.ndim
        place[axis] = slice(6)
        getattr(expected, name)[layer][row][tuple(place)] = update
  _equal(found, expected)


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_a_context_is_the_first_positions(dtype):
  stored = lib.store(_cache(3, 5), dtype)
  readers = cache_lib.Readers(jnp.zeros((3, 2), int), jnp.zeros(4, int))
  cache = lib.context(stored, np.array([0, 5, 2]), readers)
  assert cache.mask_BS.astype(int).tolist() == [
    [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]
  ]  # fmt: skip
  assert cache.layers == tuple(stored)
  assert cache.readers is readers
  assert lib.context(stored, np.array([1, 1, 1])).readers is None
