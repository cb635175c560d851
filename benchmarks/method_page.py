"""The page of the comparison of methods: what it found, and what it rests on.

  python benchmarks/method_page.py --out methods.html
  python benchmarks/method_page.py --markdown

The page is one file, which opens offline and fetches nothing. All numbers come
from the files in `--results` (method_results.py); method_statistics.py says how
intervals and p-values are made. What is missing is shown as missing.
"""

import argparse
import functools
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import method_results
import method_statistics as statistics
import method_tables as tables
import method_words as words
import numpy as np
from method_drawings import Line, extent, panel
from method_results import QUESTIONS, RLVR, START, Results

from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis import likelihood as likelihoods
from rlpt_jax.analysis import scaling
from rlpt_jax.analysis.page import asset, page, shown

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / 'results' / 'methods'
LINES = 5  # The most lines of a panel, with the baselines.
NOISE = re.compile(r'(?:noise_)?(?P<kind>accept|reject)s?_(?P<share>\d+)')
INTRO = """Does reinforcement learning on raw text pay, and against what, at
equal compute? Every cell starts from the same model, trains until it has spent
a budget of FLOPs, and answers the same held-out questions, four times each.
Intervals are 95% intervals over other seeds and other questions like these.
Differences are paired by question. A difference is called significant if its
p-value is below 0.05 after Holm's correction for the comparisons of its family
at the same budget and with the same questions."""
LIMITS = (
  'Everything comes from one synthetic world and from small models. Another '
  'world or a larger model may change any of it.',
  'Seeds repeat the training, not the start: all runs begin with the same '
  'model, and another one might favour other methods.',
  'Each method has the settings of its cell. A better tuned one may do better; '
  'no cell was tuned on these questions.',
)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
  parser.add_argument('--out', type=pathlib.Path, default='methods.html')
  parser.add_argument('--markdown', action='store_true')
  parser.add_argument('--cells', nargs='+', help='for the Markdown table')
  options = parser.parse_args()
  import method_cells  # Not above: tests have cells of their own.

  try:
    every = method_results.load(options.results)
  except ValueError as error:
    sys.exit(f'error: {error}')
  cells = method_cells.CELLS
  if options.markdown:
    print(markdown(every, cells, options.cells), end='')
    return
  left_out = getattr(method_cells, 'LEFT_OUT', {})
  options.out.write_text(method_page(every, cells, left_out), 'utf-8')
  print(f'{options.out}: open it in a browser.')


def markdown(
  every: Sequence[Results], cells, names: Sequence[str] | None = None
) -> str:
  """Returns a table of ten lines for each scale.

  names: of the cells that the table has first; p-values are those of all.
  """
  found = statistics.comparisons(every, cells)
  first = [cell for name in names or () for cell in cells if cell.name == name]
  ordered = [*first, *(cell for cell in cells if cell not in first)]
  parts = [tables.markdown(results, ordered, found) for results in every]
  if len(every) == 1:
    return parts[0]
  return '\n'.join(
    f'{results.scale}:\n\n{part}'
    for results, part in zip(every, parts, strict=True)
  )


def method_page(
  every: Sequence[Results], cells, left_out: Mapping[str, str]
) -> str:
  """Returns the page.

  left_out: what was not tried, and why.
  """
  found = statistics.comparisons(every, cells)
  body = [
    '<h1>Does RL on raw text pay?</h1>',
    f'<p class="intro">{INTRO}</p>',
  ]
  for results in every:
    if results.budgets:
      body += _scale(results, cells, found)
    else:
      body.append(f'<h2>{shown(results.scale)}: no results yet</h2>')
      body.append(_list(words.caveats(results, cells)))
  body += _left_out(left_out)
  body.append('<h2>How the numbers are made</h2>')
  body += [
    f'<p class="intro">{shown(" ".join(text.split()))}</p>'
    for text in statistics.__doc__.partition('\n\n')[2].split('\n\n')[:-1]
  ]
  style = asset('report.css') + (FOLDER / 'method_page.css').read_text()
  return page('Does RL on raw text pay?', '\n'.join(body), style=style)


def _scale(results: Results, cells, found) -> list[str]:
  """Returns the sections of one scale."""
  at = words.budget(results, results.budgets[-1])
  return [
    f'<section><h2>{shown(results.scale)}: what was found</h2>',
    *_conclusions(results, cells, found),
    f'</section><section><h2>{shown(results.scale)}: all cells</h2>',
    f'<p class="intro">Accuracies with other questions, the text loss and the '
    f'thinking are those at {at}. Text loss is the rise since the start of '
    'the loss on held-out documents; thinking is the share of tokens in '
    'thoughts. Both have intervals over seeds alone.</p>',
    tables.main_table(results, cells, found),
    '<h3>Accuracy along compute</h3>',
    *_curves(results, cells),
    f'<h3>By kind of question, at {at}</h3>',
    tables.fields_table(results, cells),
    '<h3>Fits of accuracy along compute</h3>',
    *_fits(results, cells),
    "<h3>What a judge's mistakes cost</h3>",
    *_noise(results, cells, found),
    '<h3>What would change these conclusions</h3>',
    _list([*words.changes(results, cells, found), *LIMITS]),
    '<h3>When each cell ran</h3>',
    tables.origins_table(results, cells),
    '</section>',
  ]


def _conclusions(results: Results, cells, found) -> list[str]:
  last = results.budgets[-1]
  at = words.budget(results, last)
  said = words.conclusions(results, cells, found)
  alike = words.if_alike(results, cells, found, last)
  items = ''.join(
    f'<li><b '
    f'class="{verdict.replace(" ", "-")}">{verdict}</b><span>{shown(text)}'
    f'<small>{shown(question)}</small></span></li>\n'
    for verdict, text, question in said
  )
  grouped = functools.partial(words.in_groups, results, cells, found)
  gains = grouped(last, QUESTIONS, to_start=True)
  others = [
    f'Against the common start: {gains}.',
    f'After RLVR, against the baseline after RLVR: {grouped(RLVR, QUESTIONS)}.',
  ]
  others += [
    f'With the questions {file!r}: {grouped(last, file)}.'
    for file in results.files
    if file != QUESTIONS
  ]
  others.append(words.forgetting(results, cells, last))
  return [
    f'<p class="headline">{shown(words.headline(said))}</p>',
    f'<p class="intro">At the largest budget, {at}, with questions like those '
    'in training.</p>',
    f'<ul class="said">{items}</ul>',
    f'<p class="intro">{shown(alike)}</p>',
    f'<h3>Other measures at {at}, in points</h3>',
    _list(others),
    '<h3>What is missing or not equal</h3>',
    _list(words.caveats(results, cells) or ['Nothing.']),
  ]


def _list(items: Sequence[str]) -> str:
  body = ''.join(f'<li>{shown(item)}</li>\n' for item in items)
  return f'<ul class="plain">{body}</ul>'


def _left_out(left_out: Mapping[str, str]) -> list[str]:
  items = [f'{name}: {reason}' for name, reason in left_out.items()]
  return [
    '<h2>What was left out, and why</h2>',
    _list(items or ['The table of cells names nothing.']),
  ]


def _along(results: Results, cell: str) -> list[tuple]:
  """Returns (FLOPs, accuracy, low, high) at the start and at each budget."""
  found = []
  start = statistics.accuracy(results, START, 0)
  if start:
    found.append((0.0, start.value, start.low, start.high))
  for at in results.budgets:
    each = statistics.accuracy(results, cell, at)
    if each:
      flops = results.flops(cell, at)
      found.append((flops, each.value, each.low, each.high))
  return found


def _curves(results: Results, cells) -> list[str]:
  """Returns panels for each family, each with the baselines of its lines."""
  drawn, absent = [], []
  for family, members in tables.families(cells).items():
    there = [cell for cell in members if cell.name in results.runs]
    absent += [cell.name for cell in members if cell not in there]
    parts = tables.chunks(there, LINES - 1)
    for i, part in enumerate(parts, start=1):
      bases = [cell.baseline for cell in part if cell.baseline in results.runs]
      # The baseline first, so that it has the same colour everywhere.
      names = dict.fromkeys([*bases, *(cell.name for cell in part)])
      lines = [Line(name, _along(results, name)) for name in names]
      count = f' ({i} of {len(parts)})' if len(parts) > 1 else ''
      drawn.append((f'{family}{count}', lines))
  bounds = extent([line for _, lines in drawn for line in lines])
  panels = [
    panel(title, lines, 'FLOPs', _flops, bounds=bounds)
    for title, lines in drawn
  ]
  note = f' Missing: {words.several(absent)}.' if absent else ''
  return [
    '<p class="intro">Accuracy with questions like those in training; bands '
    f'are the 95% intervals of each accuracy, not of differences.{note}</p>',
    f'<div class="panels">{"".join(panels)}</div>',
  ]


def _flops(x: float) -> str:
  return words.amount(x).split()[0]


def _fits(results: Results, cells) -> list[str]:
  """Returns fits of ScaleRL's sigmoid, or one line that says why there is none.

  Points are means over seeds, and need at least as many as in `rlpt fit`.
  """
  panels, few, refused = [], [], []
  for cell in cells:
    along = _along(results, cell.name)
    if len(along) < forecasts.FEWEST:
      few.append(cell.name)
      continue
    x, y = np.array([point[:2] for point in along]).T
    try:
      forecasts.check(forecasts.Points(x, y))
    except ValueError as error:
      why = str(error).partition(';')[0].replace('held-out reward', 'accuracy')
      refused.append(f'{cell.name}: no fit: {why}.')
      continue
    found = likelihoods.of(scaling.SIGMOID, x, y)
    panels.append(_fit_panel(cell.name, along, found))
  said = list(refused)
  if few:
    names = (
      'no cell has enough points'
      if len(few) == len(cells)
      else (f'too few points: {words.several(few)}')
    )
    said.append(
      f'No fit: {names}. A sigmoid has 4 parameters and is fitted to at least '
      f'{forecasts.FEWEST} points, the start included.'
    )
  paragraphs = [f'<p class="intro">{shown(text)}</p>' for text in said]
  return [*paragraphs, f'<div class="panels">{"".join(panels)}</div>']


def _fit_panel(name: str, along, found) -> str:
  low, high = found.intervals['A']
  values = found.fit.parameters
  x = np.linspace(0, along[-1][0], 80)
  smooth = [*zip(x, np.clip(found.fit(x), 0, 1), strict=True)]
  note = (
    f'A = {values["A"]:.1%} (90% interval {low:.1%} to {high:.1%}), B = '
    f'{values["B"]:.2f}, Cmid = {words.amount(values["Cmid"])}.'
  )
  return panel(name, [Line(name, along, smooth)], 'FLOPs', _flops, note=note)


def _noise(results: Results, cells, found) -> list[str]:
  """Returns accuracy against the share of wrong verdicts, for each kind."""
  last = results.budgets[-1]
  kinds, rows = {}, []
  for cell in cells:
    match = NOISE.fullmatch(cell.name)
    if not match:
      continue
    percent = int(match['share'])
    each = statistics.accuracy(results, cell.name, last)
    key = (results.scale, cell.name, cell.baseline, last, QUESTIONS)
    wrongly = f'{match["kind"]}s {percent}%'
    against = tables.difference(cell, found.get(key))
    rows.append(
      [tables.named(cell.name), wrongly, tables.share(each), *against]
    )
    if each:
      point = (percent / 100, each.value, each.low, each.high)
      kinds.setdefault((match['kind'], cell.baseline), []).append(point)
  if not rows:
    return ['<p class="intro">No cell has a judge that errs on purpose.</p>']
  lines = []
  for (kind, baseline), points in kinds.items():
    exact = statistics.accuracy(results, baseline, last) if baseline else None
    if exact:
      points.append((0.0, exact.value, exact.low, exact.high))
    lines.append(Line(f'{kind}s wrongly', sorted(points)))
  head = ['cell', 'the judge wrongly', 'accuracy', 'difference to', 'p']
  parts = [
    '<p class="intro">The reward is the truth, except that a share of wrong '
    'answers is accepted, or of right ones rejected. At 0% stands the '
    'baseline.</p>'
  ]
  if lines:
    drawn = panel(
      'Accuracy, by the share of wrong verdicts', lines, 'share',
      lambda x: f'{100 * x:.3g}%',
    )  # fmt: skip
    parts.append(f'<div class="panels">{drawn}</div>')
  return [*parts, tables.table(head, rows, "a judge's mistakes")]


if __name__ == '__main__':
  main()
