"""Estimates of the KL against the KL, over all tokens of a small vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import kl as lib
from rlpt_jax.algorithms.losses import reinforce

LOG2 = np.log(2)
LOGITS = jnp.array([0.3, -1.0, 0.8, 0.1])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.5, 0.7, 0.0, 0.4]))
BEHAVIOR = jax.nn.log_softmax(jnp.array([0.9, -0.2, 0.2, -0.6]))
MASK = np.ones((1, 4), bool)


def _mean(estimate, logits, sampled_by=None):
  """Over tokens of pi, or of another; only the estimate has a gradient."""
  logprobs = jax.nn.log_softmax(logits)
  sampled_by = logprobs if sampled_by is None else sampled_by
  probs = jax.lax.stop_gradient(jnp.exp(sampled_by))
  return jnp.sum(probs * estimate(logprobs[None], REFERENCE[None], MASK))


def _kl(p, q):
  return jnp.sum(jnp.exp(p) * (p - q))


def _reverse(logits):
  return _kl(jax.nn.log_softmax(logits), REFERENCE)


def _forward(logits):
  return _kl(REFERENCE, jax.nn.log_softmax(logits))


def test_values():
  # pi 1/2, reference 1/4: x = log 2. Then the reverse, then padding.
  logprobs = np.log([[1 / 2, 1 / 4, np.nan]])
  reference = np.log([[1 / 4, 1 / 2, 0.5]])
  mask = np.array([[True, True, False]])
  np.testing.assert_allclose(
    lib.k1(logprobs, reference, mask), [[LOG2, -LOG2, 0]], atol=1e-6
  )
  np.testing.assert_allclose(
    lib.k2(logprobs, reference, mask), [[LOG2**2 / 2] * 2 + [0]], atol=1e-6
  )
  # e^-x - 1 + x: 1/2 - 1 + log 2, and 2 - 1 - log 2.
  np.testing.assert_allclose(
    lib.k3(logprobs, reference, mask), [[LOG2 - 0.5, 1 - LOG2, 0]], atol=1e-6
  )


def test_k1_and_k3_have_the_mean_of_the_kl():
  expected = _reverse(LOGITS)
  np.testing.assert_allclose(_mean(lib.k1, LOGITS), expected, rtol=1e-5)
  np.testing.assert_allclose(_mean(lib.k3, LOGITS), expected, rtol=1e-5)
  assert abs(_mean(lib.k2, LOGITS) - expected) > 0.01


@pytest.mark.parametrize(
  ('estimate', 'divergence'),
  [(lib.k1, None), (lib.k2, _reverse), (lib.k3, _forward)],
  ids=['k1: none', 'k2: reverse', 'k3: forward'],
)
def test_gradient_of_each_as_a_loss(estimate, divergence):
  found = jax.grad(lambda x: _mean(estimate, x))(LOGITS)
  expected = jax.grad(divergence)(LOGITS) if divergence else jnp.zeros(4)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  # The three are told apart.
  assert jnp.abs(jax.grad(_reverse)(LOGITS)).max() > 0.05
  gap = jax.grad(_reverse)(LOGITS) - jax.grad(_forward)(LOGITS)
  assert jnp.abs(gap).max() > 0.01


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
  def loss(logprobs, reference, mask):
    reward = -jax.lax.stop_gradient(lib.k1(logprobs, reference, mask))
    return reinforce(logprobs, None, reward, mask)

  found = jax.grad(lambda x: _mean(loss, x))(LOGITS)
  np.testing.assert_allclose(found, jax.grad(_reverse)(LOGITS), atol=1e-6)


def test_ratio_times_k3_has_the_gradient_of_the_kl_off_policy():
  def loss(logprobs, reference, mask):
    return jnp.exp(logprobs - BEHAVIOR) * lib.k3(logprobs, reference, mask)

  found = jax.grad(lambda x: _mean(loss, x, sampled_by=BEHAVIOR))(LOGITS)
  np.testing.assert_allclose(found, jax.grad(_reverse)(LOGITS), atol=1e-6)


@pytest.mark.parametrize('estimate', [lib.k1, lib.k2, lib.k3])
def test_far_apart_and_padding_are_finite(estimate):
  logprobs = jnp.array([[-100.0, 0.0, jnp.nan, -jnp.inf]])
  reference = jnp.array([[0.0, -100.0, 0.0, -jnp.inf]])
  mask = np.array([[True, True, False, False]])
  value, gradient = jax.value_and_grad(
    lambda x: estimate(x, reference, mask).sum()
  )(logprobs)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  assert not gradient[0, 2:].any()
