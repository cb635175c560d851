"""Settings as plain data: set alike is equal, and what differs is named."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from rlpt_jax import core
from rlpt_jax.core import settings
from rlpt_jax.rewards import text_match
from rlpt_jax.training.optimizer import AdamW


@dataclasses.dataclass(frozen=True)
class Config:
  reward: object
  optimizer: AdamW = AdamW(learning_rate=1e-3)
  names: tuple = ('a', 'b')
  path: pathlib.Path = pathlib.Path('x/y')


def config(**changes):
  reward = text_match.TextMatch(text_match.exact)
  return Config(**{'reward': reward} | changes)


def test_what_is_set_alike_is_equal_and_survives_json():
  first, second = settings.describe(config()), settings.describe(config())
  assert first == second
  assert json.loads(json.dumps(first)) == first
  assert settings.differences(first, second) == []


def test_a_difference_is_named():
  before = settings.describe(config())
  other = config(
    optimizer=AdamW(learning_rate=2e-3), names=('a', 'b', 'c'),
    reward=text_match.TextMatch(text_match.overlap),
  )  # fmt: skip
  assert settings.differences(before, settings.describe(other)) == [
    "reward.match was 'text_match.exact', now 'text_match.overlap'",
    'optimizer.learning_rate was 0.001, now 0.002',
    "names.2 was nothing, now 'c'",
  ]


def test_functions_are_what_was_bound_to_them():
  bound = functools.partial(text_match.prefix, min_share=0.5)
  found = settings.describe({'match': bound, 'x': np.float32(0.5)})
  name = 'text_match.prefix'
  assert found == {'match': {'is': name, 'min_share': 0.5}, 'x': 0.5}
  # Of an object that is no dataclass, the class: addresses differ.
  assert settings.describe(object()) == 'builtins.object'
  assert settings.describe(AdamW) == 'optimizer.AdamW'
  method = settings.describe(AdamW(learning_rate=1.0).__post_init__)
  assert method['self']['learning_rate'] == 1.0


def test_an_object_may_say_what_it_was_started_with():
  class Judge:
    def __init__(self, model):
      self._model = model

    def __call__(self, prediction, references):
      raise AssertionError('nothing is judged here')

    def settings(self):
      return {'model': self._model, 'find': text_match.exact}

  first, other = (
    settings.describe(config(reward=text_match.TextMatch(Judge(name))))
    for name in ('small', 'large')
  )
  assert settings.differences(first, other) == [
    "reward.match.model was 'small', now 'large'"
  ]
  assert first['reward']['match']['find'].endswith('text_match.exact')
  assert settings.describe(Judge).endswith('.Judge')
  # A module of that name is something else.
  assert settings.describe(core) == 'builtins.module'


def test_all_that_a_value_holds():
  class Open:
    def close(self):
      pass

  held, other = Open(), Open()
  reward = text_match.TextMatch(
    functools.partial(text_match.prefix, min_share=held)
  )
  found = settings.parts({'a': [config(reward=reward)], 'b': other})
  assert [x for x in found if isinstance(x, Open)] == [held, other]
  assert AdamW(learning_rate=1e-3) in found


def test_what_holds_itself_ends():
  other, names = AdamW(learning_rate=1.0), ['a']
  names.append(names)
  found = settings.describe(config(names=names))
  assert found['names'] == ['a', 'builtins.list']
  # Twice side by side is not one inside the other.
  assert len(set(map(str, settings.describe([other, other])))) == 1
  assert settings.parts([names, names, other]).count(other) == 1


def test_nobody_looks_into_a_function():
  def reward(examples, completions):
    return other

  other = AdamW(learning_rate=1.0)
  name = f'{__name__}.test_nobody_looks_into_a_function.<locals>.reward'
  assert settings.describe(reward) == name
  assert settings.parts(reward) == [reward]
