"""The next prompts become the next experience; where they end is known."""

import functools
from types import SimpleNamespace

import numpy as np

from rlpt_jax.rollout import collect
from rlpt_jax.rollout.collector import Collector, Parts
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.prompts import Prompts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.stream import OnDemand
from tests.rollout.prompts_test import Data
from tests.rollout.rollouts_test import make_rollouts


def reward(examples, completions):
  """The first example is solved, of the others one of two completions."""
  return [[1.0, float(example.document == 'd0')] for example in examples]


def make_collector(batches, **options):
  prompts = Prompts(Data(4, batches=batches), Curriculum(0.9))
  sampling, rollouts = Sampling(samples=2), make_rollouts(reward)
  parts = Parts(
    prompts=prompts, rollouts=rollouts,
    take=OnDemand(prompts, rollouts, sampling).take,
    make_experience=lambda roles, **more: (roles[0].groups, more),
    sampling=sampling, **options,
  )  # fmt: skip
  return functools.partial(Collector(), parts)


def test_an_experience_says_where_the_data_stand_after_it():
  collector = make_collector(7, count=4, collect=collect.keep)
  groups, more = collector()
  assert more['resume']['position'] == more['resume']['drawn'] == 4
  assert groups.judged.rewards_PG.shape == (4, 2)
  # d0 was solved, and is passed over.
  groups, more = collector()
  documents = [example.document for example in groups.judged.examples]
  assert 'd0' not in documents and len(documents) in (2, 3)
  assert more['resume']['drawn'] == 4 + len(documents)
  assert collector() is None


def test_an_experience_has_its_own_names_and_curriculum():
  """However much was sampled since: a schedule may collect the next ones."""

  def in_two_rounds(sample, count):
    sample(count)  # Dropped, but kept by Rollouts until it is forgotten.
    return collect.keep(sample, count)

  collector = make_collector(12, count=2, collect=in_two_rounds)
  (_, first), (_, second) = collector(), collector()
  numbers = [
    [int(name.split('/')[0]) for name in more['names']]
    for more in (first, second)
  ]
  assert numbers == [[0, 1, 2, 3], [4, 5, 6, 7]]
  names = ('curriculum/skipped_share', 'curriculum/solved')
  # All four examples, of which d0 is solved; it is passed over after that.
  assert [first['curriculum'][name] for name in names] == [0, 1]
  assert [second['curriculum'][name] for name in names] == [1 / 5, 1]


def test_what_is_excluded_is_in_no_group_and_what_is_penalized_comes_last():
  seen = []

  def first(judged):
    return np.tile([True, False], (len(judged.examples), 1))

  def penalize(groups):
    seen.append(groups.judged.rewards_PG.copy())
    return SimpleNamespace(was=groups)

  collector = make_collector(
    4, count=4, collect=collect.drop, exclude=(first,), penalize=penalize
  )
  found, _ = collector()
  # A completion that is alone agrees with itself.
  assert np.isnan(seen[0]).all() and not found.was.learned_P.any()
