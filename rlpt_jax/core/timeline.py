"""When the parts of a run began and ended, for the timeline of its report."""

import collections
import time

import numpy as np

from rlpt_jax.core.timers import PREFIX

SPANS = f'{PREFIX}spans/'
MOST = 32  # Spans of a part in a line; the last of more are joined.


class Timeline:
  """Collects spans; one may be the `timeline` of Timers."""

  def __init__(self, origin: float | None = None):
    """origin: the time that becomes 0; by default, now."""
    self._origin = time.perf_counter() if origin is None else origin
    self._spans = collections.defaultdict(
      lambda: collections.deque(maxlen=1000)
    )

  def __call__(self, name: str, began: float, ended: float):
    # A deque, because a thread of Timers may append while `take` reads. It has
    # a limit, because only the first of several processes calls `take`.
    self._spans[name].append((began - self._origin, ended - self._origin))

  def take(self) -> dict[str, np.ndarray]:
    """Returns the spans since the last call, [n, 2] for each part."""
    taken = {}
    for name, spans in list(self._spans.items()):
      some = [spans.popleft() for _ in range(len(spans))]
      if len(some) > MOST:
        some[MOST - 1 :] = [(some[MOST - 1][0], some[-1][1])]
      if some:
        taken[SPANS + name] = np.array(some).round(4)
    return taken
