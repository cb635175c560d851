"""Which groups are learned from, and what is sampled for those that are not."""

import numpy as np
import pytest

from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout import collect
from rlpt_jax.rollout.judged import Judged
from tests.rollout.judged_test import example, sample


def source(*rewards):
  """(sample(count), the counts that it was asked for)."""
  left, asked = list(rewards), []

  def draw(count):
    asked.append(count)
    some = [left.pop(0) for _ in range(min(count, len(left)))]
    if not some:
      return None
    rewards_PG = np.array(some, np.float32)
    found = Scores(rewards_PG, np.full(rewards_PG.shape, 'x'))
    return Judged(
      [example(len(left))] * len(some), [[sample(1), sample(2)]] * len(some),
      found, rewards_PG,
    )  # fmt: skip

  return draw, asked


FLAT, VARIED = (1, 1), (0, 1)


def test_keep():
  draw, asked = source(FLAT, VARIED, FLAT)
  found = collect.keep(draw, 2)
  assert found.learned_P.tolist() == [True, True]
  assert found.judged.rewards_PG.tolist() == [[1, 1], [0, 1]] and asked == [2]


def test_drop():
  draw, asked = source(FLAT, VARIED, VARIED)
  found = collect.drop(draw, 2)
  assert found.learned_P.tolist() == [False, True]
  np.testing.assert_array_equal(found.judged.rewards_PG, [[np.nan] * 2, [0, 1]])
  assert asked == [2]


@pytest.mark.parametrize(
  ('rounds', 'asked', 'learned'),
  [
    (1, [3], [False, True, False]),
    (2, [3, 2], [False, True, False, False, True]),
    # The third round has the one that is missing.
    (9, [3, 2, 1], [False, True, False, False, True, True]),
  ],
)
def test_refill(rounds, asked, learned):
  draw, found = source(FLAT, VARIED, FLAT, FLAT, VARIED, VARIED, FLAT)
  groups = collect.Refill(rounds=rounds)(draw, 3)
  assert found == asked
  assert groups.learned_P.tolist() == learned


def test_refill_takes_what_there_is():
  draw, asked = source(VARIED, FLAT)
  groups = collect.Refill()(draw, 4)
  assert groups.learned_P.tolist() == [True, False] and asked == [4, 3]
  with pytest.raises(ValueError, match=r'Refill\.rounds=0'):
    collect.Refill(rounds=0)


def test_data_that_have_ended():
  for way in (collect.keep, collect.drop, collect.Refill()):
    assert way(source()[0], 2) is None


def test_truncated():
  rewards_PG = np.array([[1, 0]], np.float32)
  found = Scores(rewards_PG, np.full((1, 2), 'x'))
  samples = [[sample(2), sample(4, finish_reason='length')]]
  judged = Judged([example(0)], samples, found, rewards_PG)
  assert collect.truncated(judged).tolist() == [[False, True]]
