"""Checks the answer in the last [[ ]], where KOR-Bench asks for it.

Answers are compared as text, ignoring case, white space and Unicode form.
Numbers are compared by value, and alternatives ('1 or 2') as a set. KOR-Bench's
own scorer has special rules for some puzzles: it accepts any valid word, or a
formula in another order. They are not implemented here, so our accuracy on
those puzzles is a lower bound.
"""

import dataclasses
import fractions
import math
import re

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores, text_match
from rlpt_jax.rewards.extract import Answer
from rlpt_jax.rewards.scores import Reward, Scores, Verdict

_BRACKETS = re.compile(r'\[\[((?:(?!\[\[|\]\]).)*)\]\]', re.DOTALL)
_BOXED = re.compile(r'\\boxed\s*{')
_OR = re.compile(r' or |(?<=[\d})])or(?=[\d(\\.-])')
_RATIONAL = re.compile(r'[+-]?\d{1,30}(\.\d{1,30}|/0*[1-9]\d{0,30})?')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brackets(Reward):
  """Rewards 1 if the last [[ ]] holds references[0].

  thinking: True if the prompt has opened <think>.
  """

  thinking: bool = False

  def __call__(self, examples, completions) -> Scores:
    return scores.Each(self._judge)(examples, completions)

  def _judge(self, example: Example, completion: str) -> Verdict:
    gold = _parts(_inside(example.references[0]))
    if not gold:
      return Verdict(math.nan, 'gold/empty')
    text, reason, _ = extract.after_thinking(completion, thinking=self.thinking)
    if text is None:
      return Verdict(0.0, reason)
    answer = bracketed(text)
    if answer.text is None:
      return Verdict(0.0, answer.reason)
    is_right = _parts(answer.text) == gold
    return Verdict(*((1.0, 'right') if is_right else (0.0, 'wrong')))


def bracketed(text: str) -> Answer:
  """Returns the content of the last [[ ]]."""
  matches = _BRACKETS.findall(text)
  if not matches:
    return Answer(None, 'format/missing')
  inside = matches[-1].strip()
  return Answer(inside) if inside else Answer(None, 'format/empty')


def _inside(gold: str) -> str:
  """Returns the right answer without its outer [[ ]]; inner ones stay."""
  gold = gold.strip()
  if gold.startswith('[[') and gold.endswith(']]'):
    gold = gold[2:-2]
  return gold


def _parts(text: str) -> frozenset:
  """Returns the alternatives of 'a or b', normalized for the comparison."""
  text = text_match.normalized(_unboxed(text), 'NFKC').casefold()
  # Splits at an 'or' between words or numbers, not within a word.
  parts = _OR.split(' '.join(text.split()))
  return frozenset(map(_value, filter(None, map(str.strip, parts))))


def _unboxed(text: str) -> str:
  """Returns the text without its first \\boxed{ and final }, if it has both."""
  text, opened = text.rstrip(), _BOXED.search(text)
  if opened is None or not text.endswith('}', opened.end()):
    return text
  return text[: opened.start()] + text[opened.end() : -1]


def _value(text: str) -> fractions.Fraction | str:
  text = ''.join(text.split()).strip('$"\'')
  if _RATIONAL.fullmatch(text):
    return fractions.Fraction(text)
  return text
