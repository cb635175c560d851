"""Preemption by SIGTERM or Ctrl-C: a run saves after its step, then exits."""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

# EX_TEMPFAIL, "try again later"; no failed run exits with this status.
EXIT_PREEMPTED = 75

logger = logging.getLogger(__name__)


class Preemption:
  """Tells whether a run was preempted, and ends it."""

  def __init__(self):
    self.signals: list[int] = []  # Signal numbers.

  def __call__(self, step: int) -> bool:
    """True once every process should save and exit; call it after each step.

    A single process receives SIGTERM itself. With several, jax.distributed
    receives it, and all processes agree on the step.
    """
    if jax.process_count() == 1:
      return bool(self.signals)
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def leave(self, count: int) -> NoReturn:
    """Exits a preempted run that has saved after `count` steps."""
    if self.signals[:1] == [signal.SIGINT]:
      raise KeyboardInterrupt(
        f'saved after step {count}; run the same command to resume'
      )
    print(f'preempted: saved after step {count}', file=sys.stderr)
    raise SystemExit(EXIT_PREEMPTED)


@contextlib.contextmanager
def preemption(
  on_signal: Callable[[], None] = lambda: None,
) -> Iterator[Preemption]:
  """Handles SIGTERM and Ctrl-C, for a loop that saves and exits after a step.

  A second Ctrl-C interrupts at once. If the loop ends before it sees a signal,
  the signal is passed to the previous handler, if that is a function.

  If several processes compute together, this handles no signal, because
  jax.distributed receives SIGTERM.

  on_signal: called by the handler, so that a step that waits for something can
    end.
  """
  preempted = Preemption()
  if jax.process_count() > 1:
    yield preempted
    return

  def handle(number, frame):
    del frame
    preempted.signals.append(number)
    on_signal()
    if number == signal.SIGINT:
      signal.signal(number, before[number])
      logger.warning(
        'interrupted: will save after this step and exit; press Ctrl-C again '
        'to exit now'
      )

  numbers = [signal.SIGTERM]
  # Background jobs of a shell ignore Ctrl-C, and must go on ignoring it.
  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    numbers.append(signal.SIGINT)
  before = {number: signal.signal(number, handle) for number in numbers}
  try:
    yield preempted
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  for number in preempted.signals:
    if callable(before[number]):
      before[number](number, None)
