"""A page of documents, and of the questions that models made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlpt_jax.analysis.page import asset, page, shown

_VERDICTS = (
  ('answer_correctness', True, 'answer correct', 'answer wrong'),
  ('info_leakage', False, 'not given away', 'given away'),
  ('has_context', True, 'has its context', 'lacks context'),
)


def questions_page(
  samples: Sequence[Mapping[str, Any]], facts: Mapping[str, str]
) -> str:
  """Returns the page; a sample is that of corpus/questions.py."""
  items = ''.join(
    f'<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>\n'
    for name, value in facts.items()
  )
  body = [
    '<h1>Questions</h1>',
    f'<dl class="facts">\n{items}</dl>',
    *map(_card, samples),
  ]
  style = asset('corpus.css', 'questions.css')
  return page('Questions', '\n'.join(body), style=style)


def _card(sample: Mapping[str, Any]) -> str:
  said = []
  if 'filter' in sample:
    qualified = sample['filter']['qualified']
    word = 'qualified' if qualified else 'not qualified'
    said.append(_line(_mark(qualified, word), sample['filter']['thought']))
  if 'identify' in sample:
    identified = sample['identify']
    said.append(_line(shown(identified['domain']), identified['thought']))
  said += map(_pair, sample['pairs'])
  # What was rejected for a persona stands with the persona.
  if not sample['pairs']:
    said += [
      _line(_mark(False, reason), detail)
      for reason, detail in sample['dropped']
    ]
  return (
    f'<article class="asked"><header>{shown(sample["id"])}</header>\n'
    f'<div class="pair"><p class="text">{shown(sample["text"])}</p>\n'
    f'<div>{"".join(said)}</div></div></article>\n'
  )


def _pair(pair: Mapping[str, Any]) -> str:
  parts = [f'<p class="persona">{shown(pair["persona"])}</p>']
  if 'question' in pair:
    parts.append(f'<p class="question">{shown(pair["question"])}</p>')
    parts.append(f'<p class="answer">{shown(pair["answer"])}</p>')
  if check := pair.get('check'):
    marks = ' '.join(
      _mark(check[name] is good, right if check[name] is good else wrong)
      for name, good, right, wrong in _VERDICTS
    )
    parts.append(f'<p>{marks}</p>')
    if check['thought']:
      parts.append(f'<p class="quiet">{shown(check["thought"])}</p>')
  if reason := pair.get('dropped'):
    parts.append(f'<p>{_mark(False, f"dropped: {reason}")}</p>')
  else:
    parts.append(f'<p>{_mark(True, "accepted")}</p>')
  return f'<div class="qa">{"".join(parts)}</div>\n'


def _line(head: str, thought: str) -> str:
  return f'<p>{head} <span class="quiet">{shown(thought)}</span></p>\n'


def _mark(good: bool, text: str) -> str:
  sign = '✓' if good else '✗'
  return (
    f'<span class="{"good" if good else "bad"}">{sign} {shown(text)}</span>'
  )
