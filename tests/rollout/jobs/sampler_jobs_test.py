"""Groups of other processes come in the order of the data, and are not lost."""

import dataclasses
import functools
import json
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.core.run_files import SAMPLERS, WEIGHTS
from rlpt_jax.core.timers import Timers
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.jobs import desk, starts
from rlpt_jax.rollout.jobs.leases import Leases
from rlpt_jax.rollout.jobs.sampler_jobs import FromJobs, SamplerJobs
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.waiting import Waiting
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import in_pieces
from tests.rollout.group_state_test import completion
from tests.rollout.jobs.weights_folder_test import decoder_of, params_of
from tests.rollout.stream_test import Data64

BATCH, STALENESS, SAMPLES = 3, 2, 2


class Jobs:
  """Samples groups in a random order, as processes would."""

  def __init__(self, version, rng):
    self.version, self._rng, self._book = version, rng, Leases(1.0)
    self.oldest, self.announced = {}, None

  def announce(self):
    self.announced = [*self._book.open]

  def offer(self, each):
    assert not each.group.is_done
    self.oldest[each.name] = each.oldest
    self._book.offer(each.name, each, each.oldest)

  def collect(self, names):
    names = [*names]
    while self._book.are_open(names) or (
      self._book.open and self._rng.random() < 0.5
    ):
      name = self._rng.choice([*self._book.open])
      text = f'{name} by {self._rng.randrange(9)}'
      done = completion(text, 'stop')
      versions = np.full_like(done.versions, self.version)
      done = dataclasses.replace(done, versions=versions)
      self._book.finish(name, [done] * SAMPLES)
    return self._book.take_results()


def source(seed, step=0, saved=None):
  record, arrays = saved or ({}, {})
  prompts = Prompts(
    Data64(64, position=record.get('position', 0)), Curriculum(None),
    record.get('drawn', 0),
  )  # fmt: skip
  rollouts = SimpleNamespace(
    sampler=Jobs(step, random.Random(f'{seed}/{step}')),
    timers=Timers('rollout'), tokenizer=Data64.tokenizer, seed=0,
    forget=lambda names: None, stop_waiting=lambda: None,
    judge_soon=lambda *group: None,
  )  # fmt: skip
  sampling = Sampling(SAMPLES, max_new_tokens=24)
  waiting = Waiting(
    prompts, functools.partial(Rollouts.group, rollouts, sampling),
    batch=BATCH, max_staleness=STALENESS, version=step, record=record,
    arrays=arrays,
  )  # fmt: skip
  return FromJobs(waiting, rollouts), rollouts.sampler


def test_groups_come_in_order_and_survive_any_restart():
  for seed in range(30):
    rng, learned, saved, step = random.Random(seed), [], None, 0
    texts, oldest = {}, {}
    while step < 12:
      stream, jobs = source(seed, step, saved)
      # Samplers of the start before drop what they do not find.
      waiting = [x for x in stream._waiting.groups if not x.group.is_done]
      assert jobs.announced == [each.name for each in waiting]
      assert len(stream._waiting.groups) >= (STALENESS + 1) * BATCH
      for _ in range(rng.randrange(1, 5)):
        names = []
        # Some batches need more groups than others, to replace flat ones.
        for count in [BATCH, *[1] * rng.choice([0, 0, 4])]:
          taken = stream.take(count)
          for name, group in zip(taken.names, taken.groups, strict=True):
            text = group[0].text
            assert text.startswith(f'{name} by ')
            # What was finished before a restart is not sampled again.
            assert texts.get(name, text) == text
          names += taken.names
        learned += names
        stream.forget(names)
        step += 1
        jobs.version = step
        oldest |= jobs.oldest
        for name in names:
          assert step - 1 - STALENESS <= oldest[name] <= step - 1
      record, arrays = stream.resume()
      texts = {
        each.name: each.group.samples[0].text
        for each in stream._waiting.groups
        if each.group.is_done
      }
      record = json.loads(json.dumps(record))
      saved = record, {name: np.array(x) for name, x in arrays.items()}
    numbers = [int(name.split('/')[0]) for name in learned]
    assert numbers == [*range(len(numbers))]


def test_broken_characters_are_those_of_a_sampler_of_ones_own():
  """Their text depends on the pieces; an own sampler has a chunk in each."""
  rng = np.random.default_rng(0)
  for _ in range(50):
    stream, jobs = source(0)
    tokens = rng.integers(100, 256, 48).astype(np.int32)
    whole = dataclasses.replace(
      completion('x' * 48, 'length'), tokens=tokens, versions=0 * tokens
    )
    jobs._book.finish(jobs.announced[0], [whole] * SAMPLES)
    taken = stream.take(1)
    expected = stream._waiting._make_group(taken.examples[0], taken.names[0])
    for piece in in_pieces(whole, Plan.chunk):
      expected.add(0, piece)
    assert taken.groups[0][0].text == expected.samples[0].text


@pytest.fixture
def begin(one_device, tmp_path):
  decoder = decoder_of(one_device)

  def made(version=0, own=None):
    return SamplerJobs(
      tmp_path, decoder, params_of(decoder, version), samples=SAMPLES,
      contact=Contact(host='localhost'), version=version, own=own,
      num_steps=9,
    )  # fmt: skip

  return made


class Own:
  def __init__(self):
    self.noted = []

  def publish(self, params):
    self.noted.append('published')

  def complete(self, *arguments, **options):
    return arguments, options

  def close(self):
    self.noted.append('closed')


def test_a_run_that_ends_says_so_and_one_that_is_stopped_does_not(
  begin, one_device, tmp_path
):
  own = Own()
  with pytest.raises(SystemExit), begin(own=own) as jobs:
    assert starts.read(tmp_path) is None
    jobs.announce()
    assert starts.read(tmp_path).versions == (0,)
    jobs.publish(params_of(decoder_of(one_device), 1))
    assert jobs.version == 1
    assert jobs.complete(1, tokenizer=2) == ((1,), {'tokenizer': 2})
    raise SystemExit(75)
  assert own.noted == ['published', 'closed']
  assert starts.read(tmp_path).over is None
  assert (tmp_path / WEIGHTS / '0' / '1').is_dir()
  with begin(version=1) as jobs:
    jobs.announce()
    found = starts.read(tmp_path)
    assert (found.versions, found.over) == ((0, 1), None)
    assert not (tmp_path / WEIGHTS / '0').exists()
    assert jobs.take_slots_in_use() == 0
  assert starts.read(tmp_path).over == 9
  assert not (tmp_path / WEIGHTS).exists()
  assert (tmp_path / SAMPLERS).exists()


@pytest.mark.parametrize('call', [1, 2])
def test_a_learner_whose_disk_is_full_leaves_no_thread(
  begin, call, monkeypatch
):
  """Whether it cannot write where it is, or that its run is over."""
  write, calls = starts.write, []

  def full(*arguments):
    calls.append(arguments)
    if len(calls) == call:
      raise OSError('no space left')
    write(*arguments)

  monkeypatch.setattr(starts, 'write', full)
  own = Own()
  with pytest.raises(OSError, match='no space'), begin(own=own) as jobs:
    jobs.announce()
  assert not [t for t in threading.enumerate() if t.name == desk.THREAD]
  assert own.noted == ['closed']
