"""The command line: help in about a second, errors in one line, gin files."""

import dataclasses
import io
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from rlpt_jax import cli
from rlpt_jax.llm import remote


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int
  inner: Inner = Inner()


def long_run(config: Config, *, workdir: pathlib.Path, n: int = 1):
  """Runs for long.

  And says more about it.

  Args:
    n: How often.
  """
  print(config, workdir, n)


def several(*, things: list[str | Config], n: int = 1):
  print(things, n)


HEADER = """from __gin__ import dynamic_registration
from tests import cli_test
"""


@pytest.fixture
def gin_file(tmp_path):
  def write(text, name='run.gin'):
    (tmp_path / name).write_text(HEADER + text)
    return tmp_path / name

  return write


@pytest.fixture
def with_long_run(monkeypatch):
  monkeypatch.setattr(cli, 'PROGRAMS', ('cli_test', *cli.PROGRAMS))
  monkeypatch.setattr(cli, 'WHERE', 'tests')
  monkeypatch.setattr(
    sys.modules[__name__], 'cli_test', long_run, raising=False
  )


def test_help_names_every_program(capsys):
  assert cli.main(['--help']) == 0
  out = capsys.readouterr().out
  for name in cli.PROGRAMS:
    assert re.search(rf'^  {name} +\w', out, re.MULTILINE)


def test_no_program_is_a_usage_error(capsys):
  assert cli.main([]) == cli.USAGE_ERROR
  assert 'usage: rlpt' in capsys.readouterr().out


@pytest.mark.parametrize('name', cli.PROGRAMS)
def test_a_program_says_what_it_takes(name, capsys):
  with pytest.raises(SystemExit) as exit_info:
    cli.main([name, '--help'])
  assert exit_info.value.code == 0
  assert f'usage: rlpt {name}' in capsys.readouterr().out


def test_help_is_wrapped_where_the_terminal_ends(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '200')
  with pytest.raises(SystemExit):
    cli.main(['report', '--help'])
  said = capsys.readouterr().out
  assert 'usage: rlpt report [-h] WORKDIR ... [--out PATH]' in said
  assert 'also of runs that are under way.' in said


def test_what_may_be_left_out_is_in_brackets(capsys):
  with pytest.raises(SystemExit):
    cli.main(['quickstart', '--help'])
  said = capsys.readouterr().out
  assert 'usage: rlpt quickstart [-h] [OPTIONS] [WORKDIR]' in said


def test_convert_takes_a_source_and_a_destination(capsys):
  with pytest.raises(SystemExit):
    cli.main(['convert', '--help'])
  assert 'usage: rlpt convert [-h] [OPTIONS] SRC DST' in capsys.readouterr().out


def test_help_loads_little_and_starts_no_device():
  """Which is all that takes time in it: a second, with jax."""
  script = """
import sys
from rlpt_jax import cli
for program in [], ['generate'], ['preview']:
  try:
    cli.main([*program, '--help'])
  except SystemExit:
    pass
heavy = {
  'apache_beam', 'matplotlib', 'scipy', 'seqio', 'tensorflow', 'torch',
  'transformers',
} & set(sys.modules)
assert not heavy, heavy
if 'jax' in sys.modules:
  import jax._src.xla_bridge as bridge
  assert not bridge.backends_are_initialized()
"""
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_an_unknown_program_is_one_line(capsys):
  assert cli.main(['train_rlpt']) == cli.USAGE_ERROR
  err = capsys.readouterr().err
  assert "'train_rlpt' is not a program: expected one of" in err
  assert 'Traceback' not in err


def test_an_error_of_the_user_is_one_line_unless_asked(capsys, tmp_path):
  arguments = ['convert', str(tmp_path / 'nothing'), str(tmp_path / 'there')]
  assert cli.main(arguments) == cli.USAGE_ERROR
  err = capsys.readouterr().err
  assert err.startswith('rlpt convert: ')
  assert 'no such directory. Expected a Hugging Face directory' in err
  assert 'Traceback' not in err
  assert cli.main([*arguments, '--traceback']) == cli.USAGE_ERROR
  assert 'Traceback' in capsys.readouterr().err


def test_numbers_that_are_none_are_one_line(monkeypatch, capsys):
  def broken(name, arguments, *, alone):
    raise FloatingPointError('request 0: NaN log-probability')

  monkeypatch.setattr(cli, 'run', broken)
  for name in cli.PROGRAMS:
    assert cli.main([name]) == cli.USAGE_ERROR
    said, hint = capsys.readouterr().err.splitlines()
    assert said.startswith(f'rlpt {name}: request 0: NaN log-probability')
    assert hint == '(add --traceback to see where)'


def test_a_judge_that_is_gone_is_tried_again_later(capsys, monkeypatch):
  def gone(name, arguments, *, alone):
    raise remote.Unavailable('http://judge:1/v1: no answer after 1 s.')

  monkeypatch.setattr(cli, 'run', gone)
  assert cli.main(['train_rl']) == 75
  assert 'rlpt train_rl: http://judge:1/v1: no' in capsys.readouterr().err


def test_a_misspelt_option_is_a_usage_error(capsys):
  with pytest.raises(SystemExit) as exit_info:
    cli.main(['convert', 'a', 'b', '--overwite'])
  assert exit_info.value.code == cli.USAGE_ERROR
  assert '--overwite' in capsys.readouterr().err


def test_a_long_run_takes_a_gin_file_and_bindings(
  gin_file, with_long_run, capsys, tmp_path
):
  file = gin_file('cli_test.Config.steps = 3\n')
  workdir = tmp_path / 'run'
  bindings = ['cli_test.Config.inner = @cli_test.Inner()']
  bindings.append('cli_test.Inner.rate = 0.5')
  arguments = ['cli_test', str(file), *bindings, f'--workdir={workdir}']
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  assert f'Config(steps=3, inner=Inner(rate=0.5)) {workdir}' in out


def test_distributed_meets_the_others_before_the_program_runs(
  gin_file, with_long_run, capsys, monkeypatch
):
  import jax

  met = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: met.append(1))
  file = str(gin_file('cli_test.Config.steps = 3\n'))
  arguments = ['cli_test', file, '--workdir', 'w']
  assert cli.main(arguments) == 0
  assert not met
  assert cli.main([*arguments, '--distributed']) == 0
  assert met

  def fail(**_):
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  capsys.readouterr()
  assert cli.main([*arguments, '--distributed']) == cli.USAGE_ERROR
  captured = capsys.readouterr()
  assert 'Expected a host of a TPU pod, or a task of srun.' in captured.err
  assert not captured.out


def test_a_task_of_srun_has_all_gpus_of_its_node():
  script = """
from jax._src import xla_bridge
from rlpt_jax import cli
cli.join_others()
assert xla_bridge.CUDA_VISIBLE_DEVICES.value == 'all'
"""
  slurm = {
    'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '1', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0',
  }  # fmt: skip
  environment = os.environ | slurm | {'JAX_PLATFORMS': 'cpu'}
  with socket.socket() as free:
    free.bind(('localhost', 0))
    environment['JAX_COORDINATOR_PORT'] = str(free.getsockname()[1])
  subprocess.run([sys.executable, '-c', script], check=True, env=environment)


def test_the_help_of_a_long_run(with_long_run, capsys):
  with pytest.raises(SystemExit):
    cli.main(['cli_test', '--help'])
  out = capsys.readouterr().out
  assert 'Runs for long.' in out
  assert 'And says more about it.' in out
  assert 'FILE.gin [FILE.gin | BINDING ...]' in out
  assert '--workdir' in out
  assert 'How often.' in out


def test_what_loads_for_long_says_so_first(monkeypatch):
  said = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', said)
  before = []

  def load(name):
    before.append(said.getvalue())
    raise ValueError('loaded')

  monkeypatch.setattr(cli.importlib, 'import_module', load)
  monkeypatch.setattr(cli, 'WHERE', 'elsewhere')
  for arguments in ([], ['--help']):
    said.truncate(0)
    said.seek(0)
    assert cli.main(['train_rl', *arguments]) == cli.USAGE_ERROR
  said.truncate(0)
  said.seek(0)
  assert cli.main(['report']) == cli.USAGE_ERROR
  assert before == ['rlpt train_rl: loading its libraries ...\n', '', '']


def test_an_option_of_one_letter_has_one_dash(
  gin_file, with_long_run, capsys, tmp_path
):
  file = gin_file('cli_test.Config.steps = 3\n')
  assert cli.main(['cli_test', str(file), '--workdir', 'w', '-n', '7']) == 0
  assert capsys.readouterr().out.strip().endswith('w 7')


def test_an_option_takes_several_and_gin_files_among_them(
  gin_file, with_long_run, monkeypatch, capsys
):
  monkeypatch.setattr(sys.modules[__name__], 'cli_test', several)
  file = str(gin_file('cli_test.Config.steps = 3\n'))
  arguments = ['cli_test', '--things', 'a', file, '--things', 'b', '-n', '2']
  assert cli.main(arguments) == 0
  expected = ['a', Config(steps=3), 'b']
  assert capsys.readouterr().out.strip() == f'{expected} 2'
  assert cli.main(['cli_test']) == 0
  assert capsys.readouterr().out.strip() == '[] 1'
  assert cli.main(['cli_test', '--things', 'x.gin']) == 2
  assert 'x.gin: no such gin file' in capsys.readouterr().err
