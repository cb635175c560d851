"""SIGTERM and Ctrl-C: a run saves after the current step, then exits."""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

# EX_TEMPFAIL: "try again later", unlike any status of a run that failed.
EXIT_PREEMPTED = 75

logger = logging.getLogger(__name__)


class Preemption:
  """Whether a run was told to leave, and how it does."""

  def __init__(self):
    self.heard: list[int] = []  # Signals.

  def __call__(self, step: int) -> bool:
    """True once every process should save and leave; each asks after each step.

    One process hears SIGTERM itself. Of several, jax.distributed hears it, and
    they agree on the step.
    """
    if jax.process_count() == 1:
      return bool(self.heard)
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def leave(self, count: int) -> NoReturn:
    """Ends a run that has saved `count` steps as it was told to end."""
    if self.heard[:1] == [signal.SIGINT]:
      raise KeyboardInterrupt(
        f'saved after step {count}, the same command goes on'
      )
    print(f'told to leave: saved after step {count}', file=sys.stderr)
    raise SystemExit(EXIT_PREEMPTED)


@contextlib.contextmanager
def preemption(
  on_signal: Callable[[], None] = lambda: None,
) -> Iterator[Preemption]:
  """Hears SIGTERM and Ctrl-C, for a loop that saves and leaves after a step.

  A second Ctrl-C interrupts at once. A signal that arrives after the loop is
  passed to the handler that was there before.

  on_signal: called by the handler, so that a step which waits for something
    ends. Not where several processes compute together.
  """
  told = Preemption()
  if jax.process_count() > 1:
    yield told
    return

  def hear(number, frame):
    del frame
    told.heard.append(number)
    on_signal()
    if number == signal.SIGINT:
      signal.signal(number, before[number])
      logger.warning(
        'interrupted: saves after the step that runs; once more: leaves at once'
      )

  numbers = [signal.SIGTERM]
  # A shell has what it starts in the background ignore Ctrl-C.
  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    numbers.append(signal.SIGINT)
  before = {number: signal.signal(number, hear) for number in numbers}
  try:
    yield told
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  for number in told.heard:
    if callable(before[number]):
      before[number](number, None)
