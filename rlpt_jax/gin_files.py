"""Parses gin files into statements, each with the place where it is written.

Errors in the syntax or in a name are raised here, with the file, the line, and
the nearest name that exists. gin_config.py interprets the statements.
"""

import dataclasses
import difflib
import importlib
import inspect
import pathlib
import pkgutil
import re
import sys
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rlpt_jax.core import names

COMMAND_LINE = 'command line'


class Reference(NamedTuple):
  """A reference, @scope/module.function.

  called: True if parentheses follow. Then the reference means the result.
  default: None if the reference is written in a file. Otherwise the reference
    stands for a field that is not set, and `default` is the field's default, an
    object of a dataclass. The config gets a copy of the object, changed by the
    settings of the dataclass.
  """

  scopes: tuple[str, ...]
  selector: str | type
  called: bool
  default: Any = None


class Macro(NamedTuple):
  """A macro, %NAME."""

  name: str


@dataclasses.dataclass(frozen=True)
class Place:
  """A line of a file, or an argument of the command line."""

  source: str
  line: int = 0

  def __str__(self):
    if self.source.startswith(COMMAND_LINE):
      return self.source
    return f'{self.source}:{self.line}' if self.line else self.source


@dataclasses.dataclass(frozen=True)
class Statement:
  """A statement that gin's parser found, with its lines.

  parsed: gin's ImportStatement, BindingStatement or BlockDeclaration. Its
    values contain a Reference or a Macro where they refer to something.
  """

  place: Place
  parsed: Any
  lines: list[str]

  @property
  def kind(self) -> str:
    return type(self.parsed).__name__.removesuffix('Statement')


class _Names:
  """Keeps names as they are written, where gin would look them up."""

  def configurable_reference(self, name: str, called: bool) -> Reference:
    *scopes, selector = name.split('/')
    return Reference(tuple(scopes), selector, called)

  def macro(self, name: str) -> Macro:
    return Macro(name)


def read(file: pathlib.Path, bindings: Iterable[str]) -> list[Statement]:
  """Returns the statements of a file, of its includes and of the bindings.

  bindings: each is a binding or the name of another gin file.
  """
  statements = _read_file(file, ())
  for binding in bindings:
    if binding.endswith('.gin') and '=' not in binding:
      statements += _read_file(pathlib.Path(binding), ())
      continue
    source = f'{COMMAND_LINE}, {binding!r}'
    if not binding.strip():
      raise ValueError(f'{source}: expected NAME = VALUE.')
    statements += _statements(binding, source, None, ())
  return statements


def _read_file(
  file: pathlib.Path,
  inside: tuple[pathlib.Path, ...],
  place: Place | None = None,
) -> list[Statement]:
  at = f'{place}: ' if place else ''
  if not file.is_file():
    what = (
      'is a folder, not a gin file' if file.is_dir() else 'no such gin file'
    )
    files = file.parent.glob('*.gin')
    there = [path.name for path in files if path.is_file()]
    raise ValueError(f'{at}{file}: {what}{nearest(file.name, there)}')
  whole = file.resolve()
  if whole in inside:
    names = [path.name for path in (*inside[inside.index(whole) :], whole)]
    raise ValueError(f'{at}{file} includes itself: {" -> ".join(names)}.')
  try:
    text = file.read_text()
  except UnicodeDecodeError as error:
    raise ValueError(f'{at}{file}: expected UTF-8 text: {error}.') from error
  return _statements(text, str(file), file.parent, (*inside, whole))


def _statements(
  text: str,
  source: str,
  folder: pathlib.Path | None,
  inside: tuple[pathlib.Path, ...],
) -> list[Statement]:
  """Returns the statements of a text.

  Included files are looked up next to the file, then in the working directory.
  """
  parsed, lines = _parsed(text, source), text.splitlines()
  starts = [statement.location.line_num for statement in parsed]
  ends = [*starts[1:], len(lines) + 1][: len(starts)]
  statements = []
  for statement, start, end in zip(parsed, starts, ends, strict=True):
    place = Place(source, start)
    if not hasattr(statement, 'filename'):
      statements.append(Statement(place, statement, lines[start - 1 : end - 1]))
      continue
    adjacent = (folder or pathlib.Path()) / statement.filename
    exists = adjacent.exists()
    included = adjacent if exists else pathlib.Path(statement.filename)
    statements += _read_file(included, inside, place)
  _check_once(statements, source)
  return statements


def _check_once(statements: list[Statement], source: str):
  """Raises if a file sets a name twice; overriding an include is allowed."""
  seen: dict[tuple, Place] = {}
  for statement in statements:
    if statement.kind != 'Binding' or statement.place.source != source:
      continue
    key = statement.parsed[:3]
    if key in seen:
      raise ValueError(
        f'{statement.place}: {written(statement)} is already set on line '
        f'{seen[key].line}. Remove one of the two.'
      )
    seen[key] = statement.place


def written(statement: Statement) -> str:
  """Returns the left side of a binding."""
  scope, selector, name = statement.parsed[:3]
  path = f'{selector}.{name}' if name else selector
  return f'{scope}/{path}' if scope else path


def _parsed(text: str, source: str) -> list[Any]:
  """Returns the statements that gin's parser finds in a text."""
  from gin import config_parser

  parsed = []
  try:
    parsed += config_parser.ConfigParser(text, _Names())
  except Exception as error:  # tokenize and ast raise several kinds.
    line, message = _explained(text, error)
    place = Place(source, line)
    raise ValueError(f'{place}: {message}') from error
  return parsed


def _explained(text: str, error: Exception) -> tuple[int, str]:
  """Returns (line, what is wrong there) for a text that cannot be parsed."""
  if unclosed := _unclosed(text):
    return unclosed
  message, lines = str([*error.args, ''][0]), text.splitlines()
  line = getattr(error, 'lineno', None) or len(lines)
  if isinstance(error, tokenize.TokenError):
    line = error.args[1][0]
  line = min(line, len(lines))
  there = lines[line - 1].strip() if lines else ''
  left, equals, right = (part.strip() for part in there.partition('='))
  if isinstance(error, IndentationError):
    return line, f'the indentation differs from the lines before: {there!r}.'
  if left.split()[:1] == ['include']:
    return line, f"expected include 'FILE.gin' in quotes, found {there!r}."
  # Newer versions of Python say 'unterminated string literal'.
  in_text = 'string' in message and isinstance(error, tokenize.TokenError)
  if right.startswith(('"', "'")) or (in_text and 'null' not in message):
    return line, f'the quotes do not match: {there!r}.'
  if 'Expected indentation' in message:
    return line, f'expected an indented line next, found {there!r}.'
  if not equals or not re.fullmatch(r'[A-Za-z_][\w./]*', left):
    return line, f'expected NAME = VALUE, found {there!r}.'
  if 'scope or selector' in message:
    return line, f'expected a name like scope/module.Class, found {there!r}.'
  if "Expected ')'" in message and right.startswith('@'):
    return line, (
      f'the parentheses of {right.partition("(")[0]}() must be empty: set '
      'each argument on a line of its own.'
    )
  return line, (
    f'{right!r} is not a value: expected a number, True, False, None, text in '
    'quotes, a list, @function or %NAME.'
  )


def _unclosed(text: str) -> tuple[int, str] | None:
  """Returns (line, what is wrong) for a bracket without its counterpart."""
  pairs, opened = {')': '(', ']': '[', '}': '{'}, []
  lines = iter(text.splitlines(keepends=True))
  try:
    for token in tokenize.generate_tokens(lambda: next(lines, '')):
      if token.string in ('(', '[', '{'):
        opened.append((token.start[0], token.string))
      elif token.string in pairs and (
        not opened or opened.pop()[1] != pairs[token.string]
      ):
        return token.start[0], f'this {token.string} closes no bracket.'
  except (tokenize.TokenError, SyntaxError) as error:
    if 'string' in str(error):
      return None
  if opened:
    return opened[0][0], f'this {opened[0][1]} is never closed.'
  return None


def nearest(name: str, names: Iterable[str]) -> str:
  """Returns a message's end: '. Did you mean X?', or '.' if no name is near."""
  names = list(names)
  matches = difflib.get_close_matches(name, names, 1, 0.6) or [
    other for other in names if other.lower() == name.lower()
  ]
  return f'. Did you mean {matches[0]}?' if matches else '.'


def references(value: Any) -> Iterator[Reference | Macro]:
  """Yields all references and macros in a value."""
  if isinstance(value, Reference | Macro):
    yield value
  elif isinstance(value, dict):
    yield from references([*value.keys(), *value.values()])
  elif isinstance(value, list | tuple):
    for x in value:
      yield from references(x)


def singleton(constructor: Callable[[], Any]) -> Any:
  """Stands for @SCOPE/gin.singleton(), which is called once for each scope."""
  return constructor()


class Symbols:
  """The modules that all statements can name: our own and imported ones."""

  def __init__(self, statements: list[Statement]):
    gin = types.SimpleNamespace(singleton=singleton, __name__='gin')
    self._modules: dict[str, Any] = {'gin': gin}
    for statement in statements:
      if statement.kind != 'Import':
        continue
      if statement.parsed.module == '__gin__.dynamic_registration':
        continue  # Dynamic registration is always on here.
      module = _imported(statement)
      if not (statement.parsed.is_from or statement.parsed.alias):
        module = sys.modules[statement.parsed.module.partition('.')[0]]
      name = statement.parsed.bound_name()
      if self._modules.setdefault(name, module) is not module:
        raise ValueError(
          f'{statement.place}: {name} is already imported, as '
          f'{self._modules[name].__name__}: add "as" and another name.'
        )

  def find(self, selector: str | type, place: Place) -> Any:
    """Returns the function or class that a name such as 'losses.ppo' refers to.

    If `selector` is a class, returns it.
    """
    if inspect.isclass(selector):
      return selector
    first, *path_inside = selector.split('.')
    if first not in self._modules and first in names.MODULES:
      self._modules[first] = importlib.import_module(names.MODULES[first])
    if first not in self._modules:
      raise ValueError(
        f'{place}: {first!r} is not imported{self._import_of(first)}'
      )
    path, thing = first, self._modules[first]
    for name in path_inside:
      if not hasattr(thing, name):
        raise ValueError(
          f'{place}: {path} has no {name!r}{nearest(name, _public(thing))}'
        )
      path, thing = f'{path}.{name}', getattr(thing, name)
    if inspect.ismodule(thing):
      raise ValueError(
        f'{place}: {path} is a module: expected a function or class in it'
        f'{_defined(thing)}.'
      )
    if not callable(thing):
      raise ValueError(
        f'{place}: {path} cannot be configured: expected a function or class, '
        f'found {thing!r:.60}.'
      )
    return thing

  def _import_of(self, name: str) -> str:
    root = pathlib.Path(__file__).parent
    for path in sorted(root.rglob(f'{name}.py')):
      parts = path.relative_to(root.parent).with_suffix('').parts
      return f': add "from {".".join(parts[:-1])} import {name}".'
    return nearest(name, [*self._modules, *names.MODULES])


def _imported(statement: Statement) -> Any:
  name, place = statement.parsed.module, statement.place
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    missing = error.name or ''
    if f'{name}.'.startswith(f'{missing}.'):
      raise ValueError(f'{place}: {_missing(missing)}') from error
    raise ValueError(f'{place}: {name} cannot be imported: {error}.') from error
  except Exception as error:  # A user's module may raise anything.
    message = ' '.join(str(error).split())
    raise ValueError(
      f'{place}: {name} cannot be imported: {type(error).__name__}: {message}.'
    ) from error


def _missing(module: str) -> str:
  """Returns a message about a module that is not found, with advice."""
  parent, _, name = module.rpartition('.')
  if parent and hasattr(sys.modules[parent], name):
    folder, _, last = parent.rpartition('.')
    return (
      f'{name} is not a module but is in one: write "from {folder} import '
      f'{last}" and then {last}.{name}.'
    )
  if parent:
    paths = getattr(sys.modules[parent], '__path__', [])
    known = [module.name for module in pkgutil.iter_modules(paths)]
    return f'no module {name!r} in {parent}{nearest(name, known)}'
  here = [path.stem for path in pathlib.Path().glob('*.py')]
  if name in here:
    return (
      f'no module {name!r}: {name}.py is in this folder, where Python does '
      'not look. Start with PYTHONPATH=. rlpt ...'
    )
  return (
    f'no module {name!r}{nearest(name, ["rlpt_jax", *here])} The folder that '
    'it is in must be on PYTHONPATH: PYTHONPATH=FOLDER rlpt ...'
  )


def _public(thing: Any) -> list[str]:
  return [name for name in dir(thing) if not name.startswith('_')]


def _defined(module: Any) -> str:
  """Returns ', such as X', for a function or class X of a module, or ''."""
  for name, value in vars(module).items():
    if getattr(value, '__module__', '') == module.__name__ and callable(value):
      return f', such as {name}'
  return ''
