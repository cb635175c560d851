import math

import numpy as np
import pytest

from rlpt_jax.analysis import curves, report_game

NAN = math.nan
COLUMNS = {
  'step': np.arange(4.0),
  'reward/mean': np.array([0.0, 0.5, NAN, 1.0]),
  'held_out_before/reward': np.array([0.1, NAN, NAN, NAN]),
  'held_out/reward': np.array([NAN, 0.3, NAN, 0.6]),
  'held_out_before/reward/truth': np.array([0.2, NAN, NAN, NAN]),
  'held_out/reward/truth': np.array([NAN, 0.3, NAN, 0.5]),
  'pass_rate/asr': np.array([0.0, 0.5, 0.5, 1.0]),
  'pass_rate/new': np.array([0.0, 0.5, 0.5, 1.0]),
  'reward/judge/mean': np.ones(4),
  'entropy': np.full(4, NAN),
  'compute/total_rollout_flops': np.array([1e6, 2e6, 3e6, 4e6]),
  'compute/total_update_flops': np.array([2e6, 4e6, 6e6, 8e6]),
  'compute/total_rollout_tokens': np.array([1e3, 2e3, 3e3, 4.2e3]),
  'timing/step_s': np.array([10.0, 1.0, 1.0, 70.0]),
  'timing/update_s': np.array([4.0, 0.5, 0.5, 20.0]),
  'timing/idle_s': np.array([6.0, 0.5, 0.5, 50.0]),
  'timing/save_s': np.zeros(4),
  'timing/tokens_per_s': np.ones(4),
}


def test_panels_are_those_with_values_in_their_order():
  found = curves.panels(curves.MAIN, [{'step': np.arange(4.0)}, COLUMNS])
  assert [panel['key'] for panel in found] == [
    'reward/mean', 'held_out/reward', 'held_out/reward/truth', 'pass_rate/asr',
    'pass_rate/new',
  ]  # fmt: skip
  assert [panel['title'] for panel in found[2:]] == [
    'Held-out reward: truth', 'Accuracy: asr (the next segment)',
    'Accuracy: new',
  ]  # fmt: skip
  more = curves.panels(curves.MORE, [COLUMNS])
  assert 'reward/judge/mean' in [panel['key'] for panel in more]


def test_every_curve_says_what_good_looks_like():
  plain = {'learning_rate', 'reward/{}/mean'}
  for curve in (*curves.MAIN, *curves.MORE, *report_game.CURVES):
    assert ('Good:' in curve.meaning or curve.key == 'loss') != (
      curve.key in plain
    )


def test_axes_begin_before_the_first_step():
  found = curves.axes(COLUMNS)
  assert found['step'].tolist() == [0, 1, 2, 3, 4]
  # Rollouts and updates: 3e6 a step.
  assert found['compute'].tolist() == [0, 3e6, 6e6, 9e6, 12e6]
  assert found['time'].tolist() == [0, 10, 11, 12, 82]
  assert set(curves.axes({'step': np.arange(2.0)})) == {'step'}


def test_a_step_is_where_it_has_ended_counted_from_one():
  found = curves.series(COLUMNS, 'held_out/reward')
  np.testing.assert_array_equal(found, [0.1, NAN, 0.3, NAN, 0.6])
  found = curves.series(COLUMNS, 'reward/mean')
  np.testing.assert_array_equal(found, [NAN, 0, 0.5, NAN, 1])
  alone = {'held_out/loss': np.array([NAN, 2.0])}
  found = curves.series(alone, 'held_out/loss')
  np.testing.assert_array_equal(found, [NAN, NAN, 2])


def test_time_parts_sum_to_the_step():
  parts = curves.time_parts(COLUMNS)
  assert parts == ['timing/update_s', 'timing/idle_s']
  total = sum(COLUMNS[key] for key in parts)
  np.testing.assert_array_equal(total, COLUMNS['timing/step_s'])


def test_verdicts_of_a_step_sum_to_one():
  found = curves.verdicts(
    {
      'reward/mean': np.zeros(3),
      'reward/truth/mean': np.zeros(3),
      'reason/format/open': np.array([0.25, NAN, NAN]),
      'reason/right': np.array([0.75, 1.0, NAN]),
      'reason/truth/wrong': np.array([NAN, 1.0, 1.0]),
    }
  )
  assert [*found] == ['', 'truth']
  assert [*found['truth']] == ['wrong']
  np.testing.assert_array_equal(found['']['format/open'], [0.25, 0, NAN])
  np.testing.assert_array_equal(found['']['right'], [0.75, 1, NAN])
  assert curves.reasons(['new', 'format/open', 'judge/new', 'right']) == [
    'right', 'format/open', 'judge/new', 'new',
  ]  # fmt: skip


def test_thinned_are_means_of_neighbours():
  values = np.array([1.0, 3.0, NAN, 5.0, NAN, NAN])
  np.testing.assert_array_equal(curves.thinned(values, 3), [2, 5, NAN])
  assert curves.thinned(values, 6) is values


def test_numbers_are_json():
  found = curves.numbers(np.array([1 / 3, NAN, math.inf, 123456.0]))
  assert found == [0.33333, None, None, 123460.0]


def test_facts():
  assert curves.facts(COLUMNS) == {
    'held-out reward': '0.100 → 0.600',
    'held-out reward: truth': '0.200 → 0.500',
    'reward': '0.000 → 1.000',
    'steps': '4',
    'tokens sampled': '4.2k',
    'FLOPs': '1.2e07',
    'wall time': '1 min 22 s',
  }


def test_facts_of_a_game_have_both_rewards():
  found = curves.facts(COLUMNS | {'chooser/reward/mean': np.arange(4) / 4})
  assert found['reward of spans'] == '0.000 → 0.750'


def test_an_accuracy_that_is_the_reward_is_not_said_twice():
  name = 'held-out accuracy'
  same = COLUMNS | {'held_out/pass_rate': COLUMNS['held_out/reward']}
  same['held_out_before/pass_rate'] = COLUMNS['held_out_before/reward']
  assert name not in curves.facts(same)
  other = same | {'held_out/pass_rate': np.array([NAN, 0.3, NAN, 0.7])}
  assert curves.facts(other)[name] == '0.100 → 0.700'


@pytest.mark.parametrize(
  'seconds, text',
  [(41.6, '42 s'), (185, '3 min 5 s'), (7800, '2 h 10 min')],
)
def test_duration(seconds, text):
  assert curves.duration(seconds) == text
