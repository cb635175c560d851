"""The kernel, in Pallas's interpreter, does what XLA's operations do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import layers, write_kernel

EPS = 1e-6


@functools.partial(jax.jit, static_argnames='eps')
def _expected(joined_BKXH, scales, rope, k_BKHS, v_BKSH, column, *, eps):
  """As queries.project and two updates of the caches."""
  B, K, R, H = joined_BKXH.shape
  q_B1NH = joined_BKXH[:, :, :-2].reshape(B, 1, K * (R - 2), H)
  k_B1KH, v_BKH = joined_BKXH[:, None, :, -2], joined_BKXH[:, :, -1]
  if scales:
    q_B1NH = layers.rms_norm(q_B1NH, scales[0], eps=eps)
    k_B1KH = layers.rms_norm(k_B1KH, scales[1], eps=eps)
  rope = [x_BH[:, None] for x_BH in rope]
  q_B1NH, k_B1KH = (layers.rotate(x, *rope) for x in (q_B1NH, k_B1KH))
  return (
    q_B1NH[:, 0],
    k_BKHS.at[:, :, :, column].set(k_B1KH[:, 0].astype(k_BKHS.dtype)),
    v_BKSH.at[:, :, column].set(v_BKH.astype(v_BKSH.dtype)),
  )


@pytest.mark.parametrize('column', [0, 5, 7])
@pytest.mark.parametrize('normed', [True, False])
@pytest.mark.parametrize(
  ('rows', 'heads', 'queries', 'size'),
  [(3, 2, 2, 32), (2, 1, 3, 16), (2, 3, 1, 64), (1, 2, 5, 128)],
)
def test_it_normalizes_rotates_and_writes(
  rows, heads, queries, size, normed, column, one_device
):
  inputs = _inputs(rows, heads, queries, size, normed, column)
  found = _run(one_device, *inputs)
  for x, expected in zip(found, _expected(*inputs, eps=EPS), strict=True):
    np.testing.assert_allclose(x, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
  'sizes', [{'fsdp': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}, {'tensor': 2}]
)
@pytest.mark.parametrize('rows', [8, 3])
def test_several_devices_have_their_rows_and_heads(sizes, rows):
  layout = make_layout(**sizes)
  inputs = _inputs(rows, 2, 3, 16, True, 5)
  found = _run(layout, *inputs)
  for x, expected in zip(found, _expected(*inputs, eps=EPS), strict=True):
    np.testing.assert_allclose(x, expected, atol=2e-6, rtol=2e-6)


def _inputs(rows, heads, queries, size, normed, column):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  scales = (normal(size), normal(size)) if normed else ()
  return (
    normal(rows, heads, queries + 2, size), scales,
    [normal(rows, size // 2), normal(rows, size // 2)],
    normal(rows, heads, size, 8), normal(rows, heads, 8, size),
    jnp.int32(column),
  )  # fmt: skip


def _run(layout, *inputs):
  run = functools.partial(
    write_kernel.rotate_and_write, layout=layout, eps=EPS, interpret=True
  )
  return jax.jit(run)(*inputs)


def test_in_bfloat16_it_rounds_where_the_layers_round(one_device):
  rng = np.random.default_rng(1)

  def normal(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(rng.normal(size=shape), dtype)

  inputs = (
    normal(16, 2, 4, 64), (normal(64), normal(64)),
    [normal(16, 32, dtype=jnp.float32), normal(16, 32, dtype=jnp.float32)],
    normal(16, 2, 64, 8), normal(16, 2, 8, 64), jnp.int32(3),
  )  # fmt: skip
  found = _run(one_device, *inputs)
  for x, expected in zip(found, _expected(*inputs, eps=EPS), strict=True):
    assert x.dtype == jnp.bfloat16
    x, expected = (np.asarray(y, np.float32) for y in (x, expected))
    # The order of the sums may move a value by a last bit, rarely.
    assert (x == expected).mean() > 0.99
    np.testing.assert_allclose(x, expected, atol=0.05)
