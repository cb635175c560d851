"""Shows a run's metrics: a live panel in a terminal, a plain table elsewhere.

Neither has a thread; the output changes only when a step ends.
"""

import collections
import datetime
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# A label, the key of a value, and its format: ('reward', 'reward/mean', '.3f').
Shown = tuple[str, str, str]

LEVELS = '▁▂▃▄▅▆▇█'
CELL_WIDTH = 36  # The minimum width of one metric in the panel.
NUMBER_WIDTH = 9  # Enough for 1,234,567.
HISTORY = 2000  # The number of steps in a sparkline; each bar averages several.
REFRESH_S = 0.1
HEADER_EVERY = 25  # Repeat the header of the table after this many lines.


def make(
  title: str,
  *,
  first_step: int,
  num_steps: int,
  shown: Sequence[Shown],
  alarms: Sequence[Shown] = (),
  every_s: float = 10.0,
) -> 'LiveView | PlainView':
  """Makes a live panel if standard output is a terminal, else a plain table.

  The terminal must also be able to move its cursor, and use a UTF encoding.

  alarms: metrics that are shown only while they are not 0.
  every_s: seconds between two lines of the table.
  """
  pace = Pace(first_step, num_steps)
  if sys.stdout.isatty():
    import rich.console

    console = rich.console.Console(highlight=False)
    # A dumb terminal cannot move its cursor; not every encoding has LEVELS.
    if console.is_interactive and console.encoding.startswith('utf'):
      return LiveView(console, title, pace, shown, alarms)
  return PlainView(pace, shown, every_s, alarms)


class Pace:
  """Tracks a run's progress and estimates the time left."""

  def __init__(
    self,
    first_step: int,
    num_steps: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.done, self.num_steps = first_step, num_steps
    self._clock, self._start = clock, clock()
    # (steps done, time) of the last steps. The first mark is made after the
    # first step, so the estimate excludes compilation.
    self._marks = collections.deque(maxlen=50)

  def tick(self, step: int):
    """Records that a step has ended."""
    self.done = step + 1
    self._marks.append((self.done, self._clock()))

  @property
  def finished(self) -> bool:
    return self.done >= self.num_steps

  def elapsed(self) -> str:
    """The time since this process started the run."""
    return _duration(self._clock() - self._start)

  def left(self) -> str:
    """The time left, estimated from the last steps.

    '-:--:--' until two steps have ended.
    """
    if self.finished:
      return _duration(0)
    if len(self._marks) < 2:
      return '-:--:--'
    (first, then), (last, now) = self._marks[0], self._marks[-1]
    seconds = (now - then) / (last - first)
    return _duration(seconds * (self.num_steps - self.done))


class PlainView:
  """A table that gains a line every `every_s` seconds.

  It is ASCII without control characters. The first and the last step always get
  a line.
  """

  def __init__(
    self,
    pace: Pace,
    shown: Sequence[Shown],
    every_s: float,
    alarms: Sequence[Shown] = (),
  ):
    self._pace, self._shown, self._alarms = pace, tuple(shown), tuple(alarms)
    self._every_s = every_s
    self._step_width = max(len('step'), 2 * len(str(pace.num_steps)) + 1)
    self._lines, self._next_s, self._unseen = 0, -math.inf, None

  def show(self, step: int, values: Mapping[str, float]):
    self._pace.tick(step)
    # Keep the values since the last line: some are not measured at every step.
    self._unseen = {**(self._unseen or {}), **values}
    now = time.monotonic()
    if now >= self._next_s:
      self._next_s = now + self._every_s
      self._print()

  def close(self):
    self._print()

  def _print(self):
    if self._unseen is None:
      return
    names = [label for label, *_ in self._shown]
    step = f'{self._pace.done}/{self._pace.num_steps}'
    numbers = [_number(self._unseen, *rest) for _, *rest in self._shown]
    if self._lines % HEADER_EVERY == 0:
      self._print_row(['step', *names, 'left'])
    raised = [
      f'{label} {_number(self._unseen, key, format_spec)}'
      for label, key, format_spec in _raised(self._alarms, self._unseen)
    ]
    self._print_row([step, *numbers, self._pace.left()], raised)
    self._lines, self._unseen = self._lines + 1, None

  def _print_row(self, cells: list[str], raised: Sequence[str] = ()):
    widths = [max(NUMBER_WIDTH, len(label)) for label, *_ in self._shown]
    widths = [self._step_width, *widths, NUMBER_WIDTH]
    row = [
      f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True)
    ]
    print('  '.join([*row, *raised]), flush=True)


class LiveView:
  """A panel that is redrawn in place; printed text appears above it."""

  def __init__(
    self,
    console,
    title: str,
    pace: Pace,
    shown: Sequence[Shown],
    alarms: Sequence[Shown] = (),
  ):
    import rich.live

    # By default, rich exits the process on a broken pipe.
    console.on_broken_pipe = _raise_broken_pipe
    self._console, self._title = console, title
    self._pace, self._shown, self._alarms = pace, tuple(shown), tuple(alarms)
    self._values = {}
    self._history = {
      key: collections.deque(maxlen=HISTORY) for _, key, _ in (*shown, *alarms)
    }
    self._next_s = 0.0
    self._live = rich.live.Live(
      self._drawn(), console=console, auto_refresh=False
    )
    self._live.start(refresh=True)
    # rich hides the cursor, and a killed run could not show it again.
    console.show_cursor(True)

  def show(self, step: int, values: Mapping[str, float]):
    self._pace.tick(step)
    # A value that is not measured at this step keeps its last number.
    self._values.update(values)
    for key, history in self._history.items():
      if key in values:
        history.append(float(values[key]))
    now = time.monotonic()
    if now >= self._next_s:
      self._live.update(self._drawn(), refresh=True)
      self._next_s = now + REFRESH_S

  def close(self):
    self._live.update(self._drawn(last=True))
    self._live.stop()

  def _drawn(self, last: bool = False):
    import rich.box
    import rich.console
    import rich.markup
    import rich.panel

    inner = self._console.width - 4  # Two borders and two blanks.
    panel = rich.panel.Panel(
      rich.console.Group(self._progress(), '', *self._rows(inner)),
      title=f'[bold]{rich.markup.escape(self._title)}[/bold]',
      title_align='left',
      border_style='bright_black',
      box=rich.box.ROUNDED,
    )
    # An empty line for the cursor.
    return panel if last else rich.console.Group(panel, '')

  def _progress(self):
    import rich.progress_bar
    import rich.table

    pace = self._pace
    grid = rich.table.Table.grid(expand=True, padding=(0, 2, 0, 0))
    for ratio in (None, 1, None, None):
      grid.add_column(ratio=ratio, no_wrap=True)
    share = min(pace.done / max(pace.num_steps, 1), 1.0)
    time_text = (
      f'done in {pace.elapsed()}' if pace.finished else f'{pace.left()} left'
    )
    grid.add_row(
      f'[bold]{pace.done:,}[/bold] of {pace.num_steps:,} steps',
      rich.progress_bar.ProgressBar(total=1.0, completed=share),
      f'{share:4.0%}',
      time_text,
    )
    return grid

  def _rows(self, width: int):
    """Yields rows with as many metrics side by side as fit."""
    import rich.text

    raised = _raised(self._alarms, self._values)
    cells = [self._cell(*entry) for entry in (*self._shown, *raised)]
    across = max(1, min(width // CELL_WIDTH, len(cells)))
    label_width = max((len(label) for label, _, _ in cells), default=0)
    number_width = max([NUMBER_WIDTH, *(len(n) for _, n, _ in cells)])
    gap = 3
    cell_width = (width - gap * (across - 1)) // across
    spark_width = max(0, cell_width - label_width - number_width - 4)
    for first in range(0, len(cells), across):
      row = rich.text.Text(no_wrap=True, overflow='crop')
      for column, (label, number, history) in enumerate(
        cells[first : first + across]
      ):
        row.append(' ' * gap if column else '')
        is_raised = first + column >= len(self._shown)
        style = 'bold red' if is_raised else 'bright_black'
        row.append(f'{label:<{label_width}}', style)
        row.append(f'  {number:>{number_width}}  ', 'bold')
        row.append(f'{sparkline(history, spark_width):<{spark_width}}', 'cyan')
      yield row

  def _cell(self, label: str, key: str, format_spec: str):
    number = _number(self._values, key, format_spec)
    return label, number, self._history[key]


def sparkline(values: Sequence[float], width: int) -> str:
  """Returns at most `width` bars, scaled between the lowest and the highest.

  A bar is the mean of several values; it is blank if none of them is finite.
  """
  if not values or width < 1:
    return ''
  parts = np.array_split(np.asarray(values), min(width, len(values)))
  finite = [part[np.isfinite(part)] for part in parts]
  means = [part.mean() if part.size else None for part in finite]
  heights = [mean for mean in means if mean is not None]
  low, span = min(heights, default=0), np.ptp(heights) if heights else 0

  def bar(mean):
    if mean is None:
      return ' '
    # Equal values get bars of medium height.
    share = (mean - low) / span if span else 0.4
    return LEVELS[round(share * (len(LEVELS) - 1))]

  return ''.join(map(bar, means))


def _raised(
  alarms: Sequence[Shown], values: Mapping[str, float]
) -> list[Shown]:
  return [entry for entry in alarms if values.get(entry[1])]


def _number(values: Mapping[str, float], key: str, format_spec: str) -> str:
  return f'{values[key]:{format_spec}}' if key in values else '-'


def _duration(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))


def _raise_broken_pipe():
  raise BrokenPipeError
