"""Ratios of tokens and of sequences, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.algorithms import ratios as lib

LOG2 = np.log(2)
# Ratios 2, 1/2 and 4; then 2 and two tokens of padding.
LOGPROBS = np.log([[0.8, 0.2, 0.4], [0.4, 1, 1]])
BEHAVIOR = np.log([[0.4, 0.4, 0.1], [0.2, 1, 1]])
MASK = np.array([[True, True, True], [True, False, False]])
# What may be in padding must not matter.
LOGPROBS[1, 1:] = np.nan, -np.inf
BEHAVIOR[1, 1:] = np.inf, np.nan


def test_token_log_ratio():
  found = lib.token_log_ratio(LOGPROBS, BEHAVIOR, MASK)
  expected = [[LOG2, -LOG2, 2 * LOG2], [LOG2, 0, 0]]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sequence_log_ratio():
  # (1 - 1 + 2) / 3 * log 2, on each token; then log 2 of a single one.
  found = lib.sequence_log_ratio(LOGPROBS, BEHAVIOR, MASK)
  expected = [[2 / 3 * LOG2] * 3, [LOG2, 0, 0]]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_token_has_its_own_gradient():
  for log_ratio in (lib.token_log_ratio, lib.sequence_log_ratio):
    jacobian = jax.jacobian(lambda x, f=log_ratio: f(x, BEHAVIOR, MASK))(
      jnp.asarray(LOGPROBS)
    ).reshape(6, 6)
    np.testing.assert_array_equal(jacobian, np.diag(MASK.ravel()))


def test_no_gradient_for_the_policy_that_sampled():
  for log_ratio in (lib.token_log_ratio, lib.sequence_log_ratio):
    gradient = jax.grad(lambda x, f=log_ratio: f(x, x, MASK).sum())(
      jnp.asarray(LOGPROBS)
    )
    np.testing.assert_array_equal(gradient, MASK)


def test_a_ratio_is_finite():
  log_ratio = jnp.array([-jnp.inf, -200.0, 0.0, 1.0, 19.0, 21.0, jnp.inf])
  found = lib.ratio(log_ratio)
  largest = np.exp(20)
  expected = [0, 0, 1, np.e, np.exp(19), largest, largest]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert np.isnan(lib.ratio(jnp.nan))  # A fault stays visible.


def test_truncated_weight():
  # At most 3; 1 in the padding.
  found = lib.truncated_weight(LOGPROBS, BEHAVIOR, MASK, max_weight=3.0)
  np.testing.assert_allclose(found, [[2, 0.5, 3], [2, 1, 1]], rtol=1e-6)
  gradient = jax.grad(lambda x: lib.truncated_weight(x, BEHAVIOR, MASK).sum())(
    jnp.asarray(LOGPROBS)
  )
  assert not gradient.any()


def test_statistics():
  log_ratio = lib.token_log_ratio(LOGPROBS, BEHAVIOR, MASK)
  found = lib.ratio_statistics(log_ratio, MASK)
  # Ratios 2, 1/2, 4, 2. Gaps 1, 1, 2, 1 times log 2; k3 of each token is
  # ratio - 1 - log ratio: 1 - log 2, -1/2 + log 2, 3 - 2 log 2, 1 - log 2.
  expected = {
    'ratio_mean': 8.5 / 4,
    'ratio_p99': 3.94,  # 0.97 of the way from 2, the third, to 4.
    'ratio_max': 4,
    'gap_mean': 5 / 4 * LOG2,
    'gap_p99': 1.97 * LOG2,  # 0.97 of the way from the third to the fourth.
    'gap_max': 2 * LOG2,
    'kl': (4.5 - 3 * LOG2) / 4,
    'effective_share': 8.5**2 / (4 * (4 + 0.25 + 16 + 4)),
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  as_floats = lib.ratio_statistics(log_ratio, np.float32(MASK))
  assert as_floats == found
  nothing = lib.ratio_statistics(log_ratio, np.zeros_like(MASK))
  assert not any(nothing.values())


def test_statistics_of_the_policy_itself():
  found = lib.ratio_statistics(jnp.zeros((2, 3)), MASK)
  for name in ('ratio_mean', 'ratio_p99', 'ratio_max', 'effective_share'):
    assert found.pop(name) == 1
  assert not any(found.values())
