"""Whether what stands in the last [[ ]] is the right answer, as KOR-Bench asks.

Both are compared as text, without case, blanks, and what Unicode writes in two
ways; numbers as numbers. Several answers, '1 or 2', are a set. KOR-Bench's own
scorer has rules for some puzzles (any valid word, a formula in another order)
that this one has not: what it accepts there is a lower bound.
"""

import fractions
import math
import re

from rlpt_jax.rewards import extract, scores, text_match
from rlpt_jax.rewards.extract import Answer
from rlpt_jax.rewards.scores import Reward, Verdict

_BRACKETS = re.compile(r'\[\[((?:(?!\[\[|\]\]).)*)\]\]', re.DOTALL)
_BOXED = re.compile(r'\\boxed\s*{')
_OR = re.compile(r' or |(?<=[\d})])or(?=[\d(\\.-])')
_RATIONAL = re.compile(r'[+-]?\d{1,30}(\.\d{1,30}|/0*[1-9]\d{0,30})?')


def brackets(*, thinking: bool = False) -> Reward:
  """1 where the last [[ ]] holds references[0]. `thinking`: see `extract`."""

  def judge(example, completion: str) -> Verdict:
    gold = _parts(_inside(example.references[0]))
    if not gold:
      return Verdict(math.nan, 'gold/empty')
    text, reason = extract.after_thinking(completion, thinking=thinking)
    if text is None:
      return Verdict(0.0, reason)
    answer = bracketed(text)
    if answer.text is None:
      return Verdict(0.0, answer.reason)
    is_right = _parts(answer.text) == gold
    return Verdict(*((1.0, 'right') if is_right else (0.0, 'wrong')))

  return scores.each(judge)


def bracketed(text: str) -> Answer:
  """What stands in the last [[ ]]."""
  found = _BRACKETS.findall(text)
  if not found:
    return Answer(None, 'format/missing')
  inside = found[-1].strip()
  return Answer(inside) if inside else Answer(None, 'format/empty')


def _inside(gold: str) -> str:
  """The gold without its brackets, of which it may hold some itself."""
  gold = gold.strip()
  if gold.startswith('[[') and gold.endswith(']]'):
    gold = gold[2:-2]
  return gold


def _parts(text: str) -> frozenset:
  """The answers of 'a or b', each as what is compared."""
  text = text_match.normalized(_unboxed(text), 'NFKC').casefold()
  # Between words or numbers; 'or' within a word is none.
  parts = _OR.split(' '.join(text.split()))
  return frozenset(map(_value, filter(None, map(str.strip, parts))))


def _unboxed(text: str) -> str:
  """The text without the first \\boxed{ if its last mark is a }."""
  text, opened = text.rstrip(), _BOXED.search(text)
  if opened is None or not text.endswith('}', opened.end()):
    return text
  return text[: opened.start()] + text[opened.end() : -1]


def _value(text: str) -> fractions.Fraction | str:
  text = ''.join(text.split()).strip('$"\'')
  if _RATIONAL.fullmatch(text):
    return fractions.Fraction(text)
  return text
