"""`rlpt PROGRAM ...`: small tools take plain arguments, long runs a gin file.

A program is a function of the same name in `rlpt_jax/programs/`. If its first
parameter is a `config`, the program is a long run: `rlpt train_rl FILE.gin
[binding ...] --workdir=DIR`, and gin builds the config. Else its signature is
its command line. The only module that knows gin.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import logging
import pathlib
import re
import sys
import traceback
import typing

PROGRAMS = ('quickstart', 'generate', 'convert')
WHERE = 'rlpt_jax.programs'
USAGE_ERROR = 2


def main(argv: list[str] | None = None) -> int:
  """Runs one program; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  show_traceback = '--traceback' in argv
  argv = [arg for arg in argv if arg != '--traceback']
  if not argv or argv[0] in ('-h', '--help'):
    print(usage())
    return 0 if argv else USAGE_ERROR
  name, *arguments = argv
  # Orbax warns about what we chose, in every run.
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    if name not in PROGRAMS:
      raise ValueError(
        f'{name!r} is no program: expected one of {", ".join(PROGRAMS)}.'
      )
    run(name, arguments)
  except (ValueError, OSError) as error:
    # What a user can cause is a ValueError with a message for the user, or
    # what the file system says.
    if show_traceback:
      traceback.print_exc()
    lines = str(error).splitlines() or [repr(error)]
    print(f'rlpt {name}: {lines[0]}', file=sys.stderr)
    if not show_traceback:
      print('(--traceback shows where)', file=sys.stderr)
    return USAGE_ERROR
  except KeyboardInterrupt:
    print(f'rlpt {name}: interrupted', file=sys.stderr)
    return 130
  return 0


def usage() -> str:
  """What `rlpt --help` prints; imports no program."""
  lines = ['usage: rlpt PROGRAM ...', '', 'programs:']
  for name in PROGRAMS:
    lines.append(f'  {name:12} {summary(name)}')
  lines += [
    '',
    'rlpt PROGRAM --help says what a program takes; --traceback, with any',
    'program, shows where an error comes from.',
  ]
  return '\n'.join(lines)


def summary(name: str) -> str:
  """The first line of a program's docstring, read without importing it."""
  source = pathlib.Path(importlib.util.find_spec(f'{WHERE}.{name}').origin)
  docstring = ast.get_docstring(ast.parse(source.read_text()))
  return docstring.splitlines()[0]


def run(name: str, arguments: list[str]):
  """Imports a program and calls it with its arguments."""
  import tyro

  module = importlib.import_module(f'{WHERE}.{name}')
  program = getattr(module, name)
  parameters = list(inspect.signature(program).parameters)
  if parameters[0] == 'config':
    return _run_long(name, program, arguments)
  return tyro.cli(
    _positional_before_star(program),
    args=arguments,
    prog=f'rlpt {name}',
    use_underscores=True,
  )


def _positional_before_star(program):
  """The program as tyro should see it: what is positional in its signature is
  positional on its command line.
  """
  import tyro

  hints, parameters = typing.get_type_hints(program), []
  for parameter in inspect.signature(program).parameters.values():
    hint = hints[parameter.name]
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
      shown = tyro.conf.arg(metavar=parameter.name.upper())
      hint = typing.Annotated[tyro.conf.Positional[hint], shown]
    parameters.append(parameter.replace(annotation=hint))

  def command(*args, **kwargs):
    return program(*args, **kwargs)

  command.__doc__ = inspect.getdoc(program)
  command.__signature__ = inspect.Signature(parameters)
  command.__annotations__ = {p.name: p.annotation for p in parameters}
  return command


def _run_long(name: str, program, arguments: list[str]):
  """A program with a config: `FILE.gin [binding ...] --workdir=DIR`."""
  import tyro

  def parse(
    file: tyro.conf.Positional[pathlib.Path],
    bindings: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    workdir: pathlib.Path,
  ):
    return file, bindings, workdir

  parse.__doc__ = f"""{inspect.getdoc(program)}

  Args:
    file: A gin file; experiments/ has some.
    bindings: Settings that come after the file's, say {name}.Config.seed=1.
    workdir: Where the run keeps what it writes; the same again resumes it.
  """
  file, bindings, workdir = tyro.cli(
    parse, args=arguments, prog=f'rlpt {name}', use_underscores=True
  )
  kind = typing.get_type_hints(program)['config']
  return program(read_config(kind, file, bindings), workdir)


def read_config(kind: type, file: pathlib.Path, bindings: tuple[str, ...] = ()):
  """The frozen dataclass `kind` as a gin file and bindings describe it.

  gin files register dynamically: each begins with `from __gin__ import
  dynamic_registration` and imports what it configures, so that no class of ours
  needs a decorator and a name that does not exist is an error. Bindings see the
  imports of the file and of what it includes.
  """
  import gin

  lines = [*_lines_of_gin(file), *bindings]
  imports = [line for line in lines if re.match(r'(from|import)\b', line)]
  rest = [line for line in lines if line not in imports]
  try:
    gin.clear_config()
    gin.parse_config([*dict.fromkeys(imports), *rest])
    configured = gin.get_configurable(kind)
  except (
    ValueError, AttributeError, ImportError, NameError, SyntaxError,
  ) as error:  # fmt: skip
    raise ValueError(f'{file}: {" ".join(str(error).split())}') from error
  try:
    config = configured()
  except (TypeError, RuntimeError) as error:
    raise ValueError(f'{file}: {" ".join(str(error).split())}') from error
  if unset := list(_unset(config, kind.__name__)):
    raise ValueError(f'{file}: {", ".join(unset)} must be set.')
  return config


def _lines_of_gin(file: pathlib.Path) -> list[str]:
  """The lines of a gin file, includes in place: what one includes is looked for
  beside it, then in the working directory.
  """
  if not file.exists():
    raise ValueError(f'{file}: no such gin file.')
  lines = []
  for line in file.read_text().splitlines():
    include = re.match(r'include\s+[\'"](.+)[\'"]\s*(#.*)?$', line)
    if include:
      beside = file.parent / include[1]
      lines += _lines_of_gin(
        beside if beside.exists() else pathlib.Path(include[1])
      )
    else:
      lines.append(line)
  return lines


def _unset(config, path: str):
  """Yields the path of every %gin.REQUIRED that nothing replaced."""
  import gin

  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if value is gin.REQUIRED:
      yield f'{path}.{field.name}'
    elif dataclasses.is_dataclass(value):
      yield from _unset(value, f'{path}.{field.name}')


if __name__ == '__main__':
  sys.exit(main())
