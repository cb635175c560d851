"""A link to a learner that comes late, restarts, ends or stays away."""

import dataclasses
from types import SimpleNamespace

import pytest

from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.jobs import starts
from rlpt_jax.rollout.jobs.desk import Desk
from rlpt_jax.rollout.jobs.learner_link import LearnerGone, Link
from rlpt_jax.rollout.jobs.starts import Contact
from tests.rollout.group_state_test import completion, group

EXAMPLE = group(0, None)[0]
CONTACT = Contact(host='localhost', patience_s=10.0)
WORK = SimpleNamespace(
  names=[], version=3, wanted=1, take_slots_in_use=lambda: None
)  # fmt: skip


@pytest.fixture
def learner(tmp_path):
  """Starts a learner, in place of the one before."""
  desks = []

  def begin(version=3):
    end()
    start = starts.following(
      starts.read(tmp_path), host='localhost', version=version
    )
    desks.append(Desk(CONTACT, start.secret, samples=1, version=version))
    starts.write(tmp_path, dataclasses.replace(start, port=desks[-1].port))
    return desks[-1]

  def end(over=None):
    if over is not None:
      found = starts.read(tmp_path)
      starts.write(tmp_path, dataclasses.replace(found, over=over))
    if desks:
      desks.pop().close()

  yield begin, end
  end()


@pytest.fixture
def link(tmp_path):
  now = [0.0]
  made = Link(tmp_path, 'me', CONTACT, clock=lambda: now[0])
  made.now = now
  yield made
  made.close()


def test_it_finds_a_learner_that_comes_late_and_one_that_restarts(
  link, learner
):
  begin, end = learner
  assert not link.open()
  begin().offer('name 0', EXAMPLE, 0)
  assert link.open() and link.start.number == 0
  told = link.sync(WORK)
  assert told.version == 3 and [task['name'] for task in told.tasks]
  end()
  assert link.sync(WORK) is None and not link.is_open
  assert link.open() and link.sync(WORK) is None  # Still the old address.
  begin(version=2).offer('name 0', EXAMPLE, 0)
  assert link.open() and link.start.number == 1
  data = group_state.to_bytes([group(0, completion('x', 'stop'))])
  answer = link.give(data)
  assert 'versions 7 to 7, expected 0 to 2' in answer['error']
  assert link.sync(WORK).version == 2


def test_it_waits_for_a_learner_only_so_long(link, learner):
  begin, end = learner
  link.open()
  link.now[0] = 9.0
  link.open()
  begin()
  assert link.open() and link.sync(WORK)
  end()
  # A process that slept for long tries again before it gives up.
  link.now[0] = 1000.0
  assert link.sync(WORK) is None
  link.now[0] = 1009.0
  assert link.open() and link.sync(WORK) is None
  link.now[0] = 1011.0
  link.open()
  with pytest.raises(LearnerGone, match='no learner has answered for 10 s'):
    link.sync(WORK)


def test_it_says_once_why_it_waits(link, learner, caplog):
  begin, end = learner
  begin()
  end()
  for link.now[0] in (0.0, 5.0, 9.0):
    link.open()
    link.sync(WORK)
  assert not caplog.records
  link._patience_s = 100.0
  for link.now[0] in (16.0, 17.0):
    link.open()
    link.sync(WORK)
  (record,) = caplog.records
  assert 'waiting for the learner (localhost:' in record.getMessage()
  assert 'refused' in record.getMessage()


def test_it_knows_when_the_run_is_over(link, learner):
  begin, end = learner
  begin()
  assert link.open() and link.sync(WORK) and not link.is_over(8)
  end(over=4)  # The data ended.
  assert link.sync(WORK) is None and not link.open()
  assert link.is_over(8)


def test_a_run_that_has_ended_may_go_on_with_more_steps(link, learner):
  begin, end = learner
  begin()
  end(over=8)
  assert not link.open() and link.is_over(8) and not link.is_over(9)
  link.now[0] = 11.0
  with pytest.raises(LearnerGone, match='its run has ended after 8 steps'):
    link.open()
  begin()
  assert link.open() and not link.is_over(8)


def test_a_learner_that_does_not_understand_says_why(link, learner):
  begin, _ = learner
  begin()
  link.open()
  wrong = SimpleNamespace(**vars(WORK) | {'names': 7})
  with pytest.raises(ValueError, match="the learner says: 'int' object"):
    link.sync(wrong)
