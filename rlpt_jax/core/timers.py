"""Measures how the time of a step splits into its parts."""

import concurrent.futures
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

PREFIX = 'timing/'  # Of all metrics that differ when a run is repeated.


class Timers:
  """Splits the time of a step into named parts; 'idle' is the rest.

  In a program:

    timers = Timers('rollout', 'reward', 'update', 'publish')
    with timers('rollout'):
      ...
    with timers('update'):
      state, metrics = update(state, batch)
    timers.busy('update', until=metrics['loss'].block_until_ready)
    writer.write(step, metrics, timers.lap())

  Time in a nested part counts only for the inner part, so the parts sum to the
  step. The times are those of one host thread. Work that goes on when its part
  has ended, on a device, is charged to that part by `busy`. A step ends when
  its `lap` is called and the work that it began has ended; the next step begins
  there. So the steps sum to the run, and each has all of its own update.
  """

  def __init__(
    self, *names: str, clock: Callable[[], float] = time.perf_counter
  ):
    assert not {'idle', 'step'} & {*names}, "'idle' and 'step' are reserved"
    self._clock, self._mark = clock, clock()
    self._seconds = dict.fromkeys((*names, 'idle'), 0.0)
    self._running = ['idle']
    # (part, when it has ended, the seconds of the step that it belongs to)
    self._busy: tuple[str, concurrent.futures.Future[float], dict] | None = None
    # Not a daemon thread: those crash in JAX when the interpreter exits.
    self._watcher = concurrent.futures.ThreadPoolExecutor(1, 'timers')

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    assert name in self._seconds, f'{name!r} is not one of {[*self._seconds]}'
    self._charge()
    self._running.append(name)
    try:
      yield
    finally:
      self._charge()
      self._running.pop()

  def busy(self, name: str, until: Callable[[], Any]):
    """Charges a part with all time from now on, until `until` returns.

    A part that runs meanwhile gets only what is left. `until` waits, in a
    thread of its own, for what a device was given to do. Its error is not
    raised here, but where the result of the device is read.
    """

    def ended() -> float:
      with contextlib.suppress(Exception):
        until()
      return self._clock()

    self._charge()
    self._busy = name, self._watcher.submit(ended), self._seconds

  def close(self):
    """Waits for the thread that watches a device."""
    self._watcher.shutdown()

  def __enter__(self) -> 'Timers':
    return self

  def __exit__(self, *_):
    self.close()

  def lap(self) -> Callable[[], dict[str, float]]:
    """Ends a step; returns a function that returns its times.

    They are {'timing/step_s': seconds, ...}. The function waits for the end of
    what is still busy.
    """
    self._charge()
    seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
    return functools.partial(self._times, seconds)

  def _times(self, seconds: dict[str, float]) -> dict[str, float]:
    if self._busy and self._busy[2] is seconds:
      self._busy[1].result()
      self._charge()
    parts = {f'{PREFIX}{name}_s': s for name, s in seconds.items()}
    return {f'{PREFIX}step_s': math.fsum(parts.values()), **parts}

  def _charge(self):
    now = self._clock()
    if self._busy:
      name, ended, seconds = self._busy
      until = min(now, ended.result()) if ended.done() else now
      seconds[name] += max(until - self._mark, 0.0)
      self._mark = max(until, self._mark)
      if ended.done():
        self._busy = None
    self._seconds[self._running[-1]] += now - self._mark
    self._mark = now
