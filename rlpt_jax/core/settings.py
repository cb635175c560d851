"""What a run was started with, as plain data that another run is compared with.

Dataclasses become their fields, functions their names with all that was bound
to them, also what a function made them remember: text_match(prefix) differs
from text_match(exact).
"""

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MISSING = 'nothing'


def described(value: Any) -> Any:
  """As JSON has it: equal for what is set alike, in whatever process."""
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, pathlib.PurePath):
    return str(value)
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  if isinstance(value, Mapping):
    return {str(name): described(x) for name, x in value.items()}
  if isinstance(value, list | tuple):
    return [described(x) for x in value]
  if isinstance(value, set | frozenset):
    return sorted(described(x) for x in value)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [field.name for field in dataclasses.fields(value)]
    return _named(type(value), {n: getattr(value, n) for n in names})
  if isinstance(value, functools.partial):
    bound = dict(enumerate(value.args)) | value.keywords
    return _named(value.func, bound)
  if inspect.ismethod(value):
    return _named(value, {'self': value.__self__})
  if inspect.isfunction(value):
    cells = zip(
      value.__code__.co_freevars, value.__closure__ or (), strict=True
    )
    return _named(value, {name: cell.cell_contents for name, cell in cells})
  if callable(value) and hasattr(value, '__qualname__'):
    return _named(value, {})
  # Of other objects the class; those that matter are dataclasses.
  return _named(type(value), {})


def _named(thing, fields: Mapping) -> Any:
  name = f'{thing.__module__}.{thing.__qualname__}'
  if not fields:
    return name
  return {'is': name} | {str(k): described(v) for k, v in fields.items()}


def flat(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """(path, value) of every value that holds no others."""
  if isinstance(value, Mapping):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value)
  else:
    yield path, value
    return
  for name, x in items:
    yield from flat(x, f'{path}.{name}' if path else str(name))


def differences(found: Any, wanted: Any) -> list[str]:
  """'optimizer.learning_rate was 1e-06, now 2e-06', ..."""
  before, now = dict(flat(found)), dict(flat(wanted))
  return [
    f'{path} was {_shown(before, path)}, now {_shown(now, path)}'
    for path in before | now
    if path not in before or path not in now or before[path] != now[path]
  ]


def _shown(values: dict[str, Any], path: str) -> str:
  return repr(values[path]) if path in values else MISSING
