"""A run that is told to leave saves first; what comes too late is passed on."""

import signal

import pytest

from rlpt_jax.training.preemption import EXIT_PREEMPTED, preemption

SIGNALS = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def outer():
  """What an outer program hears; its handlers are whole again in the end."""
  heard = []
  before = [signal.signal(s, lambda n, _: heard.append(n)) for s in SIGNALS]
  yield heard
  for number, handler in zip(SIGNALS, before, strict=True):
    signal.signal(number, handler)


def steps(told_at, numbers, count=5):
  """The steps of a run that is told to leave in one of them."""
  done = []
  with preemption() as preempted:
    for step in range(count):
      for number in numbers if step == told_at else ():
        signal.raise_signal(number)
      done.append(step)
      if preempted(step):
        preempted.leave(len(done))
  return done


def test_sigterm_leaves_after_the_step_with_a_status(outer, capsys):
  with pytest.raises(SystemExit) as left:
    steps(2, [signal.SIGTERM])
  assert left.value.code == EXIT_PREEMPTED
  assert 'preempted: saved after step 3' in capsys.readouterr().err
  assert not outer


def test_ctrl_c_leaves_after_the_step_as_an_interrupt(outer, caplog):
  with pytest.raises(
    KeyboardInterrupt, match='saved after step 3; run the same'
  ):
    steps(2, [signal.SIGINT])
  assert 'will save after this step' in caplog.text
  assert not outer


def test_what_a_step_waits_for_hears_of_it(outer):
  told = []
  with preemption(lambda: told.append('now')) as preempted:
    signal.raise_signal(signal.SIGTERM)
    assert told == ['now'] and preempted(0)
  assert outer == [signal.SIGTERM]


def test_a_second_ctrl_c_is_for_whoever_heard_it_before(outer):
  with pytest.raises(KeyboardInterrupt):
    steps(2, [signal.SIGINT, signal.SIGINT])
  assert outer == [signal.SIGINT]


@pytest.mark.parametrize('number', SIGNALS)
def test_what_is_heard_too_late_goes_on_to_whoever_heard_it_before(
  outer, number
):
  with preemption() as preempted:
    assert not preempted(0)
    signal.raise_signal(number)
    assert not outer
  assert outer == [number]


def test_ctrl_c_is_ignored_where_a_shell_says_so(outer):
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  assert steps(2, [signal.SIGINT]) == [0, 1, 2, 3, 4]
  with pytest.raises(SystemExit):
    steps(2, [signal.SIGINT, signal.SIGTERM])


def test_nothing_is_told_and_handlers_are_whole_again(outer):
  assert steps(None, []) == [0, 1, 2, 3, 4]
  for number in SIGNALS:
    signal.raise_signal(number)
  assert outer == [*SIGNALS]
