"""How far a run of the sampler is: a bar in a terminal, lines in a log."""

import collections
import datetime
import time
from collections.abc import Callable

import jax
import rich.console
import rich.progress

LINE_SECONDS = 30  # Between two lines of a log.
WINDOW_SECONDS = 20  # Over which tokens/s are counted,
LEAST_SECONDS = 2  # and that are there before anything is said of them.


def waiting(what: str):
  """Says on the first host what the program is going to wait for."""
  if jax.process_index() == 0:
    print(f'{what} ...', flush=True)


class Progress:
  """Shows prompts, tokens, tokens/s and the time left, from `with` to its end.

  The bar goes away at the end. What is not a terminal gets a plain line now and
  then. Nothing is shown where `console` is None: on all hosts but the first.
  """

  def __init__(
    self,
    console: rich.console.Console | None,
    *,
    prompts: int,
    done: int,  # Prompts that an earlier run finished.
    n: int,  # Completions of each.
    max_new_tokens: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._console, self._clock = console, clock
    self._prompts, self._earlier, self._n = prompts, done, n
    self._max_new_tokens = max_new_tokens
    self._seen = collections.deque()  # (time, tokens) of the last seconds.
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
    """What this run has done; tokens are also those of completions that run."""
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
    text = described(prompts, self._prompts, tokens, rate, seconds)
    if self._bar:
      self._bar.update(self._task, completed=prompts, text=text)
    elif now - self._last_line >= LINE_SECONDS:
      self._last_line = now
      print(text, file=self._console.file, flush=True)


def tokens_left(
  tokens: int, completions: int, *, total: int, max_new_tokens: int
) -> float:
  """How many tokens `total` completions are expected to need yet.

  Short completions are done first, so the mean length of those that are done is
  too small. All tokens over the number of ends is not: ends are taken to be as
  likely in those that still run.
  """
  mean = min(max_new_tokens, tokens / max(1, completions))
  return max(0.0, mean * total - tokens)


def described(
  done: int,
  prompts: int,
  tokens: int,
  rate: float | None,
  seconds: float | None,
) -> str:
  """'3/8 prompts, 1,234 tokens, 56 tokens/s, 0:01:23 left'."""
  parts = [f'{done:,}/{prompts:,} prompts', f'{tokens:,} tokens']
  if rate is not None:
    parts.append(f'{rate:,.0f} tokens/s')
  if seconds is not None:
    parts.append(f'{datetime.timedelta(seconds=round(seconds))} left')
  return ', '.join(parts)
