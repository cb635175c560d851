"""The tables of the comparison of methods: HTML, and Markdown for a README."""

from collections.abc import Iterable, Sequence

import method_statistics as statistics
import method_words as words
from method_results import QUESTIONS, RLVR, START, At, Results, Run
from method_statistics import Comparison, Estimate

from rlpt_jax.analysis import curves
from rlpt_jax.analysis.page import escaped, shown

MARKDOWN_LINES = 10
MISSING = '<span class="missing">missing</span>'
FIELDS = ('kind', 'task', 'difficulty')  # Of a question.


def shown_budgets(results: Results) -> list[float]:
  """Returns the smallest, a middle and the largest budget."""
  every = results.budgets
  if len(every) <= 3:
    return every
  return [every[0], every[len(every) // 2], every[-1]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str):
  """Returns a table that scrolls in its own box. Cells are HTML."""
  top = ''.join(f'<th scope="col">{each}</th>' for each in head)
  body = ''.join(
    f'<tr><th scope="row">{first}</th>'
    + ''.join(f'<td>{each}</td>' for each in rest)
    + '</tr>\n'
    for first, *rest in rows
  )
  return (
    '<div class="wide" tabindex="0" role="region" '
    f'aria-label="{escaped(label)}"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>'
    '</div>\n'
  )


def named(name: str) -> str:
  """Returns a cell's name, which may be broken at its underscores."""
  return shown(name).replace('_', '_<wbr>')


def share(found: Estimate | None) -> str:
  """Returns a share with its interval below it."""
  if found is None:
    return MISSING
  return f'{found.value:.1%}<small>{_range(found, 100)}</small>'


def main_table(results: Results, cells, found) -> str:
  budgets = shown_budgets(results)
  last = results.budgets[-1]
  others = [file for file in results.files if file != QUESTIONS]
  head = [
    'cell', 'seeds', *(escaped(words.budget(results, at)) for at in budgets),
    'difference to', 'p in its family', 'p of all',
    *map(shown, others), 'after RLVR', 'difference after RLVR', 'p',
    'text loss', 'thinking',
  ]  # fmt: skip
  rows = [_start_row(results, budgets, others)]
  for cell in cells:
    name = cell.name
    counts = [len(results.measured(name, at)) for at in budgets]
    seeds = '–'.join(map(str, sorted({min(counts), max(counts)})))
    against = _against(results, cell, found, last)
    after = _against(results, cell, found, RLVR)
    rows.append([
      named(name), seeds,
      *(share(statistics.accuracy(results, name, at)) for at in budgets),
      *difference(cell, against), _p(against, 'p_all'),
      *(share(statistics.accuracy(results, name, last, f)) for f in others),
      share(statistics.accuracy(results, name, RLVR)),
      *difference(cell, after),
      _rise(words.forgotten(results, name, last)),
      share(words.thinking(results, name, last)),
    ])  # fmt: skip
  return table(head, rows, 'all cells')


def _start_row(results: Results, budgets, others) -> list[str]:
  start = [share(statistics.accuracy(results, START, 0))]
  other = [share(statistics.accuracy(results, START, 0, f)) for f in others]
  thought = results.started().thinking if results.start else None
  return [
    named(START), '1', *start, *[''] * (len(budgets) - 1), '', '', '',
    *other, share(statistics.accuracy(results, START, RLVR)), '', '', '',
    MISSING if thought is None else f'{thought:.1%}',
  ]  # fmt: skip


def _against(results: Results, cell, found, at: At) -> Comparison | None:
  return found.get((results.scale, cell.name, cell.baseline, at, QUESTIONS))


def difference(cell, each: Comparison | None) -> tuple[str, str]:
  """Returns the difference to the baseline, and its corrected p-value."""
  if not cell.baseline:
    return 'is a baseline', ''
  if each is None:
    return f'{named(cell.baseline)}<br>{MISSING}', ''
  between = _range(each.found, 100, signed=True)
  text = (
    f'<span class="{each.verdict.replace(" ", "-")}">'
    f'{words.signed(100 * each.found.value)}</span> to '
    f'{named(cell.baseline)}<small>{between}</small>'
  )
  return text, _p(each, 'p_family')


def _p(each: Comparison | None, name: str) -> str:
  p = getattr(each, name, None)
  return '' if p is None else escaped(words.p_text(p).removeprefix('p = '))


def _range(
  found: Estimate, times: float, digits: int = 1, signed: bool = False
) -> str:
  if found.low is None:
    return 'one seed'
  ends = (times * found.low, times * found.high)
  if signed:
    return ' to '.join(words.signed(end, digits) for end in ends)
  return ' to '.join(f'{end:.{digits}f}' for end in ends)


def _rise(found: Estimate | None) -> str:
  """Returns a change of the text loss, with its interval below it."""
  if found is None:
    return MISSING
  between = _range(found, 1, 3, signed=True)
  return f'{words.signed(found.value, 3)}<small>{between}</small>'


def fields_table(results: Results, cells) -> str:
  """Returns accuracies by kind, task and difficulty of the questions."""
  at = results.budgets[-1]
  values = [
    (field, value)
    for field in FIELDS
    for value in sorted({str(each[field]) for each in _asked(results)})
  ]
  counts = [
    sum(str(each[field]) == value for each in _asked(results))
    for field, value in values
  ]
  head = ['cell'] + [
    f'{field} {shown(value)}<small>{count} questions</small>'
    for (field, value), count in zip(values, counts, strict=True)
  ]
  rows = []
  for name in (START, *(cell.name for cell in cells)):
    found = {
      (field, value): estimate
      for field in FIELDS
      for value, estimate in statistics.by_field(
        results, name, 0 if name == START else at, field
      ).items()
    }
    rows.append([named(name), *(share(found.get(key)) for key in values)])
  return table(head, rows, 'by kind of question')


def _asked(results: Results):
  return results.kinds[QUESTIONS]


def origins_table(results: Results, cells) -> str:
  """Returns when each cell ran, how long, and with which commit."""
  runs = {START: [results.start] if results.start else []}
  runs |= {cell.name: results.runs.get(cell.name, []) for cell in cells}
  runs |= results.runs
  rows = []
  for name, each in runs.items():
    if not each:
      rows.append([named(name), *[MISSING] * 4])
      continue
    seeds = words.several(str(run.seed) for run in each)
    days = words.several(sorted({run.date for run in each}))
    commits = words.several(sorted({run.commit[:9] for run in each}))
    took = sum(map(_seconds, each))
    rows.append(
      [named(name), seeds, shown(days), shown(commits), curves.duration(took)]
    )
  head = ['cell', 'seeds', 'date', 'commit', 'time of all seeds']
  return table(head, rows, 'when each cell ran')


def _seconds(run: Run) -> float:
  """Returns how long a run took; a budget contains the smaller ones."""
  budgets = [each.seconds for at, each in run.measured.items() if at != RLVR]
  after = run.measured.get(RLVR)
  return max(budgets, default=0.0) + (after.seconds if after else 0.0)


def markdown(results: Results, cells, found) -> str:
  """Returns a table of ten lines; what does not fit is counted."""
  budgets = shown_budgets(results)
  if not budgets:
    return f'No run of {results.scale} has a result yet.\n'
  head = [
    'method', *(words.budget(results, at) for at in budgets),
    'difference to', 'p', 'after RLVR',
  ]  # fmt: skip
  lines = [head, ['---'] * len(head)]
  start = statistics.accuracy(results, START, 0)
  lines.append([
    START, _short(start), *['-'] * (len(budgets) + 1),
    _short(statistics.accuracy(results, START, RLVR)),
  ])  # fmt: skip
  room = MARKDOWN_LINES - len(lines)
  fitting = cells if len(cells) <= room else cells[: room - 1]
  for cell in fitting:
    each = _against(results, cell, found, results.budgets[-1])
    told = cell.baseline or '-'
    if each:
      told += f': {words.points(each.found)}'
    elif cell.baseline:
      told += ': missing'
    lines.append([
      cell.name,
      *(_short(statistics.accuracy(results, cell.name, at)) for at in budgets),
      told, words.p_text(each.p_family).removeprefix('p = ') if each else '-',
      _short(statistics.accuracy(results, cell.name, RLVR)),
    ])  # fmt: skip
  if len(fitting) < len(cells):
    rest = [f'{len(cells) - len(fitting)} more', 'see the page']
    lines.append(rest + ['-'] * (len(head) - 2))
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _short(found: Estimate | None) -> str:
  if found is None:
    return 'missing'
  if found.low is None:
    return f'{found.value:.1%} (one seed)'
  return f'{found.value:.1%} ({_range(found, 100)})'


def families(cells) -> dict[str, list]:
  """Returns the cells of each family, in the order of the table."""
  found = {}
  for cell in cells:
    found.setdefault(cell.family, []).append(cell)
  return found


def chunks(items: Sequence, size: int):
  """Returns parts of at most `size`."""
  return [items[i : i + size] for i in range(0, len(items), size)]
