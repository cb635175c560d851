"""Errors are as frequent as said; an answer always gets the same verdict."""

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.quickstart import truth
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.mistakes import Erring

RIGHT, WRONG = (
  f'{extract.START} Mara has {n} shells in all.{extract.END}' for n in (4, 3)
)
NOTHING = 'Mara has'


def example(i):
  return Example(
    prompt_tokens=np.zeros(1, np.int32), kind='asr', corpus='test',
    references=('Mara has 4 shells in all.',), document=str(i), segment=0,
  )  # fmt: skip


def ask(**options):
  examples = [example(i) for i in range(2000)]
  group = [RIGHT, WRONG, NOTHING, WRONG]
  return scores.ask(
    Erring(reward=truth.truth, **options), examples, [group] * len(examples)
  )


def test_without_errors_nothing_changes():
  examples, group = [example(0)], [[RIGHT, WRONG, NOTHING]]
  plain = truth.truth(examples, group)
  found = Erring(reward=truth.truth)(examples, group)
  np.testing.assert_array_equal(found.rewards_PG, plain.rewards_PG)
  assert found.counts() == plain.counts()


@pytest.mark.parametrize('seed', [0, 1])
def test_errors_are_as_frequent_as_said(seed):
  found = ask(accepts=0.2, rejects=0.05, seed=seed)
  right, wrong, nothing, again = found.rewards_PG.T
  assert 0.03 < 1 - right.mean() < 0.07
  assert 0.17 < wrong.mean() < 0.23
  np.testing.assert_array_equal(wrong, again)
  assert not nothing.any()
  counts = found.counts()
  assert counts['mistake/accepted'] == wrong.sum() + again.sum()
  assert counts['mistake/rejected'] == len(right) - right.sum()


def test_seeds_err_elsewhere():
  one, other = (ask(accepts=0.2, seed=seed).rewards_PG for seed in (0, 1))
  assert not np.array_equal(one, other)


def test_wrong_shares_are_refused():
  with pytest.raises(ValueError, match=r'accepts=1\.5'):
    Erring(reward=truth.truth, accepts=1.5)
