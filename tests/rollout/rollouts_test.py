"""Samples are kept until their step is done: nothing is sampled twice."""

import contextlib
import threading
from types import SimpleNamespace

import pytest

from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.inference import judges
from rlpt_jax.rewards import scores as scores_lib
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from tests.rollout.judged_test import example, sample


class Sampler:
  """Samples two and three tokens, and notes for what."""

  version = 0

  def __init__(self):
    self.sampled = []

  def complete(self, requests, tokenizer, stop):
    for request in requests:
      self.sampled.append(request.id)
      yield [sample(2, self.version), sample(3, self.version)]


def make_rollouts(reward, timers=None):
  timers = timers or Timers('rollout', 'reward', 'held_out')
  return Rollouts(
    Sampler(), ByteTokenizer(), scores_lib.of(reward), timers, seed=0
  )


def test_what_was_sampled_waits_for_a_reward_that_is_gone():
  is_gone = True

  def reward(examples, completions):
    if is_gone:
      raise ConnectionError
    return [[len(text) for text in group] for group in completions]

  rollouts = make_rollouts(reward)

  def judge(*numbers):
    examples = [example(n) for n in numbers]
    names = [str(n) for n in numbers]
    return rollouts(Sampling(samples=2), examples, names)

  with pytest.raises(ConnectionError):
    judge(1, 2)
  is_gone = False
  found = judge(2, 3)
  assert rollouts.sampler.sampled == ['1', '2', '3'] == list(rollouts._kept)
  assert found.samples[0] is rollouts._kept['2']
  assert found.rewards_PG.tolist() == [[2, 3], [2, 3]]


def test_what_was_learned_is_forgotten_but_not_what_was_sampled_ahead():
  rollouts = make_rollouts(lambda *_: [[0.0, 1.0]])
  for name in 'abc':
    rollouts(Sampling(samples=2), [example(1)], [name])
  rollouts.forget(['a', 'c', 'd'])  # Nothing was sampled for d.
  assert list(rollouts._kept) == ['b']
  for name in 'abc':
    rollouts(Sampling(samples=2), [example(1)], [name])
  assert rollouts.sampler.sampled == [*'abcac']


def test_a_timer_gets_all_of_the_time():
  timed = []

  @contextlib.contextmanager
  def timers(name):
    timed.append(name)
    yield

  rollouts = make_rollouts(lambda *_: [[0.0, 1.0]], timers)
  rollouts(Sampling(samples=2), [example(1)], ['a'])
  rollouts(Sampling(samples=2), [example(1)], ['b'], timer='held_out')
  assert timed == ['rollout', 'reward', 'held_out', 'held_out']


def test_samples_are_saved_and_loaded(tmp_path, monkeypatch):
  saved = {}
  unjudged = SimpleNamespace(
    write=lambda workdir, step, kept, *record: saved.update({step: kept}),
    read=lambda workdir, step, version: saved.get(step, {}),
  )
  monkeypatch.setattr('rlpt_jax.rollout.rollouts.unjudged', unjudged)
  first, again = (make_rollouts(lambda *_: [[0.0, 1.0]]) for _ in range(2))
  first.sampler.version = -1
  first(Sampling(samples=2), [example(1)], ['of older weights'])
  first.sampler.version = 0
  first(Sampling(samples=2), [example(1)], ['a'])
  first.save(tmp_path, 3)
  assert list(saved[3]) == ['a']
  again.load(tmp_path, 3)
  again(Sampling(samples=2), [example(1)], ['a'])
  assert again.sampler.sampled == []


def test_what_older_weights_have_sampled_is_sampled_again():
  """A held-out example, or what was sampled in vain before the run resumed."""
  rollouts = make_rollouts(lambda *_: [[0.0, 1.0]])
  for version in (0, 1, 1):
    rollouts.sampler.version = version
    rollouts(Sampling(samples=2), [example(1)], ['a'])
  assert rollouts.sampler.sampled == ['a', 'a']


def test_a_judge_behind_a_url_is_asked_while_others_are_sampled(monkeypatch):
  asked, is_asked = [], threading.Event()

  class Slow(Sampler):
    def complete(self, requests, tokenizer, stop):
      groups = super().complete(requests, tokenizer, stop)
      yield next(groups)
      assert is_asked.wait(10), 'it is asked only once all are sampled'
      yield from groups

  def reward(examples, completions):
    asked.append(len(examples))
    is_asked.set()
    return [[len(text) for text in group] for group in completions]

  monkeypatch.setattr(judges, 'remotes', lambda reward: ['http://judge'])
  rollouts = make_rollouts(reward)
  rollouts.sampler = Slow()
  examples, names = [example(n) for n in (1, 2, 3)], ['1', '2', '3']
  for _ in range(2):  # Held-out examples have the same names every time.
    found = rollouts(Sampling(samples=2), examples, names)
    assert found.rewards_PG.tolist() == [[2, 3]] * 3
    rollouts.forget(names)
  assert asked[0] == 1 and sum(asked) == 6
