"""Norm, rotation and mlp on numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.models import layers, zoo
from rlpt_jax.models.config import RopeScaling

CONFIG = dataclasses.replace(
  zoo.get('tiny_qwen3'), head_dim=4, rope_theta=100.0
)


def test_rms_norm():
  # mean square of (3, 4) is 12.5
  out = layers.rms_norm(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0]), eps=0.0)
  np.testing.assert_allclose(out, [3 / 12.5**0.5, 8 / 12.5**0.5], rtol=1e-6)


def test_rms_norm_of_half_precision_sums_in_float32():
  # In bfloat16, 256 + 1 is 256: the sum of 512 ones would stop there.
  x = jnp.ones((512,), jnp.bfloat16)
  out = layers.rms_norm(x, jnp.ones((512,)), eps=0.0)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


def test_a_quarter_turn():
  # Frequencies 100^0 = 1 and 100^(-1/2) = 0.1; pairs are (0, 2) and (1, 3).
  np.testing.assert_allclose(layers.rope_frequencies(CONFIG), [1.0, 0.1])
  cos, sin = (
    jnp.array([[[c, 1.0]]]) for c in (0.0, 0.0)
  )  # A quarter turn of the first pair...
  sin = jnp.array([[[1.0, 0.0]]])  # ...and none of the second.
  x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
  np.testing.assert_allclose(
    layers.rotate(x, cos, sin).ravel(), [-3.0, 2.0, 1.0, 4.0], atol=1e-6
  )


def test_scores_depend_on_distance_alone():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 4)).astype(np.float32)

  def score(q_position, k_position):
    turned = [
      layers.rotate(
        jnp.asarray(x),
        *layers.rope_tables(jnp.array([[position]]), CONFIG),
      )
      for x, position in ((q, q_position), (k, k_position))
    ]
    return float(jnp.sum(turned[0] * turned[1]))

  np.testing.assert_allclose(score(3, 1), score(103, 101), rtol=1e-4)
  assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_llama3_scaling():
  # 64 positions: a frequency that turns more than 4 times in them stays, one
  # that turns less than once is divided by 8, and it ramps in between.
  scaling = RopeScaling(8.0, 1.0, 4.0, 64)
  config = dataclasses.replace(CONFIG, head_dim=8, rope_scaling=scaling)
  plain = dataclasses.replace(config, rope_scaling=None)
  before, after = map(layers.rope_frequencies, (plain, config))
  turns = 64 * before / (2 * np.pi)  # 10.2, 3.2, 1.02, 0.3
  keep = np.array([1.0, (turns[1] - 1) / 3, (turns[2] - 1) / 3, 0.0])
  np.testing.assert_allclose(after, before * (keep + (1 - keep) / 8), rtol=1e-6)


def test_mlp(one_device):
  p = {
    'w_gate': jnp.array([[1.0, 0.0], [0.0, 1.0]]),
    'w_up': jnp.array([[2.0, 0.0], [0.0, 3.0]]),
    'w_down': jnp.array([[1.0, 0.0], [1.0, 1.0]]),
  }
  x = jnp.array([[[1.0, -2.0]]])
  hidden = np.asarray(jax.nn.silu(x))[0, 0] * np.array([2.0, -6.0])
  np.testing.assert_allclose(
    layers.mlp(p, x, one_device)[0, 0], [hidden.sum(), hidden[1]], rtol=1e-6
  )
