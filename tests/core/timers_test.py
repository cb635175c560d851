"""The parts of a step sum to the step."""

import threading

import pytest

from rlpt_jax.core.timers import Timers


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_parts_and_the_rest():
  clock = Clock()
  timers = Timers('rollout', 'reward', 'update', clock=clock)
  clock.now += 1  # Idle.
  with timers('rollout'):
    clock.now += 2
    with timers('reward'):  # Inside: not counted twice.
      clock.now += 4
    clock.now += 8
  clock.now += 16
  with timers('rollout'):
    clock.now += 32
  assert timers.lap()() == {
    'timing/step_s': 63,  # 1 + 2 + 4 + 8 + 16 + 32
    'timing/rollout_s': 42,  # 2 + 8 + 32
    'timing/reward_s': 4,
    'timing/update_s': 0,  # There all the same: lines have the same keys.
    'timing/idle_s': 17,
  }
  clock.now += 5
  assert timers.lap()() == {
    'timing/step_s': 5,
    'timing/rollout_s': 0,
    'timing/reward_s': 0,
    'timing/update_s': 0,
    'timing/idle_s': 5,
  }


def test_a_part_that_raises_ends():
  clock = Clock()
  timers = Timers('rollout', clock=clock)
  with pytest.raises(KeyError), timers('rollout'):
    clock.now += 1
    raise KeyError
  clock.now += 2
  lap = timers.lap()()
  assert lap['timing/rollout_s'] == 1
  assert lap['timing/idle_s'] == 2


def test_names_are_known_before():
  timers = Timers('rollout')
  with pytest.raises(AssertionError, match='rolout'), timers('rolout'):
    pass
  with pytest.raises(AssertionError, match='reserved'):
    Timers('idle')


def test_the_clock_is_real():
  timers = Timers('rollout')
  with timers('rollout'):
    pass
  lap = timers.lap()()
  parts = lap['timing/rollout_s'], lap['timing/idle_s']
  assert all(part > 0 for part in parts)
  assert lap['timing/step_s'] == pytest.approx(sum(parts), abs=1e-12)


def test_what_goes_on_is_charged_until_it_ends():
  clock, ended = Clock(), threading.Event()
  with Timers('rollout', 'update', clock=clock) as timers:
    with timers('update'):
      clock.now += 1
      timers.busy('update', until=ended.wait)
    clock.now += 2  # Idle, but for the device.
    with timers('rollout'):
      clock.now += 4
      ended.set()
      timers._busy[0][1].result()
      clock.now += 8
    clock.now += 16
    # Ended while the rollout ran, after 4 seconds of it.
    assert timers.lap()() == {
      'timing/step_s': 31,
      'timing/rollout_s': 8,
      'timing/update_s': 1 + 2 + 4,
      'timing/idle_s': 16,
    }


def test_what_goes_on_belongs_to_the_step_that_began_it():
  clock, ended = Clock(), threading.Event()
  with Timers('rollout', 'update', clock=clock) as timers:
    with timers('rollout'):
      clock.now += 1
    timers.busy('update', until=ended.wait)
    clock.now += 2
    first = timers.lap()
    with timers('rollout'):
      clock.now += 4  # Until the device has ended.
      ended.set()
      timers._busy[0][1].result()
      clock.now += 8
    second = timers.lap()
    clock.now += 16
    assert first() == {
      'timing/step_s': 7,
      'timing/rollout_s': 1,
      'timing/update_s': 2 + 4,
      'timing/idle_s': 0,
    }
    assert second() == {
      'timing/step_s': 8,
      'timing/rollout_s': 8,
      'timing/update_s': 0,
      'timing/idle_s': 0,
    }


def test_work_that_starts_early_is_timed_from_the_end_of_the_work_before():
  clock, first_ended = Clock(), threading.Event()
  second_ended = threading.Event()
  with Timers('update', clock=clock) as timers:
    timers.busy('update', until=first_ended.wait)
    clock.now += 1
    first = timers.lap()
    clock.now += 2
    timers.busy('update', until=second_ended.wait)  # It waits for the first.
    clock.now += 4
    first_ended.set()
    timers._busy[0][1].result(timeout=10)
    clock.now += 8
    second = timers.lap()
    second_ended.set()
    assert first()['timing/update_s'] == 1 + 2 + 4
    assert second()['timing/update_s'] == 8


def test_the_last_step_has_all_of_its_time():
  clock, ended = Clock(), threading.Event()

  def until():
    ended.wait()
    clock.now += 4

  with Timers('update', clock=clock) as timers:
    timers.busy('update', until=until)
    clock.now += 2
    lap = timers.lap()
    threading.Timer(0.05, ended.set).start()
    assert lap()['timing/update_s'] == 6  # It has waited.


def test_an_error_of_the_device_is_not_raised_here():
  """But where its result is read."""
  clock, ended = Clock(), threading.Event()

  def until():
    ended.wait()
    raise OSError('the device is lost')

  with Timers('update', clock=clock) as timers:
    timers.busy('update', until=until)
    clock.now += 2
    ended.set()
    timers._busy[0][1].exception()
    clock.now += 4
    with timers('update'):
      clock.now += 8
    assert timers.lap()()['timing/step_s'] == 14


def test_work_elsewhere_is_timed_beside_the_others():
  clock, ended = Clock(), threading.Event()
  with Timers('rollout', 'update', clock=clock) as timers:
    timers.busy('update', until=ended.wait, elsewhere=True)
    with timers('rollout'):
      clock.now += 4
      ended.set()
      timers._elsewhere[0][1].result()
      clock.now += 8
    assert timers.lap()() == {
      'timing/step_s': 12,
      'timing/rollout_s': 12,
      'timing/update_s': 4,
      'timing/idle_s': 0,
    }
    with timers('rollout'):
      clock.now += 1
    assert timers.lap()()['timing/update_s'] == 0


def test_work_elsewhere_begins_when_the_work_before_has_ended():
  clock = Clock()
  first, second = threading.Event(), threading.Event()
  with Timers('rollout', 'update', clock=clock) as timers:
    timers.busy('update', until=first.wait, elsewhere=True)
    clock.now += 1
    one = timers.lap()
    timers.busy('update', until=second.wait, elsewhere=True)  # It must wait.
    clock.now += 2
    first.set()
    timers._elsewhere[0][1].result()
    clock.now += 4
    second.set()
    timers._elsewhere[1][1].result()
    assert one()['timing/update_s'] == 1 + 2
    assert timers.lap()()['timing/update_s'] == 4
