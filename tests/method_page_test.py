"""The page of the comparison of methods, on simulated results."""

import itertools
import json
import re
import sys
from html import unescape

import numpy as np
import pytest
import scipy.stats

from tests.method_files import BUDGETS, Cell, write

import method_page  # isort: skip  (tests.method_files makes it known)
import method_results  # isort: skip

CELLS = [
  Cell('rlpt', 'The method <itself>', 'methods', None),
  Cell('ntp', 'Does it beat next tokens?', 'methods'),
  Cell('sft', 'Does it beat imitation?', 'methods'),
  Cell('questions', 'Does it beat questions?', 'methods'),
  Cell('no_thinking', 'Does thinking pay?', 'rewards'),
  Cell('gone', 'Never run', 'rewards'),
  *(
    Cell(f'noise_{kind}_{percent:02}', 'What do errors cost?', 'noise')
    for kind in ('accept', 'reject')
    for percent in (5, 20)
  ),
]
ENDS = {
  'rlpt': (0.35, 0.5), 'ntp': (0.3, 0.3), 'sft': (0.35, 0.5),
  'questions': (0.4, 0.75), 'no_thinking': (0.3, 0.4),
  'noise_accept_05': (0.34, 0.48), 'noise_accept_20': (0.34, 0.3),
  'noise_reject_05': (0.34, 0.5), 'noise_reject_20': (0.34, 0.45),
}  # fmt: skip
LEFT_OUT = {'DPO': 'needs pairs that raw text <lacks>'}


@pytest.fixture
def folder(tmp_path):
  write(tmp_path / 'made_up', CELLS, ENDS, fewer=('no_thinking',))
  return tmp_path / 'made_up'


def html(folder, cells=CELLS) -> str:
  return method_page.method_page(method_results.load(folder), cells, LEFT_OUT)


def text(found: str) -> str:
  found = re.sub('<style.*</style>', '', found, flags=re.DOTALL)
  found = re.sub('<[^>]*>', ' ', found.replace('<wbr>', ''))
  return re.sub(r'\s+', ' ', unescape(found))


def row(found: str, table: str, cell: str) -> list[str]:
  """The texts of a row of a table."""
  part = found.partition(f'aria-label="{table}"')[2].partition('</table>')[0]
  for line in re.findall('<tr>(.*?)</tr>', part, re.DOTALL):
    texts = re.findall('<t[hd][^>]*>(.*?)</t[hd]>', line, re.DOTALL)
    texts = [text(each).strip() for each in texts]
    if texts[0] == cell:
      return texts
  raise AssertionError(f'{cell}: not in the table {table!r}')


def right(folder, cell, budget=-1, file='questions', after=False):
  """Right answers of a cell, as a list for each seed; read plainly."""
  found = []
  for path in sorted((folder / '1m').glob(f'{cell}_?.json')):
    record = json.loads(path.read_text())
    place = record['after_rlvr'] if after else record['budgets'][budget]
    found.append([int(digit) / 4 for digit in place['right'][file]])
  return found


def plain_interval(rows):
  """The interval of a mean, by sums over seeds and questions."""
  num_seeds, num_questions = len(rows), len(rows[0])
  mean = sum(map(sum, rows)) / num_seeds / num_questions
  seeds = [sum(row) / num_questions for row in rows]
  questions = [sum(column) / num_seeds for column in zip(*rows, strict=True)]
  of_seeds = num_questions * sum((x - mean) ** 2 for x in seeds)
  of_questions = num_seeds * sum((x - mean) ** 2 for x in questions)
  total = sum((x - mean) ** 2 for row in rows for x in row)
  rest = total - of_seeds - of_questions
  # Mean squares.
  of_seeds /= num_seeds - 1
  of_questions /= num_questions - 1
  rest /= (num_seeds - 1) * (num_questions - 1)
  count = num_seeds * num_questions
  reach = (
    scipy.stats.t.ppf(0.975, num_seeds - 1) ** 2 * of_seeds / count
    + scipy.stats.t.ppf(0.975, num_questions - 1) ** 2
    * max((of_questions - rest) / count, num_questions**-2)
  ) ** 0.5
  return mean, mean - reach, mean + reach


def shown(value, low, high) -> str:
  return f'{value:.1%} {100 * low:.1f} to {100 * high:.1f}'


def test_accuracies_equal_a_plain_computation(folder):
  found = html(folder)
  for cell in ('rlpt', 'ntp', 'no_thinking'):
    texts = row(found, 'all cells', cell)
    for i in range(len(BUDGETS)):
      expected = shown(*plain_interval(right(folder, cell, i)))
      assert texts[2 + i] == expected
    for i, file in enumerate(('longer', 'noisier', 'harder')):
      expected = shown(*plain_interval(right(folder, cell, file=file)))
      assert texts[8 + i] == expected
    expected = shown(*plain_interval(right(folder, cell, after=True)))
    assert texts[11] == expected
  assert row(found, 'all cells', 'no_thinking')[1] == '2'


def test_differences_and_p_values_equal_a_plain_computation(folder):
  found = html(folder)
  rows = {cell.name: np.array(right(folder, cell.name)) for cell in CELLS[:4]}
  base, expected = rows.pop('rlpt'), {}
  for cell, right_SQ in rows.items():
    each_Q = right_SQ.mean(axis=0) - base.mean(axis=0)
    by_seed, rest = [], 0
    for part in (right_SQ, base):
      residuals = part - part.mean(1)[:, None] - part.mean(0) + part.mean()
      rest += (residuals**2).sum() / (2 * 199) / 600
      by_seed.append(part.mean(axis=1).var(ddof=1) / 3)
    freedom = sum(by_seed) ** 2 / sum(each**2 / 2 for each in by_seed)
    by_question = max(each_Q.var(ddof=1) / 200 - rest, 1 / 200**2)

    def reach(alpha, *parts):
      return (
        sum(
          scipy.stats.t.ppf(1 - alpha / 2, df) ** 2 * variance
          for variance, df in parts
        )
        ** 0.5
      )

    parts = ((sum(by_seed), freedom), (by_question, 199))
    value = each_Q.mean()
    # The smallest alpha whose interval excludes 0.
    p = scipy.optimize.brentq(
      lambda log: reach(np.exp(log), *parts) - abs(value), -30, 0  # noqa: B023
    )  # fmt: skip
    expected[cell] = value, reach(0.05, *parts), np.exp(p)
  ordered = sorted(expected, key=lambda cell: expected[cell][2])
  largest = 0
  for rank, cell in enumerate(ordered):
    value, half, p = expected[cell]
    largest = max(largest, min(1, p * (3 - rank)))
    texts = row(found, 'all cells', cell)
    low, high = 100 * (value - half), 100 * (value + half)
    told = f'{100 * value:+.1f} to rlpt {low:+.1f} to {high:+.1f}'
    assert texts[5].replace('−', '-') == told
    assert texts[6] in (f'{largest:.2g}', 'p < 0.0001')


def test_conclusions_name_what_is_shown_and_what_is_not(folder):
  said = text(html(folder))
  assert 'Of 9 comparisons with a baseline: ' in said
  assert re.search(r'worse ntp is worse than rlpt: −2\d\.\d points \(−', said)
  assert re.search(r'better questions is better than rlpt: \+2\d\.\d', said)
  assert 'sft against rlpt: no significant difference, ' in said
  assert 'gone against rlpt: missing, as gone has no result at' in said
  # Negative results come first, as most do not pay.
  assert said.index('worse ntp') < said.index('sft against rlpt')
  assert said.index('sft against rlpt') < said.index('better questions')
  assert 'The method' not in said  # It is a baseline, and decides nothing.
  assert re.search(r'Against the common start: .*better: rlpt \(\+', said)
  assert 'After RLVR, against the baseline after RLVR: worse: ntp' in said
  assert "With the questions 'longer': worse: ntp" in said
  # Eight cells with 3 seeds, and one with 2.
  assert 'alike in all cells (one variance with 17 degrees of freedom)' in said
  assert 'DPO: needs pairs that raw text <lacks>' in said
  assert '<itself>' not in html(folder) and '<lacks>' not in html(folder)


def test_where_most_methods_pay_they_come_first(tmp_path):
  cells = CELLS[:4]
  ends = {'rlpt': (0.3, 0.3), 'ntp': (0.5, 0.6), 'sft': (0.5, 0.6),
          'questions': (0.1, 0.1)}  # fmt: skip
  write(tmp_path / 'made_up', cells, ends)
  said = text(html(tmp_path / 'made_up', cells))
  assert said.index('better ntp') < said.index('worse questions')


def test_what_is_missing_or_uneven_is_said(folder):
  path = folder / '1m' / 'sft_1.json'
  record = json.loads(path.read_text())
  record['budgets'].pop()
  for each in record['budgets']:
    each['flops'] *= 1.5
  path.write_text(json.dumps(record))
  (folder / '1m' / 'start.json').unlink()
  record |= {'cell': 'extra', 'seed': 0}
  (folder / '1m' / 'extra_0.json').write_text(json.dumps(record))
  found = html(folder)
  said = text(found)
  assert 'Missing, without any run: gone.' in said
  assert 'Not in the table of cells: extra.' in said
  assert 'The common start is missing (start.json).' in said
  assert '3 in most cells, but sft 2, no_thinking 2 (' in said
  assert '3 in most cells, but no_thinking 2 (' in said
  assert 'Compute is not equal: sft spent 1.17 times what rlpt did' in said
  assert row(found, 'all cells', 'gone')[2:5] == ['missing'] * 3
  assert row(found, 'all cells', 'sft')[1] == '2–3'
  assert row(found, 'all cells', 'cold_start')[2] == 'missing'
  assert row(found, 'when each cell ran', 'gone')[1:] == ['missing'] * 4
  assert row(found, 'when each cell ran', 'sft')[1:4] == [
    '0, 1, 2', '2026-11-28', 'abcdef123',
  ]  # fmt: skip
  # Three seeds, each 1e14 x 1.02 and then 1.2e14 FLOPs, of 1e11 in a second.
  assert row(found, 'when each cell ran', 'rlpt')[4] == '1 h 51 min'


def test_one_seed_alone_makes_a_page(tmp_path):
  write(tmp_path / 'made_up', CELLS, {'rlpt': (0.3, 0.5), 'ntp': (0.3, 0.3)},
        seeds=1)  # fmt: skip
  said = text(html(tmp_path / 'made_up'))
  assert 'ntp against rlpt: −' in said
  assert '(one seed, no interval), so nothing is shown.' in said
  assert 'significant difference' not in said


def test_no_runs_make_a_page_that_says_so(tmp_path):
  write(tmp_path / 'made_up', CELLS, {})
  said = text(html(tmp_path / 'made_up'))
  assert '1m : no results yet' in said or '1m: no results yet' in said


def test_kinds_of_questions_have_their_own_accuracies(folder):
  texts = row(html(folder), 'by kind of question', 'rlpt')
  rows = right(folder, 'rlpt')
  boxes = [each[1::3] for each in rows]  # As the files were written.
  assert texts[1] == shown(*plain_interval(boxes))
  asr = [each[0::2] for each in rows]
  assert texts[4] == shown(*plain_interval(asr))


def test_noise_is_drawn_against_its_share(folder):
  found = html(folder)
  part = found.partition("What a judge's mistakes cost")[2]
  part = part.partition('What would change')[0]
  assert part.count('<circle') == 6  # Two shares and the baseline, twice.
  assert 'accepts 20%' in part and 'rejects 5%' in part
  texts = row(found, 'a judge&#x27;s mistakes', 'noise_accept_20')
  assert texts[2] == row(found, 'all cells', 'noise_accept_20')[4]


def test_sigmoids_are_fitted_where_there_are_points_enough(tmp_path, folder):
  assert 'No fit: no cell has enough points.' in text(html(folder))
  cells = CELLS[:2]
  many = tuple(np.geomspace(1e13, 1e14, 9))
  write(tmp_path / 'many', cells, {'rlpt': (0.3, 0.7), 'ntp': (0.3, 0.3)},
        budgets=many, questions=1000, seed_sd=0.0)  # fmt: skip
  said = text(html(tmp_path / 'many', cells))
  assert re.search(r'A = \d\d\.\d% \(90% interval \d', said)
  assert re.search(r'ntp: no fit: the accuracy (is flat|falls)', said)


def test_markdown_has_ten_lines(folder):
  every = method_results.load(folder)
  lines = method_page.markdown(every, CELLS).splitlines()
  assert len(lines) == 10
  assert {line.count('|') for line in lines} == {8}
  assert lines[3].startswith('| rlpt | ')
  value, low, high = plain_interval(right(folder, 'ntp'))
  told = f'{value:.1%} ({100 * low:.1f} to {100 * high:.1f})'
  assert told in lines[4] and '| rlpt: −' in lines[4]
  assert lines[-1].startswith('| 4 more | see the page |')
  lines = method_page.markdown(every, CELLS, ['gone']).splitlines()
  assert len(lines) == 10
  assert lines[3].startswith('| gone | missing | missing | missing | rlpt: mis')


def test_the_command_writes_a_page(folder, tmp_path, monkeypatch, capsys):
  table = type(sys)('method_cells')
  table.CELLS, table.LEFT_OUT = tuple(CELLS), LEFT_OUT
  monkeypatch.setitem(sys.modules, 'method_cells', table)
  out = tmp_path / 'page.html'
  command = ['method_page.py', '--results', str(folder), '--out', str(out)]
  monkeypatch.setattr(sys, 'argv', command)
  method_page.main()
  assert out.read_text() == html(folder)
  assert '://' not in out.read_text().replace('http://www.w3.org', '')
  monkeypatch.setattr(sys, 'argv', [*command, '--markdown'])
  capsys.readouterr()
  method_page.main()
  assert len(capsys.readouterr().out.splitlines()) == 10
  monkeypatch.setattr(sys, 'argv', ['method_page.py', '--results', '/none'])
  with pytest.raises(SystemExit, match='no such file; expected the kinds'):
    method_page.main()


@pytest.mark.parametrize(
  ('width', 'dark'), [(1280, False), (390, False), (390, True)]
)
def test_it_fits_a_window(browser, folder, tmp_path, width, dark):
  out = tmp_path / 'page.html'
  out.write_text(html(folder), encoding='utf-8')
  browser.open(out, size=(width, 900), dark=dark)
  assert browser.console == []
  found = browser.evaluate("""
    const wide = document.documentElement.scrollWidth;
    const boxes = [...document.querySelectorAll('.wide')];
    const said = [...document.querySelectorAll('p, li, td, th, h1, h2, h3')];
    const size = (x) => parseFloat(getComputedStyle(x).fontSize);
    return {
      wide, inside: boxes.every((x) => x.getBoundingClientRect().right <= wide),
      scrolls: boxes.map((x) => x.scrollWidth > x.clientWidth),
      smallest: Math.min(...said.map(size)),
      small: Math.min(...[...document.querySelectorAll('small')].map(size)),
      panels: document.querySelectorAll('.panel').length,
      cut: [...document.querySelectorAll('.panel, .said li, .plain li')].filter(
        (x) => x.scrollWidth > x.clientWidth + 1).length,
    };
  """)
  assert found['wide'] <= width
  assert found['inside'] and found['scrolls'][0]
  assert found['smallest'] >= 12 and found['small'] >= 11
  assert found['panels'] == 4 and found['cut'] == 0


def test_every_line_has_its_own_dash_and_colour(folder):
  for panel in re.findall('<figure.*?</figure>', html(folder), re.DOTALL):
    lines = re.findall(
      r'<g class="(run-\d)"><path[^>]*?d="[^"]*"(.*?)/>', panel
    )
    assert len({*lines}) == len(lines) > 0
    for one, other in itertools.combinations(lines, 2):
      assert one[0] != other[0] and one[1] != other[1]
