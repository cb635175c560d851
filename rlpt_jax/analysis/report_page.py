"""A page with runs side by side: main numbers, curves, settings and rollouts.

Each step's rollouts are packed by themselves, and a browser unpacks only the
step that is viewed, so a page may have hundreds of thousands of rollouts.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlpt_jax.analysis import (
  curves,
  glossary,
  report_forecast,
  report_game,
  timeline,
  views,
)
from rlpt_jax.analysis.page import asset, escaped, packed, parts, shown
from rlpt_jax.analysis.report_game import utf16_length

_MOST_POINTS = 2000  # The most points of a curve; more are averaged.
_SCRIPTS = (
  'report.js', 'report_curves.js', 'report_tokens.js', 'report_game.js',
  'report_rollouts.js',
)  # fmt: skip
_ABSENT = '—'  # Stands for a setting that a run does not have.


@dataclasses.dataclass(frozen=True)
class Run:
  """One run: its measurements, settings and rollouts."""

  name: str
  columns: curves.Columns  # All of one length; 'step' is one of them.
  settings: Mapping[str, Any]  # Dotted name -> value.
  # (a step, counted from 1; a function that returns the lines of the step's
  # rollout file). A line may have a field `answer`: the (start, end) of the
  # judged text in the completion, in code points.
  rollouts: Sequence[tuple[int, Callable[[], list[dict[str, Any]]]]] = ()
  note: str = ''  # Says what was left out.
  # When each part of the run's steps began and ended (timeline.py).
  spans: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  judge: str = ''  # The judge whose verdicts are the reward; '' if none.


def report_page(runs: Sequence[Run], title: str) -> Iterator[str]:
  """Yields the page piece by piece, since it may be large."""
  return parts(
    title,
    _body(runs, title),
    style=asset('report.css'),
    script=asset(*_SCRIPTS),
  )


def _body(runs: Sequence[Run], title: str) -> Iterator[str]:
  forecast = report_forecast.section([(run.name, run.columns) for run in runs])
  link = '<a href="#forecast">Forecast</a> ' if forecast else ''
  yield (
    f'<h1>{shown(title)}</h1>\n<p class="intro">What these training runs '
    'measured and sampled. Held-out examples are never learned from: their '
    'reward before the first step and after the last says what was learned. '
    'Other numbers are means of the first and of the last steps.</p>\n'
    '<nav aria-label="parts of this page"><a href="#curves">Curves</a> '
    f'{link}<a href="#settings">Settings</a> '
    '<a href="#rollouts">Rollouts</a></nav>\n'
    '<noscript><p>Curves and rollouts need JavaScript; this page fetches '
    'nothing.</p></noscript>\n<section class="runs" aria-label="runs">\n'
  )
  yield from (_card(i, run) for i, run in enumerate(runs))
  yield '</section>\n' + _curves(runs) + forecast
  yield _settings(runs)
  yield (
    '<section id="rollouts"><h2>Rollouts</h2>\n<p class="intro">Everything '
    'that a step sampled: a prompt, the text that really follows, and the '
    'answers of its group side by side, with a blue bar where the reward is '
    'above 0. <mark class="answer">This</mark> was judged. The first verdict '
    'is the reward, and a judge makes mistakes; verdicts that the run only '
    'recorded, such as the truth, follow it. <mark '
    'class="reference">This</mark> is the text that an answer is closest to '
    'in words, if that is more than the first segment; it is a visual aid, '
    'not a verdict.</p>\n'
    '<details id="words" hidden><summary>What the words mean</summary>'
    '<dl></dl></details>\n'
    '<form class="tools" id="rollout-tools" hidden></form>\n'
    '<p id="rollout-note" class="intro"></p>\n'
    '<output id="rollout-count"></output><div id="groups"></div></section>\n'
  )
  index = []
  for i, run in enumerate(runs):
    index.append([])
    for step, lines in run.rollouts:
      step_groups = groups(lines())
      known = [
        answer['reward']
        for group in step_groups
        for answer in group['answers']
        # As in reward/mean, which is of the first role.
        if answer['reward'] is not None and not report_game.is_chooser(group)
      ]
      mean = float(np.mean(known)) if known else None
      count = sum(len(group['answers']) for group in step_groups)
      index[-1].append({'step': step, 'count': count, 'reward': mean})
      yield packed(f'rollouts-{i}-{step}', step_groups)
  yield packed('data', _data(runs, index))


def _curves(runs: Sequence[Run]) -> str:
  """Returns the places of all curves, which a script draws."""
  timelines = timeline.section(
    [(run.name, run.spans) for run in runs], _parts(runs)
  )
  game = ''
  if any(report_game.shares(run.columns) for run in runs):
    game = (
      '<h3 class="part">The game</h3>\n<p class="intro">Spans of '
      'paragraphs are hidden, by the policy or by chance, and the policy '
      'predicts them. The curves above are those of its predictions.</p>\n'
      '<div class="panels" id="game-panels"></div>\n'
    )
  return (
    '<section id="curves"><h2>Curves</h2>\n<p class="intro">Faint '
    'dots are measurements, lines are smoothed. Point at a curve, or choose '
    'one with Tab and move with the arrow keys, to read the values of all '
    'runs there.</p>\n<form class="tools" id="curve-tools" hidden></form>\n'
    f'<div class="panels" id="main-panels"></div>\n{game}<details id="more">'
    '<summary>More curves</summary><div class="panels" id="more-panels"></div>'
    f'</details>{timelines}</section>\n'
  )


def _card(i: int, run: Run) -> str:
  items = ''.join(
    f'<div><dt>{name}</dt><dd>{value}</dd></div>\n'
    for name, value in curves.facts(run.columns).items()
  )
  return (
    f'<article class="run" data-run="{i}"><h3><span class="swatch run-{i % 8}">'
    f'</span>{shown(run.name)}</h3>\n<dl>\n{items}</dl></article>\n'
  )


def _settings(runs: Sequence[Run]) -> str:
  """Returns tables of the settings: those that differ, and others collapsed."""
  paths = list(dict.fromkeys(path for run in runs for path in run.settings))
  differ, same, partly = [], [], []
  for path in paths:
    values = [_value(run.settings, path) for run in runs]
    if len({*values} - {_ABSENT}) > 1:
      differ.append((path, values))
    else:
      (partly if _ABSENT in values else same).append((path, values))
  head = ''.join(
    f'<th scope="col"><span class="swatch run-{i % 8}"></span>'
    f'{shown(run.name)}</th>'
    for i, run in enumerate(runs)
  )
  if differ:
    table = _table(f'<th scope="col">setting</th>{head}', differ)
  else:
    table = '<p class="intro">None, or there is only one run.</p>'
  some = _table(f'<th scope="col">setting</th>{head}', partly)
  alike = _table(
    '<th scope="col">setting</th><th scope="col">value</th>',
    [(path, values[:1]) for path, values in same],
  )
  return (
    '<section id="settings"><h2>Settings that differ</h2>\n'
    f'{table}\n{_folded("Only some runs have", some, len(partly))}'
    f'{_folded("The same for all", alike, len(same))}</section>\n'
  )


def _folded(what: str, table: str, count: int) -> str:
  if not count:
    return ''
  return f'<details><summary>{what}: {count}</summary>{table}</details>\n'


def _value(settings: Mapping[str, Any], path: str) -> str:
  return str(settings[path]) if path in settings else _ABSENT


def _table(head: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
  body = ''.join(
    f'<tr><th scope="row">{shown(path)}</th>'
    + ''.join(map(_cell, values))
    + '</tr>\n'
    for path, values in rows
  )
  return (
    '<div class="wide" tabindex="0" role="region" aria-label="settings">'
    f'<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    '</div>'
  )


def _cell(value: str) -> str:
  name = _short_name(value)
  # The tooltip is the full name: different names may have the same short form.
  title = f' title="{escaped(value)}"' if name != value else ''
  return f'<td{title}>{shown(name)}</td>'


def _short_name(value: str) -> str:
  """Shortens the path of a class or function to its name in a gin file.

  An example is `optimizer.AdamW`. A function that another function made gets
  the name of that function. Other values are returned unchanged.
  """
  if not re.fullmatch(r'\w+(\.[\w<>]+)+', value):
    return value
  name, _, _ = value.partition('.<locals>')
  return re.sub(r'^rlpt_jax\.\w+\.(?=\w+\.)', '', name)


def _data(runs: Sequence[Run], index: list[list[dict]]) -> dict[str, Any]:
  columns = [run.columns for run in runs]
  main = curves.panels(curves.MAIN, columns)
  more = curves.panels(curves.MORE, columns)
  game = curves.panels(report_game.CURVES, columns)
  keys = [panel['key'] for panel in (*main, *more, *game)]
  verdicts = [curves.verdicts(run) for run in columns]
  return {
    'main': main,
    'more': more,
    'game': game,
    'shares': report_game.plots(columns),
    'time': curves.TIME,
    'parts': [f'timing/{part}_s' for part in _parts(runs)],
    'verdicts': curves.VERDICTS,
    'reasons': curves.reasons(
      reason
      for parts in verdicts
      for shares in parts.values()
      for reason in shares
    ),
    'words': {
      'kinds': glossary.KINDS,
      'reasons': glossary.REASONS,
      'spans': glossary.SPANS,
      'endings': glossary.ENDINGS,
      'advantage': glossary.ADVANTAGE,
      'part': glossary.PART,
      'example': glossary.EXAMPLE,
    },
    'unseen': views.UNSEEN_IN_SCRIPT,
    'runs': [
      _run_data(run, keys, run_verdicts, kept)
      for run, run_verdicts, kept in zip(runs, verdicts, index, strict=True)
    ],
  }


def _parts(runs: Sequence[Run]) -> list[str]:
  """Returns the parts of a step, in one order for all runs.

  So a part has the same colour in each.
  """
  every = {key: None for run in runs for key in curves.time_parts(run.columns)}
  ordered = curves.time_parts({key: np.ones(1) for key in every})
  return [key[len('timing/') : -len('_s')] for key in ordered]


def _run_data(
  run: Run, keys: Sequence[str], verdicts: dict[str, dict], kept: list[dict]
) -> dict[str, Any]:
  shares = report_game.shares(run.columns)
  return {
    'name': run.name,
    'note': run.note,
    'judge': run.judge,
    'steps': len(run.columns['step']),
    'points': _MOST_POINTS,
    'x': {
      name: curves.numbers(curves.thinned(values, _MOST_POINTS), digits=9)
      for name, values in curves.axes(run.columns).items()
    },
    'series': _series(run.columns, [key for key in keys if key in run.columns]),
    'time': _series(run.columns, curves.time_parts(run.columns)),
    'verdicts': _all_series(verdicts),
    'shares': _all_series(shares),
    'rollouts': kept,
  }


def _all_series(plots: dict[str, dict]) -> dict[str, dict[str, list]]:
  return {name: _series(parts, [*parts]) for name, parts in plots.items()}


def _series(columns: curves.Columns, keys: Sequence[str]) -> dict[str, list]:
  return {
    key: curves.numbers(
      curves.thinned(curves.series(columns, key), _MOST_POINTS)
    )
    for key in keys
  }


def groups(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Groups the lines of a rollout file by prompt; shared fields appear once."""
  grouped = []
  for line in lines:
    name, sample = line['example'], line.get('sample', 0)
    last = grouped[-1] if grouped else None
    # A step may sample the same example again later. Its samples are then
    # numbered from the start again, and form another group.
    if not last or last['example'] != name or sample <= last['last']:
      grouped.append(
        {
          'example': name,
          'kind': line.get('kind') or name.rpartition('/')[2],
          'prompt': line.get('prompt'),
          'references': line.get('references', []),
          **{name: line[name] for name in report_game.FIELDS if name in line},
          'answers': [],
        }
      )
    grouped[-1]['last'] = sample
    grouped[-1]['answers'].append(_answer(line))
  for group in grouped:
    del group['last']
  report_game.place(grouped)
  return grouped


def _answer(line: dict[str, Any]) -> dict[str, Any]:
  text, span = line['completion'], line.get('answer')
  verdicts = [line, *line.get('components', {}).values()]
  return {
    'sample': line.get('sample', 0),
    'text': text,
    'answer': span and [utf16_length(text[:end]) for end in span],
    **{
      name: line.get(name)
      for name in (
        'reward', 'reason', 'finish_reason', 'tokens', 'advantage',
        'token_texts', 'logprobs', 'entropies',
      )
      if line.get(name) is not None or name == 'reward'
    },
    'parts': [
      [name, part['reward'], part['reason']]
      for name, part in line.get('components', {}).items()
    ],
    # Judges' answers that could not be parsed, but a person may understand.
    'unread': [
      verdict['judge_answer']
      for verdict in verdicts
      if verdict.get('reward') is None and 'judge_answer' in verdict
    ],
  }  # fmt: skip
