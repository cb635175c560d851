"""`rlpt PROGRAM ...`: small tools take plain arguments, long runs a gin file.

A program is a function of the same name in `rlpt_jax/programs/`, and its
signature is its command line. If its first parameter is a `config`, this is
built from gin files and bindings: `rlpt train_rl FILE.gin [FILE.gin | BINDING
...] --workdir=DIR`; later settings win (gin_config.py). If it is a `run`, the
files are those of any program in TRAINING.
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

from rlpt_jax.gin_config import read_config, read_one_of

PROGRAMS = (
  'quickstart', 'make_corpus', 'make_questions', 'prepare', 'preview',
  'plan', 'train_sft', 'train_rl', 'sample', 'generate', 'evaluate', 'report',
  'fit', 'serve', 'convert',
)  # fmt: skip
TRAINING = ('train_rl', 'train_sft')  # Their runs can be planned.
WHERE = 'rlpt_jax.programs'
QUICK = (
  'report',
  'fit',
)  # Load at once; all others print that they are loading.
USAGE_ERROR = 2


def main(argv: list[str] | None = None) -> int:
  """Runs one program; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  show_traceback, distributed = '--traceback' in argv, '--distributed' in argv
  argv = [arg for arg in argv if arg not in ('--traceback', '--distributed')]
  if not argv or argv[0] in ('-h', '--help'):
    print(usage())
    return 0 if argv else USAGE_ERROR
  name, *arguments = argv
  # Write each line as soon as it is printed: logs are read while they grow.
  if hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(line_buffering=True)
  # Warnings go to whatever sys.stderr is at the time: a progress bar replaces
  # it, to show them above itself.
  logging.root.addHandler(logging.lastResort)
  # In every run Orbax warns about settings that we chose on purpose. It also
  # logs each error with several tracebacks, then raises it; we print one line.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  try:
    if name not in PROGRAMS:
      raise ValueError(
        f'{name!r} is not a program: expected one of {", ".join(PROGRAMS)}.'
      )
    if distributed:
      join_others()
    run(name, arguments, alone=not distributed)
  except (ValueError, OSError, FloatingPointError) as error:
    # Errors that a user can cause are ValueErrors with a message for the user,
    # or come from the file system. A FloatingPointError comes from a model
    # whose weights are broken or too large for their type.
    if show_traceback:
      traceback.print_exc()
    message = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
      message = f'{error.filename}: {error.strerror}.'
    lines = message.splitlines() or [repr(error)]
    print(f'rlpt {name}: {lines[0]}', file=sys.stderr)
    if not show_traceback:
      print('(add --traceback to see where)', file=sys.stderr)
    return getattr(error, 'exit_status', USAGE_ERROR)
  except KeyboardInterrupt as interrupt:
    # The program may have added a note, such as how to resume.
    parts = [f'rlpt {name}: interrupted', *map(str, interrupt.args)]
    print(': '.join(parts), file=sys.stderr)
    return 130
  return 0


def usage() -> str:
  """Returns what `rlpt --help` prints, without importing a program."""
  lines = ['usage: rlpt PROGRAM ...', '', 'programs:']
  for name in PROGRAMS:
    lines.append(f'  {name:14} {summary(name)}')
  lines += [
    '',
    'rlpt PROGRAM --help describes what a program takes; --traceback, with any',
    'program, shows where an error was raised. With --distributed, the',
    'processes started on every host of a pod, or by srun, make one run.',
  ]
  return '\n'.join(lines)


def join_others():
  """Connects to the run's other processes, on a TPU pod or under Slurm."""
  import jax

  try:
    # Under Slurm, JAX would give each process only the GPU of its local rank.
    # With an empty list a process uses all GPUs that it sees.
    jax.distributed.initialize(local_device_ids=[])
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f'--distributed: could not connect to the other processes ({error}). '
      'Expected a host of a TPU pod, or a task of srun.'
    ) from error


def summary(name: str) -> str:
  """Returns the first line of a program's docstring, without importing it."""
  source = pathlib.Path(importlib.util.find_spec(f'{WHERE}.{name}').origin)
  docstring = ast.get_docstring(ast.parse(source.read_text()))
  return docstring.splitlines()[0]


def run(name: str, arguments: list[str], *, alone: bool = True):
  """Imports a program and calls it with its arguments.

  alone: True if no other process computes with this one. Only then are compiled
    programs cached. On GPUs, processes that compute together also compile
    together: if one of them found a program in its cache and skipped the
    compilation, the others would wait for it.
  """
  import tyro

  where = f'{WHERE}.{name}'
  asks = {'-h', '--help'}.intersection(arguments)
  if name not in QUICK and where not in sys.modules and not asks:
    print(f'rlpt {name}: loading its libraries ...', file=sys.stderr)
  module = importlib.import_module(where)
  if alone and 'jax' in sys.modules:
    from rlpt_jax.core import program_cache

    program_cache.use()
  return tyro.cli(
    _command(getattr(module, name)),
    args=arguments,
    prog=f'rlpt {name}',
    use_underscores=True,
  )


def _command(program):
  """Returns the program with the signature that tyro should see.

  Positional parameters are positional on the command line too, and a config
  becomes a gin file and bindings.
  """
  import tyro

  hints, parameters, configs = typing.get_type_hints(program), [], {}
  doc = inspect.getdoc(program)
  for parameter in inspect.signature(program).parameters.values():
    hint = hints[parameter.name]
    if parameter.name in ('config', 'run'):
      doc = _with_gin_arguments(doc)
      parameters += _gin_parameters()
      continue
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
      metavar = parameter.name.upper()
      if typing.get_origin(hint) is tuple:  # workdirs becomes WORKDIR ...
        metavar = f'{metavar.removesuffix("S")} ...'
      elif parameter.default is not parameter.empty:
        metavar = f'[{metavar}]'
      shown = tyro.conf.arg(metavar=metavar)
      hint = typing.Annotated[tyro.conf.Positional[hint], shown]
    elif typing.get_origin(hint) is list:
      # The option takes several values at a time. The name of a gin file
      # becomes the config that the file describes.
      configs[parameter.name] = _dataclass_in(hint)
      hint = typing.Annotated[list[list[str]], tyro.conf.UseAppendAction]
    elif len(parameter.name) == 1:
      shown = tyro.conf.arg(aliases=[f'-{parameter.name}'])
      hint = typing.Annotated[hint, shown]
    elif dataclasses.is_dataclass(hint):
      # Each field is an option of its own.
      flat = tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction
      hint = typing.Annotated[hint, *flat]
    elif typing.get_origin(hint) is tuple:
      # A repeated option adds values; tyro's default is to replace them.
      hint = typing.Annotated[hint, tyro.conf.UseAppendAction]
    parameters.append(parameter.replace(annotation=hint))

  def command(*args, **kwargs):
    for name, kind in configs.items():
      kwargs[name] = [
        read_config(kind, pathlib.Path(value))
        if kind and value.endswith('.gin')
        else value
        for values in kwargs[name]
        for value in values
      ]
    if 'config' in hints:
      file, bindings = kwargs.pop('file'), kwargs.pop('bindings')
      config = read_config(hints['config'], file, bindings)
      return program(config, *args, **kwargs)
    if 'run' in hints:
      given = read_run(kwargs.pop('file'), kwargs.pop('bindings'))
      return program(hints['run'](*given), *args, **kwargs)
    return program(*args, **kwargs)

  # tyro keeps line breaks. Join the lines of an argument, so that tyro wraps
  # them.
  command.__doc__ = re.sub(r'\n {4,}(?=\S)', ' ', doc or '')
  command.__signature__ = inspect.Signature(parameters)
  command.__annotations__ = {p.name: p.annotation for p in parameters}
  return command


def read_run(
  file: pathlib.Path, bindings: tuple[str, ...] = ()
) -> tuple[typing.Any, dict[str, typing.Any]]:
  """Returns the config of a run that trains, and the macros of its files."""
  kinds = [
    importlib.import_module(f'{WHERE}.{name}').Config for name in TRAINING
  ]
  return read_one_of(kinds, file, bindings)


def _dataclass_in(hint) -> type | None:
  """Returns the dataclass in a hint such as list[str | NextSegment]."""
  (element,) = typing.get_args(hint)
  kinds = typing.get_args(element) or (element,)
  return next(filter(dataclasses.is_dataclass, kinds), None)


def _gin_parameters() -> list[inspect.Parameter]:
  import tyro

  file = typing.Annotated[
    tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar='FILE.gin')
  ]
  bindings = typing.Annotated[
    tyro.conf.Positional[tuple[str, ...]],
    tyro.conf.arg(metavar='[FILE.gin | BINDING ...]'),
  ]
  either = inspect.Parameter.POSITIONAL_OR_KEYWORD
  return [
    inspect.Parameter('file', either, annotation=file),
    inspect.Parameter('bindings', either, annotation=bindings, default=()),
  ]


def _with_gin_arguments(doc: str) -> str:
  head, _, arguments = doc.partition('Args:\n')
  return f"""{head.rstrip()}

Args:
  file: A gin file; experiments/ has some.
  bindings: More gin files, such as a layout, and settings like
    train_rl.Config.seed=1; they override the file.
{arguments}"""


if __name__ == '__main__':
  sys.exit(main())
