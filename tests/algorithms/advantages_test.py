"""Advantages by hand, and what must hold for any rewards."""

import json

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from rlpt_jax.algorithms import advantages as lib

NAN = np.nan
FUNCTIONS = [
  lib.group_centered,
  lib.group_normalized,
  lib.leave_one_out,
  lib.batch_normalized,
]
every_function = pytest.mark.parametrize('function', FUNCTIONS)

# Quarters, so that groups are often flat; a NaN now and then.
rewards = hnp.arrays(
  np.float32,
  (3, 4),
  elements=st.one_of(
    st.integers(-8, 8).map(lambda x: x / 4), st.just(float('nan'))
  ),
)
few = hypothesis.settings(max_examples=40)


def test_group_centered():
  # Means 2/3 of three verdicts, and 2 of four.
  found = lib.group_centered(np.array([[1, 1, 0, NAN], [4, 0, 3, 1]]))
  expected = [[1 / 3, 1 / 3, -2 / 3, 0], [2, -2, 1, -1]]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert found.dtype == np.float32


def test_group_normalized():
  # Means 1/2 and 1; std 1/2, and sqrt((4 + 1 + 1) / 3) = sqrt(2) of the three.
  rewards_PG = np.array([[1, 1, 0, 0], [3, 0, 0, NAN]])
  found = lib.group_normalized(rewards_PG, eps=0)
  root = 2**0.5
  expected = [[1, 1, -1, -1], [2 / root, -1 / root, -1 / root, 0]]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  # eps is added to the std: 1/2 / (1/2 + 1/2).
  halved = lib.group_normalized(rewards_PG, eps=0.5)
  np.testing.assert_allclose(halved[0], [0.5, 0.5, -0.5, -0.5], atol=1e-6)


def test_group_normalized_against_the_std_of_torch():
  rewards_PG = np.random.default_rng(0).normal(size=(5, 8))
  centered = rewards_PG - rewards_PG.mean(1, keepdims=True)
  theirs = centered / rewards_PG.std(1, keepdims=True, ddof=1)
  ours = lib.group_normalized(rewards_PG, eps=0)
  np.testing.assert_allclose(ours * (7 / 8) ** 0.5, theirs, atol=1e-5)


def test_leave_one_out():
  # 4 - (0 + 2) / 2 = 3; 0 - (4 + 2) / 2 = -3; 2 - (4 + 0) / 2 = 0.
  # Two verdicts: 1 - 0 and 0 - 1. One: no other.
  found = lib.leave_one_out(np.array([[4, 0, 2], [1, NAN, 0], [NAN, NAN, 5]]))
  expected = [[3, -3, 0], [1, 0, -1], [0, 0, 0]]
  np.testing.assert_allclose(found, expected, atol=1e-6)


@few
@hypothesis.given(rewards)
def test_leave_one_out_is_the_mean_of_the_others(rewards_PG):
  found = lib.leave_one_out(rewards_PG)
  for p, g in np.ndindex(rewards_PG.shape):
    others = np.delete(rewards_PG[p], g)
    others = others[~np.isnan(others)]
    alone = np.isnan(rewards_PG[p, g]) or not len(others)
    expected = 0 if alone else rewards_PG[p, g] - others.mean()
    np.testing.assert_allclose(found[p, g], expected, atol=1e-5)


def test_batch_normalized():
  # Centered: +-1/2, a flat group, +-3/2, 0 for the one without a verdict.
  # Std of the four: sqrt((1/4 + 1/4 + 9/4 + 9/4) / 4) = sqrt(5/4).
  found = lib.batch_normalized(
    np.array([[1, 0, NAN], [2, 2, 2], [NAN, 3, 0]]), eps=0
  )
  std = 1.25**0.5
  expected = [
    [0.5 / std, -0.5 / std, 0], [0, 0, 0], [0, 1.5 / std, -1.5 / std],
  ]  # fmt: skip
  np.testing.assert_allclose(found, expected, atol=1e-6)


@few
@hypothesis.given(rewards)
def test_batch_normalized_has_a_standard_deviation_of_one(rewards_PG):
  kept_PG = lib.judged(rewards_PG) & lib.varies(rewards_PG)[:, None]
  hypothesis.assume(kept_PG.any())
  found = np.asarray(lib.batch_normalized(rewards_PG, eps=0))
  np.testing.assert_allclose(found[np.asarray(kept_PG)].std(), 1, atol=1e-5)


def test_running_normalized():
  # Centered: +-1/2, a flat group, +-3/2: a mean square of 5/4.
  running = lib.RunningNormalized(rate=0.5, eps=0)
  first = np.array([[1, 0, NAN], [2, 2, 2], [NAN, 3, 0]])
  found, carried = running(first, None)
  np.testing.assert_allclose(found, lib.batch_normalized(first, eps=0))
  assert carried == 1.25
  # Two squares of 1/4, one after the other: 5/4 -> 3/4 -> 1/2.
  found, carried = running(np.array([[1, 0]]), carried)
  assert carried == 0.5
  np.testing.assert_allclose(found, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-6)
  # Nothing to learn from: nothing changes.
  found, carried = running(np.array([[1, 1], [NAN, 0]]), carried)
  assert carried == 0.5 and not found.any()
  # eps is added to the std: 1/2 / (1/2 + 1/2).
  found, _ = lib.RunningNormalized(eps=0.5)(np.array([[1, 0]]), None)
  np.testing.assert_allclose(found, [[0.5, -0.5]])
  with pytest.raises(ValueError, match='rate=0: expected a number above 0'):
    lib.RunningNormalized(rate=0)


def test_running_normalized_follows_completion_by_completion():
  rng, carried, expected = np.random.default_rng(0), None, None
  running = lib.RunningNormalized(rate=0.01)
  for _ in range(3):
    rewards_PG = rng.normal(size=(4, 5)).astype(np.float32)
    centered = np.asarray(lib.group_centered(rewards_PG)).ravel()
    _, carried = running(rewards_PG, carried)
    if expected is None:
      expected = (centered**2).mean()
    else:
      for a in centered:
        expected = 0.99 * expected + 0.01 * a**2
    np.testing.assert_allclose(carried, expected, rtol=1e-5)


@pytest.mark.parametrize('split', [1, 3])
def test_what_is_carried_goes_on_from_a_record(split):
  rng = np.random.default_rng(1)
  batches = rng.normal(size=(5, 2, 4)).astype(np.float32)
  whole = lib.Carried(lib.RunningNormalized())
  expected = [whole(rewards_PG) for rewards_PG in batches]
  first = lib.Carried(lib.RunningNormalized())
  found = [first(rewards_PG) for rewards_PG in batches[:split]]
  again = lib.Carried(
    lib.RunningNormalized(), json.loads(json.dumps(first.value))
  )
  found += [again(rewards_PG) for rewards_PG in batches[split:]]
  np.testing.assert_array_equal(found, expected)
  assert again.value == whole.value


def test_most_functions_carry_nothing():
  carried = lib.Carried(lib.group_centered)
  np.testing.assert_allclose(carried(np.array([[1, 0]])), [[0.5, -0.5]])
  assert carried.value is None


def test_varies():
  rewards_PG = np.array(
    [
      [0.5, 0.5, 0.5],
      [0.5, 0.5 + 5e-7, 0.5],
      [0.5, 0.5 + 4e-6, 0.5],
      [1.0, NAN, 0.0],
      [1.0, NAN, NAN],  # One verdict agrees with itself.
      [NAN, NAN, NAN],
      [-1.0, 1.0, -1.0],
    ]
  )
  expected = [False, False, True, True, False, False, True]
  np.testing.assert_array_equal(lib.varies(rewards_PG), expected)
  np.testing.assert_array_equal(
    lib.varies(jax.numpy.array(rewards_PG)), expected
  )
  assert not lib.varies(rewards_PG[2:3], tolerance=1e-5).any()
  # The mean of these three is not one of them in float32, nor is the std 0.
  assert not lib.varies(np.full((1, 3), 1e6 + 0.1)).any()


def test_judged():
  found = lib.judged(np.array([[1.0, NAN], [0.0, -1.0]]))
  np.testing.assert_array_equal(found, [[True, False], [True, True]])


@every_function
@pytest.mark.parametrize('reward', [0.1, -1.0, 1 / 3, 1e6 + 0.1])
def test_rewards_that_agree_give_exactly_nothing(function, reward):
  assert not np.any(function(np.full((2, 7), reward)))


@every_function
@pytest.mark.parametrize('shape', [(1, 1), (3, 1)])
def test_a_group_of_one_learns_nothing(function, shape):
  assert not np.any(function(np.ones(shape)))


def test_which_functions_need_groups():
  own = (lib.group_centered, lib.group_normalized, lib.leave_one_out)
  for function in (*own, lib.batch_normalized, lib.RunningNormalized()):
    assert lib.needs_groups(function)
  # REINFORCE, as it is and with the mean of the batch.
  assert not lib.needs_groups(lambda rewards_PG: rewards_PG)
  assert not lib.needs_groups(lambda rewards_PG: rewards_PG - rewards_PG.mean())


@every_function
def test_no_verdict_at_all(function):
  assert not np.any(function(np.full((2, 3), NAN)))


@every_function
@few
@hypothesis.given(rewards_PG=rewards)
def test_any_rewards(function, rewards_PG):
  found = np.asarray(function(rewards_PG))
  # What is subtracted is a mean, and what has no verdict has no say.
  np.testing.assert_allclose(found.sum(1), 0, atol=2e-5)
  assert not found[np.isnan(rewards_PG)].any()
  # More than the mean earns more than nothing.
  mean_P1 = np.nanmean(
    np.where(np.isnan(rewards_PG).all(1, keepdims=True), 0, rewards_PG),
    axis=1,
    keepdims=True,
  )
  assert (found[rewards_PG > mean_P1 + 1e-5] > 0).all()
  assert (found[rewards_PG < mean_P1 - 1e-5] < 0).all()
  # A constant added to all rewards of a prompt changes nothing, nor does the
  # order of the group.
  shifted = function(rewards_PG + np.float32([[1], [0], [-2]]))
  np.testing.assert_allclose(shifted, found, atol=1e-4)
  np.testing.assert_allclose(
    function(rewards_PG[:, ::-1])[:, ::-1], found, atol=1e-5
  )
  np.testing.assert_allclose(jax.jit(function)(rewards_PG), found, atol=1e-6)


@every_function
def test_no_verdict_is_as_if_the_completion_were_not_there(function):
  full = np.random.default_rng(0).normal(size=(3, 4))
  with_gaps = np.insert(full, 2, NAN, axis=1)
  found = np.delete(function(with_gaps), 2, axis=1)
  np.testing.assert_allclose(found, function(full), atol=1e-6)


def test_whole_numbers_are_rewards_too():
  np.testing.assert_allclose(
    lib.group_centered(np.array([[1, 0]])), [[0.5, -0.5]]
  )
