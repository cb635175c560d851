"""Measures how the time of a step splits into its parts."""

import concurrent.futures
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

# Metrics whose values change when a run is repeated have keys with this prefix.
PREFIX = 'timing/'


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

  Time in a nested part counts only for the inner part, so the times of the
  parts add up to the time of the step. The times are those of one host thread.
  But a device may go on working after a part has ended: `busy` adds this time
  to the part that started the work.

  A step ends once `lap` has been called and all work that the step started has
  ended. The next step begins at that moment. So the times of the steps add up
  to the time of the run, and each step includes its whole update.
  """

  def __init__(
    self, *names: str, clock: Callable[[], float] = time.perf_counter
  ):
    assert not {'idle', 'step'} & {*names}, "'idle' and 'step' are reserved"
    self._clock, self._mark = clock, clock()
    self._seconds = dict.fromkeys((*names, 'idle'), 0.0)
    self._running = ['idle']
    # Work that may not have ended, oldest first: (a part, a future of the time
    # at which its work ends, the times of the step that started the work).
    self._busy: list[tuple[str, concurrent.futures.Future[float], dict]] = []
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
    """Counts, for the part `name`, all time from now until `until` returns.

    Any other part that runs meanwhile is timed only from then on; so is work
    that starts before earlier work has ended. `until` waits
    for the work of a device, in a thread of its own. An error that it raises is
    ignored here, because reading the device's result raises it too.
    """

    def ended() -> float:
      with contextlib.suppress(Exception):
        until()
      return self._clock()

    self._charge()
    self._busy.append((name, self._watcher.submit(ended), self._seconds))

  def close(self):
    """Waits for the thread that watches a device."""
    self._watcher.shutdown()

  def __enter__(self) -> 'Timers':
    return self

  def __exit__(self, *_):
    self.close()

  def lap(self) -> Callable[[], dict[str, float]]:
    """Ends a step; returns a function that returns the step's times.

    The times are {'timing/step_s': seconds, ...}. The function waits for work
    of the step that is still running on a device.
    """
    self._charge()
    seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
    return functools.partial(self._times, seconds)

  def _times(self, seconds: dict[str, float]) -> dict[str, float]:
    if own := [ended for _, ended, step in self._busy if step is seconds]:
      own[-1].result()
      self._charge()
    parts = {f'{PREFIX}{name}_s': s for name, s in seconds.items()}
    return {f'{PREFIX}step_s': math.fsum(parts.values()), **parts}

  def _charge(self):
    now = self._clock()
    while self._busy:
      name, ended, seconds = self._busy[0]
      has_ended = ended.done()
      until = min(now, ended.result()) if has_ended else now
      seconds[name] += max(until - self._mark, 0.0)
      self._mark = max(until, self._mark)
      if not has_ended:
        break
      self._busy.pop(0)
    self._seconds[self._running[-1]] += now - self._mark
    self._mark = now
