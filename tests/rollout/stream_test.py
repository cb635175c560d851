"""No token is too old, no group is lost, and a resumed stream is the same.

A fake sampler takes the place of the real one, so that many streams can be
tried: its completions have lengths of a heavy tail, and its slots are few.
"""

import collections
import functools
import hashlib
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.rollout.waiting import Waiting
from rlpt_jax.sampling.requests import Completion
from tests.rollout.prompts_test import Data

CHUNK = 2


def length_of(name, sample, longest):
  """One in eight samples is as long as can be, most are short."""
  digest = hashlib.blake2b(f'{name}/{sample}'.encode()).digest()
  return longest if digest[0] < 32 else 1 + digest[1] % (longest // 4)


class FakeSampler:
  """Samples like an engine with slots; tokens say which they are."""

  def __init__(self, slots, version=0):
    self.plan, self.engine = SimpleNamespace(slots=slots), self
    self.version, self.steps, self.idle_steps = version, 0, 0
    self._tickets = 0
    # (ticket, sample) -> [request, deliver, tokens so far], oldest first.
    self._waiting, self._running = {}, {}

  @property
  def waiting(self):
    return len(self._waiting)

  @property
  def running(self):
    return len(self._running)

  def submit(self, request, deliver, *, begun):
    self._tickets += 1
    order = sorted(range(request.samples), key=lambda i: i not in begun)
    for i in order:
      have = len(begun.get(i, ()))
      self._waiting[self._tickets, i] = [request, deliver, have]
    return self._tickets

  def cancel(self, ticket, sample=None):
    for some in (self._waiting, self._running):
      for key in [*some]:
        if key[0] == ticket and sample in (None, key[1]):
          del some[key]

  def step(self):
    for key in [*self._waiting]:
      if self.running < self.plan.slots:
        self._running[key] = self._waiting.pop(key)
    self.steps += 1
    self.idle_steps += self.plan.slots - self.running
    assert self._running, 'a step of nothing'
    for (_, sample), row in [*self._running.items()]:
      request, deliver, have = row
      length = length_of(request.id, sample, request.limits[sample])
      new = range(have, min(have + CHUNK, length))
      row[2] = new[-1] + 1
      is_done = row[2] == length
      if is_done:
        self._running = {k: v for k, v in self._running.items() if v is not row}
      zeros = np.zeros(len(new), np.float32)
      deliver(
        sample,
        Completion(
          np.array(new, np.int32), zeros, zeros, np.ones(len(new), bool),
          np.full(len(new), self.version, np.int32),
          'length' if is_done else None,
        ),
      )  # fmt: skip


class Data64(Data):
  tokenizer = ByteTokenizer()


class FakeRun:
  """Collects and learns, as train_rl does, but learns nothing.

  Some batches need more groups than others, to replace flat ones.
  """

  def __init__(self, schedule, *, slots, batch, seed, refills, saved=None):
    step, record, arrays = saved or (0, {}, {})
    self.schedule, self.batch, self.step = schedule, batch, step
    self.seed, self.refills, self.published = seed, refills, step
    self.sampler = FakeSampler(slots, version=step)
    tokenizer, sampling = Data64.tokenizer, Sampling(2, max_new_tokens=24)
    self.prompts = Prompts(
      Data64(64, position=record.get('position', 0)), Curriculum(None),
      record.get('drawn', 0),
    )  # fmt: skip
    rollouts = SimpleNamespace(
      sampler=self.sampler, timers=Timers('rollout'), tokenizer=tokenizer,
      seed=0, forget=lambda names: None, judge_soon=lambda *group: None,
    )  # fmt: skip
    waiting = Waiting(
      self.prompts, functools.partial(Rollouts.group, rollouts, sampling),
      batch=batch, max_staleness=schedule.max_staleness, version=step,
      record=record, arrays=arrays,
    )  # fmt: skip
    self.stream = schedule.source(waiting, rollouts)
    self.learned = []  # (step, name, versions of the tokens of each sample)

  def publish(self):
    if self.published != self.step:
      self.sampler.version += 1
      self.published = self.step
      assert self.sampler.version == self.step

  def collect(self):
    rng = random.Random(f'{self.seed}/{self.step}')
    rounds = [self.batch]
    if self.refills:
      more = rng.choice([0, 0, 1, 2])
      rounds += [rng.randrange(1, self.batch + 1) for _ in range(more)]
    names = []
    for count in rounds:
      taken = self.stream.take(count)
      assert len(taken.names) == count
      for name, group in zip(taken.names, taken.groups, strict=True):
        versions = []
        for i, sample in enumerate(group):
          completion = sample.completion
          length = length_of(name, i, 24)
          assert completion.tokens.tolist() == list(range(length))
          assert completion.finish_reason == 'length'
          versions.append(completion.versions.tolist())
        self.learned.append((self.step, name, versions))
      names += taken.names
    return names

  def run(self, steps):
    experiences = self.schedule(self.collect, self.publish, self.stream)
    for names in experiences:
      self.step += 1  # The update.
      self.stream.forget(names)
      if self.step == steps:
        return self
    raise AssertionError

  def save(self):
    self.stream.catch_up(self.publish)
    record, arrays = self.stream.resume()
    record = json.loads(json.dumps(self.prompts.resume() | record))
    return self.step, record, {name: x.copy() for name, x in arrays.items()}


def cases(count):
  rng = random.Random(0)
  for seed in range(count):
    yield {
      'schedule': Pipelined(
        max_staleness=rng.choice([0, 1, 2, 8]),
        after_update=rng.choice(['recompute', 'recompute', 'keep']),
        overlap=rng.random() < 0.5,
      ),
      'slots': rng.choice([3, 8, 20]),
      'batch': rng.choice([2, 4, 6]),
      'refills': rng.random() < 0.5,
      'seed': seed,
    }  # fmt: skip


def test_no_token_is_older_than_the_bound_and_no_group_is_lost():
  largest = collections.Counter()
  for case in cases(200):
    run = FakeRun(**case).run(12)
    bound = case['schedule'].max_staleness
    for step, _, versions in run.learned:
      staleness = step - min(min(some) for some in versions)
      assert 0 <= staleness <= bound, case
      key = bound, case['schedule'].overlap
      largest[key] = max(largest[key], staleness)
    # Every prompt once, in the order of the data.
    numbers = [int(name.split('/')[0]) for _, name, _ in run.learned]
    assert numbers == list(range(len(numbers))), case
  # The bound is reached where it is small: it is not kept by accident.
  for overlap in (False, True):
    assert [largest[k, overlap] for k in (0, 1, 2)] == [0, 1, 2], largest


def test_a_stream_that_resumes_is_the_one_that_never_stopped():
  for case in cases(60):
    whole = FakeRun(**case).run(9)
    rng, learned, saved = random.Random(case['seed']), [], None
    for stop in [*sorted(rng.sample(range(1, 9), 3)), 9]:
      part = FakeRun(**case, saved=saved).run(stop)
      learned += part.learned
      saved = part.save()
    if case['schedule'].after_update == 'keep':  # No prompt lost or repeated.
      learned, expected = (
        [name for _, name, _ in some] for some in (learned, whole.learned)
      )
    else:
      expected = whole.learned
    assert learned == expected, case


def test_what_was_handed_out_but_not_learned_from_is_saved():
  """A judge that fails must not cost the groups that it was asked about."""
  case = next(cases(1)) | {'schedule': Pipelined(max_staleness=2)}
  whole = FakeRun(**case).run(6)
  run = FakeRun(**case).run(3)
  run.publish()
  run.collect()  # Then the judge fails.
  again = FakeRun(**case, saved=run.save()).run(6)
  earlier = [x for x in whole.learned if x[0] < 3]
  assert earlier + again.learned == whole.learned


def steps_of(schedule, **options):
  run = FakeRun(schedule, **options, refills=False, seed=0).run(20)
  slots = run.sampler.plan.slots
  return run.sampler.steps, run.sampler.idle_steps / run.sampler.steps / slots


def test_slots_stay_full_across_batches():
  options = {'slots': 16, 'batch': 8}
  synchronous, idle = steps_of(Pipelined(max_staleness=0), **options)
  assert idle > 0.5
  asynchronous, idle = steps_of(Pipelined(max_staleness=4), **options)
  assert idle < 0.05 and asynchronous < synchronous / 2


def test_the_data_end_with_the_last_groups():
  options = next(cases(1)) | {
    'schedule': Pipelined(max_staleness=8), 'refills': False, 'batch': 4,
  }  # fmt: skip
  run = FakeRun(**options)
  run.prompts._batches = run.prompts._unsolved = iter([*Data64(64, batches=10)])
  sizes = []
  while (taken := run.stream.take(4)).names:
    sizes.append(len(taken.names))
  assert sizes == [4, 4, 2]


def test_a_collect_that_takes_too_few_groups_breaks_the_bound():
  """Updates then come sooner than admission assumes."""
  case = {'slots': 20, 'batch': 4, 'refills': False, 'seed': 0}
  run = FakeRun(Pipelined(max_staleness=2), **case)
  run.batch = 2  # Of the four that the stream counts on.
  with pytest.raises(ValueError, match='more than max_staleness=2'):
    run.run(12)


def test_data_that_have_ended_stay_so():
  case = next(cases(1)) | {'schedule': Pipelined(), 'batch': 4}
  run = FakeRun(**case)
  run.prompts._batches = run.prompts._unsolved = iter([*Data64(64, batches=6)])
  assert len(run.stream.take(4).names) == 4
  again = FakeRun(**case, saved=run.save())
  assert len(again.stream.take(4).names) == 4  # Handed out, not learned from.
  assert len(again.stream.take(4).names) == 2
  assert again.stream.take(4).names == []
