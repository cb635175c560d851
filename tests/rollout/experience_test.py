"""Rows of a batch and the groups that they came from."""

import dataclasses

import numpy as np
import pytest

from rlpt_jax.algorithms import advantages, reductions
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.rollout.experience import Collected, make_experience
from rlpt_jax.rollout.judged import Judged
from tests.rollout.judged_test import NAN, example, sample

CENTERED = dict.fromkeys(['', 'other', 'b'], advantages.group_centered)
NORMALIZED = {'': advantages.group_normalized}
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
  experience = make_experience([Collected(some, 2, 2)], **OPTIONS)
  found = experience.first
  assert found.rows == {0: 1, 1: 0} and experience.resume == {'position': 7}
  assert found.batch.prompt_mask_PS.sum(1).tolist() == [2, 1]
  assert found.batch.mask_PGT.sum((1, 2)).tolist() == [3, 0]
  assert not found.batch.advantages_PG.any()
  experience = experience.with_advantages(CENTERED)
  found = experience.first
  np.testing.assert_array_equal(
    found.batch.advantages_PG, [[-0.5, 0.5], [0, 0]]
  )
  np.testing.assert_array_equal(
    found.advantages_PG, [[NAN, NAN], [-0.5, 0.5], [NAN, NAN]]
  )
  assert experience.metrics() == {
    'advantage/mean': 0.0, 'advantage/std': 0.5, 'curriculum/solved': 2,
  }  # fmt: skip


def test_advantages_come_from_what_was_learned_before():
  """So they are computed when an experience is consumed."""
  carried = advantages.Carried(advantages.RunningNormalized(rate=0.5))
  first, second = (
    make_experience([Collected(groups([[0, x]], [True]), 1, 2)], **OPTIONS)
    for x in (2.0, 20.0)
  )
  small = first.with_advantages({'': carried}).first.advantages_PG
  large = second.with_advantages({'': carried}).first.advantages_PG
  np.testing.assert_allclose(small, [[-1, 1]], rtol=1e-3)
  # 1 -> 50.5 -> 75.25: two steps of a half towards 100.
  np.testing.assert_allclose(large, np.array([[-10, 10]]) / 75.25**0.5, 1e-3)
  assert second.with_advantages(CENTERED) is not second
  assert dataclasses.is_dataclass(second)


def test_a_batch_that_is_not_full():
  some = Collected(groups([[1, 0]], [True]), 3, 2)
  found = make_experience([some], **OPTIONS)
  found = found.with_advantages(CENTERED).first
  assert found.batch.advantages_PG.tolist() == [[0.5, -0.5], [0, 0], [0, 0]]
  assert found.advantages_PG.tolist() == [[0.5, -0.5]]


def test_nothing_to_learn_from():
  some = Collected(groups([[1, 1]], [False]), 1, 2)
  found = make_experience([some], **OPTIONS)
  found = found.with_advantages(NORMALIZED).first
  assert found.metrics()['advantage/mean'] == 0
  assert found.metrics()['advantage/std'] == 0
  assert not found.batch.weights_PGT.any()


def test_two_roles_share_one_loss():
  first = Collected(groups([[0, 1], [1, 1], [0, 2]], [True, False, True]), 8, 2)
  second = Collected(groups([[3, 4]], [True]), 2, 2, 'other')
  experience = make_experience([first, second], **OPTIONS)
  experience = experience.with_advantages(CENTERED)
  found, other = experience.roles
  assert found.rows == {0: 0, 1: 2, 2: 1} and other.rows == {0: 0}
  np.testing.assert_array_equal(
    found.advantages_PG, [[-0.5, 0.5], [NAN, NAN], [-1, 1]]
  )
  # Tokens in the loss: 1 + 1 and 3 + 1 of the first role, 1 + 1 of the other.
  for role, tokens in (found, 6), (other, 2):
    assert role.batch.mask_PGT.sum() == tokens
    np.testing.assert_allclose(
      role.batch.weights_PGT, role.batch.mask_PGT / 8, rtol=1e-6
    )
  assert experience.metrics() == {
    'advantage/mean': 0.0, 'advantage/std': np.sqrt(2.5 / 4),
    'other/advantage/mean': 0.0, 'other/advantage/std': 0.5,
    'curriculum/solved': 2,
  }  # fmt: skip


def test_a_role_without_groups_is_an_empty_batch():
  none = groups(np.zeros((0, 2)), np.zeros(0, bool))
  both = Collected(none, 4, 2), Collected(groups([[0, 1]], [True]), 2, 2, 'b')
  experience = make_experience(both, **OPTIONS)
  experience = experience.with_advantages(CENTERED)
  assert not experience.first.batch.mask_PGT.any()
  assert experience.first.batch.tokens_PGT.shape[:2] == (4, 2)
  assert experience.metrics()['advantage/std'] == 0


@pytest.mark.parametrize('reduce', ['token', 'completion', 'prompt'])
def test_a_role_without_groups_changes_no_weight(reduce):
  some = Collected(groups([[0, 1], [2, 0], [1, 1]], [True, True, False]), 4, 2)
  none = Collected(groups(np.zeros((0, 2)), np.zeros(0, bool)), 2, 2, 'b')
  options = OPTIONS | {'reduction': getattr(reductions, f'{reduce}_mean')}
  alone = make_experience([some], **options)
  both = make_experience([some, none], **options)
  np.testing.assert_allclose(
    both.first.batch.weights_PGT, alone.first.batch.weights_PGT, rtol=1e-6
  )
  assert not both.roles[1].batch.weights_PGT.any()
  both = both.with_advantages(CENTERED)
  assert [x for x in both.rollout_metrics(0) if x.startswith('b/')] == []
  values = {k: v for k, v in both.metrics().items() if k.startswith('b/')}
  assert values == {'b/advantage/mean': 0, 'b/advantage/std': 0}
