"""Rows of a batch and the groups that they came from."""

import dataclasses
import functools

import numpy as np

from rlpt_jax.algorithms import advantages, reductions
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.rollout.experience import make_experience
from rlpt_jax.rollout.judged import Judged
from tests.rollout.judged_test import NAN, example, sample

OPTIONS = {
  'reduction': reductions.token_mean, 'longest': (8, 4), 'share_prompt': True,
  'names': ['0/a'], 'curriculum': {'curriculum/solved': 2},
  'resume': {'position': 7},
}  # fmt: skip


def groups(rewards_PG, learned_P):
  rewards_PG = np.array(rewards_PG, np.float32)
  samples = []
  for p in range(len(rewards_PG)):
    pair = sample(p + 1), sample(1)
    for one in pair:
      one.completion.logprobs = np.zeros(len(one.completion.tokens))
    samples.append(pair)
  judged = Judged(
    [example(p) for p in range(len(rewards_PG))], samples,
    Scores(rewards_PG, np.full(rewards_PG.shape, 'x')), rewards_PG,
  )  # fmt: skip
  learned_P = np.array(learned_P)
  return Groups(judged.without(~learned_P[:, None]), learned_P)


def test_learned_groups_come_first_and_others_fill_the_batch():
  some = groups([[1, 1], [0, 1], [2, 2]], [False, True, False])
  found = make_experience(some, num_prompts=2, **OPTIONS)
  assert found.rows == (1, 0) and found.resume == {'position': 7}
  assert found.batch.prompt_mask_PS.sum(1).tolist() == [2, 1]
  assert found.batch.mask_PGT.sum((1, 2)).tolist() == [3, 0]
  assert not found.batch.advantages_PG.any()
  found = found.with_advantages(advantages.group_centered)
  np.testing.assert_array_equal(
    found.batch.advantages_PG, [[-0.5, 0.5], [0, 0]]
  )
  np.testing.assert_array_equal(
    found.advantages_PG, [[NAN, NAN], [-0.5, 0.5], [NAN, NAN]]
  )
  assert found.metrics() == {
    'advantage/mean': 0.0, 'advantage/std': 0.5, 'curriculum/solved': 2,
  }  # fmt: skip


def test_advantages_come_from_what_was_learned_before():
  """So they are computed when an experience is consumed."""
  carried = advantages.Carried(advantages.RunningNormalized(rate=0.5))
  make = functools.partial(make_experience, num_prompts=1, **OPTIONS)
  first, second = (make(groups([[0, size]], [True])) for size in (2.0, 20.0))
  small = first.with_advantages(carried).advantages_PG
  large = second.with_advantages(carried).advantages_PG
  np.testing.assert_allclose(small, [[-1, 1]], rtol=1e-3)
  # 1 -> 50.5 -> 75.25: two steps of a half towards 100.
  np.testing.assert_allclose(large, np.array([[-10, 10]]) / 75.25**0.5, 1e-3)
  assert second.with_advantages(advantages.group_centered) is not second
  assert dataclasses.is_dataclass(second)


def test_a_batch_that_is_not_full():
  found = make_experience(groups([[1, 0]], [True]), num_prompts=3, **OPTIONS)
  found = found.with_advantages(advantages.group_centered)
  assert found.batch.advantages_PG.tolist() == [[0.5, -0.5], [0, 0], [0, 0]]
  assert found.advantages_PG.tolist() == [[0.5, -0.5]]


def test_nothing_to_learn_from():
  found = make_experience(groups([[1, 1]], [False]), num_prompts=1, **OPTIONS)
  found = found.with_advantages(advantages.group_normalized)
  assert found.metrics()['advantage/mean'] == 0
  assert found.metrics()['advantage/std'] == 0
  assert not found.batch.weights_PGT.any()
