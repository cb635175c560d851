"""Computes the results of evaluations, and shows them as tables."""

import collections
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.table

from rlpt_jax.analysis.pass_at_k import Estimate, estimate, pass_at_k
from rlpt_jax.completions.group_files import Line, encoded
from rlpt_jax.core import output_files

RIGHT = 0.5  # An answer with at least this reward is right.


class Tally:
  """Accumulates the numbers that the result of a benchmark is made of."""

  def __init__(self):
    self.rewards: list[list[float]] = []  # Per problem; NaN: no verdict.
    self.num_bytes = 0  # The size of the complete groups in the answers file.
    self.tokens = 0
    self.counts = collections.Counter()

  @property
  def problems(self) -> int:
    return len(self.rewards)

  def add(self, lines: Iterable[Line]):
    """Counts the answers to one problem."""
    lines = list(lines)
    self.rewards.append(
      [math.nan if line['reward'] is None else line['reward'] for line in lines]
    )
    for line in lines:
      self.tokens += line['tokens']
      self.counts['no_verdict'] += line['reward'] is None
      self.counts['no_answer'] += line['reason'].startswith('format/')
      self.counts['truncated'] += line['finish_reason'] == 'length'


def result(tally: Tally, groups: Sequence[str], ks: Sequence[int]) -> Line:
  """Returns the results of a benchmark.

  Scores leave out answers without a verdict, and problems without any verdict;
  pass@k leaves out problems with fewer than k verdicts. `no_answer`,
  `truncated` and `tokens` are means over all answers.
  """
  rewards_PG = np.array(tally.rewards, np.float64)
  judged_PG = ~np.isnan(rewards_PG)
  n_P = judged_PG.sum(axis=1)
  samples = rewards_PG.shape[1]
  with np.errstate(invalid='ignore'):
    mean_P = np.where(judged_PG, rewards_PG, 0).sum(axis=1) / n_P
  c_P = (judged_PG & (np.nan_to_num(rewards_PG) >= RIGHT)).sum(axis=1)
  answers = rewards_PG.size
  line: Line = {
    'problems': len(rewards_PG),
    'samples': samples,
    'mean': _numbers(estimate(mean_P, samples)),
    'pass': {
      str(k): _numbers(estimate(pass_at_k(n_P, c_P, k), samples))
      for k in sorted(set(ks))
      if k <= samples
    },
    'no_verdict': tally.counts['no_verdict'],
    'no_answer': tally.counts['no_answer'] / answers,
    'truncated': tally.counts['truncated'] / answers,
    'tokens': tally.tokens / answers,
  }
  if len(set(groups)) > 1:
    names = np.array(groups)
    line['groups'] = {
      name: _numbers(estimate(mean_P[names == name], samples))
      for name in sorted(set(groups))
    }
  return line


def _numbers(interval: Estimate) -> dict[str, Any]:
  """Returns an estimate for JSON, with null for NaN."""
  values = {'value': interval.mean, 'low': interval.low, 'high': interval.high}
  return {
    name: None if math.isnan(x) else round(x, 6) for name, x in values.items()
  } | {'problems': interval.problems}


def add(path: pathlib.Path, line: Line) -> list[Line]:
  """Adds a line to a file of results; returns all lines of the file.

  The line replaces an earlier one of the same model and benchmark.
  """
  lines = read(path)
  same = [_key(line) == _key(other) for other in lines]
  if any(same):
    lines[same.index(True)] = line
  else:
    lines.append(line)
  output_files.replace(path, map(encoded, lines))
  return lines


def read(path: pathlib.Path) -> list[Line]:
  if not path.exists():
    return []
  try:
    lines = [json.loads(text) for text in path.read_bytes().splitlines()]
    [_key(line) for line in lines]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path}: differs from what rlpt evaluate writes: {error!r}. Remove it: '
      'the same command rebuilds it from the answers.'
    ) from error
  return lines


def _key(line: Line) -> tuple:
  return line['model'], line['benchmark']


def tables(lines: Sequence[Line]) -> Iterator[rich.table.Table]:
  """Yields a table for each model, for a terminal; scores are in percent."""
  ks = sorted({int(k) for line in lines for k in line['pass']} - {1})
  names = ['benchmark', 'problems', 'n', 'mean@n', '95%']
  names += [f'pass@{k}' for k in ks]
  names += ['cut', 'no\nanswer', 'no\nverdict', 'tokens']
  for model in dict.fromkeys(line['model'] for line in lines):
    shown = rich.table.Table(
      title=model, title_justify='left', title_style='bold',
      box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    for name in names:
      justify = 'left' if name == 'benchmark' else 'right'
      shown.add_column(name, justify=justify, no_wrap=True)
    for line in lines:
      if line['model'] == model:
        shown.add_row(*_row(line, ks))
    yield shown


def _row(line: Line, ks: Sequence[int]) -> list[str]:
  mean = line['mean']
  return [
    line['benchmark'],
    f'{line["problems"]:,}',
    str(line['samples']),
    _percent(mean['value']),
    f'{_percent(mean["low"])}-{_percent(mean["high"])}',
    *(_percent(line['pass'].get(str(k), {}).get('value')) for k in ks),
    f'{line["truncated"]:.0%}',
    f'{line["no_answer"]:.0%}',
    f'{line["no_verdict"]:,}',
    f'{line["tokens"]:,.0f}',
  ]


def _percent(value: float | None) -> str:
  return '' if value is None else f'{100 * value:.1f}'
