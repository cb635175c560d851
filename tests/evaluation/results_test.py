"""Numbers of an evaluation, from answers whose rewards are known."""

import io
import json

import numpy as np
import pytest
import rich.console

from rlpt_jax.analysis.pass_at_k import estimate
from rlpt_jax.evaluation import results
from rlpt_jax.evaluation.results import Tally


def _lines(rewards, reason='right', finish='stop'):
  return [
    {'reward': x, 'reason': reason, 'finish_reason': finish, 'tokens': 10}
    for x in rewards
  ]


def _result(*groups, ks=(1, 2), names=None):
  tally = Tally()
  for group in groups:
    tally.add(_lines(group))
  return results.result(tally, names or [''] * len(groups), ks)


def test_means_are_of_problems():
  found = _result([1, 1, 0, 0], [0, 0, 0, 1])
  # (2/4 + 1/4) / 2; of 6 pairs, 5 of the first problem have a right one, 3 of
  # the second.
  assert found['mean']['value'] == 0.375
  assert found['pass']['1'] == found['mean']
  assert found['pass']['2']['value'] == pytest.approx((5 / 6 + 3 / 6) / 2, 1e-5)
  assert (found['problems'], found['samples']) == (2, 4)
  expected = estimate(np.array([0.5, 0.25]), 4)
  assert found['mean']['low'] == pytest.approx(expected.low, abs=1e-6)
  assert 'groups' not in found


def test_an_answer_without_a_verdict_is_no_zero():
  found = _result([1, 1, None, None], [None] * 4, [0, 0, 0, None], ks=(1, 3))
  assert found['no_verdict'] == 7
  # 2 of 2, nothing known, 0 of 3.
  assert found['mean']['value'] == 0.5
  assert found['mean']['problems'] == 2
  # Only the last has as many as three.
  assert (found['pass']['3']['value'], found['pass']['3']['problems']) == (0, 1)
  assert _result([None])['mean'] == {
    'value': None, 'low': None, 'high': None, 'problems': 0,
  }  # fmt: skip


def test_parts_count_in_the_mean_and_half_is_right():
  found = _result([0.5, 0.4], ks=(1, 2, 8))
  assert found['mean']['value'] == 0.45
  assert found['pass']['1']['value'] == 0.5
  assert list(found['pass']) == ['1', '2']  # There are no eight.


def test_what_answers_lack_is_counted():
  tally = Tally()
  tally.add(_lines([0], 'format/missing') + _lines([0], 'wrong', 'length'))
  tally.add(_lines([0, 1]))
  found = results.result(tally, ['b', 'a'], (1,))
  assert (found['no_answer'], found['truncated']) == (0.25, 0.25)
  assert found['tokens'] == 10
  assert [(k, v['value']) for k, v in found['groups'].items()] == [
    ('a', 0.5), ('b', 0),
  ]  # fmt: skip


def test_a_line_takes_the_place_of_the_one_before(tmp_path):
  path = tmp_path / 'results.jsonl'
  for i, (model, benchmark) in enumerate(['ax', 'ay', '\u2028x', 'ax']):
    line = {'model': model, 'benchmark': benchmark, 'i': i}
    lines = results.add(path, line)
  assert [line['i'] for line in lines] == [3, 1, 2]
  assert results.read(path) == lines
  assert [json.loads(x) for x in path.read_bytes().splitlines()] == lines
  assert [x.name for x in tmp_path.iterdir()] == ['results.jsonl']
  path.write_text('{"model": 1}\n')
  with pytest.raises(
    ValueError, match=r'results\.jsonl: differs from what rlpt evalua'
  ):
    results.read(path)


def test_tables_fit_a_terminal():
  lines = [
    {'model': 'a-long-name-of-a-run-checkpoints@1000', 'benchmark': name}
    | _result([1, 1, 0, None] * 2, [0] * 8, ks=(1, 8))
    for name in ('gsm8k', 'olympiad_bench')
  ]
  lines.append({**lines[0], 'model': 'other'})
  console = rich.console.Console(width=80, file=io.StringIO())
  for table in results.tables(lines):
    console.print(table)
  shown = console.file.getvalue().splitlines()
  assert 'a-long-name-of-a-run-checkpoints@1000' in shown[0]
  (row,) = [line for line in shown if 'olympiad_bench' in line]
  # mean (4/6 + 0) / 2; pass@8 of the problem that has 8 verdicts.
  assert row.split()[:5] == ['olympiad_bench', '2', '8', '33.3', row.split()[4]]
  assert row.split()[5:] == ['0.0', '0%', '0%', '2', '10']
  assert sum('other' in line for line in shown) == 1
