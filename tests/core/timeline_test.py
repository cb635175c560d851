"""Spans come in the order they ended, and a line has only so many."""

import threading

from rlpt_jax.core import timeline
from rlpt_jax.core.timeline import Timeline
from rlpt_jax.core.timers import Timers
from tests.core.timers_test import Clock


def test_the_spans_of_timers():
  clock = Clock()
  line = Timeline(origin=100.0)
  with Timers('rollout', 'update', clock=clock, timeline=line) as timers:
    with timers('rollout'):
      clock.now += 1
    clock.now += 1
    timers.busy('update', until=lambda: None)
    timers._busy[0][1].result()
    with timers('rollout'):
      clock.now += 2
    ended = threading.Event()
    timers.busy('update', until=ended.wait)
    with timers('rollout'):
      clock.now += 3
      ended.set()
      timers._busy[-1][1].result()
      clock.now += 1
  found = {name: spans.tolist() for name, spans in line.take().items()}
  assert found == {
    # The last one had to wait for the update until 7.
    'timing/spans/rollout': [[0, 1], [2, 4], [7, 8]],
    'timing/spans/update': [[2, 2], [4, 7]],
  }
  assert line.take() == {}


def test_work_that_goes_on_is_one_span_with_its_part():
  clock, line = Clock(), Timeline(origin=100.0)
  with Timers('update', clock=clock, timeline=line) as timers:
    for event in (threading.Event(), threading.Event()):
      with timers('update'):
        clock.now += 1
        timers.busy('update', until=event.wait)
      clock.now += 2
      event.set()
      timers._busy[-1][1].result()
    with timers('update'):
      clock.now += 4
  (spans,) = line.take().values()
  assert spans.tolist() == [[0, 3], [3, 6], [6, 10]]


def test_the_last_of_many_are_joined():
  line = Timeline(origin=0)
  for i in range(40):
    line('rollout', i, i + 0.5)
  (spans,) = line.take().values()
  assert spans.shape == (timeline.MOST, 2)
  assert spans[0].tolist() == [0, 0.5] and spans[-1].tolist() == [31, 39.5]
