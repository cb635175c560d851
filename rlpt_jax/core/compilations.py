"""Counts XLA compilations, because a run that keeps compiling is slow."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import jax

EVENT = '/jax/core/compile/backend_compile_duration'


@dataclasses.dataclass
class Compilations:
  count: int = 0
  seconds: float = 0.0

  def __post_init__(self):
    self._lock = threading.Lock()  # Several threads may compile.

  def _add(self, event: str, duration: float, **_):
    if event == EVENT:
      with self._lock:
        self.count += 1
        self.seconds += duration


@contextlib.contextmanager
def counted() -> Iterator[Compilations]:
  """Yields a counter, updated at every compilation inside the context."""
  compilations = Compilations()
  listener = compilations._add
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    yield compilations
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)
