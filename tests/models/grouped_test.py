"""Grouped products are those of `jax.lax.ragged_dot`, and read less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.models import grouped

PRODUCTS = {
  'loop': grouped._by_loop,
  'kernel': functools.partial(grouped._by_kernel, interpret=True),
}
SIZES = {
  'one group': [0, 0, 0, 0, 5, 0],
  'no rows': [0] * 6,
  'a row each': [1] * 6,
  'whole tiles': [16, 32, 0, 0, 0, 16],
  'tiles that overlap the next group': [3, 0, 17, 1, 0, 43],
}


def _arrays(sizes, rows):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(rows, 64)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(len(sizes), 64, 96)), jnp.float32)
  return x, w, jnp.asarray(sizes, jnp.int32)


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('product', PRODUCTS)
def test_rows_are_multiplied_by_the_matrix_of_their_group(product, name):
  rows = 64  # As many as there are in the largest case.
  x, w, sizes = _arrays(SIZES[name], rows)
  used = int(sizes.sum())
  expected = jax.lax.ragged_dot(x, w, sizes)[:used]
  # Matrices of groups without rows are not read, nor are rows beyond groups.
  w = jnp.where((sizes > 0)[:, None, None], w, jnp.nan)
  x = jnp.where(jnp.arange(rows)[:, None] < used, x, jnp.nan)
  found = jax.jit(PRODUCTS[product])(x, w, sizes)
  assert found.shape == (rows, 96)
  np.testing.assert_allclose(found[:used], expected, atol=2e-5)


def _chosen(monkeypatch, platform, *, dtype=jnp.bfloat16, size=64):
  for name in ('_by_loop', '_by_kernel'):
    monkeypatch.setattr(grouped, name, lambda *_, name=name: name)
  monkeypatch.setattr(jax.lax, 'ragged_dot', lambda *_: 'ragged_dot')
  x, w = jnp.zeros((8, size), dtype), jnp.zeros((2, size, 32), dtype)
  return grouped.grouped_product(x, w, jnp.zeros(2, int), platform=platform)


@pytest.mark.parametrize(
  ('platform', 'options', 'expected'),
  [
    ('cpu', {}, '_by_loop'),
    ('tpu', {}, 'ragged_dot'),
    ('gpu', {}, '_by_kernel'),
    ('gpu', {'dtype': jnp.float32}, 'ragged_dot'),
    ('gpu', {'size': 72}, 'ragged_dot'),  # Not a multiple of 16.
  ],
)
def test_which_product_is_used(platform, options, expected, monkeypatch):
  assert _chosen(monkeypatch, platform, **options) == expected
