"""What a run shows of itself, in a terminal and in a log."""

import io
import re

import pytest
import rich.console

from rlpt_jax.completions import progress
from rlpt_jax.completions.progress import Progress


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def _run(console, *, seconds, done=0):
  """Ten tokens a second in two rows, 50 for each of the 100 completions."""
  clock = Clock()
  shown = Progress(
    console, prompts=50, done=done, n=2, max_new_tokens=100, clock=clock
  )
  with shown:
    for second in range(1, seconds + 1):
      clock.now += 1
      completions = 2 * (second // 10)
      shown.update(
        prompts=completions // 2,
        completions=completions,
        tokens=10 * second,
      )
  return console.file.getvalue()


def test_a_log_has_a_plain_line_now_and_then():
  text = _run(rich.console.Console(file=io.StringIO()), seconds=95, done=10)
  # 40 prompts of 2 with 50 tokens each are 4,000 tokens in 400 seconds.
  assert text.splitlines() == [
    'compiling ...',
    '13/50 prompts, 300 tokens, 10 tokens/s, 0:06:10 left',
    '16/50 prompts, 600 tokens, 10 tokens/s, 0:05:40 left',
    '19/50 prompts, 900 tokens, 10 tokens/s, 0:05:10 left',
  ]


@pytest.mark.parametrize('width', [100, 40])
def test_a_terminal_has_a_bar(width):
  console = rich.console.Console(
    file=io.StringIO(), force_terminal=True, width=width, color_system=None
  )
  text = _run(console, seconds=30)
  lines = re.sub(r'\x1b\[[?0-9;]*[a-zA-Z]|\r', '\n', text).split('\n')
  assert max(map(len, lines)) <= width
  if width == 100:
    assert any('0/50 prompts, compiling' in line for line in lines)
    expected = '3/50 prompts, 300 tokens, 10 tokens/s, 0:07:50 left'
    assert any(expected in line for line in lines)
  # It takes itself away.
  assert text.endswith('\x1b[2K')


def test_a_host_without_a_console_shows_nothing(capsys):
  with Progress(None, prompts=1, done=0, n=1, max_new_tokens=1) as shown:
    shown.update(prompts=1, completions=1, tokens=1)
  assert capsys.readouterr() == ('', '')


def test_what_is_waited_for_is_said_at_once(monkeypatch):
  said = io.TextIOWrapper(io.BytesIO(), write_through=False)
  monkeypatch.setattr('sys.stdout', said)
  progress.waiting('reading the data')
  assert said.buffer.getvalue() == b'reading the data ...\n'
  monkeypatch.setattr(progress.jax, 'process_index', lambda: 1)
  progress.waiting('reading the data')
  assert said.buffer.getvalue().count(b'\n') == 1


def test_nothing_is_guessed_from_the_first_moment():
  text = progress.describe(0, 1000, 5, None, None)
  assert text == '0/1,000 prompts, 5 tokens'


def test_tokens_left():
  # None is done: as if all were cut.
  assert progress.tokens_left(30, 0, total=4, max_new_tokens=20) == 50
  # Two ends in 30 tokens: 15 each, of which 10 are of those that run.
  assert progress.tokens_left(30, 2, total=4, max_new_tokens=20) == 30
  assert progress.tokens_left(60, 4, total=4, max_new_tokens=20) == 0


def test_only_what_was_lately_counts():
  clock = Clock()
  console = rich.console.Console(file=io.StringIO())
  shown = Progress(
    console, prompts=9, done=0, n=1, max_new_tokens=10**6, clock=clock
  )
  tokens = 0
  for second in range(60):
    clock.now += 1
    tokens += 100 if second < 30 else 5
    shown.update(prompts=0, completions=0, tokens=tokens)
  last = console.file.getvalue().splitlines()[-1]
  assert ' 5 tokens/s' in last
