"""Builds a frozen config from gin files and bindings; errors name the line.

Our modules have short names (core/names.py); to configure any other module, a
file must import it. So no class needs a decorator, and a name that does not
exist is an error. Bindings on the command line can use the imports of all
files, also of included ones. Later settings win.

gin's parser reads the syntax, but gin's registry is not used. The errors of the
registry name no line. Functions in it look up their settings when they are
called, so they would find those of a file that was read later, and in another
process they would find none.
"""

import collections
import dataclasses
import difflib
import functools
import inspect
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlpt_jax import gin_files
from rlpt_jax.core import checks
from rlpt_jax.gin_files import (
  COMMAND_LINE,
  Macro,
  Place,
  Reference,
  Statement,
  Symbols,
  nearest,
)

REQUIRED = 'gin.REQUIRED'


@dataclasses.dataclass(frozen=True)
class Use:
  """A function or class that is used to build the config, with its settings."""

  thing: Any
  place: Place  # The line that refers to it.
  bound: dict[str, Statement]


def read_config(kind: type, file: pathlib.Path, bindings: tuple[str, ...] = ()):
  """Builds the frozen dataclass `kind` from a gin file and bindings.

  A binding may also be the name of a gin file, which stands for its lines.
  """
  statements = gin_files.read(file, bindings)
  return Builder(kind, statements, Place(str(file))).make()


def read_one_of(
  kinds: Sequence[type], file: pathlib.Path, bindings: tuple[str, ...] = ()
) -> tuple[Any, dict[str, Any]]:
  """Builds whichever of several configs the files set.

  Returns it with the macros that have plain values. A file for several programs
  may set fields of each; it sets the config that has all fields it must have.
  """
  statements = gin_files.read(file, bindings)
  symbols, names, macros = Symbols(statements), collections.defaultdict(set), {}
  for statement in statements:
    if statement.kind != 'Binding':
      continue
    scope, selector, name, value = statement.parsed[:4]
    if name:
      thing = symbols.find(selector, statement.place)
      names[id(thing)].add(name)
    elif not any(gin_files.references(value)):
      macros[f'{scope}/{selector}' if scope else selector] = value
  needed = [
    {x.name for x in parameters(kind).values() if x.default is x.empty}
    for kind in kinds
  ]
  missing = [
    needs - names[id(kind)] for kind, needs in zip(kinds, needed, strict=True)
  ]
  complete = sum(not names for names in missing)
  if complete > 1 or missing == needed:
    titles = ', '.join(checks.title(kind) for kind in kinds)
    found = 'none. The file of a run comes first, a layout after it.'
    if complete:
      found = 'more than one: give the files of one program.'
    raise ValueError(f'{file}: expected one of {titles}, found {found}')
  kind = kinds[missing.index(min(missing, key=len))]
  return Builder(kind, statements, Place(str(file))).make(), macros


class Builder:
  """Checks statements and builds a config of class `kind` from them."""

  def __init__(self, kind: type, statements: list[Statement], file: Place):
    self.kind, self.file = kind, file
    self.symbols = Symbols(statements)
    self._bound: dict[tuple, dict[str, Statement]] = {}
    self._things: dict[int, Any] = {}
    self._macros: dict[str, Statement] = {}
    for statement in statements:
      self._add(statement)
    if id(kind) not in self._things:
      self._fail_unmentioned()
    self._check_scopes(statements)
    self.uses = list(self._uses(kind, (), True, file, ()))
    self._check_used(statements)

  def _add(self, statement: Statement):
    """Records a statement if it is a binding, and checks its names."""
    if statement.kind == 'Import':
      return
    scope, selector = statement.parsed[:2]
    if statement.kind == 'BlockDeclaration':
      self.symbols.find(selector, statement.place)
      return
    name, value = statement.parsed.arg_name, statement.parsed.value
    if not name:
      self._macros[f'{scope}/{selector}' if scope else selector] = statement
    else:
      thing = self.symbols.find(selector, statement.place)
      known = parameters(thing)
      if name not in known and not any(
        p.kind is p.VAR_KEYWORD for p in known.values()
      ):
        raise ValueError(
          f'{statement.place}: {selector} has no {name!r}{nearest(name, known)}'
        )
      # By id, since a callable may be unhashable.
      key = tuple(scope.split('/')) if scope else (), id(thing)
      self._bound.setdefault(key, {})[name] = statement
      self._things[id(thing)] = thing
    for reference in gin_files.references(value):
      if isinstance(reference, Reference):
        self.symbols.find(reference.selector, statement.place)

  def _fail_unmentioned(self):
    others = dict.fromkeys(
      checks.title(thing)
      for thing in self._things.values()
      if getattr(thing, '__name__', '') == self.kind.__name__
    )
    fields = parameters(self.kind).values()
    must = [field.name for field in fields if field.default is field.empty]
    note = f'. It sets {" and ".join(others)}.' if others else '.'
    raise ValueError(
      f'{self.file}: does not set {checks.title(self.kind)}, which this '
      f'program reads: {", ".join(must)} must be set{note}'
    )

  def definition(self, macro: Macro, place: Place) -> Statement:
    if macro.name not in self._macros:
      raise ValueError(
        f'{place}: %{macro.name} is not defined'
        f'{nearest(macro.name, self._macros)}'
      )
    return self._macros[macro.name]

  def _given(
    self, thing, scopes: tuple[str, ...], default: Any = None
  ) -> dict[str, Statement]:
    """Returns the settings of a function or class; inner scopes win over outer.

    If a field is not set and its default is a dataclass instance, the settings
    of that dataclass override values of the default. For example,
    `runs.Saving.every = 5` works without `train_rl.Config.saving =
    @runs.Saving()`. Other values stay as in the default. train_rl.Hardware has
    two `Axes` with different defaults, and `layout.Axes.tensor = 4` changes
    `tensor` in both, but leaves the `fsdp` of each alone.
    """
    given = {}
    for i in range(len(scopes) + 1):
      given |= self._bound.get((scopes[:i], id(thing)), {})
    for name, part in _defaults(thing, default).items():
      kind = type(part)
      if name not in given and (inner := self._given(kind, scopes, part)):
        first = next(iter(inner.values()))
        reference = Reference((), kind, called=True, default=part)
        parsed = first.parsed._replace(arg_name=name, value=reference)
        given[name] = dataclasses.replace(first, parsed=parsed)
    return given

  def _uses(
    self, thing, scopes, called, place, inside, default=None
  ) -> Iterator[Use]:
    """Yields a `Use` of `thing`, then one for each thing in its settings."""
    if (id(thing), scopes) in inside:
      raise ValueError(f'{place}: {checks.title(thing)} contains itself.')
    given = self._given(thing, scopes, default)
    if default is None:
      self._check_complete(thing, called, place, given)
    yield Use(thing, place, given)
    inside = (*inside, (id(thing), scopes))
    for statement in given.values():
      yield from self._uses_in(statement, scopes, inside)
    self._check_literals(thing, given)

  def _uses_in(self, statement: Statement, scopes, inside) -> Iterator[Use]:
    place = statement.place
    for reference in gin_files.references(statement.parsed.value):
      if isinstance(reference, Macro):
        if reference.name == REQUIRED:
          path = gin_files.written(statement)
          raise ValueError(f'{place}: {path} must be set.')
        if reference in inside:
          raise ValueError(
            f'{place}: %{reference.name} is defined in terms of itself.'
          )
        definition = self.definition(reference, place)
        yield Use(Macro, place, {reference.name: definition})
        yield from self._uses_in(
          definition, tuple(reference.name.split('/')), (*inside, reference)
        )
      else:
        thing = self.symbols.find(reference.selector, place)
        scoped = reference.scopes or scopes
        yield from self._uses(
          thing, scoped, reference.called, place, inside, reference.default
        )

  def _check_complete(self, thing, called: bool, place: Place, bound: dict):
    """Raises if an argument without a default is not set.

    A function that is passed on gets its positional arguments later, so only
    its keyword-only ones must be set.
    """
    if inspect.isclass(thing) and not called:
      return
    missing = [
      p.name
      for p in parameters(thing).values()
      if p.default is p.empty
      and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
      and (called or p.kind is p.KEYWORD_ONLY)
      and p.name not in bound
    ]
    if missing:
      path, names = checks.title(thing), ', '.join(missing)
      scopes = [
        '/'.join(scope)
        for (scope, key), given in self._bound.items()
        if key == id(thing) and set(missing) & set(given)
      ]
      note = f', not only under {" and ".join(scopes)}/' if scopes else ''
      raise ValueError(f'{place}: {path}.{names} must be set{note}.')

  def _check_literals(self, thing, given: dict[str, Statement]):
    """Raises if a literal value does not fit the thing's annotation.

    Values that are built from references are checked when they are built.
    """
    defaults = parameters(thing)
    for name, statement in given.items():
      origin = self._origin(statement)
      value = origin.parsed.value
      default = getattr(defaults.get(name), 'default', ...)
      if any(gin_files.references(value)) or value is default is None:
        continue
      try:
        checks.check_arguments(thing, {name: value})
      except checks.SettingError as error:
        raise ValueError(f'{origin.place}: {error}') from error

  def _check_scopes(self, statements: list[Statement]):
    """Raises if an unused scope looks like a misspelling of a used one.

    Other unused scopes are allowed, since another file may use them.
    """
    used = {
      (scope, reference.selector)
      for statement in statements
      if statement.kind == 'Binding'
      for reference in gin_files.references(statement.parsed.value)
      if isinstance(reference, Reference)
      for scope in reference.scopes
    }
    names = {scope for scope, _ in used}
    bindings = [
      x for x in statements if x.kind == 'Binding' and x.parsed.arg_name
    ]
    names_set = collections.defaultdict(set)
    for x in bindings:
      names_set[x.parsed[:2]].add(x.parsed.arg_name)
    for statement in bindings:
      scope, selector = statement.parsed[:2]
      if scope in names or not scope:
        continue
      for other, its_selector in sorted(used):
        if its_selector != selector or not _is_slip(scope, other):
          continue
        # If both scopes set the same argument, they are two objects on purpose,
        # one of which is not used.
        if not names_set[scope, selector] & names_set[other, selector]:
          raise ValueError(
            f'{statement.place}: {gin_files.written(statement)} has no '
            f'effect: there is no @{scope}/{selector}(). Did you mean {other}?'
          )

  def _check_used(self, statements: list[Statement]):
    """Raises if a setting on the command line has no effect.

    In a file, an unused setting is an error only if it is a macro with the name
    of a field of the config: then it was probably meant to set the field.
    """
    used = {id(x) for use in self.uses for x in use.bound.values()}
    macros = (use.bound for use in self.uses if use.thing is Macro)
    used_macros = {name for bound in macros for name in bound}
    last = {x.parsed[:3]: x for x in statements if x.kind == 'Binding'}
    fields = {f'{checks.title(self.kind)}.{x}' for x in parameters(self.kind)}
    for statement in last.values():
      scope, selector, name = statement.parsed[:3]
      field = f'{checks.title(self.kind)}.{selector}'
      typed = statement.place.source.startswith(COMMAND_LINE)
      if id(statement) in used or not (typed or (not name and field in fields)):
        continue
      prefix = (
        f'{statement.place}: {gin_files.written(statement)} has no effect: '
      )
      if name:
        scoped = f'{scope}/{selector}' if scope else selector
        raise ValueError(f'{prefix}this run does not read @{scoped}().')
      known = [*fields, *used_macros]
      hint = nearest(selector if selector.isupper() else field, known)
      raise ValueError(f'{prefix}nothing refers to %{selector}{hint}')

  def make(self) -> Any:
    """Builds the config."""
    self._shared: dict[tuple[str, ...], Any] = {}
    return self._build(self.kind, (), True, self.file)

  def _build(
    self, thing, scopes: tuple[str, ...], called: bool, place: Place,
    default: Any = None,
  ):  # fmt: skip
    """Returns thing(...) if `called`, else the thing with its settings bound.

    default: an object of the class `thing`. If given, the class is not called;
      instead, a copy of the object with the settings is returned.
    """
    given = self._given(thing, scopes, default)
    values = {
      name: self._value(x.parsed.value, scopes, x.place)
      for name, x in given.items()
    }
    if not called:
      return functools.partial(thing, **values) if values else thing
    try:
      if default is not None:
        return dataclasses.replace(default, **values)
      if thing is not gin_files.singleton:
        return thing(**values)
      if scopes not in self._shared:
        self._shared[scopes] = thing(**values)
      return self._shared[scopes]
    except Exception as error:  # A user's function may raise anything.
      place = self._find_place(error, given) or place
      raise ValueError(f'{place}: {_message(error)}') from error

  def _value(self, value: Any, scopes: tuple[str, ...], place: Place) -> Any:
    """Returns a value with its references replaced by what they refer to."""
    if isinstance(value, Reference):
      thing = self.symbols.find(value.selector, place)
      return self._build(
        thing, value.scopes or scopes, value.called, place, value.default
      )
    if isinstance(value, Macro):
      definition = self.definition(value, place)
      scopes = tuple(value.name.split('/'))
      return self._value(definition.parsed.value, scopes, definition.place)
    if isinstance(value, list | tuple):
      return type(value)(self._value(x, scopes, place) for x in value)
    if isinstance(value, dict):
      keys, values = (
        [self._value(x, scopes, place) for x in part]
        for part in (value.keys(), value.values())
      )
      return dict(zip(keys, values, strict=True))
    return value

  def _find_place(
    self, error: Exception, given: dict[str, Statement]
  ) -> Place | None:
    """Returns where the setting that an error names was set, if known."""
    if isinstance(error, checks.SettingError):
      candidates = [
        use.bound[error.name]
        for use in self.uses
        if use.thing is error.owner and error.name in use.bound
      ]
      candidates.sort(key=lambda x: self._origin(x).parsed.value != error.value)
    else:
      words = set(re.findall(r'\w+', str(error)))
      candidates = [
        statement for name, statement in given.items() if name in words
      ]
    return self._origin(candidates[0]).place if candidates else None

  def _origin(self, statement: Statement) -> Statement:
    """Follows macros to the statement that has the value itself."""
    while isinstance(statement.parsed.value, Macro):
      statement = self.definition(statement.parsed.value, statement.place)
    return statement


def _defaults(thing: Any, default: Any = None) -> dict[str, Any]:
  """Returns {field: default} for defaults that are objects of dataclasses.

  default: an object of class `thing`. If given, its values are the defaults.
  """
  if not (inspect.isclass(thing) and dataclasses.is_dataclass(thing)):
    return {}
  values = {
    field.name: getattr(default, field.name, field.default)
    for field in dataclasses.fields(thing)
    if field.init
  }
  return {
    name: value
    for name, value in values.items()
    if dataclasses.is_dataclass(value) and not inspect.isclass(value)
  }


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
  """Returns the parameters of a function or class."""
  try:
    return dict(inspect.signature(thing).parameters)
  except (ValueError, TypeError):  # Some functions in C have no signature.
    any_names = inspect.Parameter('options', inspect.Parameter.VAR_KEYWORD)
    return {'options': any_names}


def _is_slip(name: str, other: str) -> bool:
  """Returns True if one name looks like a misspelling of the other.

  wiki1 and wiki2 do not, nor do held_out and held_out_pairs.
  """
  letters, others = (re.sub('[0-9_]', '', x) for x in (name, other))
  ratio = difflib.SequenceMatcher(None, letters, others).ratio()
  return 0.8 <= ratio < 1 and abs(len(letters) - len(others)) < 2


def _message(error: Exception) -> str:
  """Returns an error's message.

  The type comes first, except for ValueError and OSError.
  """
  message = ' '.join(str(error).split())
  if isinstance(error, ValueError | OSError) and message:
    return message
  return f'{type(error).__name__}: {message}'
