"""Measures how the time of a step splits into its parts."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

PREFIX = 'timing/'  # Of all metrics that differ when a run is repeated.


class Timers:
  """Splits the time of a step into named parts; 'idle' is the rest.

  In a program:

    timers = Timers('rollout', 'reward', 'update', 'publish')
    with timers('rollout'):
      ...
    writer.write(step, metrics, timers.lap())

  Time in a nested part counts only for the inner part, so the parts sum to the
  step. The times are those of one host thread: if the device is still busy when
  a part ends, a later part that waits for it gets that time.
  """

  def __init__(
    self, *names: str, clock: Callable[[], float] = time.perf_counter
  ):
    assert not {'idle', 'step'} & {*names}, 'idle is the rest of the step'
    self._clock, self._mark = clock, clock()
    self._seconds = dict.fromkeys((*names, 'idle'), 0.0)
    self._running = ['idle']

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    assert name in self._seconds, f'{name!r} is not of {[*self._seconds]}'
    self._charge()
    self._running.append(name)
    try:
      yield
    finally:
      self._charge()
      self._running.pop()

  def lap(self) -> dict[str, float]:
    """Returns {'timing/step_s': seconds, ...} and resets all parts to zero."""
    self._charge()
    parts = {f'{PREFIX}{name}_s': s for name, s in self._seconds.items()}
    self._seconds = dict.fromkeys(self._seconds, 0.0)
    return {f'{PREFIX}step_s': math.fsum(parts.values()), **parts}

  def _charge(self):
    now = self._clock()
    self._seconds[self._running[-1]] += now - self._mark
    self._mark = now
