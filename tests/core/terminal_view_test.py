"""What a person sees: a screen is emulated as far as the panel uses it."""

import io
import math
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios
import time

import pytest
import rich.console

from rlpt_jax.core import terminal_view
from rlpt_jax.core.terminal_view import Pace, sparkline

ROOT = pathlib.Path(__file__).parents[2]
TOY = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # So that ^C is a signal.
from rlpt_jax.core import terminal_view
shown = (
  ('reward', 'reward', '.3f'), ('held-out', 'held', '.0%'),
  ('length', 'length', ',.0f'), ('tokens/s', 'timing/tps', ',.0f'),
)
view = terminal_view.make(
  'run [b]', first_step=0, num_steps=4, shown=shown, every_s=0
)
try:
  for step in range(4):
    values = {'reward': step / 4, 'length': 1000 * step, 'timing/tps': 12345}
    view.show(step, values | ({'held': 0.5} if step == 0 else {}))
    print('printed', step)
    time.sleep(0.12)  # Longer than between two frames.
    if step == 2 and sys.argv[1:] == ['wait']:
      print('waiting')
      view.show(2, values)
      time.sleep(60)
finally:
  view.close()
print('after')
"""


class Screen:
  """Of a terminal: its lines, its cursor; a line too long fails."""

  def __init__(self, width: int):
    self.width, self.rows, self.x, self.y = width, [[]], 0, 0
    self.cursor_seen = True

  def feed(self, text: str):
    for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|[^\x1b]', text):
      self._feed(part)

  def _feed(self, part: str):
    if part == '\r':
      self.x = 0
    elif part == '\n':
      self.y += 1
      self.rows += [[]] if self.y == len(self.rows) else []
    elif part == '\x1b[2K':
      self.rows[self.y] = []
    elif part == '\x1b[1A':
      self.y -= 1
    elif part in ('\x1b[?25l', '\x1b[?25h'):
      self.cursor_seen = part.endswith('h')
    elif part.startswith('\x1b'):
      assert part.endswith('m'), part  # A colour.
    else:
      assert self.x < self.width, f'{part!r} is beyond the last column'
      row = self.rows[self.y]
      row += ' ' * (self.x + 1 - len(row))
      row[self.x] = part
      self.x += 1

  def lines(self) -> list[str]:
    return [''.join(row).rstrip() for row in self.rows]


class Terminal:
  """A process on a pseudo-terminal, and the screen that it draws on."""

  def __init__(self, *arguments: str, width: int = 80, **environment: str):
    self._master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, width))
    kept = ('PATH', 'LD_LIBRARY_PATH')
    environment = {
      **{name: os.environ[name] for name in kept if name in os.environ},
      'PYTHONPATH': str(ROOT),
      'PYTHONUTF8': '1',
      'TERM': 'xterm-256color',
      **environment,
    }
    self.process = subprocess.Popen(
      [sys.executable, '-c', TOY, *arguments],
      stdin=slave,
      stdout=slave,
      stderr=slave,
      env=environment,
      start_new_session=True,
    )
    os.close(slave)
    self.screen, self.raw = Screen(width), b''

  def press(self, keys: bytes):
    os.write(self._master, keys)

  def read_until(self, text: str | None = None):
    """Reads until the process has said so, or to its end."""
    while text is None or text.encode() not in self.raw:
      try:
        read = os.read(self._master, 65536)
      except OSError:  # Linux says so at the end.
        break
      if not read:
        break
      self.raw += read
    if text is None:
      self.process.wait(timeout=60)
      os.close(self._master)
      self.screen.feed(self.raw.decode())

  def let_go(self):
    os.close(self._master)


@pytest.mark.parametrize('width', [40, 80, 170])
def test_a_panel(width):
  terminal = Terminal(width=width)
  terminal.read_until()
  lines = terminal.screen.lines()
  # What was printed stays above, one panel below, and then what comes after.
  assert lines[:4] == [f'printed {step}' for step in range(4)]
  top, bottom = lines[4], lines[-3]
  assert top == '╭─ run [b] ' + '─' * (width - 12) + '╮'
  assert bottom == '╰' + '─' * (width - 2) + '╯'
  assert lines[-2:] == ['after', '']
  assert all(len(line) == width for line in lines[4:-2])
  text = ' '.join(lines)
  assert '4 of 4 steps' in text
  assert '100%  done in 0:00:0' in text or width == 40
  for label, number in (
    ('reward', '0.750'),
    ('held-out', '50%'),  # Of step 0, not measured since.
    ('length', '3,000'),
    ('tokens/s', '12,345'),
  ):
    assert re.search(f'{label} +{number}', text)
  assert text.count('▁▃▆█') == 2  # The rewards and the lengths.
  if width == 80:
    left = f'reward    {"0.750":>9}  {"▁▃▆█":<15}'
    right = f'held-out  {"50%":>9}  {"▄":<15}'
    assert lines[7] == f'│ {left}   {right}  │'
  # As many beside each other as fit.
  assert len(lines) == {40: 14, 80: 12, 170: 11}[width]
  assert terminal.process.returncode == 0
  assert terminal.screen.cursor_seen


def test_interrupted():
  terminal = Terminal('wait')
  terminal.read_until('waiting')
  time.sleep(0.2)
  terminal.press(b'\x03')
  terminal.read_until()
  lines = terminal.screen.lines()
  assert sum('╭' in line for line in lines) == 1
  bottom = next(i for i, line in enumerate(lines) if '╰' in line)
  assert lines[bottom + 1].startswith('Traceback')
  assert lines[-2:] == ['KeyboardInterrupt', '']
  assert terminal.screen.cursor_seen


def test_killed():
  terminal = Terminal('wait')
  terminal.read_until('waiting')
  time.sleep(0.2)
  terminal.process.send_signal(signal.SIGKILL)
  terminal.read_until()
  # The prompt of the shell comes where it belongs.
  screen = terminal.screen
  assert '╰' in screen.lines()[-2]
  assert (screen.x, screen.y) == (0, len(screen.rows) - 1)
  assert screen.cursor_seen


TABLE = """\
step     reward   held-out     length   tokens/s       left
 1/4      0.000        50%          0     12,345    -:--:--
printed 0
 2/4      0.250          -      1,000     12,345    0:00:00
printed 1
 3/4      0.500          -      2,000     12,345    0:00:00
printed 2
 4/4      0.750          -      3,000     12,345    0:00:00
printed 3
after
"""


@pytest.mark.parametrize(
  'environment',
  [{'TERM': 'dumb'}, {'PYTHONIOENCODING': 'ascii'}, {'TTY_INTERACTIVE': '0'}],
)
def test_a_terminal_that_cannot_shows_a_table(environment):
  terminal = Terminal(**environment)
  terminal.read_until()
  assert terminal.raw.decode().replace('\r\n', '\n') == TABLE


@pytest.mark.parametrize('environment', [{}, {'FORCE_COLOR': '1'}])
def test_no_terminal_no_control_characters(environment):
  toy = '\n'.join(line for line in TOY.splitlines() if 'ioctl' not in line)
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
  done = subprocess.run(
    [sys.executable, '-c', toy + "\nassert 'rich' not in sys.modules"],
    capture_output=True,
    env=environment,
  )
  assert done.stderr == b''
  assert done.stdout.decode() == TABLE


def table(capsys, monkeypatch, *, every_s, steps, seconds, header_every=25):
  clock = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
  monkeypatch.setattr(terminal_view, 'HEADER_EVERY', header_every)
  pace = Pace(0, steps, lambda: clock[0])
  view = terminal_view.PlainView(pace, [('x', 'x', 'd')], every_s)
  for step in range(steps):
    clock[0] += seconds
    view.show(step, {'x': step})
  view.close()
  rows = capsys.readouterr().out.splitlines()
  return [row.split()[0] for row in rows]


def test_a_table_has_the_first_step_and_the_last(capsys, monkeypatch):
  # A step takes 4 s: those that end at 4, 16, 28 and 40 s are 10 s apart.
  rows = table(capsys, monkeypatch, every_s=10, steps=11, seconds=4)
  assert rows == ['step', '1/11', '4/11', '7/11', '10/11', '11/11']


def test_a_table_has_what_was_measured_since_its_last_line(capsys, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
  shown = [('x', 'x', 'd'), ('held out', 'h', 'd')]
  view = terminal_view.PlainView(Pace(0, 6, lambda: clock[0]), shown, 10)
  for step in range(6):
    clock[0] += 5
    view.show(step, {'x': step} | ({'h': 7} if step == 1 else {}))
  rows = [row.split() for row in capsys.readouterr().out.splitlines()[1:]]
  # Step 2 has the measurement of step 1; those after it have none.
  assert [row[:3] for row in rows] == [
    ['1/6', '0', '-'], ['3/6', '2', '7'], ['5/6', '4', '-'],
  ]  # fmt: skip


ALARMS = [('no verdict', 'n', '.2f')]


def test_an_alarm_is_in_the_table_where_it_is_not_0(capsys):
  view = terminal_view.PlainView(Pace(0, 9), [('x', 'x', 'd')], 0, ALARMS)
  for step, values in enumerate(({}, {'n': 0.0}, {'n': 0.53}, {'n': 0.0})):
    view.show(step, {'x': 1, **values})
  header, *rows = capsys.readouterr().out.splitlines()
  assert 'verdict' not in header
  assert ['no verdict' in row for row in rows] == [False, False, True, False]
  assert rows[2].endswith('  no verdict 0.53')


def test_an_alarm_is_in_the_panel_where_it_is_not_0():
  console = rich.console.Console(
    file=io.StringIO(), force_terminal=True, width=80, highlight=False
  )
  view = terminal_view.LiveView(
    console, 'run', Pace(0, 9), [('x', 'x', 'd')], ALARMS
  )
  for step, share in enumerate((0.0, 0.53, 0.0)):
    view.show(step, {'x': 1, 'n': share})
    with console.capture() as drawn:
      console.print(view._drawn())
    assert (
      ('no verdict' in drawn.get()) == ('0.53' in drawn.get()) == (step == 1)
    )
  view.close()


def test_a_table_repeats_its_header(capsys, monkeypatch):
  rows = table(
    capsys, monkeypatch, every_s=0, steps=5, seconds=1, header_every=2
  )
  assert rows == ['step', '1/5', '2/5', 'step', '3/5', '4/5', 'step', '5/5']


def test_nothing_to_show_is_no_table(capsys):
  terminal_view.PlainView(Pace(0, 3), [('x', 'x', 'd')], 10).close()
  assert capsys.readouterr().out == ''


def test_pace():
  clock = [0.0]
  pace = Pace(10, 100, lambda: clock[0])
  assert (pace.done, pace.left()) == (10, '-:--:--')
  clock[0] += 1000  # Compiles: not the pace of what follows.
  pace.tick(10)
  assert pace.left() == '-:--:--'
  for step in (11, 12):
    clock[0] += 20
    pace.tick(step)
  # 87 steps are left, 20 s each.
  assert (pace.done, pace.left()) == (13, '0:29:00')
  for step in range(13, 100):
    clock[0] += 1  # It follows what changes.
    pace.tick(step)
    if step == 89:
      assert pace.left() == '0:00:10'
  assert pace.finished
  assert pace.elapsed() == '0:18:47'  # 1000 + 2 * 20 + 87


def test_sparkline():
  assert sparkline([1, 2, 3, 8], 10) == '▁▂▃█'
  # Means of two each: 0.5, 2.5, 4.5, 6.5 lie evenly.
  assert sparkline(range(8), 4) == '▁▃▆█'
  assert sparkline([0.0, math.nan, 7.0, math.inf, 0.0], 5) == '▁ █ ▁'
  assert sparkline([0.0, math.nan, 7.0, 7.0], 2) == '▁█'
  assert sparkline([5.0, 5.0], 5) == '▄▄'
  assert sparkline([math.nan], 5) == ' '
  assert sparkline([], 5) == sparkline([1, 2], 0) == ''
