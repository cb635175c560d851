"""Sums of rewards, and what their parts said."""

import numpy as np
import pytest

from rlpt_jax.rewards import combine
from rlpt_jax.rewards.scores import Scores
from tests.rewards.scores_test import example

NAN = np.nan


def fixed(rewards, reasons):
  """A reward that always says the same."""
  found = Scores(np.array(rewards, np.float32), np.array(reasons))
  return lambda examples, completions: found


FIRST = fixed([[1, 0, NAN, NAN]], [['right', 'wrong', 'slow', 'slow']])
SECOND = fixed([[1, 1, 1, NAN]], [['right', 'right', 'right', 'down']])
ASKED = [example('a')], [['b'] * 4]


def test_weighted():
  found = combine.Weighted({'a': (FIRST, 1.0), 'b': (SECOND, 0.5)})(*ASKED)
  # 1 + 0.5, 0 + 0.5; NaN of one is NaN of the sum, the first gives the reason.
  np.testing.assert_array_equal(found.rewards_PG, [[1.5, 0.5, NAN, NAN]])
  assert found.rewards_PG.dtype == np.float32
  assert found.reasons_PG.tolist() == [['scored', 'scored', 'a/slow', 'a/slow']]
  assert found.parts['a'].counts() == {'slow': 2, 'right': 1, 'wrong': 1}
  np.testing.assert_array_equal(found.parts['b'].rewards_PG, [[1, 1, 1, NAN]])


def test_weight_zero_is_looked_at_only():
  found = combine.Weighted({'a': (FIRST, 0), 'b': (SECOND, 2.0)})(*ASKED)
  np.testing.assert_array_equal(found.rewards_PG, [[2, 2, 2, NAN]])
  assert found.reasons_PG[0, 3] == 'b/down'
  assert found.parts['a'].counts()['slow'] == 2


def test_weighted_within_weighted():
  inner = combine.Weighted({'a': (FIRST, 1.0)})
  found = combine.Weighted({'in': (inner, -1.0), 'b': (SECOND, 1.0)})(*ASKED)
  np.testing.assert_array_equal(found.rewards_PG, [[0, 1, NAN, NAN]])
  assert found.reasons_PG[0, 2] == 'in/a/slow'
  assert found.parts['in'].parts['a'].counts()['right'] == 1


def test_mere_numbers_are_combined_too():
  def numbers(examples, completions):
    return [len(text) if text else None for text in completions[0]]

  asked = [example('a', kind='x')], [['b', '', 'ccc', '']]
  found = combine.Weighted({'a': (FIRST, 1.0), 'n': (numbers, 1.0)})(*asked)
  np.testing.assert_array_equal(found.rewards_PG, [[2, NAN, NAN, NAN]])
  assert found.reasons_PG.tolist() == [['scored', 'n/none', 'a/slow', 'a/slow']]
  found = combine.ByKind({'x': numbers})(*asked)
  np.testing.assert_array_equal(found.rewards_PG, [[1, NAN, 3, NAN]])


def test_nothing_to_combine():
  with pytest.raises(ValueError, match='no rewards'):
    combine.Weighted({})
  with pytest.raises(ValueError, match='a finite number in place of nan'):
    combine.Weighted({'a': (FIRST, NAN)})


def test_what_raises_stops_the_sum():
  def broken(examples, completions):
    raise OSError('away')

  with pytest.raises(OSError):
    combine.Weighted({'a': (FIRST, 1.0), 'b': (broken, 1.0)})(*ASKED)


def echo(examples, completions):
  """The number that is the completion; the kind that was asked for."""
  rewards = np.array(completions, np.float32)
  kinds = [
    [e.kind] * len(g) for e, g in zip(examples, completions, strict=True)
  ]
  return Scores(rewards, np.array(kinds))


def test_by_kind():
  examples = [example('x', kind=kind) for kind in ('asr', 'rlvr', 'asr')]
  reward = combine.ByKind({'rlvr': echo, 'asr': echo, 'msr': echo})
  found = reward(examples, [['1', '2'], ['3', '4'], ['5', 'nan']])
  np.testing.assert_array_equal(found.rewards_PG, [[1, 2], [3, 4], [5, NAN]])
  assert found.reasons_PG.tolist() == [['asr'] * 2, ['rlvr'] * 2, ['asr'] * 2]
  assert set(found.parts) == {'asr', 'rlvr'}
  np.testing.assert_array_equal(
    found.parts['asr'].rewards_PG, [[1, 2], [5, NAN]]
  )


def test_a_kind_without_a_reward():
  with pytest.raises(
    ValueError, match=r"kind 'msr', but rewards for \['asr'\]"
  ):
    combine.ByKind({'asr': echo})([example('x', kind='msr')], [['1']])


def test_numbers_are_verified_and_texts_are_judged():
  asked = []

  def reward(name):
    def score(examples, completions):
      asked.append((name, [one.references[0] for one in examples]))
      return Scores(
        np.full((len(examples), 1), len(name), np.float32),
        np.full((len(examples), 1), name),
      )

    return score

  references = ['12', '-3.5', '1,200', '$4.50', '3/4', '12 km', 'red', '7%']
  found = combine.ByReference(number=reward('n'), text=reward('text'))(
    [example(one) for one in references], [['x']] * len(references)
  )
  assert asked == [
    ('n', ['12', '-3.5', '1,200', '$4.50', '3/4', '7%']),
    ('text', ['12 km', 'red']),
  ]
  assert found.rewards_PG[:, 0].tolist() == [1, 1, 1, 1, 1, 4, 4, 1]
  assert set(found.parts) == {'number', 'text'}
