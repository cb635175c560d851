"""Scores are those of one call, whenever and however often the reward is."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.judged import joined
from rlpt_jax.rollout.judging import Judging, Question
from tests.rollout.judged_test import example


def by_length(examples, completions):
  def verdict(example, text):
    return scores.Verdict(len(text) / 8, 'length', f'{text}!')

  lengths = scores.Each(verdict)(examples, completions)
  halves = Scores(lengths.rewards_PG / 2, lengths.reasons_PG)
  return Scores(
    lengths.rewards_PG, lengths.reasons_PG, {'half': halves},
    lengths.answers_PG,
  )  # fmt: skip


QUESTIONS = [
  Question(str(i), example(i), ['a' * i, 'b' * (i % 3)]) for i in range(40)
]


def test_scores_are_those_of_one_call():
  calls, is_asking = [], threading.Lock()

  def reward(examples, completions):
    assert is_asking.acquire(blocking=False), 'asked twice at the same time'
    time.sleep(0.002)
    calls.append(len(examples))
    found = by_length(examples, completions)
    is_asking.release()
    return found

  judging = Judging(reward)
  for question in QUESTIONS:
    judging.submit([question])
    judging.submit([question])  # It is asked once.
    if question.name == '20':
      time.sleep(0.01)
  names = [question.name for question in reversed(QUESTIONS)]
  found = joined([*judging.take(names[:7]), *judging.take(names[7:])])
  asked = list(reversed(QUESTIONS))
  expected = by_length([q.example for q in asked], [q.texts for q in asked])
  for one, other in (
    (found, expected), (found.parts['half'], expected.parts['half']),
  ):  # fmt: skip
    np.testing.assert_array_equal(one.rewards_PG, other.rewards_PG)
    np.testing.assert_array_equal(one.reasons_PG, other.reasons_PG)
  np.testing.assert_array_equal(found.answers_PG, expected.answers_PG)
  assert sum(calls) == len(QUESTIONS)
  assert 1 < len(calls) < len(QUESTIONS)


def test_an_error_is_raised_where_the_scores_are_needed():
  numbers = itertools.count()

  def reward(examples, completions):
    if next(numbers) == 1:
      raise ConnectionError('it is gone')
    return by_length(examples, completions)

  judging = Judging(reward)
  for question in QUESTIONS[:3]:
    judging.submit([question])
    judging._scores[question.name].exception()  # It waits.
  judging.take(['0'])
  with pytest.raises(ConnectionError, match='gone'):
    judging.take(['1'])
  judging.take(['2'])
  # What has failed may be asked again.
  judging.submit([QUESTIONS[1]])
  judging.take(['1'])


def test_what_is_submitted_together_is_asked_together():
  calls = []

  def reward(examples, completions):
    calls.append(len(examples))
    return by_length(examples, completions)

  judging = Judging(reward)
  judging.submit(QUESTIONS)
  judging.take([question.name for question in QUESTIONS])
  assert calls == [len(QUESTIONS)]
  # Held-out data that repeats itself has names twice.
  judging.submit([QUESTIONS[3], QUESTIONS[4], QUESTIONS[3]])
  first, _, again = judging.take(['3', '4', '3'])
  np.testing.assert_array_equal(first.rewards_PG, again.rewards_PG)
  assert calls[1:] == [2]


def test_a_signal_reaches_who_waits_for_scores():
  """Its handler lets the judge raise, as that of a preempted run does."""
  stopped = threading.Event()

  def reward(examples, completions):
    assert stopped.wait(20)
    raise ConnectionError('preempted')

  before = signal.signal(signal.SIGUSR1, lambda *_: stopped.set())
  try:
    judging = Judging(reward)
    judging.submit(QUESTIONS[:1])
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    began = time.monotonic()
    with pytest.raises(ConnectionError, match='preempted'):
      judging.take(['0'])
    assert time.monotonic() - began < 15
  finally:
    signal.signal(signal.SIGUSR1, before)
