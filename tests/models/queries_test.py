"""Joined weights give the queries, keys and values of separate ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import layers, queries, zoo
from rlpt_jax.models.config import Compute, Decoder


def _first_layer(decoder):
  specs = decoder_lib.specs(decoder.config)
  params = weights.init(specs, jax.random.key(0), layout=decoder.layout)
  rng = np.random.default_rng(0)  # Also biases and scales, which start as 0, 1.
  return {
    name: w[0] + 0.1 * rng.normal(size=w[0].shape).astype(np.float32)
    for name, w in params['layers'].items()
  }


def _joined(p):
  p = dict(p)
  for name, (join, parts, _) in decoder_lib.JOINED.items():
    if parts[0] in p:
      p[name] = join(*(p.pop(part) for part in parts))
  return p


@pytest.mark.parametrize('change', [{}, {'qkv_bias': True}, {'qk_norm': False}])
def test_joined_weights_give_the_same(change, one_device):
  config = dataclasses.replace(zoo.get('tiny_qwen3'), **change)
  decoder = Decoder(config, Compute(dtype='float32'), one_device)
  p = _first_layer(decoder)
  rng = np.random.default_rng(1)
  h_BTD = jnp.asarray(rng.normal(size=(3, 5, config.embed_dim)), jnp.float32)
  rope = layers.rope_tables(jnp.arange(15).reshape(3, 5), config)
  expected, found = (
    queries.project(decoder, weights, h_BTD, rope, True)
    for weights in (p, _joined(p))
  )
  assert 'w_q' not in _joined(p) and 'w_qkv' in _joined(p)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
  np.testing.assert_allclose(
    layers.mlp(_joined(p), h_BTD, one_device),
    layers.mlp(p, h_BTD, one_device),
    atol=1e-5,
  )


def test_a_step_writes_one_column_of_what_whole_rows_give(one_device):
  config = zoo.get('tiny_qwen3')
  decoder = Decoder(config, Compute(dtype='float32'), one_device)
  p = _first_layer(decoder)
  rng = np.random.default_rng(1)
  h_B1D = jnp.asarray(rng.normal(size=(3, 1, config.embed_dim)), jnp.float32)
  rope = layers.rope_tables(jnp.array([[4], [0], [9]]), config)
  K, H = config.num_kv_heads, config.head_dim
  own = jnp.zeros((3, K, H, 8)), jnp.zeros((3, K, 8, H))
  found_B1NH, k_BKHS, v_BKSH = queries.project_and_write(
    decoder, p, h_B1D, rope, True, own, 5
  )
  q_B1NH, k_BK1H, v_BK1H = queries.project(decoder, p, h_B1D, rope, True)
  np.testing.assert_array_equal(found_B1NH, q_B1NH)
  np.testing.assert_array_equal(k_BKHS[:, :, :, 5], k_BK1H[:, :, 0])
  np.testing.assert_array_equal(v_BKSH[:, :, 5], v_BK1H[:, :, 0])
  assert not k_BKHS[:, :, :, :5].any() and not v_BKSH[:, :, 6:].any()
