"""The kernel, in Pallas's interpreter, samples what XLA's operations sample."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.sampling import logits as lib
from rlpt_jax.sampling import logits_kernel

ROWS = 12


def _settings():
  """Rows that differ in every setting; every third is greedy."""
  rows_B = np.arange(ROWS)
  return lib.Settings(
    np.where(rows_B % 3 == 0, 0, 0.5 + rows_B / 8).astype(np.float32),
    np.where(rows_B % 4 == 1, 5, 0).astype(np.int32),
    np.where(rows_B % 4 == 2, 0.7, 1).astype(np.float32),
    np.where(rows_B % 4 == 3, 0.1, 0).astype(np.float32),
  )


def _both(logits_BV, block, layout):
  rng = np.random.default_rng(1)
  words_BC = rng.integers(0, 2**32, (ROWS, 4), dtype=np.uint32)
  keys_B2 = jax.jit(lib.row_keys)(words_BC)
  position_B = rng.integers(0, 9000, ROWS).astype(np.int32)
  kernel = functools.partial(
    logits_kernel.sample, layout=layout, block=block, interpret=True
  )
  return (
    jax.jit(functools.partial(lib.choose, sample=sample))(
      logits_BV, keys_B2, position_B, _settings()
    )
    for sample in (kernel, None)
  )


@pytest.mark.parametrize(
  ('size', 'block'), [(64, 16), (61, 16), (40, 32), (3, 16), (1000, 128)]
)
def test_tokens_and_logprobs_are_those_of_xla(size, block, one_device):
  _check(size, block, one_device)


def test_several_devices_sample_their_rows():
  _check(61, 16, make_layout(data=2, fsdp=2, tensor=2))


def _check(size, block, layout):
  rng = np.random.default_rng(0)
  logits_BV = (rng.normal(size=(ROWS, size)) * 4).astype(np.float32)
  logits_BV[5, : size // 2] = -np.inf
  logits_BV[6] += 1e4
  found, expected = _both(logits_BV, block, layout)
  np.testing.assert_array_equal(found.token_B, expected.token_B)
  np.testing.assert_allclose(
    found.logprob_B, expected.logprob_B, atol=1e-5, rtol=0
  )
  np.testing.assert_allclose(found.total_B, expected.total_B, rtol=1e-5)
  token_B = rng.integers(0, size, ROWS).astype(np.int32)
  np.testing.assert_allclose(
    found.policy_logprob(logits_BV, token_B),
    expected.policy_logprob(logits_BV, token_B),
    atol=1e-5, rtol=1e-6,
  )  # fmt: skip


def test_the_first_of_equal_logits_is_the_greedy_token(one_device):
  logits_BV = np.zeros((ROWS, 50), np.float32)
  logits_BV[:, [7, 8, 30, 31, 49]] = 3
  logits_BV[3, 7:31] = 0
  found, expected = _both(logits_BV, 16, one_device)
  np.testing.assert_array_equal(found.token_B, expected.token_B)
  assert found.token_B[::3].tolist() == [7, 31, 7, 7]


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_bad_logits_give_nan_in_their_row_only(bad, one_device):
  logits_BV = np.random.default_rng(2).normal(size=(ROWS, 50))
  logits_BV = logits_BV.astype(np.float32)
  logits_BV[4, 20] = logits_BV[9, 41] = bad
  found, expected = _both(logits_BV, 16, one_device)
  assert ((found.token_B >= 0) & (found.token_B < 50)).all()
  is_bad_B = np.isin(np.arange(ROWS), [4, 9])
  np.testing.assert_array_equal(np.isnan(found.logprob_B), is_bad_B)
  np.testing.assert_array_equal(
    np.asarray(found.token_B)[~is_bad_B],
    np.asarray(expected.token_B)[~is_bad_B],
  )
  policy_B = found.policy_logprob(jnp.asarray(logits_BV), found.token_B)
  np.testing.assert_array_equal(np.isnan(policy_B), is_bad_B)
