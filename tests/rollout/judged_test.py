"""What a step says of its rollouts, by hand."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np

from rlpt_jax.core import compilations
from rlpt_jax.core.types import Example
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout import judged as lib
from rlpt_jax.rollout.judged import Judged

NAN = math.nan


def example(number, kind='asr'):
  tokens = np.arange(number + 1, dtype=np.int32)
  return Example(tokens, ('next',), kind, 'corpus', f'd{number}', 3)


def sample(length, version=0, finish_reason='stop', forced=0):
  completion = SimpleNamespace(
    tokens=np.zeros(length, np.int32), versions=np.full(length, version),
    is_own=np.arange(length) >= forced, prompt_version=version,
  )  # fmt: skip
  return SimpleNamespace(
    completion=completion, text='x' * length, finish_reason=finish_reason
  )


def scores(rewards_PG, reasons_PG, **parts):
  return Scores(np.array(rewards_PG, np.float32), np.array(reasons_PG), parts)


def judged():
  found = scores(
    [[1.0, 0.0], [0.5, NAN]],
    [['right', 'format/open'], ['partly', 'judge/failed']],
    length=scores([[0.1, 0.3], [0.5, 0.7]], [['scored'] * 2] * 2),
  )
  return Judged(
    [example(0), example(1, 'msr')],
    [
      [sample(2), sample(4, finish_reason='length')],
      [sample(6, forced=1), sample(8)],
    ],
    found,
    found.rewards_PG,
  )


def test_metrics_of_a_step():
  found = lib.metrics(judged(), version=3)
  expected = {
    'reward/mean': 0.5,
    'reward/std': math.sqrt((0.25 + 0.25 + 0) / 3),
    'reward/length/mean': 0.4,
    'pass_rate': 2 / 3,
    'pass_rate/asr': 0.5,
    'pass_rate/msr': 1.0,
    # A single verdict cannot differ from itself.
    'flat_group_share': 0.5,
    'length/mean': 5.0,
    'length/p50': 5.0,
    'truncated_share': 0.25,
    'interrupted_share': 0.25,
    'short_share': 0.0,
    'format_failure_share': 0.25,
    'no_verdict_share': 0.25,
    'reason/judge/failed': 0.25,
    'reason/length/scored': 1.0,
    'staleness/mean': 3.0,
    'staleness/max': 3,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def of(found, finish_reason='stop'):
  """Completions of one prompt with some scores."""
  samples = [sample(1, finish_reason=finish_reason) for _ in range(2)]
  return Judged([example(0)], [samples], found, found.rewards_PG)


def test_reasons_in_the_parts_of_a_sum_are_seen_too():
  """combine.Weighted says 'scored', whatever its parts say."""
  words = scores([[0.0, 0.0]], [['short', 'format/open']])
  both = scores([[0.0, 0.5]], [['scored', 'scored']], judge=words)
  found = lib.metrics(of(both), version=0)
  assert found['short_share'] == found['format_failure_share'] == 0.5
  assert found['reason/judge/short'] == 0.5
  # Once, though the parts of a kind say it again.
  again = scores([[0.0, 0.0]], [['short', 'right']], asr=words)
  found = lib.metrics(of(again), version=0)
  assert found['short_share'] == found['reason/short'] == 0.5


def test_what_is_left_out_is_not_compared():
  found = judged()
  assert found.flat.tolist() == [False, True]
  assert found.truncated_PG.tolist() == [[False, True], [False, False]]
  left = found.without(found.truncated_PG)
  np.testing.assert_array_equal(left.rewards_PG, [[1, NAN], [0.5, NAN]])
  # One of the group is left, and agrees with itself.
  assert left.flat.tolist() == [True, True]
  np.testing.assert_array_equal(left.group(0).rewards_G, [1, NAN])
  # What the reward said stays.
  assert lib.metrics(left, 0)['reward/mean'] == 0.5
  # Another scale of what is learned from does not make them differ.
  rewards_PG = np.array([[0.9, 0.4], [0.5, 0.4]], np.float32)
  same = of(scores([[1, 1], [0, 1]], [['right'] * 2] * 2))
  penalized = Judged(same.examples, same.samples, same.scores, rewards_PG)
  assert penalized.flat.tolist() == [True, False]


def test_speed():
  times = {'step': 10.0, 'rollout': 4.0, 'update': 7.5}
  found = lib.speed([judged()], {f'timing/{k}_s': x for k, x in times.items()})
  assert found == {
    'timing/tokens_per_s': 2.0,
    'timing/rollout_tokens_per_s': 5.0,
    'timing/sampler_idle_share': 0.6,
    'timing/learner_idle_share': 0.25,
  }


def test_without_any_verdict_there_is_no_mean():
  nothing = of(scores([[NAN, NAN]], [['judge/failed'] * 2]))
  found = lib.metrics(nothing, version=0)
  assert math.isnan(found['reward/mean']) and math.isnan(found['pass_rate'])
  assert found['no_verdict_share'] == found['flat_group_share'] == 1


def test_rounds_become_one():
  one = judged()
  both = lib.concatenate([one, one])
  assert len(both.examples) == len(both.samples) == 4
  np.testing.assert_array_equal(
    both.scores.rewards_PG, np.tile(one.scores.rewards_PG, (2, 1))
  )
  assert both.scores.parts['length'].rewards_PG.shape == (4, 2)
  assert lib.concatenate([one]) is one
  # A kind that is in one round only.
  other = Judged(
    one.examples, one.samples,
    scores(one.scores.rewards_PG, one.scores.reasons_PG, rare=one.scores),
    one.rewards_PG,
  )  # fmt: skip
  mixed = lib.concatenate([one, other]).scores.parts
  assert mixed['rare'].rewards_PG.shape == (2, 2)


def test_answers_of_a_judge_are_kept_from_round_to_round():
  silent, asked = judged(), judged()
  answers_PG = np.array([['Score: 1', None], ['Score: 0', '?']], object)
  asked = dataclasses.replace(
    asked, scores=dataclasses.replace(asked.scores, answers_PG=answers_PG)
  )
  assert lib.concatenate([silent, silent]).scores.answers_PG is None
  found = lib.concatenate([silent, asked]).scores.answers_PG
  assert found.tolist() == [[None] * 2] * 2 + answers_PG.tolist()


def test_of_whom_a_verdict_is_to_be_expected():
  """Not of what its form has settled, in whatever part of the reward."""
  found = judged()  # right, format/open; partly, judge/failed
  assert lib.expects_verdict(found).tolist() == [[True, False], [True, True]]
  assert lib.metrics(found, 0)['unjudged_share'] == 1 / 3
  # The judge of one kind, weighted with its length.
  words = scores([[0.0, NAN]], [['short', 'gold/empty']])
  length = scores([[0.1, 0.2]], [['scored'] * 2])
  both = scores(
    [[0.1, NAN]], [['scored', 'judge/gold/empty']], judge=words, length=length
  )
  by_kind = scores(
    [[0.0, 0.0], [0.1, NAN]],
    [['wrong', 'format/open'], ['scored', 'judge/gold/empty']],
    asr=scores([[0.0, 0.0]], [['wrong', 'format/open']]), msr=both,
  )  # fmt: skip
  found = dataclasses.replace(found, scores=by_kind)
  assert lib.expects_verdict(found).tolist() == [[True, False], [False, False]]
  assert lib.metrics(found, 0)['unjudged_share'] == 0


def test_another_number_of_groups_compiles_nothing():
  with compilations.counted() as compiled:
    for count in 3, 5:
      rewards_PG = np.arange(count * 7.0).reshape(count, 7)
      found = Judged([], [], scores(rewards_PG, rewards_PG), rewards_PG)
      assert not found.flat.any()
  assert compiled.count == 0
