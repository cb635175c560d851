r"""Finds the result that a completion states, boxed or not.

Thinking is removed first (`extract.after_thinking`). Then the first rule that
matches decides; if it matches several times, the last match counts:

  \boxed{72}                         see `extract.boxed`; if the box is broken,
                                     there is no answer
  #### 72                            the rest of the line: GSM8K's marker
  The (final) answer is 72.          the rest of the sentence or line
  Answer: 72   **Answer**: 72

Set `number` if the right answer is known to be a number. One more rule then
applies, after the others:

  so she has 72 clips left.          the last number in the text

With `number`, only the number is kept, because '72 clips' is not a formula:
currency, thousands commas, units, percent signs, the left side of an equation
and remarks ('72, as 48 + 24 is') are dropped. Mixed numbers and '1.5 million'
become the value they mean. If different numbers remain ('18 or 20', '3 hours
and 20 minutes'), nothing is dropped, and the answer is wrong unless it equals
the right one as it stands.
"""

import fractions
import re

from rlpt_jax.rewards import extract
from rlpt_jax.rewards.extract import Answer

_HASHES = re.compile(r'####[ \t]*([^\n]*)')
# `_stated_result` cuts the rest of the line at _SENTENCE_END, which does not
# match the full stop in 3.50.
_STATED = re.compile(
  r'\banswer\b[^\n.:=]{0,60}?(?:\bis\b|:|=)[*_ \t:]*'
  r'(?=([^\n]{1,400}))',
  re.IGNORECASE,
)
# The full stop of a title before a name (Dr. Smith) does not end a sentence.
# That of an initial (J. Smith) does, since the initial may be the letter of a
# choice (The answer is C. For).
_SENTENCE_END = re.compile(
  r'(?:(?<!\b(?:Mr|Ms|Dr|St))(?<!\bMrs)(?<!\bProf)|(?!\.\s+\w))'
  r'[.!?](?=\s|\*|$)'
)
_REMARK = re.compile(r',(?=\s)|[;(]|\b(?:since|because|as|which)\b')
_NUMBER = re.compile(
  r'(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+)?'
  r'(?<=\d)(?:\s*/\s*\d+)?(?:\s+(?:thousand|million|billion)\b)?'
)
_MIXED = re.compile(
  r'(?<![\d./])(-?)(\d{1,20}) +(\d{1,20}) ?/ ?(\d{1,20})(?![\d/])'
)
_MIXED_LATEX = re.compile(
  r'(?<![\d.])(-?)(\d{1,20})\s*\\[dt]?frac\s*{(\d{1,20})}\s*{(\d{1,20})}'
)
_FRACTION = re.compile(r'\\[dt]?frac\s*{(-?\d+)}\s*{(\d+)}')
_FONT = re.compile(r'\\(?:text|textbf|mathbf|mathrm|textit|mbox)\s*{([^{}]*)}')
_DOLLAR = re.compile(r'(-?) ?\$ ?(?=[\d.-])')
_SPACING = re.compile(r'\\[,;:! ]|\\quad|~')
_SCALES = {'thousand': 10**3, 'million': 10**6, 'billion': 10**9}


def final_answer(
  completion: str, *, number: bool = False, thinking: bool = False
) -> Answer:
  """Returns the result that a completion states.

  number: True if the right answer is known to be a number.
  thinking: True if the prompt has opened <think>.
  """
  text, reason, _ = extract.after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  answer = _stated_result(text)
  if not number:
    return answer
  if answer.reason == 'format/missing':
    numbers = _numbers(text)
    return Answer(numbers[-1]) if numbers else answer
  if answer.text is None:
    return answer
  return Answer(_number(answer.text))


def _stated_result(text: str) -> Answer:
  boxed = extract.boxed(text)
  if boxed.reason != 'format/missing':
    return boxed
  for pattern in (_HASHES, _STATED):
    statements = [match[1].strip() for match in pattern.finditer(text)]
    if statements := [rest for rest in statements if rest.strip('*$ ')]:
      rest = statements[-1]
      if pattern is _STATED:
        rest = _SENTENCE_END.split(rest, maxsplit=1)[0]
      return Answer(rest.strip('* \t'))
  return Answer(None, 'format/missing')


def _number(text: str) -> str:
  """Returns the number that a text states, or the text if that is not clear."""
  before = _REMARK.split(text, maxsplit=1)[0]
  for part in (text, text.rpartition('=')[2], before):
    numbers = _numbers(part)
    if numbers and len(set(numbers)) == 1:
      return numbers[0]
  return text


def _numbers(text: str) -> list[str]:
  """Returns the numbers in a text, in order, as decimals or fractions."""
  text = text.replace('{,}', ',').replace('−', '-').replace('\\$', '$')
  text = _SPACING.sub(' ', _FONT.sub(r' \1 ', text))
  for pattern in (_MIXED_LATEX, _MIXED):
    text = pattern.sub(_sum, text)
  text = _FRACTION.sub(r' \1/\2 ', text)
  text = _DOLLAR.sub(r' \1', text)
  return [_value(match[0]) for match in _NUMBER.finditer(text)]


def _value(text: str) -> str:
  number, *scale = text.replace(',', '').split()
  if scale and scale[-1] in _SCALES and len(text) < 100:
    over, _, under = ''.join([number, *scale[:-1]]).partition('/')
    if int(under or 1) == 0:
      return text  # Unchanged: a division by 0 is no number.
    value = fractions.Fraction(over) / int(under or 1) * _SCALES[scale[-1]]
    return str(value)
  number = ''.join([number, *scale])
  if '.' in number and '/' not in number:
    number = number.rstrip('0').rstrip('.') or '0'
  return number


def _sum(match: re.Match) -> str:
  sign, whole, over, under = match.groups()
  if int(under) == 0:
    return match[0]
  return f' {sign}{int(whole) * int(under) + int(over)}/{under} '
