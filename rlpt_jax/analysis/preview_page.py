"""A page to filter and search examples: `rlpt preview --html`."""

import collections
from collections.abc import Sequence

from rlpt_jax.analysis import views
from rlpt_jax.analysis.page import asset, escaped, page, shown
from rlpt_jax.analysis.views import View

_LIMIT = 1500  # About this many characters of a piece show; the rest is folded.


def preview_page(
  examples: Sequence[View], heading: str, facts: dict[str, str]
) -> str:
  """Returns a page on which to read, filter and search examples."""
  items = ''.join(
    f'<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>\n'
    for name, value in facts.items()
  )
  body = [
    f'<h1>{shown(heading)}</h1>',
    f'<dl class="facts">\n{items}</dl>' if items else '',
    _legend(examples),
    _tools(examples),
    *(_card(number, view) for number, view in enumerate(examples, 1)),
  ]
  return page(
    heading,
    '\n'.join(body),
    style=asset('preview.css'),
    script=asset('preview.js'),
  )


def _legend(examples: Sequence[View]) -> str:
  present = {role for view in examples for role, _ in views.with_target(view)}
  meanings = {**views.ROLES, 'target': 'target: what must be predicted'}
  items = ''.join(
    f'<li><span class="{role}">{meaning}</span></li>\n'
    for role, meaning in meanings.items()
    if role in present
  )
  return f'<ul class="legend" aria-label="colours">\n{items}</ul>'


def _tools(examples: Sequence[View]) -> str:
  kinds = collections.Counter(view.title for view in examples)
  choices = ''.join(
    f'<label><input type="radio" name="kind" value="{escaped(kind)}"> '
    f'{shown(kind)} <small>{count:,}</small></label>\n'
    for kind, count in kinds.items()
  )
  # The form does nothing without the script, so the script unhides it.
  return (
    '<form class="tools" hidden>\n<fieldset aria-label="kind">\n'
    '<label><input type="radio" name="kind" value="" checked> all</label>\n'
    f'{choices}</fieldset>\n'
    '<input type="search" name="search" placeholder="search"'
    ' aria-label="search">\n'
    '<label><input type="checkbox" name="hide"> hide targets</label>\n'
    '<output></output>\n</form>'
  )


def _card(number: int, view: View) -> str:
  counts = ' · '.join(
    f'{count:,} {escaped(name)}' for name, count in view.counts.items()
  )
  pieces = ''.join(
    _target(text) if role == 'target' else _folded(role, text)
    for role, text in views.with_target(view)
  )
  return (
    f'<article id="example-{number}" data-kind="{escaped(view.title)}">\n'
    f'<header><h2><a href="#example-{number}">{number}</a> '
    f'{shown(view.title)}</h2>{shown(view.place, "place")}'
    f'<p class="counts">{counts}</p></header>\n'
    f'<div class="text">{pieces}</div>\n{_references(view)}</article>'
  )


def _target(text: str) -> str:
  return (
    '<details class="target answer" open><summary>target</summary>'
    f'{shown(text)}</details>'
  )


def _folded(role: str, text: str) -> str:
  """Returns HTML of a piece of an example; most of a long piece is folded."""
  before, hidden, after = views.fold(role, text, _LIMIT)
  if not hidden:
    return shown(text, role)
  note = f'… {len(hidden):,} more characters …'
  middle = (
    f'<details class="folded"><summary>{note}</summary>'
    f'{shown(hidden, role)}</details>'
  )
  return ''.join(
    (
      shown(before, role) if before else '',
      middle,
      shown(after, role) if after else '',
    )
  )


def _references(view: View) -> str:
  later = views.later_references(view)
  if not later:
    return ''
  items = ''.join(
    f'<li value="{number}">{shown(text)}</li>\n' for number, text in later
  )
  return (
    '<details class="references answer" open>'
    '<summary>references after the target: a prediction may cover several'
    f'</summary>\n<ol>\n{items}</ol></details>\n'
  )
