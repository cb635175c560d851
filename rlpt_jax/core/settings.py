"""Describes the settings of a run as plain data, to compare runs.

A dataclass becomes its name and fields, and a functools.partial its function
and bound arguments, so TextMatch(prefix) differs from TextMatch(exact). A
function becomes its name; the values in its closure are ignored. Any other
object becomes its class name. If it has a method `settings`, which returns the
settings that its answers depend on, the result is added.

Modules are named as in names.py, so that names stay the same when a module
moves.
"""

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlpt_jax.core import names

MISSING = 'nothing'


def describe(value: Any, inside: tuple = ()) -> Any:
  """Returns JSON data that is equal in every process for equal settings.

  inside: the objects that contain the value. If the value is one of them, as
    in a list that contains itself, only its name is returned.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, pathlib.PurePath):
    return str(value)
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  name = _name(value)
  if any(value is x for x in inside):
    return name
  part = functools.partial(describe, inside=(*inside, value))
  if isinstance(value, Mapping):
    return {str(key): part(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [part(x) for x in value]
  if isinstance(value, set | frozenset):
    return sorted(part(x) for x in value)
  held = {str(key): part(x) for key, x in _held(value).items()}
  return {'is': name} | held if held else name


def parts(value: Any) -> list[Any]:
  """Returns the value and every object nested in its settings, each once."""
  seen, left = {}, [value]
  while left:
    x = left.pop()
    if id(x) in seen:
      continue
    seen[id(x)] = x
    if isinstance(x, Mapping):
      held = x.values()
    elif isinstance(x, list | tuple | set | frozenset):
      held = x
    else:
      held = _held(x).values()
    left.extend(reversed([*held]))
  return list(seen.values())


def _held(value: Any) -> dict[str, Any]:
  """Returns what a value contains, by name.

  These are the fields of a dataclass, the bound arguments of a partial or a
  method, or the result of an object's method `settings`.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return {name: getattr(value, name) for name in names}
  if isinstance(value, functools.partial):
    return _held(value.func) | dict(enumerate(value.args)) | value.keywords
  if inspect.ismethod(value):
    return {'self': value.__self__}
  method = getattr(value, 'settings', None)
  return method() if callable(method) and not isinstance(value, type) else {}


def _name(value: Any) -> str:
  thing = value.func if isinstance(value, functools.partial) else value
  if not hasattr(thing, '__qualname__'):
    thing = type(thing)
  return f'{names.short(thing.__module__)}.{thing.__qualname__}'


def flat(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields (path, value) of every leaf of nested dicts and lists."""
  if isinstance(value, Mapping):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value)
  else:
    yield path, value
    return
  for name, x in items:
    yield from flat(x, f'{path}.{name}' if path else str(name))


def differences(recorded: Any, wanted: Any) -> list[str]:
  """Lists changes like 'optimizer.learning_rate was 1e-06, now 2e-06'."""
  before, now = dict(flat(recorded)), dict(flat(wanted))
  return [
    f'{path} was {_shown(before, path)}, now {_shown(now, path)}'
    for path in before | now
    if path not in before or path not in now or before[path] != now[path]
  ]


def _shown(values: dict[str, Any], path: str) -> str:
  return repr(values[path]) if path in values else MISSING
