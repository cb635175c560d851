"""Checks settings against the types and ranges in their annotations.

  @dataclasses.dataclass(frozen=True)
  class Sampling:
    samples: Count = 8
    top_p: Share = 1.0

    def __post_init__(self):
      checks.check_fields(self)

`Sampling(samples=0)` then raises a one-line error that names the setting, its
value and what was expected, in Python and in a gin file alike. A float is never
accepted as an integer: 1e6 raises an error that suggests 1000000.
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rlpt_jax.core import names

# More than the steps of any run or the tokens of any prompt. An error message
# names an upper limit of this size only if a value exceeds it.
LARGEST = 10**9


@dataclasses.dataclass(frozen=True)
class Range:
  """The finite numbers from `low` to `high`; `above` excludes `low` itself."""

  low: float
  high: float = math.inf
  above: bool = False

  def __contains__(self, x) -> bool:
    lowest = self.low < x if self.above else self.low <= x  # False for NaN.
    return lowest and x <= self.high and math.isfinite(x)

  def words(self, value: Any) -> str:
    """Describes the range in words that follow a noun: 'of at least 1'.

    Names a huge upper limit only if `value` exceeds it.
    """
    is_number = isinstance(value, numbers.Real) and math.isfinite(value)
    if self.high >= LARGEST and is_number and value > self.high:
      return f'of at most {self.high:,}'
    if self.low < -LARGEST and not is_number:
      return ''
    if self.high >= LARGEST:
      return f'above {self.low}' if self.above else f'of at least {self.low}'
    if self.above:
      return f'above {self.low} and at most {self.high}'
    return f'from {self.low} to {self.high}'


Count = Annotated[int, Range(1, LARGEST)]
Natural = Annotated[int, Range(0, LARGEST)]
Bytes = Annotated[int, Range(1, 2**50)]
Seed = Annotated[int, Range(-(2**31), 2**31 - 1)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Name = Annotated[str, 'not empty']


class SettingError(ValueError):
  """A setting has an invalid value.

  `owner` is the class or function with the setting, `name` is the setting's
  name and `value` its value.
  """


def setting_error(
  owner: Any, name: str, value: Any, expected: str
) -> SettingError:
  """Returns an error that says what was expected of `owner.name`."""
  path, plain = f'{title(owner)}.{name}', _plain(value)
  if inspect.isclass(plain) or inspect.isroutine(plain):
    error = SettingError(f'{path}: expected {expected}, found {brief(value)}.')
  else:
    error = SettingError(f'{path}={brief(value)}: expected {expected}.')
  error.owner, error.name, error.value = owner, name, value
  return error


def title(owner: Any) -> str:
  """The owner's name as in a gin file, like 'train_rl.Config'."""
  thing = owner if hasattr(owner, '__qualname__') else type(owner)
  module = names.short(thing.__module__).rpartition('.')[2]
  return f'{module}.{thing.__qualname__}'


def brief(value: Any) -> str:
  """Describes any value briefly, for an error message."""
  plain = _plain(value)
  if inspect.isclass(plain):
    name = plain.__name__
    return f'the class {name} itself; write {name}() with parentheses'
  if inspect.isroutine(plain):
    return f'the function {plain.__name__}'
  text = re.sub(r' at 0x[0-9a-f]+', '', ' '.join(repr(value).split()))
  return text if len(text) <= 80 else f'{text[:76]} ...'


def _plain(value: Any) -> Any:
  """Returns the function or class of a functools.partial, or `value`."""
  return value.func if isinstance(value, functools.partial) else value


def check_fields(config: Any):
  """Raises for the first dataclass field that violates its annotation."""
  hints = _hints(type(config))
  for field in dataclasses.fields(config):
    if field.init:
      check_value(
        type(config), field.name, getattr(config, field.name), hints[field.name]
      )


def check_arguments(function: Callable, arguments: Mapping[str, Any]):
  """Raises for the first argument that violates its annotation."""
  hints = _hints(inspect.unwrap(function))
  for name, value in arguments.items():
    if name in hints:
      check_value(function, name, value, hints[name])


def check_value(owner: Any, name: str, value: Any, hint: Any):
  """Raises if the value of a setting violates its annotation, `hint`."""
  if expected := mismatch(value, hint):
    raise setting_error(owner, name, value, expected)


@functools.cache
def _hints(thing: Any) -> dict[str, Any]:
  if inspect.isclass(thing) and not dataclasses.is_dataclass(thing):
    thing = thing.__init__
  try:
    return typing.get_type_hints(thing, include_extras=True)
  except (NameError, TypeError, AttributeError):
    # An annotation has a name that is imported only for type checkers, so it
    # cannot be resolved here: check nothing.
    return collections.defaultdict(lambda: Any)


def mismatch(value: Any, hint: Any) -> str:
  """Describes what was expected of a value; '' if the value matches."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return _unlike_annotated(value, args[0], args[1:])
  if origin in (typing.Union, types.UnionType):
    expected = [mismatch(value, arg) for arg in args]
    return '' if '' in expected else ', or '.join(dict.fromkeys(expected))
  if origin is typing.Literal:
    # Compare types too: True == 1 and 1 == 1.0.
    same = any(type(value) is type(arg) and value == arg for arg in args)
    *first, last = map(repr, args)
    words = f'{", ".join(first)} or {last}' if first else last
    return '' if same else words
  if hint is Callable or origin is collections.abc.Callable:
    return _unlike_function(value, hint)
  if origin is type:
    is_kind = inspect.isclass(value) and issubclass(value, args[0])
    return '' if is_kind else f'a class that extends {title(args[0])}'
  if origin is not None:
    return _unlike_collection(value, origin, args)
  if hint is None or hint is types.NoneType:
    return '' if value is None else 'None'
  if hint in WORDS:
    return (
      ''
      if _is_plain(value, hint)
      else WORDS[hint] + _without_point(value, hint)
    )
  if inspect.isclass(hint) and hint not in (Any, object):
    return _unlike_class(value, hint)
  return ''  # Any, and annotations that this module does not handle.


WORDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a finite number',
  str: 'text in quotes',
}


def _is_plain(value: Any, kind: type) -> bool:
  if kind is float:
    return _is_number(value) and math.isfinite(value)
  if kind is int:
    return _is_number(value) and isinstance(value, numbers.Integral)
  return isinstance(value, kind)


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _without_point(value: Any, kind: type, known: Any = None) -> str:
  if kind is not int or not isinstance(value, float) or not value.is_integer():
    return ''
  is_other = known is not None and value not in known
  return '' if is_other else f' (write it as {int(value)})'


def _unlike_annotated(value: Any, kind: Any, marks: tuple) -> str:
  expected = mismatch(value, kind)
  for mark in marks:
    if isinstance(mark, Range) and (expected or value not in mark):
      noun = WORDS[kind].replace('finite ', '')
      hint = _without_point(value, kind, mark)
      return f'{noun} {mark.words(value)}'.strip() + hint
    if mark == 'not empty' and value == '':
      return 'non-empty text'
  return expected


def _unlike_function(value: Any, hint: Any) -> str:
  if inspect.isclass(_plain(value)) or not callable(value):
    return 'a function'
  function = inspect.unwrap(_plain(value))
  if not inspect.isfunction(function):
    return ''
  if hint is not Callable and _hints(function).get('return') == hint:
    return f'what {function.__name__}() returns, with parentheses'
  args = typing.get_args(hint)
  returned = _hints(function).get('return')
  if args and returned in WORDS and not _may_be(returned, args[1]):
    name = getattr(args[1], '__name__', args[1])
    return f'a function that returns {name}'
  if args and isinstance(args[0], list):
    try:
      inspect.signature(value).bind_partial(*args[0])
    except TypeError:
      return f'a function of {len(args[0])} arguments'
  return ''


def _may_be(returned: type, expected: Any) -> bool:
  simple = expected is Any or expected in WORDS
  return simple or returned in typing.get_args(expected)


def _unlike_collection(value: Any, origin: Any, args: tuple) -> str:
  # Accept a list for a tuple: gin files write tuples as lists.
  kinds = (list, tuple) if origin is tuple else origin
  items, same = [], isinstance(value, kinds)
  if origin is tuple and args[-1:] == (...,):
    words = 'a list, like [a, b]'
    items = [(x, args[0]) for x in value] if same else []
  elif origin is tuple:
    letters = ', '.join('abcdefgh'[: len(args)])
    words = f'a list of {len(args)}, like [{letters}]'
    same = same and len(value) == len(args)
    items = list(zip(value, args, strict=True)) if same else []
  elif issubclass(origin, Mapping):
    words = 'a dict, like {name: value}'
    if same and args:
      items = [(x, args[0]) for x in value]
      items += [(x, args[1]) for x in value.values()]
  elif issubclass(origin, collections.abc.Iterable):
    words = 'a list, like [a, b]'
    same = same and not isinstance(value, str)
    items = [(x, args[0]) for x in value] if same and args else []
  else:
    words = f'a {origin.__name__}'
  if not same:
    return words
  for x, hint in items:
    if expected := mismatch(x, hint):
      known = ' in place of ' in expected
      return expected if known else f'{expected} in place of {brief(x)}'
  return ''


def _unlike_class(value: Any, kind: type) -> str:
  article = 'an' if kind.__name__[0] in 'AEIOU' else 'a'
  if not getattr(kind, '_is_protocol', False):
    return '' if isinstance(value, kind) else f'{article} {kind.__name__}'
  plain = _plain(value)
  has = not inspect.isclass(plain) and not inspect.isfunction(plain)
  if has and all(hasattr(value, name) for name in _members(kind)):
    return ''
  return f'{article} {kind.__name__}'


@functools.cache
def _members(protocol: type) -> tuple[str, ...]:
  names = {*protocol.__annotations__, *vars(protocol)}
  return tuple(sorted(name for name in names if not name.startswith('_')))
