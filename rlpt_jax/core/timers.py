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
Span = concurrent.futures.Future[tuple[float, float]]


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
    self,
    *names: str,
    clock: Callable[[], float] = time.perf_counter,
    timeline: Callable[[str, float, float], None] = lambda *span: None,
  ):
    """timeline: called with (a part, when it began, when it ended), in seconds.

    Work of a device is reported by a thread of its own; it is one span with
    the part that started it.
    """
    assert not {'idle', 'step'} & {*names}, "'idle' and 'step' are reserved"
    self._clock, self._mark, self.timeline = clock, clock(), timeline
    self._seconds = dict.fromkeys((*names, 'idle'), 0.0)
    self._running = [('idle', self._mark)]  # Each with when it began.
    self._goes_on = False  # Whether the part that runs has called `busy`.
    self._freed = self._mark  # When the last work in `_busy` ended.
    # Work that may not have ended, oldest first: (a part, a future of the times
    # at which it begins and ends, the times of the step that started it).
    self._busy: list[tuple[str, Span, dict]] = []
    # Work of devices that no other part uses.
    self._elsewhere: list[tuple[str, Span, dict]] = []
    self._last_end = self._mark  # Of the last work of any device.
    # Not a daemon thread: those crash in JAX when the interpreter exits.
    self._watcher = concurrent.futures.ThreadPoolExecutor(1, 'timers')

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    assert name in self._seconds, f'{name!r} is not one of {[*self._seconds]}'
    self._charge()
    self._running.append((name, self._mark))
    try:
      yield
    finally:
      self._charge()
      _, began = self._running.pop()
      goes_on, self._goes_on = self._goes_on, False
      if not goes_on:
        # Until the devices were free, the part only waited for them.
        self.timeline(name, max(began, self._freed), self._mark)

  def busy(
    self, name: str, until: Callable[[], Any], *, elsewhere: bool = False
  ):
    """Counts, for the part `name`, all time from now until `until` returns.

    Any other part that runs meanwhile is timed only from then on. Work that is
    started before earlier work has ended is timed from the end of that work.
    `until` waits for the work of a device, in a thread of its own. An error
    that it raises is ignored here, because reading the device's result raises
    it too.

    elsewhere: no other part uses the devices that do this work. So others are
      timed meanwhile, too, and the parts may add up to more than the step.
    """
    self._charge()
    now = self._mark
    running, began = self._running[-1]
    self._goes_on = running == name
    shown = began if self._goes_on else now

    def ended() -> tuple[float, float]:
      with contextlib.suppress(Exception):
        until()
      end = self._clock()
      # Devices begin this work when they have ended the work before.
      freed, self._last_end = self._last_end, end
      self.timeline(name, max(shown, freed), end)
      return max(now, freed), end

    future = self._watcher.submit(ended)
    if elsewhere:
      self._elsewhere.append((name, future, self._seconds))
    else:
      self._busy.append((name, future, self._seconds))

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
    times = {f'{PREFIX}step_s': math.fsum(parts.values()), **parts}
    for name, future, _ in self._taken_elsewhere(seconds):
      start, end = future.result()
      times[f'{PREFIX}{name}_s'] += end - start
    return times

  def _taken_elsewhere(self, seconds: dict[str, float]) -> list:
    own = [work for work in self._elsewhere if work[-1] is seconds]
    self._elsewhere = [work for work in self._elsewhere if work not in own]
    return own

  def _charge(self):
    now = self._clock()
    while self._busy:
      name, ended, seconds = self._busy[0]
      has_ended = ended.done()
      until = min(now, ended.result()[1]) if has_ended else now
      seconds[name] += max(until - self._mark, 0.0)
      self._mark = max(until, self._mark)
      if not has_ended:
        break
      self._freed = until
      self._busy.pop(0)
    self._seconds[self._running[-1][0]] += now - self._mark
    self._mark = now
