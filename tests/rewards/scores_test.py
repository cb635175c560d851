"""What rewards return, and what they refuse."""

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import Scores, Verdict


def example(*references, kind='asr'):
  return Example(np.zeros(1, np.int32), references, kind, 'corpus', 'doc', 0)


def by_length(example, text):
  if not text:
    return Verdict(float('nan'), 'silent')
  same = len(text) == len(example.references[0])
  return Verdict(float(same), 'right' if same else 'wrong')


def test_each_keeps_the_order_of_prompts_and_rollouts():
  found = scores.each(by_length)(
    [example('a'), example('bb')], [['x', 'xx', ''], ['x', 'xx', 'xxx']]
  )
  np.testing.assert_array_equal(found.rewards_PG, [[1, 0, np.nan], [0, 1, 0]])
  assert found.rewards_PG.dtype == np.float32
  assert found.reasons_PG.tolist() == [
    ['right', 'wrong', 'silent'], ['wrong', 'right', 'wrong'],
  ]  # fmt: skip
  assert found.counts() == {'wrong': 3, 'right': 2, 'silent': 1}
  assert next(iter(found.counts())) == 'wrong'


def test_no_examples_and_no_rollouts():
  assert scores.each(by_length)([], []).rewards_PG.shape == (0, 0)
  assert scores.each(by_length)([example('a')], [[]]).counts() == {}


@pytest.mark.parametrize(
  'completions, error',
  [
    ([['a']], '2 examples but 1 groups'),
    ([['a'], ['a', 'b']], 'groups of 1 and of 2'),
  ],
)
def test_what_does_not_fit(completions, error):
  with pytest.raises(ValueError, match=error):
    scores.each(by_length)([example('a'), example('b')], completions)


def test_what_raises_is_no_reward():
  def broken(example, text):
    raise OSError('the judge is away')

  with pytest.raises(OSError, match='away'):
    scores.each(broken)([example('a')], [['b']])


def test_an_infinite_reward():
  with pytest.raises(ValueError, match=r"infinite.*'much'"):
    scores.each(lambda *_: Verdict(np.inf, 'much'))([example('a')], [['b']])


def test_scores_are_float32():
  with pytest.raises(AssertionError):
    Scores(np.zeros((1, 1)), np.array([['right']]))
