"""Examples of questions and of their checks, for prompts with a few shots.

All were written for this package, documents included. Each line of
question_examples/DOMAIN.jsonl is one `Worked`, and each line of
question_examples/checks.jsonl one `Checked`.

What is drawn depends only on the id of the document that is asked about, so a
prompt is the same in every run and on every machine.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import TypeVar

# Of Webscale-RL (2510.06499).
DOMAINS = (
  'Math',
  'Technology & Engineering',
  'Coding',
  'Social Science',
  'Natural Science',
  'Travel & Lifestyle',
  'Commerce & Economics',
  'Medicine & Health',
  'Education',
  'Other',
)
_WORD = re.compile(r'[a-z]+')
Drawn = TypeVar('Drawn')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worked:
  """A document, and the question that a persona asks about it.

  thought: how the question was found, and how its answer follows.
  computed: True if the document does not state the answer in these words; it
    follows from what the document states.
  """

  domain: str
  document: str
  persona: str
  thought: str
  question: str
  answer: str
  computed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
  """A question and an answer with what a checker says about them.

  kind: 'good' or what is wrong: 'wrong answer', 'leaked answer' or
    'missing context'.
  """

  kind: str
  document: str
  question: str
  answer: str
  thought: str
  has_context: bool
  answer_correctness: bool
  info_leakage: bool


def examples(
  domain: str, document_id: str, n: int = 2, *, document: str = ''
) -> list[Worked]:
  """Returns `n` different examples of a domain.

  document: the text that is asked about. Examples about the same text, which
    would give a question away, are not drawn.
  """
  if domain not in DOMAINS:
    raise ValueError(f'domain: {domain!r}: expected one of {DOMAINS}.')
  known = [each for each in library(domain) if each.document != document]
  if not 0 <= n <= len(known):
    raise ValueError(
      f'n: {n}: expected from 0 to {len(known)}, the number of examples for '
      f'{domain}.'
    )
  return _shuffled(known, document_id)[:n]


def checks(document_id: str) -> list[Checked]:
  """Returns one example of each kind of check, in an order drawn too."""
  shuffled = _shuffled(all_checks(), document_id)
  return list({each.kind: each for each in shuffled}.values())


@functools.cache
def library(domain: str) -> tuple[Worked, ...]:
  """Returns all examples of a domain."""
  name = '_'.join(_WORD.findall(domain.lower()))
  return tuple(Worked(**fields) for fields in _lines(name))


@functools.cache
def all_checks() -> tuple[Checked, ...]:
  """Returns all examples of checks."""
  return tuple(Checked(**fields) for fields in _lines('checks'))


def _lines(name: str) -> list[dict]:
  folder = importlib.resources.files(__package__) / 'question_examples'
  lines = (folder / f'{name}.jsonl').read_text(encoding='utf-8').split('\n')
  return [json.loads(line) for line in lines if line]


def _shuffled(things: Sequence[Drawn], document_id: str) -> list[Drawn]:
  """Returns the things in an order that follows from the id."""

  def place(i: int) -> bytes:
    data = f'{i} {document_id}'.encode('utf-8', 'surrogatepass')
    return hashlib.blake2b(data, digest_size=8).digest()

  return [things[i] for i in sorted(range(len(things)), key=place)]
