"""What rewards return, and what they refuse."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Scores, Verdict


def example(*references, kind='asr'):
  return Example(np.zeros(1, np.int32), references, kind, 'corpus', 'doc', 0)


def by_length(example, text):
  if not text:
    return Verdict(float('nan'), 'silent')
  same = len(text) == len(example.references[0])
  return Verdict(float(same), 'right' if same else 'wrong')


def test_each_keeps_the_order_of_prompts_and_rollouts():
  found = scores.Each(by_length)(
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
  assert scores.Each(by_length)([], []).rewards_PG.shape == (0, 0)
  assert scores.Each(by_length)([example('a')], [[]]).counts() == {}


@pytest.mark.parametrize(
  'completions, error',
  [
    ([['a']], '2 examples but 1 groups'),
    ([['a'], ['a', 'b']], 'groups of 1 and of 2'),
  ],
)
def test_what_does_not_fit(completions, error):
  with pytest.raises(ValueError, match=error):
    scores.Each(by_length)([example('a'), example('b')], completions)


def test_what_raises_is_no_reward():
  def broken(example, text):
    raise OSError('the judge is away')

  with pytest.raises(OSError, match='away'):
    scores.Each(broken)([example('a')], [['b']])


def test_an_infinite_reward():
  with pytest.raises(ValueError, match=r"infinite.*'much'"):
    scores.Each(lambda *_: Verdict(np.inf, 'much'))([example('a')], [['b']])


TWO = [example('a'), example('b')], [['x', 'y', 'z'], ['u', 'v', 'w']]


@pytest.mark.parametrize(
  'found',
  [
    [[1, 0.5, None], [0, True, np.nan]],
    ((1, 0.5, None), (0, 1, None)),
    [1, 0.5, None, 0, 1, None],
    np.array([[1, 0.5, np.nan], [0, 1, np.nan]]),
    [np.array([1, 0.5, None]), [np.int8(0), np.float16(1), None]],
    jnp.array([1, 0.5, np.nan, 0, 1, np.nan]),
    torch.tensor([[1, 0.5, np.nan], [0, 1, np.nan]]),
    Scores(
      np.array([[1, 0.5, np.nan], [0, 1, np.nan]], np.float32),
      np.array([['scored', 'scored', 'none']] * 2),
    ),
  ],
)
def test_numbers_are_scores(found):
  scored = scores.ask(lambda examples, completions: found, *TWO)
  np.testing.assert_array_equal(
    scored.rewards_PG, [[1, 0.5, np.nan], [0, 1, np.nan]]
  )
  assert scored.rewards_PG.dtype == np.float32
  assert scored.reasons_PG.tolist() == [['scored', 'scored', 'none']] * 2


def test_numbers_of_no_examples():
  assert scores.ask(lambda *_: [], [], []).rewards_PG.shape == (0, 0)
  one = [example('a')], [['x', 'y']]
  assert scores.ask(lambda *_: [1, 2], *one).rewards_PG.tolist() == [[1, 2]]
  assert scores.ask(lambda *_: [[3, 4]], *one).rewards_PG.tolist() == [[3, 4]]


@pytest.mark.parametrize(
  ('found', 'shown'),
  [
    (None, 'None (NoneType)'),
    (0.5, '0.5 (float)'),
    ('right', "'right' (str)"),
    ({'a': 1}, "{'a': 1} (dict)"),
    ((x for x in range(6)), r'(generator)'),
    ([1.0] * 5, '[1.0, 1.0, 1.0, 1.0, 1.0] (list of shape (5,))'),
    ([[1, 0], [1, 0], [1, 0]], '[1, 0]] (list of shape (3, 2))'),
    ([[1, 0, 1], [1, 0]], '[[1, 0, 1], [1, 0]] (list)'),
    (['1', None, '3'] * 2, '(list)'),
    (['1', '2', '3'] * 2, '(list)'),
    ([1j] * 6, '(list)'),
    (np.zeros((3, 2)), '(ndarray of shape (3, 2))'),
    (np.zeros((1, 2, 3)), '(ndarray of shape (1, 2, 3))'),
    (
      Scores(np.zeros((1, 3), np.float32), np.array([['scored'] * 3])),
      'scores of shape (1, 3)',
    ),
  ],
)  # fmt: skip
def test_what_is_no_number_is_refused_in_one_line(found, shown):
  def mine(examples, completions):
    return found

  with pytest.raises(ValueError) as caught:
    # As on a pod: one_host.py.
    reward = functools.partial(mine)
    scores.ask(functools.wraps(reward)(lambda *asked: reward(*asked)), *TWO)
  said = str(caught.value)
  assert said.startswith(f'the reward {__name__}.{mine.__qualname__} returned ')
  assert shown in said and '\n' not in said
  assert said.endswith(
    'expected Scores, or 2 lists of 3 numbers (a number or None for each '
    'completion), or one list of all 6.'
  )


@pytest.mark.parametrize(
  ('rewards', 'found'),
  [
    (np.zeros((1, 1)), 'Scores: rewards of float64 (1, 1) with reasons (1, 1)'),
    (
      np.zeros(1, np.float32),
      'Scores: rewards of float32 (1,) with reasons (1, 1)',
    ),
    (
      np.zeros((1, 2), np.float32),
      'Scores: rewards of float32 (1, 2) with reasons (1, 1)',
    ),
    ([[0.0]], 'Scores: rewards of float64 (1, 1)'),
  ],
)
def test_scores_are_of_one_shape_and_float32(rewards, found):
  with pytest.raises(ValueError, match=re.escape(found)):
    Scores(rewards, np.array([['right']]))


class Model:
  """What a reward may hold, and has to close."""

  closed = 0

  def close(self):
    self.closed += 1


@dataclasses.dataclass(frozen=True)
class Modelled(scores.Reward):
  model: Model
  find: Callable = extract.boxed

  def __call__(self, examples, completions):
    raise AssertionError('nothing is judged here')


@dataclasses.dataclass(frozen=True)
class Outer(scores.Reward):
  rewards: dict

  def __call__(self, examples, completions):
    raise AssertionError('nothing is judged here')


def test_a_reward_closes_its_parts_and_names_its_settings():
  first, second = Model(), Model()
  inner = functools.partial(Modelled(second))  # As gin may bind one.
  reward = Outer({'a': Modelled(first), 'b': (inner, 2.0)})
  assert reward.settings() == {'rewards': reward.rewards}
  scores.of(reward).close()
  assert first.closed == second.closed == 1
  scores.of(lambda examples, completions: [[0.0]]).close()


class Stuck(Model):
  def close(self):
    super().close()
    raise OSError('stuck')


class Owner(Model, scores.Reward):
  """A reward with something of its own to close, as MathVerifier has."""

  def __init__(self, part):
    self.part = part

  def settings(self):
    return {'part': self.part}

  def __call__(self, examples, completions):
    raise AssertionError('nothing is judged here')


def test_all_parts_are_closed_once_even_if_one_raises():
  before, stuck, after, inside = Model(), Stuck(), Model(), Model()
  owner = Owner(Modelled(inside))
  reward = Outer({
    'a': Modelled(before), 'b': Outer({'b': Modelled(stuck)}),
    'c': Modelled(stuck), 'd': owner, 'e': Modelled(after),
    'class': Model,  # It has `close` too, but nothing to close.
  })  # fmt: skip
  with pytest.raises(OSError, match='stuck'):
    reward.close()
  models = (before, stuck, after, inside, owner)
  assert [model.closed for model in models] == [1] * 5


def test_the_answer_is_what_the_first_part_finds():
  reward = Outer({'a': scores.Each(by_length), 'b': Modelled(Model())})
  assert reward.find_answer(r'so \boxed{2}') == ('2', '', 10)
  assert scores.of(by_length).find_answer('2') is None


def test_a_function_is_a_reward():
  reward = scores.of(lambda examples, completions: [[0.5, None]])
  found = reward([example('a')], [['a', 'b']])
  assert found.reasons_PG.tolist() == [['scored', 'none']]
  assert scores.of(reward) is reward
