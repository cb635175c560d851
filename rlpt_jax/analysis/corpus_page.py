"""A page of what the stages of `rlpt make_corpus` dropped and edited."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlpt_jax.analysis.page import asset, escaped, page, shown

_OPEN = 3  # Samples of a reason that show at once; the others are folded.
_TOKEN = re.compile(r'\s+|\w+|[^\w\s]')


def corpus_page(
  manifest: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the page of a corpus, from its manifest and its samples."""
  kept = manifest['written'] / max(1, manifest['documents'])
  facts = {
    'read': f'{manifest["documents"]:,} documents, '
    f'{manifest["characters"]:,} characters',
    'written': f'{manifest["written"]:,} documents ({kept:.1%}), '
    f'{manifest["written_characters"]:,} characters',
    'sources': ', '.join(manifest['plan']['sources']),
  }
  items = ''.join(
    f'<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>\n'
    for name, value in facts.items()
  )
  by_name = {each['name']: each['samples'] for each in samples}
  body = [
    '<h1>Corpus</h1>',
    f'<dl class="facts">\n{items}</dl>',
    _table(manifest),
    *(_stage(stage, by_name.get(stage['name'], {})) for stage in
      manifest['stages']),
  ]  # fmt: skip
  return page('Corpus', '\n'.join(body), style=asset('corpus.css'))


def _table(manifest: Mapping[str, Any]) -> str:
  """Returns a table with a row for each stage."""
  most = max(1, manifest['documents'])
  rows = []
  faults = sum(manifest['faults']['counts'].values())
  if faults:
    reasons = '; '.join(
      f'{reason}: {", ".join(manifest["faults"]["first"][reason])}'
      for reason in sorted(manifest['faults']['counts'])
    )
    rows.append(_row('unusable', '', faults, '', reasons, 0))
  for stage in manifest['stages']:
    dropped = sum(stage['dropped'].values())
    left = stage['left'] / most
    name = f'<a href="#{escaped(stage["name"])}">{_words(stage["name"])}</a>'
    counts = stage['documents'], dropped, stage['edited']
    rows.append(_row(name, *counts, '', left))
  heads = 'stage', 'documents in', 'dropped', 'edited', 'left'
  head = ''.join(f'<th scope="col">{name}</th>' for name in heads)
  return (
    f'<table class="stages"><thead><tr>{head}</tr></thead>\n'
    f'<tbody>{"".join(rows)}</tbody></table>'
  )


def _row(
  name: str,
  documents: Any,
  dropped: int,
  edited: Any,
  note: str,
  left: float,
) -> str:
  def number(value):
    return f'<td class="number">{value:,}</td>' if value != '' else '<td></td>'

  last = f'<td>{shown(note)}</td>' if note else (
    f'<td><span class="bar" style="width:{left * 12:.3f}rem"></span>'
    f'{left:.1%}</td>'
  )  # fmt: skip
  return (
    f'<tr><th scope="row">{name}</th>{number(documents)}{number(dropped)}'
    f'{number(edited)}{last}</tr>\n'
  )


def _words(name: str) -> str:
  return shown(name.replace('_', ' '))


def _stage(
  stage: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping]]
) -> str:
  counts = {**stage['dropped'], **stage['edits']}
  reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
  sections = [
    _reason(
      reason,
      counts[reason],
      reason in stage['dropped'],
      samples.get(reason, ()),
    )
    for reason in reasons
  ]
  nothing = '<p class="quiet">It changed nothing.</p>' if not reasons else ''
  return (
    f'<section id="{escaped(stage["name"])}">\n'
    f'<h2>{_words(stage["name"])}</h2>\n{nothing}{"".join(sections)}</section>'
  )


def _reason(
  reason: str, count: int, dropped: bool, samples: Sequence[Mapping]
) -> str:
  cards = [_dropped(one) if dropped else _edited(one) for one in samples]
  more = ''
  if len(cards) > _OPEN:
    more = (
      f'<details><summary>{len(cards) - _OPEN} more</summary>\n'
      f'{"".join(cards[_OPEN:])}</details>\n'
    )
  what = 'dropped' if dropped else 'edit' if count == 1 else 'edits'
  return (
    f'<h3>{shown(reason)} <small>{count:,} {what}</small></h3>\n'
    f'{"".join(cards[:_OPEN])}{more}'
  )


def _dropped(sample: Mapping[str, Any]) -> str:
  head = f'<header>{shown(sample["id"])}'
  if sample['detail']:
    head += f' <span class="detail">{shown(sample["detail"])}</span>'
  head += '</header>\n'
  if 'kept' not in sample:
    return (
      f'<article>{head}<p class="text">{shown(sample["text"])}</p></article>\n'
    )
  here, there = _compared(sample['text'], sample['kept'])
  return (
    f'<article>{head}<div class="pair">'
    f'<div><b>dropped</b><p class="text">{here}</p></div>'
    f'<div><b>kept</b><p class="text">{there}</p></div></div></article>\n'
  )


def _compared(one: str, other: str) -> tuple[str, str]:
  """Returns both texts as HTML; what only one of them has is marked."""
  if one == other:
    return shown(one), shown(other)
  a, b = _TOKEN.findall(one), _TOKEN.findall(other)
  blocks = difflib.SequenceMatcher(None, a, b, autojunk=False)
  return (
    _marked(a, ((m.a, m.size) for m in blocks.get_matching_blocks()), 'del'),
    _marked(b, ((m.b, m.size) for m in blocks.get_matching_blocks()), 'ins'),
  )


def _marked(
  tokens: list[str], same: Iterable[tuple[int, int]], tag: str
) -> str:
  pieces, end = [], 0
  for start, size in same:
    if start > end:
      pieces.append(f'<{tag}>{shown("".join(tokens[end:start]))}</{tag}>')
    if size:
      pieces.append(shown(''.join(tokens[start : start + size])))
    end = start + size
  return ''.join(pieces)


def _edited(sample: Mapping[str, Any]) -> str:
  added = f'<ins>{shown(sample["added"])}</ins>' if sample['added'] else ''
  return (
    f'<article><header>{shown(sample["id"])}</header>\n'
    f'<p class="text">{shown(sample["before"])}'
    f'<del>{shown(sample["removed"])}</del>{added}'
    f'{shown(sample["after"])}</p></article>\n'
  )
