"""What a setting may be: every kind of annotation, right and wrong."""

import dataclasses
import functools
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from rlpt_jax.core import checks
from rlpt_jax.core.checks import (
  Bytes,
  Count,
  Name,
  Natural,
  NonNegative,
  Positive,
  PositiveShare,
  Seed,
  Share,
)


class Corpus(Protocol):
  name: str

  def read(self): ...


class Letters:
  name = 'letters'

  def read(self):
    return 'abc'


Judge = Callable[[str, str], float]


def judge(prompt, answer):
  return len(prompt + answer) / 2


def make_judge(scale: float = 1.0) -> Judge:
  return lambda prompt, answer: scale * judge(prompt, answer)


def of_three(one, two, three, *, four):
  return one, two, three, four


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: Share = 0.5

  def __post_init__(self):
    checks.check_fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
  count: Count = 1
  natural: Natural = 0
  bytes: Bytes = 1
  seed: Seed = 0
  whole: int = 0
  number: float = 0.0
  positive: Positive = 1.0
  non_negative: NonNegative = 0.0
  share: Share = 0.0
  positive_share: PositiveShare = 1.0
  flag: bool = False
  text: str = ''
  name: Name = 'x'
  way: Literal['keep', 'drop', 'refill'] = 'keep'
  axis: Count | Literal[-1] = -1
  limit: Count | None = None
  score: Judge | None = None
  function: Callable = judge
  inner: Inner = Inner()
  corpus: Corpus = Letters()
  corpora: Sequence[Corpus] = ()
  files: Name | Sequence[Name] = 'x'
  after: tuple[Natural, Natural] = (0, 1)
  stop: tuple[Name, ...] = ()
  parts: Mapping[str, tuple[Judge, float]] = dataclasses.field(
    default_factory=dict
  )
  array: np.ndarray | None = None
  anything: Any = None
  left: int = dataclasses.field(init=False, default='not a setting')

  def __post_init__(self):
    checks.check_fields(self)


@pytest.mark.parametrize(
  'values',
  [
    {},
    {'count': 10**9, 'natural': 10**9, 'bytes': 2**50, 'seed': -1},
    {'count': np.int64(3), 'number': np.float32(3), 'share': np.float64(1)},
    {'number': 3, 'positive': 1e18, 'share': 1, 'positive_share': 1e-30},
    {'limit': 7, 'axis': 8},
    {'score': judge, 'function': functools.partial(of_three, four=4)},
    {'score': make_judge(), 'function': max},
    {'score': Letters().read, 'parts': {'a': (judge, 2)}},
    {'corpora': [Letters(), Letters()]},
    {'files': ['a', 'b'], 'stop': ('\n\n', 'x'), 'after': [3, 5]},
    {'array': np.zeros(2), 'anything': Letters},
  ],
)
def test_what_fits_is_taken_as_it_is(values):
  config = Config(**values)
  for name, value in values.items():
    assert getattr(config, name) is value


TOO_LARGE = 'a whole number of at most 1,000,000,000'


@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('count', 0, '=0: expected a whole number of at least 1.'),
    ('count', 10**18, f'=1000000000000000000: expected {TOO_LARGE}.'),
    ('count', 1e18, f'=1e+18: expected {TOO_LARGE}.'),
    ('count', 1e3, '=1000.0: expected a whole number of at least 1 (write'),
    ('count', 1.5, '=1.5: expected a whole number of at least 1.'),
    ('count', True, '=True: expected a whole number of at least 1.'),
    ('count', 'a', "='a': expected a whole number of at least 1."),
    ('count', None, '=None: expected a whole number of at least 1.'),
    ('count', math.nan, '=nan: expected a whole number of at least 1.'),
    ('natural', -1, '=-1: expected a whole number of at least 0.'),
    ('seed', 'a', "='a': expected a whole number."),
    ('seed', 2**31, '=2147483648: expected a whole number of at most 2,147,'),
    ('whole', 1.0, '=1.0: expected a whole number (write it as 1).'),
    ('number', '1', "='1': expected a finite number."),
    ('number', math.inf, '=inf: expected a finite number.'),
    ('number', False, '=False: expected a finite number.'),
    ('positive', 0, '=0: expected a number above 0.'),
    ('positive', math.nan, '=nan: expected a number above 0.'),
    ('positive', math.inf, '=inf: expected a number above 0.'),
    ('non_negative', -1e-9, '=-1e-09: expected a number of at least 0.'),
    ('share', 1.1, '=1.1: expected a number from 0 to 1.'),
    ('positive_share', 0, '=0: expected a number above 0 and at most 1.'),
    ('flag', 1, '=1: expected True or False.'),
    ('flag', 'False', "='False': expected True or False."),
    ('text', 3, '=3: expected text in quotes.'),
    ('name', '', "='': expected non-empty text."),
    ('way', 'refil', "='refil': expected 'keep', 'drop' or 'refill'."),
    ('axis', 0, '=0: expected a whole number of at least 1, or -1.'),
    ('axis', -1.0, '=-1.0: expected a whole number of at least 1'),
    ('limit', 0, '=0: expected a whole number of at least 1, or None.'),
    ('score', 'judge', "='judge': expected a function, or None."),
    ('score', 3, '=3: expected a function, or None.'),
    ('score', Letters, ': expected a function, or None, found the class Lett'),
    ('score', make_judge, ': expected what make_judge() returns, with par'),
    ('score', lambda x: x, ': expected a function of 2 arguments, or None, f'),
    ('function', None, '=None: expected a function.'),
    ('function', Inner(), '=Inner(rate=0.5): expected a function.'),
    ('inner', Inner, 'an Inner, found the class Inner itself; write Inner()'),
    ('inner', None, '=None: expected an Inner.'),
    ('inner', judge, ': expected an Inner, found the function judge.'),
    ('corpus', 'wiki', "='wiki': expected a Corpus."),
    ('corpus', Letters, 'a Corpus, found the class Letters itself; write Le'),
    ('corpora', Letters(), '=<tests.core.checks_test.Letters object>: expe'),
    ('corpora', [Letters, 3], 'a Corpus in place of the class Letters itself;'),
    ('files', ['a', ''], "non-empty text in place of ''."),
    ('files', {'a'}, "={'a'}: expected text in quotes, or a list, like [a"),
    ('after', (3, -5), 'a whole number of at least 0 in place of -5.'),
    ('after', 3, '=3: expected a list of 2, like [a, b].'),
    ('after', (1, 2, 3), '=(1, 2, 3): expected a list of 2, like [a, b].'),
    ('stop', 'x', "='x': expected a list, like [a, b]."),
    ('parts', [judge], ': expected a dict, like {name: value}.'),
    ('parts', {'a': judge}, 'a list of 2, like [a, b] in place of the func'),
    ('parts', {1: (judge, 1)}, 'expected text in quotes in place of 1.'),
    ('parts', {'a': (judge, math.nan)}, 'a finite number in place of nan.'),
    ('array', [1], '=[1]: expected a ndarray, or None.'),
  ],
)
def test_what_does_not_fit_is_one_line(name, value, said):
  with pytest.raises(ValueError) as caught:
    Config(**{name: value})
  assert str(caught.value).startswith(f'checks_test.Config.{name}')
  assert said in str(caught.value)
  assert '\n' not in str(caught.value)
  assert len(str(caught.value)) < 300


def test_the_error_says_whose_setting_it_is():
  with pytest.raises(checks.SettingError) as caught:
    Inner(rate=2)
  found = pickle.loads(pickle.dumps(caught.value))
  assert (found.owner, found.name, found.value) == (Inner, 'rate', 2)
  assert str(found) == str(caught.value)


def test_arguments_of_a_function_are_checked_by_its_annotations():
  checks.check_arguments(make_judge, {'scale': 2, 'other': None})
  with pytest.raises(ValueError, match=r"judge\.scale='a': expected"):
    checks.check_arguments(make_judge, {'scale': 'a'})
  # As gin wraps it.
  wrapped = functools.wraps(make_judge)(lambda **options: options)
  with pytest.raises(ValueError, match='make_judge'):
    checks.check_arguments(wrapped, {'scale': 'a'})


def test_annotations_of_others_that_cannot_be_read_are_no_obstacle():
  def lost(x: 'NoSuchName'):  # noqa: F821
    return x

  def moved(x: 'functools.NoSuchName'):
    return x

  checks.check_arguments(lost, {'x': 1})
  checks.check_arguments(moved, {'x': 1})
