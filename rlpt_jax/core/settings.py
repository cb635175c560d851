"""What a run was started with, as plain data that another run is compared with.

Dataclasses become their fields, functions their names with all that was bound
to them, also what a function made them remember: text_match(prefix) differs
from text_match(exact). Of another object only the class is known, for addresses
differ, unless it says by a method `settings` what its answers depend on.
"""

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MISSING = 'nothing'


def described(value: Any, inside: tuple = ()) -> Any:
  """As JSON has it: equal for what is set alike, in whatever process.

  inside: what holds the value. A function that calls itself holds itself; there
    its name is enough.
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
  part = functools.partial(described, inside=(*inside, value))
  if isinstance(value, Mapping):
    return {str(key): part(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [part(x) for x in value]
  if isinstance(value, set | frozenset):
    return sorted(part(x) for x in value)
  held = {str(key): part(x) for key, x in _held(value).items()}
  return {'is': name} | held if held else name


def objects(value: Any) -> list[Any]:
  """The value and all that it holds, each once: what is to be closed is among
  them.
  """
  found, left = {}, [value]
  while left:
    x = left.pop()
    if id(x) in found:
      continue
    found[id(x)] = x
    if isinstance(x, Mapping):
      held = x.values()
    elif isinstance(x, list | tuple | set | frozenset):
      held = x
    else:
      held = _held(x).values()
    left.extend(reversed([*held]))
  return list(found.values())


def _held(value: Any) -> dict[str, Any]:
  """Fields of a dataclass, what is bound to a function or remembered by it, and
  what an object says of itself.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return {name: getattr(value, name) for name in names}
  if isinstance(value, functools.partial):
    return _held(value.func) | dict(enumerate(value.args)) | value.keywords
  if inspect.ismethod(value):
    return {'self': value.__self__}
  if inspect.isfunction(value):
    names, cells = value.__code__.co_freevars, value.__closure__ or ()
    return {
      name: cell.cell_contents for name, cell in zip(names, cells, strict=True)
    }
  said = getattr(value, 'settings', None)
  return said() if callable(said) and not isinstance(value, type) else {}


def _name(value: Any) -> str:
  thing = value.func if isinstance(value, functools.partial) else value
  if not hasattr(thing, '__qualname__'):
    thing = type(thing)
  return f'{thing.__module__}.{thing.__qualname__}'


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
