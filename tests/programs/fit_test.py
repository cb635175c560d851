"""`rlpt fit`: folders of runs to forecasts."""

import json
import math

import numpy as np
import pytest

from rlpt_jax import cli
from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.programs import fit
from rlpt_jax.programs.train_rl import train_rl
from rlpt_jax.programs.train_sft import train_sft
from rlpt_jax.rollout import held_out_files
from rlpt_jax.runs import logs
from tests.programs import learning_task

QUESTIONS = 400


def write(workdir, *, seed=0, every=10, curve=None, questions=True, **settings):
  """A run of 300 steps with 1e12 FLOPs and 36 seconds each."""
  rng = np.random.default_rng(seed)
  (workdir / 'held_out').mkdir(parents=True)

  def sigmoid(share):
    return 0.2 + 0.45 / (1 + (0.3 / max(share, 1e-9)) ** 1.7)

  def tried(updates):
    right_Q = rng.random(QUESTIONS) < (curve or sigmoid)(updates / 300)
    if questions:
      lines = (
        json.dumps({'example': f'{i}', 'rewards': [float(right)]})
        for i, right in enumerate(right_Q)
      )
      path = workdir / 'held_out' / f'{updates:08}.jsonl'
      path.write_text('\n'.join(lines) + '\n')
    return right_Q.mean()

  metrics, timing = [], []
  for step in range(300):
    line = {'step': step, 'compute/total_update_flops': (step + 1) * 10**12}
    if step == 0:
      line['held_out_before/reward'] = tried(0)
    if (step + 1) % every == 0:
      line['held_out/reward'] = tried(step + 1)
    metrics.append(json.dumps(line) + '\n')
    timing.append(json.dumps({'step': step, 'timing/step_s': 36.0}) + '\n')
  (workdir / 'metrics.jsonl').write_text(''.join(metrics))
  (workdir / 'timing.jsonl').write_text(''.join(timing))
  config = {'is': 'train_rl.Config', 'seed': seed, 'num_steps': 300, **settings}
  (workdir / 'config.json').write_text(json.dumps(config))
  return workdir


def ran(capsys, *arguments):
  """What the command printed, and its status."""
  status = cli.main(['fit', *map(str, arguments)])
  printed = capsys.readouterr()
  return status, printed.out, printed.err


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return write(tmp_path_factory.mktemp('runs') / 'run')


def test_the_end_is_forecast_from_the_first_half(run, capsys):
  status, out, _ = ran(capsys, run)
  assert status == 0
  # The same numbers, computed from the file without the command.
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').open()]
  rewards = [lines[0]['held_out_before/reward']]
  rewards += [x['held_out/reward'] for x in lines if 'held_out/reward' in x]
  x, y = np.arange(31) * 1e13, np.array(rewards)
  fits = forecasts.candidates(forecasts.Points(x[:16], y[:16]))
  predicted = float(fits[0].likelihood.fit(3e14))
  low, high = forecasts.interval(fits, 3e14)
  held = 'inside' if low <= y[-1] <= high else 'outside'
  assert out.startswith(
    'run\nFrom the first 50% of the run (16 measurements up to 1.5e14 FLOPs), '
    f'the end is predicted to be {predicted:.3f}, with a 90% interval of '
    f'{low:.3f} to {high:.3f} ({fits[0].curve.name}). Measured: {y[-1]:.3f}, '
    f'{held} the interval; error {predicted - y[-1]:+.3f}.'
  )
  assert (
    'From all 31 measurements (up to 3e14 FLOPs), the reward at 6e14 ' in out
  )
  assert 'with other questions' in out and "ScaleRL's grid, with R0 as" in out


def test_json_has_all_numbers(run, capsys):
  status, out, _ = ran(capsys, run, '--json', '--ahead', '3')
  (record,) = json.loads(out)
  made, whole = record['forecast'], record['whole']
  assert status == 0 and record['run'] == 'run'
  assert (made['measurements'], made['at']) == (16, 3e14)
  assert made['error'] == pytest.approx(made['predicted'] - made['measured'])
  low, high = made['interval']
  assert made['covered'] == (low <= made['measured'] <= high)
  misses = [curve['miss'] for curve in made['curves']]
  assert misses == sorted(misses) and len(misses) == 3
  assert made['predicted'] == made['curves'][0]['predicted']
  assert (whole['end'], whole['at']) == (3e14, pytest.approx(9e14))
  (sigmoid,) = (x for x in whole['curves'] if x['curve'] == 'sigmoid')
  # The interval from the points, and the one from other questions.
  for low, high in (sigmoid['intervals']['A'], whole['bootstrap']['A']):
    assert low < 0.65 < high
  assert whole['bootstrap']['drawn'] == ['questions']
  assert whole['scalerl']['A'] == pytest.approx(0.65, abs=0.1)


def test_hours_and_steps_have_the_same_shape(run, capsys):
  """All steps cost the same, so only the unit is another."""
  found = {}
  for against, end in (('flops', 3e14), ('hours', 3.0), ('steps', 300)):
    _, out, _ = ran(capsys, run, '--json', '--against', against)
    (record,) = json.loads(out)
    found[against] = record['forecast']['interval']
    assert record['forecast']['at'] == pytest.approx(end)
  assert found['hours'] == pytest.approx(found['flops'])
  assert found['steps'] == pytest.approx(found['flops'])


def test_seeds_of_one_experiment_are_fitted_together(tmp_path, capsys):
  for seed in range(3):
    write(tmp_path / f'seed{seed}', seed=seed, loss='ppo')
  other = write(tmp_path / 'other', seed=3, loss='cispo')
  folders = sorted(tmp_path.iterdir())
  _, out, _ = ran(capsys, *folders, '--json')
  *runs, together = json.loads(out)
  assert [x['run'] for x in runs] == ['other', 'seed0', 'seed1', 'seed2']
  assert together['runs'] == ['seed0', 'seed1', 'seed2']
  whole = together['whole']
  assert whole['measurements'] == 93
  assert whole['bootstrap']['drawn'] == ['questions', 'seeds']
  widths = {
    name: np.ptp(record['bootstrap']['A'])
    for name, record in (('all', whole), ('one', runs[1]['whole']))
  }
  assert widths['all'] < widths['one']
  _, out, _ = ran(capsys, *folders[1:3])
  assert '\n\nseed0, seed1: seeds of one experiment\nFrom all 62' in out
  assert fit.seeds([other, folders[1]]) == []


def test_runs_without_rewards_of_questions_say_so(tmp_path, capsys):
  write(tmp_path / 'old', questions=False)
  _, out, _ = ran(capsys, tmp_path / 'old')
  assert 'With other questions: unknown; held_out/ lacks' in out
  assert 'with other' not in out


def test_what_cannot_be_fitted_is_refused_in_one_line(tmp_path, capsys):
  curves = {'flat': lambda x: 0.3, 'falling': lambda x: 0.6 - 0.4 * x}
  for name, curve in curves.items():
    write(tmp_path / name, curve=curve)
    status, out, error = ran(capsys, tmp_path / name)
    assert status == cli.USAGE_ERROR and out == ''
    assert error.startswith(f'rlpt fit: {name}: the held-out reward ')
    assert {'flat': ' is flat (0.', 'falling': ' falls (0.'}[name] in error
  few = write(tmp_path / 'few', every=50)
  status, out, error = ran(capsys, few)
  assert 'few: 7 measurements of the held-out reward; expected at l' in error
  assert 'has no metrics.jsonl' in ran(capsys, tmp_path)[2]
  assert 'RUN: expected the folders' in ran(capsys)[2]
  # Beside others, it is said where the run's forecast would be.
  good = write(tmp_path / 'good')
  status, out, _ = ran(capsys, few, good)
  assert status == 0
  assert (
    out.startswith('few: not fitted: 7 measurements') and 'good\nFrom' in out
  )
  _, out, _ = ran(capsys, few, good, '--json')
  assert json.loads(out)[0].keys() == {'run', 'refused'}
  # Enough for a fit, too little for a forecast.
  some = write(tmp_path / 'some', every=25)
  _, out, _ = ran(capsys, some)
  assert out.startswith(
    'some\nNo forecast of the end: the first 50% of the run: 7 measurements'
  )
  assert 'From all 13 measurements' in out


def test_wrong_options_are_refused(run, capsys, tmp_path):
  for option, value in (
    ('share', 1), ('share', 0), ('discard', 1), ('ahead', 0), ('most', 'nan'),
  ):  # fmt: skip
    status, _, error = ran(capsys, run, f'--{option}', value)
    assert status == cli.USAGE_ERROR
    assert f'--{option} {value}: expected a number' in error
  assert 'most 0.5' in ran(capsys, run, '--most', 0.5)[2]
  error = ran(capsys, run, '--out', tmp_path / 'fit.pdf')[2]
  assert 'fit.pdf: expected a name in .png or .svg' in error
  (tmp_path / 'mine.png').write_text('mine')
  assert (
    'mine.png: exists' in ran(capsys, run, '--out', tmp_path / 'mine.png')[2]
  )


def test_a_picture(run, capsys, tmp_path):
  for suffix, beginning in fit.PICTURES.items():
    out = tmp_path / f'fit{suffix}'
    for _ in range(2):  # It replaces its own.
      assert ran(capsys, run, '--out', out)[0] == 0
    assert out.read_bytes().startswith(beginning)


def test_the_beginning_may_be_left_out(run, capsys):
  _, out, _ = ran(capsys, run, '--json', '--discard', '0.1')
  (record,) = json.loads(out)
  # At 0, and at 0.1 and later of 300 steps: 30, 40, ..., 300.
  assert record['whole']['measurements'] == 29


@pytest.mark.slow
def test_a_real_run(tmp_path, capsys):
  """What train_rl writes is read, with the rewards of each question."""
  folder = learning_task.write(tmp_path / 'task')
  train_sft(learning_task.cold_start(folder), workdir=tmp_path / 'sft')
  config = learning_task.learning(
    folder, tmp_path / 'sft' / 'checkpoints', num_steps=24,
    held_out=learning_task.held_out(folder, every=1),
  )  # fmt: skip
  train_rl(config, workdir=tmp_path / 'rl')
  rewards = held_out_files.read(tmp_path / 'rl')
  assert [*rewards] == list(range(25))
  found = forecasts.points(logs.read_columns(tmp_path / 'rl'), 'flops', rewards)
  np.testing.assert_allclose(found.rewards_NQ.mean(axis=1), found.y, atol=1e-6)
  capsys.readouterr()  # What the training printed.
  status, out, _ = ran(capsys, tmp_path / 'rl', '--json')
  (record,) = json.loads(out)
  assert status == 0 and record['whole']['bootstrap']['drawn'] == ['questions']
  assert math.isclose(record['whole']['end'], found.x[-1])
  # It ends near 1, and no reward is above that.
  assert record['forecast']['interval'][1] <= 1
