"""Groups enter while they could be learned from in time, in order of the data.

Streams under load are in stream_test.py.
"""

import dataclasses
import json

import numpy as np
import pytest

from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.waiting import Waiting
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import in_pieces
from rlpt_jax.sampling.sampler import SampleGroup
from tests.rollout.group_state_test import completion
from tests.rollout.stream_test import Data64

BATCH, STALENESS = 2, 1


def make_group(example, name):
  request = Sampling(1).request(example, name, Data64.tokenizer, 0)
  return SampleGroup(request, Data64.tokenizer)


def waiting(version=0, record=None, arrays=None, batches=8):
  record = record or {}
  data = Data64(1, position=record.get('position', 0), batches=batches)
  prompts = Prompts(data, Curriculum(None), record.get('drawn', 0))
  return Waiting(
    prompts, make_group, batch=BATCH, max_staleness=STALENESS, version=version,
    record=record, arrays=arrays or {},
  )  # fmt: skip


def admit_all(groups, version):
  limit = groups.limit(version)
  while entered := groups.admit(limit):
    yield entered


def finish(groups):
  for each in groups:
    each.group.add(0, completion('done', 'stop'))


def oldest(groups):
  return [(each.name.split('/')[0], each.oldest) for each in groups]


def test_two_batches_may_enter_and_one_more_after_each_update():
  groups = waiting()
  first = [*admit_all(groups, 0)]
  assert oldest(first) == [('0', 0), ('1', 0), ('2', 0), ('3', 0)]
  assert not groups.are_done(BATCH)
  finish(first[:2])
  assert groups.are_done(BATCH) and not groups.are_done(BATCH + 1)
  names = groups.hand_out(BATCH).names
  # What is handed out makes no room: the weights are still the same.
  assert [*admit_all(groups, 0)] == []
  assert oldest(admit_all(groups, 1)) == [('4', 1), ('5', 1)]
  assert [*groups.handed] == names
  groups.forget(names)
  assert not groups.handed


def test_a_record_has_what_was_handed_out_and_which_weights_are_too_old():
  groups = waiting()
  finish([*admit_all(groups, 0)][:3])
  groups.hand_out(BATCH)
  [*admit_all(groups, 1)]
  record, arrays = groups.resume()
  again = waiting(1, json.loads(json.dumps(record)), arrays)
  assert again.taken == 0
  assert oldest(again.groups) == [*zip('012345', (0, 0, 0, 0, 1, 1), strict=1)]
  done = [each.group.is_done for each in again.groups]
  assert done == [True] * 3 + [False] * 3
  assert [*admit_all(again, 1)] == []


def test_the_end_of_the_data_is_the_end_of_the_groups():
  groups = waiting(batches=3)
  finish(admit_all(groups, 0))
  assert groups.has_ended and groups.are_done(4)
  assert len(groups.hand_out(4).names) == 3
  assert groups.are_done(4) and not groups.hand_out(4).names


@pytest.mark.parametrize('known', [True, False])
def test_a_record_of_an_earlier_rlpt_names_no_oldest_weights(known):
  groups = waiting()
  [*admit_all(groups, 0)]
  record, arrays = groups.resume()
  if not known:
    del record['stream']['oldest']
  again = waiting(3, record, arrays)
  assert {each.oldest for each in again.groups} == {0 if known else 3}


def test_broken_characters_come_back_as_they_were_sampled():
  """Their text depends on the pieces, so a sample is restored in its pieces."""
  rng, texts = np.random.default_rng(0), []
  for _ in range(200):
    groups = waiting()
    entered = next(admit_all(groups, 0))
    tokens = rng.integers(100, 256, 48).astype(np.int32)
    whole = dataclasses.replace(completion('x' * 48, 'length'), tokens=tokens)
    for piece in in_pieces(whole, Plan.chunk):
      entered.group.add(0, piece)
    record, arrays = groups.resume()
    again = waiting(0, record | {'position': 1}, arrays)
    texts.append([x.groups[0].group.samples[0].text for x in (groups, again)])
  assert all(a == b for a, b in texts)
