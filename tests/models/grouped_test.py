"""Grouped products and their gradients are those of plain formulas."""

import functools
import types

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import Layout
from rlpt_jax.models import grouped

# The kernels run in Pallas's interpreter.
WAYS = {
  'loop': grouped.LOOP,
  'kernel': grouped.Way(
    *(functools.partial(f, interpret=True) for f in grouped.KERNEL)
  ),
}
# (rows, groups), for tiles of 16, 32, 64 and 128 rows.
SHAPES = (5, 6), (67, 6), (121, 5), (300, 4)
D, F = 48, 80


def _arrays(sizes, rows, *, D=D, F=F, dtype=np.float32):
  """Returns x, w and dy; NaN where nothing may be read."""
  rng, E = np.random.default_rng(0), len(sizes)
  x, w, dy = (
    np.array(jnp.asarray(rng.normal(size=shape), dtype))
    for shape in ((rows, D), (E, D, F), (rows, F))
  )
  x[sum(sizes) :] = np.nan
  dy[sum(sizes) :] = np.nan
  w[np.asarray(sizes) == 0] = np.nan
  return x, w, dy


def _plain(x, w, dy, sizes):
  """Returns y, dx and dw by a loop over rows, in float64."""
  x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
  y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
  for j, group in enumerate(np.repeat(np.arange(len(sizes)), sizes)):
    y[j] = x[j] @ w[group]
    dx[j] = w[group] @ dy[j]
    dw[group] += np.outer(x[j], dy[j])
  return y, dx, dw


@functools.partial(jax.jit, static_argnums=0)
def _ours(way, x, w, dy, sizes):
  y, gradients = jax.vjp(
    lambda x, w: grouped.product(WAYS[way], x, w, sizes), x, w
  )
  return y, *gradients(dy)


def _check(way, sizes, rows):
  arrays, used = _arrays(sizes, rows), sum(sizes)
  found = _ours(way, *arrays, jnp.asarray(sizes, jnp.int32))
  expected = _plain(*arrays, sizes)
  for name, a, b in zip(('y', 'dx', 'dw'), found, expected, strict=True):
    assert a.shape == b.shape
    if name != 'dw':  # Rows beyond the groups are undefined.
      a, b = a[:used], b[:used]
    np.testing.assert_allclose(a, b, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_any_sizes_give_what_a_loop_over_rows_gives(way, data):
  rows, E = data.draw(st.sampled_from(SHAPES))
  bounds = [data.draw(st.integers(0, rows)) for _ in range(E)]
  _check(way, np.diff([0, *sorted(bounds)]).tolist(), rows)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
  'sizes',
  [
    [0, 0, 67, 0, 0, 0],
    [0] * 6,
    [1] * 6,
    [32, 0, 0, 0, 0, 32],  # Whole tiles.
    [3, 0, 20, 1, 0, 43],  # Tiles that overlap the next group.
  ],
  ids=str,
)
def test_chosen_sizes_give_what_a_loop_over_rows_gives(sizes, way):
  _check(way, sizes, 67)


@pytest.mark.parametrize('way', WAYS)
def test_gradients_are_those_of_a_ragged_product(way):
  sizes = [3, 150, 0, 147]
  # As wide as blocks are for a real model, and half as wide again.
  x, w, dy = map(np.nan_to_num, _arrays(sizes, 300, D=128, F=768))
  sizes = jnp.asarray(sizes, jnp.int32)
  _, gradients = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w)
  found = _ours(way, x, w, dy, sizes)[1:]
  for a, b in zip(found, gradients(dy), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize('way', WAYS)
def test_many_rows_of_half_precision_are_added_up_in_float32(way):
  sizes, rows = [1500, 0, 500, 48], 2048
  arrays = _arrays(sizes, rows, dtype=jnp.bfloat16)
  found = _ours(way, *arrays, jnp.asarray(sizes, jnp.int32))
  for a, b in zip(found, _plain(*arrays, sizes), strict=True):
    assert a.dtype == jnp.bfloat16
    a, b = (np.nan_to_num(np.asarray(x, np.float64)) for x in (a, b))
    # Rounded once, at the end.
    np.testing.assert_allclose(a, b, rtol=2**-8, atol=1e-3)


def _layout(platform, capability):
  device = types.SimpleNamespace(compute_capability=capability)
  return Layout(types.SimpleNamespace(devices=np.array([device])), platform)


@pytest.mark.parametrize(
  ('platform', 'options', 'expected'),
  [
    ('cpu', {'capability': ''}, grouped.LOOP),
    ('tpu', {'capability': ''}, 'ragged_dot'),
    ('gpu', {}, grouped.KERNEL),
    ('gpu', {'dtype': jnp.float16}, grouped.KERNEL),
    ('gpu', {'capability': '8.0'}, grouped.KERNEL),
    ('gpu', {'capability': '10.0'}, grouped.KERNEL),
    # Kernels need more shared memory than these have.
    ('gpu', {'capability': '8.9'}, 'ragged_dot'),
    ('gpu', {'capability': '12.0'}, 'ragged_dot'),
    ('gpu', {'capability': '7.5'}, 'ragged_dot'),
    ('gpu', {'dtype': jnp.float32}, 'ragged_dot'),
    ('gpu', {'size': 72}, 'ragged_dot'),  # Not a multiple of 16.
  ],
)
def test_which_product_is_used(platform, options, expected, monkeypatch):
  options = {'dtype': jnp.bfloat16, 'size': 64, 'capability': '9.0'} | options
  monkeypatch.setattr(grouped, 'product', lambda way, *_: way)
  monkeypatch.setattr(jax.lax, 'ragged_dot', lambda *_: 'ragged_dot')
  size, dtype = options['size'], options['dtype']
  x, w = jnp.zeros((8, size), dtype), jnp.zeros((2, size, 32), dtype)
  layout = _layout(platform, options['capability'])
  found = grouped.grouped_product(x, w, jnp.zeros(2, int), layout=layout)
  assert found == expected


def test_tiles_grow_with_the_rows_of_a_group():
  E, least = 128, grouped.LEAST
  found = [grouped._rows_of_tile(J, E, least) for J in (8, 2048, 4096, 65536)]
  assert found == [16, 32, 64, 128]
  assert set(found) == set(grouped.BLOCKS)
