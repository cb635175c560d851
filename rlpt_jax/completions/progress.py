"""Shows the progress of sampling: a bar in a terminal, lines in a log."""

import collections
import datetime
import time
from collections.abc import Callable

import jax
import rich.console
import rich.progress

LINE_SECONDS = 30  # Between two lines of a log.
WINDOW_SECONDS = 20  # The window for tokens/s.
LEAST_SECONDS = 2  # The shortest window for which tokens/s are shown.


def waiting(what: str):
  """Prints, on the first host, what the program will wait for."""
  if jax.process_index() == 0:
    print(f'{what} ...', flush=True)


class Progress:
  """A context manager that shows prompts, tokens, tokens/s and the time left.

  The bar disappears at the end. Output that is not a terminal gets a line every
  LINE_SECONDS. With console=None, as on all hosts but the first, nothing is
  shown.
  """

  def __init__(
    self,
    console: rich.console.Console | None,
    *,
    prompts: int,
    done: int,  # Prompts that an earlier run finished.
    n: int,  # Completions per prompt.
    max_new_tokens: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._console, self._clock = console, clock
    self._prompts, self._earlier, self._n = prompts, done, n
    self._max_new_tokens = max_new_tokens
    self._seen = collections.deque()  # (time, tokens) in the window.
    self._last_line = clock()
    self._bar = None
    if console and console.is_terminal and not console.is_dumb_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TextColumn('{task.fields[text]}', markup=False),
        console=console,
        transient=True,
      )

  def __enter__(self) -> 'Progress':
    if self._bar:
      self._bar.start()
      text = f'{self._earlier:,}/{self._prompts:,} prompts, compiling'
      self._task = self._bar.add_task(
        '', total=self._prompts, completed=self._earlier, text=text
      )
    elif self._console:
      print('compiling ...', file=self._console.file, flush=True)
    return self

  def __exit__(self, *_):
    if self._bar:
      self._bar.stop()

  def update(self, prompts: int, completions: int, tokens: int):
    """Shows the counts of this run; tokens include unfinished completions."""
    if self._console is None:
      return
    prompts += self._earlier
    now = self._clock()
    self._seen.append((now, tokens))
    while self._seen[0][0] < now - WINDOW_SECONDS and len(self._seen) > 2:
      self._seen.popleft()
    (first, before), rate = self._seen[0], None
    if now >= first + LEAST_SECONDS:
      rate = (tokens - before) / (now - first)
    left = tokens_left(
      tokens,
      completions,
      total=(self._prompts - self._earlier) * self._n,
      max_new_tokens=self._max_new_tokens,
    )
    seconds = left / rate if rate else None
    text = describe(prompts, self._prompts, tokens, rate, seconds)
    if self._bar:
      self._bar.update(self._task, completed=prompts, text=text)
    elif now - self._last_line >= LINE_SECONDS:
      self._last_line = now
      print(text, file=self._console.file, flush=True)


def tokens_left(
  tokens: int, completions: int, *, total: int, max_new_tokens: int
) -> float:
  """Estimates the number of tokens that `total` completions still need.

  The mean length is estimated as all tokens so far, divided by the number of
  finished completions; this assumes that unfinished completions end at the same
  rate. The mean over finished ones would be too small, because short
  completions finish first.
  """
  mean = min(max_new_tokens, tokens / max(1, completions))
  return max(0.0, mean * total - tokens)


def describe(
  done: int,
  prompts: int,
  tokens: int,
  rate: float | None,
  seconds: float | None,
) -> str:
  """Formats '3/8 prompts, 1,234 tokens, 56 tokens/s, 0:01:23 left'."""
  parts = [f'{done:,}/{prompts:,} prompts', f'{tokens:,} tokens']
  if rate is not None:
    parts.append(f'{rate:,.0f} tokens/s')
  if seconds is not None:
    parts.append(f'{datetime.timedelta(seconds=round(seconds))} left')
  return ', '.join(parts)
