"""What the comparison of methods found, in sentences with numbers."""

import collections
import itertools
from collections.abc import Iterable, Sequence

import method_statistics
import numpy as np
from method_results import QUESTIONS, RLVR, START, At, Results
from method_statistics import ALIKE, LEVEL, Comparison, Estimate

VERDICTS = ('worse', 'equivalent', 'undecided', 'better', 'one seed', 'missing')
NEGATIVE = VERDICTS[:3]  # The method does not pay, or this is not shown.
UNEQUAL = 0.05  # Computes that differ by more than this share are not equal.


def signed(value: float, digits: int = 1) -> str:
  """Formats a number with its sign, and a minus at which no line breaks."""
  return f'{round(value, digits) + 0.0:+.{digits}f}'.replace('-', '−')


def points(found: Estimate) -> str:
  """Formats a difference with its interval: '+3.2 points (−1.0 to +7.4)'."""
  text = f'{signed(100 * found.value)} points'
  if found.low is None:
    return f'{text} (one seed, no interval)'
  return f'{text} ({signed(100 * found.low)} to {signed(100 * found.high)})'


def p_text(p: float | None) -> str:
  if p is None:
    return 'none'
  return 'p < 0.0001' if p < 1e-4 else f'p = {p:.2g}'


def amount(flops: float) -> str:
  return f'{flops:.2g} FLOPs'.replace('e+', 'e')


def budget(results: Results, at: At) -> str:
  """Names a budget by what runs spent on it, in the median."""
  if at == RLVR:
    return 'after RLVR'
  spent = [each.flops for cell in results.runs
           for each in results.measured(cell, at)]  # fmt: skip
  return amount(float(np.median(spent)))


def several(names: Iterable[str]) -> str:
  return ', '.join(names)


def sentence(each: Comparison) -> str:
  """Says what one comparison shows, and what it does not."""
  found, cell, other = each.found, each.cell, each.other
  said = f'{points(found)}, {p_text(each.p_family)}'
  if each.num_family > 1 and each.p_family is not None:
    said += f' corrected for {each.num_family} comparisons'
  match each.verdict:
    case 'better' | 'worse' as verdict:
      text = f'{cell} is {verdict} than {other}: {said}.'
      if found.is_alike:
        text += f' But they are within {100 * ALIKE:g} points of each other.'
      if each.p_all > 1 - LEVEL:
        text += (
          f' Corrected for the {each.num_all} comparisons of all families, it '
          f'is not significant ({p_text(each.p_all)}).'
        )
    case 'equivalent':
      text = (
        f'{cell} and {other} are equivalent: {points(found)}, all within '
        f'{100 * ALIKE:g} points of 0.'
      )
    case 'undecided':
      text = f'{cell} against {other}: no significant difference, {said}.'
      if found.p <= 1 - LEVEL:
        text += f' Without the correction it would be one ({p_text(found.p)}).'
    case _:
      text = f'{cell} against {other}: {points(found)}, so nothing is shown.'
  return text


def conclusions(results: Results, cells, found) -> list[tuple[str, str, str]]:
  """Returns (verdict, sentence, what the cell decides) at the largest budget.

  Cells are compared with their baselines. What is not shown to pay comes first,
  if it is at least half of what there is.
  """
  said = []
  at = results.budgets[-1] if results.budgets else None
  for cell in cells:
    if not cell.baseline:
      continue
    each = found.get((results.scale, cell.name, cell.baseline, at, QUESTIONS))
    if each:
      text = sentence(each)
      said.append((each.verdict, text, cell.question))
    else:
      text = f'{cell.name} against {cell.baseline}: missing, as '
      text += f'{_lacking(results, cell, at)} has no result at this budget.'
      said.append(('missing', text, cell.question))
  counts = collections.Counter(verdict for verdict, *_ in said)
  order = [*VERDICTS]
  if counts['better'] > sum(counts[verdict] for verdict in NEGATIVE):
    order = ['better', *(x for x in VERDICTS if x != 'better')]
  return sorted(said, key=lambda each: order.index(each[0]))


def _lacking(results: Results, cell, at: At) -> str:
  names = [cell.name, cell.baseline]
  return ' and '.join(
    name for name in names if not _has(results, name, at)
  )  # fmt: skip


def _has(results: Results, cell: str, at: At) -> bool:
  if cell == START:
    return results.started() is not None
  return bool(results.measured(cell, at))


def headline(said: Sequence[tuple[str, str, str]]) -> str:
  """Counts the verdicts: 'Of 7 comparisons, 2 worse, ...'."""
  counts = collections.Counter(verdict for verdict, *_ in said)
  parts = [
    f'{counts[verdict]} {"with " * (verdict == "one seed")}{verdict}'
    for verdict in VERDICTS
    if counts[verdict]
  ]
  return f'Of {len(said)} comparisons with a baseline: {several(parts)}.'


def in_groups(
  results: Results, cells, found, at: At, file: str, to_start: bool = False
) -> str:
  """Says in one sentence which cells are better, worse and so on."""
  groups = {verdict: [] for verdict in VERDICTS}
  for cell in cells:
    other = START if to_start else cell.baseline
    if not other:
      continue
    each = found.get((results.scale, cell.name, other, at, file))
    if each:
      told = f'{cell.name} ({signed(100 * each.found.value)})'
      groups[each.verdict].append(told)
    else:
      groups['missing'].append(cell.name)
  return '; '.join(
    f'{verdict}: {several(names)}' for verdict, names in groups.items() if names
  )


def if_alike(results: Results, cells, found, at: At) -> str:
  """Says which undecided differences one variance of seeds would decide."""
  alike = method_statistics.if_alike(results, found, at, QUESTIONS)
  names = []
  for cell in cells:
    each = found.get((results.scale, cell.name, cell.baseline, at, QUESTIONS))
    p = alike.p_family.get(cell.name, 1.0)
    if each and each.verdict == 'undecided' and p <= 1 - LEVEL:
      better = 'better' if each.found.value > 0 else 'worse'
      names.append(f'{cell.name} ({better}, {p_text(p)})')
  contradicts = 'contradicts' if alike.doubt <= 1 - LEVEL else 'does not refute'
  return (
    'If seeds varied alike in all cells (one variance with '
    f'{alike.freedom} degrees of freedom), of the undecided differences to '
    f'baselines these would be significant: {several(names) or "none"}. '
    f"Bartlett's test {contradicts} this ({p_text(alike.doubt)}). Conclusions "
    'do not rest on it, as it is wrong for a cell that is less stable.'
  )


def forgotten(results: Results, cell: str, at: At) -> Estimate | None:
  """Returns by how much the loss on held-out text rose since the start."""
  start, measured = results.started(), results.measured(cell, at)
  if not start or not measured:
    return None
  return method_statistics.over_seeds(
    [each.text_loss - start.text_loss for each in measured]
  )


def forgetting(results: Results, cells, at: At) -> str:
  """Says where the loss on held-out text rose most and least."""
  rises = {cell.name: forgotten(results, cell.name, at) for cell in cells}
  rises = {name: rise for name, rise in rises.items() if rise}
  if not rises:
    return 'How much was forgotten is unknown: no text loss, or no start.'
  ordered = sorted(rises, key=lambda name: rises[name].value)
  least, most = (
    f'{signed(rises[name].value, 3)} ({name})'
    for name in (ordered[0], ordered[-1])
  )
  return f'The loss on held-out text changed by {least} to {most}.'


def thinking(results: Results, cell: str, at: At) -> Estimate | None:
  measured = results.measured(cell, at)
  return (
    method_statistics.over_seeds([each.thinking for each in measured])
    if measured
    else None
  )


def caveats(results: Results, cells) -> list[str]:
  """Says what is missing or not equal, so that nothing is passed over."""
  said = []
  names = [cell.name for cell in cells]
  if missing := [name for name in names if name not in results.runs]:
    said.append(f'Missing, without any run: {several(missing)}.')
  if unknown := [name for name in results.runs if name not in names]:
    said.append(f'Not in the table of cells: {several(unknown)}.')
  if results.start is None:
    said.append('The common start is missing (start.json).')
  said += _uneven_seeds(results, names)
  for cell in cells:
    other = cell.baseline
    for at in [*results.budgets, RLVR]:
      if not other or other == START:
        continue
      if not (_has(results, cell.name, at) and _has(results, other, at)):
        continue
      ratio = results.flops(cell.name, at) / results.flops(other, at)
      if abs(ratio - 1) > UNEQUAL:
        said.append(
          f'Compute is not equal: {cell.name} spent {ratio:.2f} times what '
          f'{other} did ({budget(results, at)}).'
        )
  return said


def _uneven_seeds(results: Results, names: Sequence[str]) -> list[str]:
  """Says which cells have other numbers of seeds than most, and where."""
  said, places = [], {}
  for at in [*results.budgets, RLVR]:
    counts = {name: len(results.measured(name, at)) for name in names}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
      continue
    (usual, _), *_ = collections.Counter(counts.values()).most_common(1)
    others = [f'{name} {n}' for name, n in counts.items() if n != usual]
    if others:
      text = f'{usual} in most cells, but {several(others)}'
      places.setdefault(text, []).append(budget(results, at))
    lacking = [
      name for name in names if name in results.runs and name not in counts
    ]
    if lacking and at != RLVR:
      said.append(f'Not yet at {budget(results, at)}: {several(lacking)}.')
  said += [
    f'Seeds differ in number: {text} ({several(where)}).'
    for text, where in places.items()
  ]
  return said


def changes(results: Results, cells, found) -> list[str]:
  """Says what would change each conclusion at the largest budget."""
  said = []
  if not results.budgets:
    return said
  at = results.budgets[-1]
  for cell in cells:
    each = found.get((results.scale, cell.name, cell.baseline, at, QUESTIONS))
    if each and each.found.p is not None:
      said.append(_change(results, each, at))
  return said


def _change(results: Results, each: Comparison, at: At) -> str:
  right_SQ = results.right_SQ(each.cell, at, QUESTIONS)
  if each.other == START:
    other_SQ = results.started().right_Q[QUESTIONS][None]
  else:
    other_SQ = results.right_SQ(each.other, at, QUESTIONS)
  pairs = [
    a - b
    for a, b in itertools.product(right_SQ.mean(axis=1), other_SQ.mean(axis=1))
  ]
  same = sum(pair * each.found.value > 0 for pair in pairs)
  head = f'{each.cell} against {each.other} ({each.verdict}): '
  text = f'{same} of {len(pairs)} pairs of seeds agree on the sign.'
  if each.verdict in ('better', 'worse'):
    nearest = min(abs(each.found.low), abs(each.found.high))
    return (
      f'{head}{text} The end of the interval nearest to 0 is '
      f'{100 * nearest:.1f} points from it.'
    )
  if each.verdict == 'equivalent':
    return head + text
  count = method_statistics.seeds_needed(
    each.found, len(right_SQ), (1 - LEVEL) / each.num_family
  )
  if count is None:
    text += (
      ' More seeds alone would not make a difference of this size significant '
      f'with {right_SQ.shape[1]} questions.'
    )
  else:
    text += (
      f' If it stays as large, {count} seeds each would make it significant; '
      f'there are {len(right_SQ)}.'
    )
  return head + text
