"""Where the time of a step goes."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

PREFIX = 'timing/'  # Of all that a repeated run would not repeat.


class Timers:
  """Splits the time of a step into named parts and 'idle', the rest.

  In a program:

    timers = Timers('rollout', 'reward', 'update', 'publish')
    with timers('rollout'):
      ...
    writer.write(step, metrics, timers.lap())

  A part inside another is not counted twice, so the parts sum to the step. It
  is the time of the host, and of one thread: a device that still works when a
  part ends is waited for in a later one.
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
    """Seconds as {'timing/step_s', 'timing/rollout_s', ...}; starts anew."""
    self._charge()
    parts = {f'{PREFIX}{name}_s': s for name, s in self._seconds.items()}
    self._seconds = dict.fromkeys(self._seconds, 0.0)
    return {f'{PREFIX}step_s': math.fsum(parts.values()), **parts}

  def _charge(self):
    now = self._clock()
    self._seconds[self._running[-1]] += now - self._mark
    self._mark = now
