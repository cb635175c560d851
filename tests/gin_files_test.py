"""gin files as statements: what is included where, and places."""

import pytest

from rlpt_jax import gin_files
from rlpt_jax.gin_files import Macro, Place, Reference, Symbols


@pytest.fixture
def write(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def written(text, name='run.gin'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path.relative_to(tmp_path)

  return written


def test_every_statement_has_its_place(write):
  write('C = 1\n\nD = 2\n', 'parts/more.gin')
  # Beside the file that includes it.
  write("include 'more.gin'\nB = 1\n", 'parts/part.gin')
  file = write("""# A comment.
from rlpt_jax.core import checks

A = [
  1,
  2,
]
include 'parts/part.gin'  # And another.
E = 3
""")
  found = gin_files.read(file, ['parts/more.gin', 'x/F = %A'])
  told = [str(statement.place) for statement in found]
  assert told == [
    'run.gin:2', 'run.gin:4', 'parts/more.gin:1', 'parts/more.gin:3',
    'parts/part.gin:2', 'run.gin:9', 'parts/more.gin:1', 'parts/more.gin:3',
    "command line, 'x/F = %A'",
  ]  # fmt: skip
  assert [statement.kind for statement in found] == [
    'Import', *['Binding'] * 8
  ]  # fmt: skip
  assert gin_files.written(found[-1]) == 'x/F'
  assert found[1].parsed.value == [1, 2]


def test_what_a_value_refers_to(write):
  file = write("A = {'a': [@x/y/b.c, (%D, 3)], %E: @f.g()}\n")
  (statement,) = gin_files.read(file, ())
  found = set(gin_files.references(statement.parsed.value))
  assert found == {
    Reference(('x', 'y'), 'b.c', False),
    Macro('D'),
    Macro('E'),
    Reference((), 'f.g', True),
  }


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    (b'\xff\xfe', "run.gin: expected UTF-8 text: 'utf-8' codec can't dec"),
    ('\0', r"run.gin:1: expected NAME = VALUE, found '\x00'."),
    ('A = 1\nB = """x\n\n', 'run.gin:2: the quotes do not match: '),
    ("A = 1\nB = 'x\nC = 1", 'run.gin:2: the quotes do not match: '),
    ('A = [1,\nB = 2\nC = (3)', 'run.gin:1: this [ is never closed.'),
    ('A = [1, (2]\n', 'run.gin:1: this ] closes no bracket.'),
    ('A = 1\n}', 'run.gin:2: this } closes no bracket.'),
    ("include 'a.gin'", 'run.gin:1: a.gin: no such gin file.'),
    ("include 'rum.gin'", 'rum.gin: no such gin file. Did you mean run.gin?'),
    ("include '../run.gin'", 'run.gin:1: ../run.gin: no such gin file.'),
    ("\ninclude './run.gin'", 'run.gin:2: run.gin includes itself: run.gin -'),
    ('A = 1\nA = 2', 'run.gin:2: A is already set on line 1. Remove one of th'),
  ],
)
def test_what_cannot_be_read(text, said, write):
  with pytest.raises(ValueError) as caught:
    gin_files.read(write(text), ())
  assert said in str(caught.value) and '\n' not in str(caught.value)


def test_an_error_without_words_is_told_too(write, monkeypatch):
  from gin import config_parser

  def fails(*_):
    raise RecursionError

  monkeypatch.setattr(config_parser, 'ConfigParser', fails)
  with pytest.raises(ValueError, match=r"run.gin:1: '1' is not a value"):
    gin_files.read(write('A = 1'), ())


def test_a_file_may_be_included_twice_and_set_again(write):
  write('A = 1\n', 'a.gin')
  write("include 'a.gin'\n", 'b.gin')
  file = write("include 'a.gin'\ninclude 'b.gin'\nA = 2\n")
  found = gin_files.read(file, ['A = 3', 'A = 4'])
  assert [x.parsed.value for x in found] == [1, 1, 2, 3, 4]


def test_an_empty_file_says_nothing(write):
  assert gin_files.read(write('# Nothing.\n'), ()) == []
  assert gin_files.read(write(''), ()) == []
  with pytest.raises(ValueError, match="line, ' ': expected NAME = VALUE"):
    gin_files.read(write(''), [' '])


def test_the_nearest_name():
  names = ['prompts', 'max_prompt_tokens', 'Data']
  assert gin_files.nearest('promts', names) == '. Did you mean prompts?'
  assert gin_files.nearest('DATA', names) == '. Did you mean Data?'
  assert gin_files.nearest('unlike', names) == '.'


def test_names_are_those_of_the_imports(write):
  file = write("""
import rlpt_jax.core.checks
from rlpt_jax.core import checks as other
from rlpt_jax.core import checks
""")
  symbols, place = Symbols(gin_files.read(file, ())), Place('run.gin', 9)
  found = [
    symbols.find(f'{path}.Range', place)
    for path in ('rlpt_jax.core.checks', 'other', 'checks')
  ]
  assert len({*found}) == 1
  with pytest.raises(ValueError, match=r"run\.gin:9: other has no 'Rnge'"):
    symbols.find('other.Rnge', place)
