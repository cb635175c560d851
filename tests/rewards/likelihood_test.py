"""The formulas by hand, and what is compared with what."""

import math

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract
from rlpt_jax.rewards import likelihood as lib

START, END = extract.START, extract.END


def _encode(text: str) -> list[int]:
  return list(text.encode())


def _example(*references) -> Example:
  prompt = np.array([7, 8], np.int32)
  return Example(prompt, references or ('ab',), 'asr', 'c', 'd', 0)


class Model:
  """log p = the value of the first text that the context has in it."""

  def __init__(self, values: dict[str, float]):
    self.values, self.calls = values, []

  def __call__(self, contexts, continuations):
    self.calls.append((contexts, continuations))
    texts = [bytes(ids[2:]).decode() for ids in contexts]
    return [
      next(v for key, v in self.values.items() if key in text) for text in texts
    ]


def test_what_is_compared():
  model = Model({'': -1.0})
  completion = f'I <b>{START}x{END} thought{START} cd {END} more'
  reward = lib.Likelihood(model, encode=_encode)
  reward([_example('ab ', 'cd')], [[completion, 'no tags']])
  [(contexts, continuations)] = model.calls
  assert [bytes(ids[2:]).decode() for ids in contexts] == [
    START,  # Without: nothing is thought.
    f'I <b>{START}x{END} thought{START}',
  ]
  assert all(ids[:2] == [7, 8] for ids in contexts)
  assert continuations == [_encode('ab')] * 2


def test_information_gain_by_hand():
  # n = 2 tokens: (-1 - -3) / 2 = 1, (-4 - -3) / 2 = -0.5.
  model = Model({'good': -1.0, 'bad': -4.0, START: -3.0})
  reward = lib.Likelihood(model, encode=_encode, clip=(-5, 5))
  found = reward([_example()], [[f'good{START}x{END}', f'bad{START}x{END}']])
  np.testing.assert_allclose(found.rewards_PG, [[1.0, -0.5]])
  assert found.reasons_PG.tolist() == [['scored', 'scored']]


def test_perplexity_gain_by_hand():
  # Perplexities exp(4 / 2) without, exp(1 / 2) with:
  # 100 * (1 - exp(0.5 - 2)) = 77.687.
  assert lib.perplexity_gain(-0.5, -2.0) == pytest.approx(77.68698)
  # Twice the perplexity: 100 * (1 - 2) = -100.
  assert lib.perplexity_gain(-math.log(4), -math.log(2)) == pytest.approx(-100)
  assert lib.perplexity_gain(-2.0, -2.0) == 0
  assert lib.perplexity_gain(-1e9, -2.0) < -1e100  # And no overflow.


@pytest.mark.parametrize(
  ('percent', 'reward'),
  [(-5, 0), (0.04, 0), (0.06, 0.5), (0.9, 0.5), (1.1, 0.9), (1.9, 0.9),
   (2.1, 1), (90, 1)],
)  # fmt: skip
def test_steps_are_those_of_vr_cli(percent, reward):
  # 1 - exp(without - with) = percent / 100.
  with_ = -1.0 - math.log(1 - percent / 100)
  assert lib.steps(lib.perplexity_gain)(with_, -1.0) == reward


def test_a_bound_that_is_reached_counts():
  gain = lib.steps(lambda with_, without: with_, bounds=(1,), rewards=(0, 2))
  assert [gain(x, 0) for x in (0.9, 1, 1.1)] == [0, 2, 2]
  with pytest.raises(ValueError, match='one more reward'):
    lib.steps(lib.probability, bounds=(1, 2), rewards=(0, 1))
  with pytest.raises(ValueError, match='increasing bounds'):
    lib.steps(lib.probability, bounds=(2, 1), rewards=(0, 1, 2))


def test_probability_by_hand():
  # VeriFree: exp(log p) of the whole answer; exp(-0.7) = 0.4966.
  model = Model({'good': -0.7, START: -3.0})
  reward = lib.Likelihood(
    model, encode=_encode, gain=lib.probability, length=lib.whole, clip=(0, 1)
  )
  found = reward([_example()], [[f'good{START}x{END}', 'none']])
  np.testing.assert_allclose(found.rewards_PG, [[0.4965853, 0]], rtol=1e-6)
  # By the token: exp(-0.35), the geometric mean of both.
  assert lib.probability(-0.35, 0) == pytest.approx(0.7046881)


@pytest.mark.parametrize(
  ('length', 'expected'),
  [(lib.per_token, 2 / 3), (lib.per_byte, 2 / 5), (lib.whole, 2.0)],
)
def test_lengths(length, expected):
  # 'aéß' is 3 tokens here and 5 bytes; the reasoning saves 2 nats.
  model = Model({'good': -1.0, START: -3.0})

  def by_character(text):
    # Only for the reference; contexts are bytes, to be read by the model.
    return [0] * len(text) if text == 'aéß' else _encode(text)

  reward = lib.Likelihood(
    model, encode=by_character, length=length, clip=(-9, 9)
  )
  found = reward([_example('aéß')], [[f'good{START}x{END}']])
  np.testing.assert_allclose(found.rewards_PG, [[expected]], rtol=1e-6)


def test_a_group_without_tags_gets_the_least_and_costs_no_more():
  model = Model({'good': -1.0, 'bad': -9.0, START: -3.0})
  reward = lib.Likelihood(model, encode=_encode, clip=(-0.5, 0.75))
  found = reward(
    [_example(), _example()],
    [[f'good{START}x{END}', f'bad{START}x{END}'], ['no', f'{START} open']],
  )
  np.testing.assert_array_equal(found.rewards_PG, [[0.75, -0.5], [-0.5, -0.5]])
  assert found.reasons_PG.tolist() == [
    ['clipped', 'clipped'], ['format/missing', 'format/open']
  ]  # fmt: skip
  assert len(model.calls) == 1
  assert len(model.calls[0][0]) == 4  # Two without, two with.


@pytest.mark.parametrize('value', [-math.inf, math.nan, math.inf])
def test_no_probability_is_no_verdict(value):
  for values in ({'good': value, START: -1.0}, {'good': -1.0, START: value}):
    reward = lib.Likelihood(Model(values), encode=_encode)
    found = reward([_example()], [[f'good{START}x{END}', 'no tags']])
    np.testing.assert_array_equal(found.rewards_PG, [[np.nan, -1]])
    assert found.reasons_PG[0, 0] == 'likelihood/infinite'


def test_without_a_reference_there_is_no_verdict():
  model = Model({START: -1.0})
  reward = lib.Likelihood(model, encode=_encode)
  text = f'a{START}x{END}'
  found = reward([_example(' '), _example('b')], [[text], [text]])
  np.testing.assert_array_equal(found.rewards_PG, [[np.nan], [0]])
  assert found.reasons_PG[0] == 'gold/empty'


def test_thoughts_of_a_prompt_that_opened_them():
  def find(text):
    return extract.prediction(text, thinking=True)

  model = Model({START: -1.0})
  reward = lib.Likelihood(model, encode=_encode, find=find)
  said = f'{START}x{END}'
  found = reward([_example()], [[said, f'so</think>{said}']])
  assert found.reasons_PG.tolist() == [['format/thinking', 'scored']]


@pytest.mark.parametrize(
  ('clip', 'message'),
  [
    ((1, 1), 'a lower and a higher bound'),
    ((2, 1), 'a lower and a higher bound'),
    ((-math.inf, 1), 'a finite number in place of -inf'),
    ((math.nan, 1), 'a finite number in place of nan'),
  ],
)
def test_bounds_that_cannot_be(clip, message):
  with pytest.raises(ValueError, match=message):
    lib.Likelihood(Model({}), encode=_encode, clip=clip)


def test_log_probabilities_that_are_lost_are_noticed():
  reward = lib.Likelihood(lambda *_: [0.0], encode=_encode)
  with pytest.raises(ValueError, match='1 log-probabilities of 2'):
    reward([_example()], [[f'{START}x{END}']])
