"""gin files and bindings: what they make, and how every mistake is told."""

import dataclasses
import pathlib
import pickle
import typing

import pytest

from rlpt_jax import cli
from rlpt_jax.core.layout import Axes
from rlpt_jax.gin_config import read_config, read_one_of
from rlpt_jax.programs import train_rl, train_sft

WRONG = pathlib.Path(__file__).parent / 'golden' / 'wrong_settings.txt'

DATA = """from __gin__ import dynamic_registration
from rlpt_jax.data import config
from rlpt_jax.data import sources
from rlpt_jax.data import tasks

wiki/sources.Files.name = 'wiki'
wiki/sources.Files.files = 'wiki/*.txt'
config.Data.corpora = [@wiki/sources.Files()]
config.Data.task = @tasks.rlpt()
"""
RUN = """include 'data.gin'
from rlpt_jax.algorithms import losses
from rlpt_jax.core import layout
from rlpt_jax.models import config as models
from rlpt_jax.rollout import sampling
from rlpt_jax.programs import train_rl
from rlpt_jax.rewards import extract
from rlpt_jax.rewards import text_match
from rlpt_jax.training import optimizer

RATE = 1e-3
optimizer.AdamW.learning_rate = %RATE
text_match.TextMatch.match = @text_match.overlap
sampling.Sampling.samples = 8

train_rl.Config.model = 'random:tiny_qwen3'
train_rl.Config.data = @config.Data()
train_rl.Config.reward = @text_match.TextMatch()
train_rl.Config.optimizer = @optimizer.AdamW()
train_rl.Config.sampling = @sampling.Sampling()
train_rl.Hardware.layout = @learner/layout.Axes()
train_rl.Config.num_steps = 20
train_rl.Config.prompts = 8
"""
MINE = """import functools
reward_of_half = functools.partial(lambda share, examples: share, 0.5)
number = 3

def fails():
  raise KeyError('mine')
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Reads RUN, in a folder of its own, with some lines changed."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path / 'path')
  files = {
    'data.gin': DATA,
    'loop.gin': "include 'around.gin'",
    'around.gin': "include 'loop.gin'",
    'here.py': '',
    'path/mine_for_gin.py': MINE,
    'path/broken_for_gin.py': 'import no_such_module',
    'path/wrong_for_gin.py': 'x = 1 / 0',
    'folder.gin/x': '',
  }
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

  def read(change: str = '', *typed: str):
    lines = RUN.splitlines()
    for line in change.splitlines():
      key, _, value = line.partition('=')
      there = [
        i for i, x in enumerate(lines) if x.startswith(f'{key.strip()} ')
      ]
      if there and not line.startswith(' '):
        lines[there[0]] = line if value.strip() else ''
      else:
        lines.append(line)
    (tmp_path / 'run.gin').write_text('\n'.join(lines) + '\n')
    return read_config(train_rl.Config, pathlib.Path('run.gin'), typed)

  return read


def cases():
  """(what is changed, what is typed, what is said) of the table."""
  for case in WRONG.read_text().split('\n\n'):
    lines = [x for x in case.splitlines() if not x.startswith('#')]
    if lines:
      *written, said = lines
      typed = [x[2:] for x in written if x.startswith('$ ')]
      change = '\n'.join(x for x in written if not x.startswith('$ '))
      yield change, typed, said.removeprefix('> ')


def test_settings_of_a_part_need_no_line_that_names_it(run):
  """Where the part is a default of the config, and nothing else is set."""
  config = run('', 'runs.Saving.every = 5', 'models.Compute.remat = "layer"')
  assert (config.saving.every, config.saving.keep_last) == (5, 2)
  assert config.compute.remat == 'layer'
  # In parts of a part, with other defaults: those that are not set stay.
  config = run(
    'train_rl.Hardware.layout =', 'layout.Axes.tensor = 4', 'layout.Axes.data=2'
  )
  assert config.hardware.layout == Axes(data=2, fsdp=-1, tensor=4)
  assert config.hardware.sampler_layout == Axes(data=2, fsdp=1, tensor=4)
  # Also in what a line names; a scope adds its own.
  config = run('learner/layout.Axes.fsdp = 2', 'layout.Axes.tensor = 4')
  assert config.hardware.layout == Axes(fsdp=2, tensor=4)
  assert config.hardware.sampler_layout == Axes(data=-1, fsdp=1, tensor=4)
  other = run(
    '', 'a/runs.Saving.every=5', 'train_rl.Config.saving=@a/runs.Saving()'
  )
  assert other.saving.every == 5
  with pytest.raises(ValueError, match=r"'runs\.Saving\.every=0': runs.Saving"):
    run('', 'runs.Saving.every=0')


def test_what_the_table_changes_is_right_without_it(run):
  config = run()
  assert config.prompts == 8 and config.optimizer.learning_rate == 1e-3
  assert run('', 'RATE = 2e-3').optimizer.learning_rate == 2e-3


@pytest.mark.parametrize(('change', 'typed', 'said'), cases())
def test_a_mistake_is_one_line_with_its_place(change, typed, said, run):
  with pytest.raises(ValueError) as caught:
    run(change, *typed)
  assert str(caught.value) == said


def test_errors_of_the_command_line_are_one_line(run, capsys):
  run('train_rl.Config.seed = 1')
  command = ['train_rl', 'run.gin', 'train_rl.Config.seed=x', '--workdir', 'w']
  assert cli.main(command) == cli.USAGE_ERROR
  said = capsys.readouterr().err.splitlines()
  assert said[0].startswith(
    "rlpt train_rl: command line, 'train_rl.Config.seed=x': 'x' is not a value"
  )
  assert len(said) == 2 and not pathlib.Path('w').exists()


# What right files make.


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float = 0.1
  size: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int
  inner: Inner = Inner()
  others: tuple = ()


@dataclasses.dataclass(frozen=True)
class Middle:
  name: str
  inner: Inner = Inner()
  other: Inner = Inner(rate=0.2, size=5)


@dataclasses.dataclass(frozen=True)
class Outer:
  middle: Middle = Middle('mine', inner=Inner(size=7))


@dataclasses.dataclass(frozen=True)
class Around:
  outer: Outer


def double(x: int, *, times: int = 2) -> int:
  return x * times


@dataclasses.dataclass(frozen=True)
class WithFunctions:
  functions: tuple = ()
  function: typing.Callable = double


def plus(*, base: int, function: typing.Callable = double) -> typing.Callable:
  return lambda x: base + function(x)


@pytest.fixture
def gin_file(tmp_path):
  def write(text, name='run.gin'):
    (tmp_path / name).write_text(f'from tests import gin_config_test\n{text}')
    return tmp_path / name

  return write


def test_a_default_keeps_what_is_not_set(gin_file):
  """However deep it is, and also where its class cannot be made of nothing."""
  file = gin_file('gin_config_test.Around.outer = @gin_config_test.Outer()\n')
  rate = 'gin_config_test.Inner.rate = 0.5'
  assert read_config(Around, file, (rate,)).outer.middle == Middle(
    'mine', inner=Inner(0.5, size=7), other=Inner(0.5, size=5)
  )
  # What a line makes has what the class has by default.
  lines = (
    'gin_config_test.Outer.middle = @gin_config_test.Middle()',
    'gin_config_test.Middle.name = "other"',
  )
  assert read_config(Around, file, lines).outer.middle == Middle('other')
  with pytest.raises(ValueError, match=r'Middle\.name must be set'):
    read_config(Around, file, lines[:1])
  # A scope has it, but that scope is not the one that is read.
  scoped = (lines[0], 'other/gin_config_test.Middle.name = "other"')
  with pytest.raises(ValueError, match='not only under other/'):
    read_config(Around, file, scoped)


def test_functions_come_out_as_what_they_are(gin_file):
  file = gin_file("""
gin_config_test.WithFunctions.function = @gin_config_test.double
gin_config_test.WithFunctions.functions = [
  @gin_config_test.double,
  @gin_config_test.Inner(),
]
""")
  config = read_config(WithFunctions, file)
  assert config.function is double
  assert config.functions == [double, Inner()]
  # With what is bound to them, wherever they go.
  times = 'gin_config_test.double.times = 3'
  config = read_config(WithFunctions, file, (times,))
  assert pickle.loads(pickle.dumps(config.function))(5) == 15


def test_what_is_bound_stays_when_another_file_is_read(gin_file):
  file = gin_file("""
gin_config_test.WithFunctions.function = @gin_config_test.plus()
gin_config_test.plus.base = 100
gin_config_test.plus.function = @gin_config_test.double
gin_config_test.double.times = 3
""")
  config = read_config(WithFunctions, file)
  read_config(Config, gin_file('gin_config_test.Config.steps = 1\n', 'b.gin'))
  assert config.function(5) == 115


def test_scopes_and_macros(gin_file):
  file = gin_file("""
TIMES = 7
gin_config_test.double.times = %TIMES
small/gin_config_test.double.times = 1
large/gin_config_test.Inner.rate = 1000.0
large/inside/gin_config_test.Inner.rate = 1001.0
BOTH = [@large/gin_config_test.Inner(), @gin_config_test.Inner()]
gin_config_test.Config.steps = %TIMES
gin_config_test.Config.inner = @large/inside/gin_config_test.Inner()
gin_config_test.Config.others = [
  %BOTH, @small/gin_config_test.double, @gin_config_test.double]
""")
  config = read_config(Config, file)
  assert (config.steps, config.inner) == (7, Inner(1001.0))
  both, small, double_ = config.others
  assert both == [Inner(1000.0), Inner()]
  assert small(5) == 5 and double_(5) == 35
  # An inner thing without a scope has that of what it is in.
  file = gin_file("""
gin_config_test.WithFunctions.function = @many/gin_config_test.plus()
gin_config_test.plus.base = 0
gin_config_test.plus.function = @gin_config_test.double
many/gin_config_test.double.times = 50
""")
  assert read_config(WithFunctions, file).function(2) == 100


def test_scopes_that_are_alike(gin_file):
  text = """
en_wiki/gin_config_test.double.times = 3
de_wiki/gin_config_test.double.times = 4
gin_config_test.Config.steps = 1
gin_config_test.Config.others = [@de_wiki/gin_config_test.double]
"""
  assert read_config(Config, gin_file(text)).others[0](1) == 4
  text = text.replace('de_wiki/gin_config_test.double.times = 4', '')
  with pytest.raises(ValueError, match='Did you mean de_wiki'):
    read_config(Config, gin_file(text))


def test_one_object_for_all(gin_file):
  text = """
shared/gin.singleton.constructor = @gin_config_test.Inner
gin_config_test.Config.steps = 1
gin_config_test.Config.others = [
  @shared/gin.singleton(), @shared/gin.singleton(), @gin_config_test.Inner()]
"""
  one, same, other = read_config(Config, gin_file(text)).others
  assert one is same and one is not other


def test_blocks(gin_file):
  file = gin_file("""
gin_config_test.Config:
  steps = 3  # Of one thing.
  inner = @gin_config_test.Inner()

gin_config_test.Inner.rate = 0.5
""")
  assert read_config(Config, file) == Config(3, Inner(0.5))


def test_includes_and_later_bindings_win(
  gin_file, tmp_path, tmp_path_factory, monkeypatch
):
  gin_file('gin_config_test.Config.steps = 1\n', name='base.gin')
  # Beside the file that includes it, not in the working directory.
  monkeypatch.chdir(tmp_path_factory.mktemp('elsewhere'))
  pathlib.Path('base.gin').write_text('gin_config_test.Config.steps = 111\n')
  (file := tmp_path / 'plain.gin').write_text("include 'base.gin'\n")
  assert read_config(Config, file) == Config(steps=1)
  file = gin_file("include 'base.gin'\ngin_config_test.Config.steps = 2\n")
  assert read_config(Config, file) == Config(steps=2)
  bindings = ('gin_config_test.Config.steps = 9',)
  assert read_config(Config, file, bindings) == Config(steps=9)
  # And more files, in their order.
  more = str(gin_file('gin_config_test.Config.steps = 4\n', name='more.gin'))
  assert read_config(Config, file, (more,)) == Config(steps=4)
  assert read_config(Config, file, (more, *bindings)) == Config(steps=9)
  assert read_config(Config, file, (*bindings, more)) == Config(steps=4)
  with pytest.raises(ValueError, match=r'none\.gin: no such gin file'):
    read_config(Config, file, ('none.gin',))
  # What one run configured is not there for the next.
  with pytest.raises(ValueError, match='steps'):
    read_config(Config, gin_file('gin_config_test.Inner.rate = 1.0\n'))


def test_a_mistake_in_a_second_gin_file_names_that_too(gin_file):
  file = gin_file('gin_config_test.Config.steps = 3\n')
  more = str(gin_file('gin_config_test.Config.stops = 3\n', name='more.gin'))
  with pytest.raises(ValueError, match=r'more\.gin:2: .*stops'):
    read_config(Config, file, (more,))


def test_a_gin_file_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match='no such gin file'):
    read_config(Config, tmp_path / 'x.gin')


KINDS = train_rl.Config, train_sft.Config
SFT = """
train_sft.Config.model = 'random:tiny_qwen3'
train_sft.Config.data = @config.Data()
train_sft.Config.optimizer = @optimizer.AdamW()
train_sft.Config.num_steps = 2
"""


@pytest.fixture
def write(tmp_path):
  (tmp_path / 'data.gin').write_text(DATA)

  def write(name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name

  return write


def test_one_of_several_configs(write):
  # Both have a field of the other's, as files of layouts do.
  rl = write('rl.gin', f'{RUN}train_sft.Config.batch_size = 8\n')
  text = f'{RUN.split("train_rl.Config.model")[0]}CHIPS = %NAME\n{SFT}'
  sft = write('sft.gin', f"NAME = 'cpu:1'\n{text}")
  config, macros = read_one_of(KINDS, rl)
  assert config == read_config(train_rl.Config, rl)
  assert macros == {'RATE': 1e-3}
  config, macros = read_one_of(KINDS, sft, ('train_sft.Config.seed=3',))
  assert isinstance(config, train_sft.Config)
  assert config.seed == 3
  assert macros == {'RATE': 1e-3, 'NAME': 'cpu:1'}  # A reference has no value.


def test_not_one_of_several_configs(write):
  none = write('none.gin', 'train_sft.Config.batch_size = 8\n')
  wanted = 'expected one of train_rl.Config, train_sft.Config, found'
  with pytest.raises(ValueError, match=f'none.gin: {wanted} none'):
    read_one_of(KINDS, none)
  both = write('both.gin', f'{RUN}{SFT}')
  with pytest.raises(ValueError, match=f'both.gin: {wanted} more than one'):
    read_one_of(KINDS, both)
  # The error is that of the one that is meant.
  partly = write('partly.gin', RUN.replace('train_rl.Config.num_steps', '#'))
  with pytest.raises(ValueError, match=r'train_rl.Config.num_steps must be'):
    read_one_of(KINDS, partly)
