"""What a step says of its rollouts, by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.programs import collecting
from rlpt_jax.programs.collecting import Drawn, Judged
from rlpt_jax.rewards.scores import Scores

NAN = math.nan


def example(number, kind='asr'):
  tokens = np.arange(number + 1, dtype=np.int32)
  return Example(tokens, ('next',), kind, 'corpus', f'd{number}', 3)


def sample(length, version=0, finish_reason='stop'):
  completion = SimpleNamespace(
    tokens=np.zeros(length, np.int32), versions=np.full(length, version)
  )
  return SimpleNamespace(
    completion=completion, text='x' * length, finish_reason=finish_reason
  )


def scores(rewards_PG, reasons_PG, **parts):
  return Scores(np.array(rewards_PG, np.float32), np.array(reasons_PG), parts)


def judged():
  return Judged(
    [example(0), example(1, 'msr')],
    [[sample(2), sample(4, finish_reason='length')], [sample(6), sample(8)]],
    scores(
      [[1.0, 0.0], [0.5, NAN]],
      [['right', 'format/open'], ['partly', 'judge/failed']],
      length=scores([[0.1, 0.3], [0.5, 0.7]], [['scored'] * 2] * 2),
    ),
  )


def test_metrics_of_a_step():
  found = collecting.metrics(judged(), version=3)
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
    'format_failure_share': 0.25,
    'no_verdict_share': 0.25,
    'reason/judge/failed': 0.25,
    'staleness/mean': 3.0,
    'staleness/max': 3,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_without_any_verdict_there_is_no_mean():
  nothing = Judged(
    [example(0)], [[sample(1), sample(1)]],
    scores([[NAN, NAN]], [['judge/failed'] * 2]),
  )  # fmt: skip
  found = collecting.metrics(nothing, version=0)
  assert math.isnan(found['reward/mean']) and math.isnan(found['pass_rate'])
  assert found['no_verdict_share'] == found['flat_group_share'] == 1


def test_rounds_become_one():
  one = judged()
  both = collecting.together([one, one])
  assert len(both.examples) == len(both.samples) == 4
  np.testing.assert_array_equal(
    both.scores.rewards_PG, np.tile(one.scores.rewards_PG, (2, 1))
  )
  assert both.scores.parts['length'].rewards_PG.shape == (4, 2)
  assert collecting.together([one]) is one
  # A kind that is in one round only.
  other = Judged(
    one.examples, one.samples,
    scores(one.scores.rewards_PG, one.scores.reasons_PG, rare=one.scores),
  )  # fmt: skip
  mixed = collecting.together([one, other]).scores.parts
  assert mixed['rare'].rewards_PG.shape == (2, 2)


def test_lines_are_json_and_say_what_was_learned_from():
  lines = list(judged().lines([True, False]))
  assert json.loads(json.dumps(lines)) == lines
  assert [line['learned_from'] for line in lines] == [True, True, False, False]
  assert lines[3]['reward'] is None
  assert lines[1] | {'completion': '', 'references': []} == {
    'example': 'corpus/d0/3/asr',
    'sample': 1,
    'completion': '',
    'reward': 0.0,
    'reason': 'format/open',
    'finish_reason': 'length',
    'tokens': 4,
    'learned_from': True,
    'references': [],
  }


def test_examples_are_drawn_in_order_each_with_a_name():
  loaded = [
    SimpleNamespace(examples=[example(i % 2)], position=f'after {i}')
    for i in range(5)
  ]
  drawn = Drawn(iter(loaded), count=7, position='before')
  examples, names = drawn.take(3)
  assert [e.document for e in examples] == ['d0', 'd1', 'd0']
  # The same example again is another one to sample.
  assert names == [
    '7/corpus/d0/3/asr',
    '8/corpus/d1/3/asr',
    '9/corpus/d0/3/asr',
  ]
  assert (drawn.count, drawn.position) == (10, 'after 2')
  examples, names = drawn.take(9)
  assert len(examples) == len(names) == 2
  assert drawn.take(1) == ([], [])
  assert (drawn.count, drawn.position) == (12, 'after 4')


def test_a_step_without_any_verdict_is_none():
  collecting.check_verdicts(judged().scores)
  broken = scores(
    [[NAN, NAN], [NAN, NAN]],
    [['judge/failed', 'judge/failed'], ['judge/failed', 'judge/both']],
  )
  with pytest.raises(ValueError) as caught:
    collecting.check_verdicts(broken)
  assert str(caught.value) == (
    'none of 4 completions has a verdict (3 judge/failed, 1 judge/both); '
    'nothing was learned from them. Mend the reward and start again: the run '
    'goes on at its newest checkpoint, with the same prompts.'
  )
