"""The statistics of the comparison of methods, on simulated data sets.

`pytest -n0 -s -k cover` and `-k chance` print how often each statement held.
"""

import json

import numpy as np
import pytest

from tests.method_files import Cell, simulated, write

import method_results  # isort: skip  (tests.method_files makes it known)
import method_statistics as statistics  # isort: skip

SIMULATED = 2000  # A share of 95% is then known to 1 point.
# (the seeds' standard deviation, how questions differ).
WORLDS = {
  'even questions': (0.02, lambda rng, size: rng.uniform(-0.25, 0.25, size)),
  'right or wrong': (0.03, lambda rng, size: rng.choice([-0.4, 0.4], size)),
  'uneven seeds': (0.05, lambda rng, size: rng.uniform(-0.1, 0.1, size)),
}


def test_a_mean_equals_its_formula():
  # Two seeds, three questions. The seeds' means are 1/2 and 2/3, those of the
  # questions 3/4, 3/4 and 1/4.
  right_SQ = np.array([[1, 0.5, 0], [0.5, 1, 0.5]])
  found = statistics.mean(right_SQ)
  assert found.value == pytest.approx(7 / 12)
  by_seed = (1 / 12) ** 2 * 2 / 2  # Variance / number of seeds.
  # Residuals: 1 - 1/2 - 3/4 + 7/12 = 1/3, -1/6, -1/6, and their opposites.
  rest = 2 * (1 / 9 + 1 / 36 + 1 / 36) / 2 / 6
  by_question = (2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2 / 3
  (seeds, one), (questions, two) = found.parts
  assert (one, two) == (1, 2)
  assert seeds == pytest.approx(by_seed)
  # Less than one question of three could change.
  assert by_question - rest < 1 / 9 and questions == pytest.approx(1 / 9)


def test_the_p_value_is_that_of_the_interval():
  """An interval of level 1 - p ends at 0."""
  rng = np.random.default_rng(1)
  found = statistics.difference(
    simulated(rng, 0.55) / 4, simulated(rng, 0.5) / 4
  )
  reach = statistics._reach(found.parts, found.p)
  assert reach == pytest.approx(abs(found.value), rel=1e-6)
  assert 0 < found.p < 1
  # With one part it is Student's: t = 3 with 4 degrees of freedom.
  p = statistics._p_value(3.0, ((1.0, 4),))
  assert p == pytest.approx(0.039942, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('world', WORLDS)
@pytest.mark.parametrize('seeds', [3, 5])
def test_intervals_of_means_cover_the_truth(world, seeds):
  seed_sd, spread = WORLDS[world]
  rng, held, count = np.random.default_rng(0), 0, 5 * SIMULATED
  for _ in range(count):
    right_SQ = simulated(
      rng, 0.5, seeds=seeds, seed_sd=seed_sd, spread_Q=spread(rng, 300)
    )
    found = statistics.mean(right_SQ / 4)
    held += found.low <= 0.5 <= found.high
  print(f'\nmean, {world}, {seeds} seeds: {held / count:.1%}')
  assert 0.93 <= held / count <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize('world', WORLDS)
@pytest.mark.parametrize('seeds', [(3, 3), (5, 5), (3, 5)])
def test_intervals_of_differences_cover_the_truth(world, seeds):
  """The methods differ by 4 points, and by more or less at some questions."""
  seed_sd, spread = WORLDS[world]
  rng, held = np.random.default_rng(0), 0
  for _ in range(SIMULATED):
    shared_Q, own_Q = 0.8 * spread(rng, 300), 0.2 * spread(rng, 300)
    better, other = (
      simulated(
        rng, 0.5 + shift, seeds=count, seed_sd=seed_sd, spread_Q=spread_Q
      )
      for shift, count, spread_Q in (
        (0.02, seeds[0], shared_Q + own_Q),
        (-0.02, seeds[1], shared_Q - own_Q),
      )
    )
    found = statistics.difference(better / 4, other / 4)
    held += found.low <= 0.04 <= found.high
  print(f'\ndifference, {world}, {seeds} seeds: {held / SIMULATED:.1%}')
  assert 0.93 <= held / SIMULATED <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [3, 5])
def test_intervals_of_gains_cover_the_truth(seeds):
  rng, held = np.random.default_rng(0), 0
  for _ in range(SIMULATED):
    spread_Q = rng.uniform(-0.25, 0.25, 300)
    start = simulated(rng, 0.4, seeds=1, seed_sd=0, spread_Q=spread_Q)
    right = simulated(rng, 0.5, seeds=seeds, spread_Q=spread_Q)
    found = statistics.gain(right / 4, start[0] / 4)
    held += found.low <= 0.1 <= found.high
  print(f'\ngain, {seeds} seeds: {held / SIMULATED:.1%}')
  assert 0.93 <= held / SIMULATED <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [3, 5])
def test_one_unstable_method_and_seeds_that_do_not_differ(seeds):
  """Such intervals may be too wide, but are not too narrow."""
  rng = np.random.default_rng(0)
  for seed_sds in ((0.05, 0.01), (0.1, 0), (0, 0)):
    held = 0
    for _ in range(SIMULATED):
      spread_Q = rng.uniform(-0.25, 0.25, 300)
      right, other = (
        simulated(rng, 0.5, seeds=seeds, seed_sd=sd, spread_Q=spread_Q) / 4
        for sd in seed_sds
      )
      found = statistics.difference(right, other)
      held += found.low <= 0 <= found.high
    print(
      f'\nseeds differ by {seed_sds}, {seeds} seeds: {held / SIMULATED:.1%}'
    )
    assert held / SIMULATED >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [3, 5])
def test_a_bootstrap_over_seeds_alone_would_be_too_narrow(seeds):
  """It knows nothing of the questions, and draws from too few seeds."""
  rng = np.random.default_rng(0)
  for seed_sd, spread in WORLDS.values():
    held = {'bootstrap': 0, "Student's": 0}
    for _ in range(SIMULATED):
      right_S = simulated(
        rng, 0.5, seeds=seeds, seed_sd=seed_sd, spread_Q=spread(rng, 300)
      ).mean(axis=1)
      drawn = rng.choice(right_S / 4, (500, seeds)).mean(axis=1)
      low, high = np.percentile(drawn, [2.5, 97.5])
      held['bootstrap'] += low <= 0.5 <= high
      found = statistics.over_seeds(right_S / 4)
      held["Student's"] += found.low <= 0.5 <= found.high
    shares = {name: count / SIMULATED for name, count in held.items()}
    print(f'\nover seeds alone, {seeds} seeds: {shares}')
    assert shares['bootstrap'] < 0.85


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [3, 5])
def test_chance_alone_is_seldom_significant(seeds):
  """Eight cells that equal their baseline: how often is any one different?"""
  rng, single, corrected = np.random.default_rng(0), 0, 0
  for _ in range(SIMULATED):
    spread_Q = rng.uniform(-0.25, 0.25, 300)
    base, *cells = (
      simulated(rng, 0.5, seeds=seeds, spread_Q=spread_Q) / 4 for _ in range(9)
    )
    p = [statistics.difference(cell, base).p for cell in cells]
    single += sum(each <= 0.05 for each in p)
    corrected += any(each <= 0.05 for each in statistics.holm(p))
  print(
    f'\n{seeds} seeds: {single / SIMULATED / 8:.1%} of single tests, '
    f'{corrected / SIMULATED:.1%} of corrected families'
  )
  assert single / SIMULATED / 8 <= 0.05
  assert corrected / SIMULATED <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [(2, 2), (2, 3), (2, 5)])
def test_two_seeds_make_wide_intervals(seeds):
  """Also where the method with two seeds is the less stable one."""
  rng = np.random.default_rng(0)
  for seed_sds in ((0.03, 0.03), (0.05, 0.01)):
    held = 0
    for _ in range(SIMULATED):
      spread_Q = rng.uniform(-0.25, 0.25, 300)
      right, other = (
        simulated(rng, 0.5, seeds=count, seed_sd=sd, spread_Q=spread_Q) / 4
        for count, sd in zip(seeds, seed_sds, strict=True)
      )
      found = statistics.difference(right, other)
      held += found.low <= 0 <= found.high
    share = held / SIMULATED
    print(f'\nseeds differ by {seed_sds}, {seeds} seeds: {share:.1%}')
    assert share >= 0.95


@pytest.mark.slow
def test_one_t_for_all_parts_would_be_too_narrow():
  """Satterthwaite's for means of 3 seeds, and Welch's where one has 2."""
  rng, held = np.random.default_rng(0), {'Satterthwaite': 0, 'Welch': 0}
  for _ in range(SIMULATED):
    spread_Q = rng.uniform(-0.25, 0.25, 300)
    right = simulated(rng, 0.5, seed_sd=0.06, spread_Q=spread_Q) / 4
    seeds, questions = statistics.mean(right).parts
    total, freedom = statistics._welch((seeds, questions))
    reach = statistics._reach(((total, freedom),), 0.05)
    held['Satterthwaite'] += abs(right.mean() - 0.5) <= reach
    two, five = (
      simulated(rng, 0.5, seeds=count, seed_sd=sd, spread_Q=spread_Q) / 4
      for count, sd in ((2, 0.05), (5, 0.01))
    )
    first, second, questions = statistics.difference(two, five).parts
    parts = (statistics._welch((first, second)), questions)
    reach = statistics._reach(parts, 0.05)
    held['Welch'] += abs(two.mean() - five.mean()) <= reach
  shares = {name: count / SIMULATED for name, count in held.items()}
  print(f'\none t for all parts: {shares}')
  assert shares['Satterthwaite'] < 0.935 and shares['Welch'] < 0.92


@pytest.mark.slow
@pytest.mark.parametrize('unstable', [False, True])
def test_one_variance_of_seeds_for_all_cells(unstable):
  """It makes chance significant too often where a cell is less stable."""
  cells = [Cell('rlpt', '', 'main', None)]
  cells += [Cell(f'cell_{i}', '', 'main') for i in range(8)]
  rng, wrong, doubted, count = np.random.default_rng(0), 0, 0, 400
  for _ in range(count):
    spread_Q = rng.uniform(-0.25, 0.25, 300)
    runs = {}
    for cell in cells:
      seed_sd = 0.08 if unstable and cell.name == 'cell_0' else 0.02
      rows = simulated(rng, 0.5, seed_sd=seed_sd, spread_Q=spread_Q) / 4
      runs[cell.name] = [
        method_results.Run(cell.name, i, '', '', {
          1.0: method_results.Measured(1, 1, 1, 0, {'questions': row_Q})
        })
        for i, row_Q in enumerate(rows)
      ]  # fmt: skip
    kinds = {'questions': [{}] * 300}
    results = method_results.Results('1m', None, runs, kinds)
    found = statistics.comparisons([results], cells)
    alike = statistics.if_alike(results, found, 1.0, 'questions')
    wrong += min(alike.p_family.values()) <= 0.05
    doubted += alike.doubt <= 0.05
  assert alike.freedom == 18 and len(alike.p_family) == 8
  print(
    f'\none variance, unstable cell {unstable}: {wrong / count:.1%}, doubted '
    f'in {doubted / count:.1%}'
  )
  if unstable:
    assert wrong / count > 0.1 and doubted / count > 0.2
  else:
    assert wrong / count <= 0.05 and doubted / count < 0.08


def test_holm():
  # 0.01 x 3, then 0.02 x 2 and 0.04 x 1, but never below the one before.
  assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx(
    [0.04, 0.03, 0.04]
  )
  assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
  assert statistics.holm([]) == []


def test_one_seed_has_no_interval():
  rng = np.random.default_rng(0)
  one, three = simulated(rng, 0.5, seeds=1) / 4, simulated(rng, 0.5) / 4
  for found in (
    statistics.mean(one),
    statistics.difference(one, three),
    statistics.difference(three, one),
    statistics.gain(one, three[0]),
    statistics.over_seeds([0.5]),
  ):
    assert found.low is found.high is found.p is None
    assert not found.is_alike


def test_nobody_right_is_not_certain():
  none_SQ = np.zeros((3, 200))
  found = statistics.mean(none_SQ)
  assert found.value == found.low == 0
  assert found.high == pytest.approx(0.00986, abs=1e-4)  # t(199) / 200.
  same = statistics.difference(none_SQ, none_SQ)
  assert same.p == 1 and same.is_alike


def test_equivalent_only_if_the_whole_interval_is():
  rng = np.random.default_rng(0)
  spread_Q = rng.uniform(-0.25, 0.25, 5000)
  many = [
    simulated(rng, 0.5, seeds=5, seed_sd=0, spread_Q=spread_Q) / 4
    for _ in range(2)
  ]
  assert statistics.difference(*many).is_alike
  few = [each[:, :100] for each in many]
  assert not statistics.difference(*few).is_alike
  better = np.minimum(many[0] + 0.03, 1)
  assert not statistics.difference(better, many[1]).is_alike


def test_comparisons_and_their_corrections(tmp_path):
  cells = [
    Cell('rlpt', 'The method', 'main', None),
    Cell('ntp', 'Does it beat next tokens?', 'main'),
    Cell('sft', 'Does it beat imitation?', 'main'),
    Cell('noise_accept_05', 'What does noise cost?', 'noise'),
    Cell('gone', 'Never run', 'noise'),
  ]
  write(
    tmp_path, cells,
    {'rlpt': (0.35, 0.5), 'ntp': (0.3, 0.3), 'sft': (0.35, 0.5),
     'noise_accept_05': (0.35, 0.45)},
    fewer=('sft',),
  )  # fmt: skip
  (results,) = method_results.load(tmp_path)
  found = statistics.comparisons([results], cells)
  # Baselines and the start, at 3 budgets and after RLVR, with 4 files.
  files, against, gains = 4, (3 * 4 - 1), (4 * 4 - 1)
  assert len(found) == files * (against + gains)
  key = ('1m', 'ntp', 'rlpt', 1e14, 'questions')
  worse = found[key]
  assert worse.verdict == 'worse'
  assert (worse.num_family, worse.num_all) == (2, 3)

  # By hand, from the digits in the files.
  def right(cell, seeds):
    return np.array([
      [int(digit) / 4 for digit in json.loads(
        (tmp_path / '1m' / f'{cell}_{seed}.json').read_text()
      )['budgets'][-1]['right']['questions']]
      for seed in range(seeds)
    ])  # fmt: skip

  alone = statistics.difference(right('ntp', 3), right('rlpt', 3))
  other = statistics.difference(right('sft', 2), right('rlpt', 3))
  assert worse.found == alone
  assert worse.p_family == pytest.approx(statistics.holm([alone.p, other.p])[0])
  noisy = statistics.difference(right('noise_accept_05', 3), right('rlpt', 3))
  assert worse.p_all == pytest.approx(
    statistics.holm([alone.p, other.p, noisy.p])[0]
  )
  assert worse.p_all >= worse.p_family > alone.p
  assert found['1m', 'rlpt', 'cold_start', 1e14, 'questions'].num_family == 3
  assert not any('gone' in each for each in found)


def test_how_many_seeds_would_settle_it():
  rng = np.random.default_rng(3)
  spread_Q = rng.uniform(-0.25, 0.25, 1000)
  better, other = (
    simulated(rng, level, seeds=3, seed_sd=0.04, spread_Q=spread_Q) / 4
    for level in (0.56, 0.5)
  )
  found = statistics.difference(better, other)
  count = statistics.seeds_needed(found, 3, 0.001)
  (by_seed, _), questions = found.parts
  reach = [
    statistics._reach(((by_seed * 3 / n, 2 * n - 2), questions), 0.001)
    for n in (count - 1, count)
  ]
  assert reach[0] >= abs(found.value) > reach[1]
  same = statistics.difference(other, other)
  assert statistics.seeds_needed(same, 3, 0.05) is None


def test_wrong_files_are_refused(tmp_path):
  cells = [Cell('rlpt', '', 'main', None)]
  with pytest.raises(ValueError, match=r'questions\.json: no such file'):
    method_results.load(tmp_path)
  write(tmp_path, cells, {'rlpt': (0.3, 0.5)})
  path = tmp_path / '1m' / 'rlpt_0.json'
  record = json.loads(path.read_text())
  path.rename(path.with_name('rlpt_7.json'))
  with pytest.raises(
    ValueError, match="cell 'rlpt' and seed 0, expected those"
  ):
    method_results.load(tmp_path)
  path.with_name('rlpt_7.json').unlink()
  record['budgets'][0]['right']['longer'] = '01235'
  path.write_text(json.dumps(record))
  with pytest.raises(ValueError, match="5 digits for 'longer', '01235'"):
    method_results.load(tmp_path)
