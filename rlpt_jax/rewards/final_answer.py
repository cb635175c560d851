r"""What a completion says its result is, where nobody had to box it.

Thinking ends first (`extract.after_thinking`). Then the first rule that finds
anything says it; of everything said twice, the last counts:

  \boxed{72}                         as `extract.boxed`, also if it is broken
  #### 72                            the rest of the line: GSM8K's own mark
  The (final) answer is 72.          the rest of the sentence, or of the line
  Answer: 72   **Answer**: 72

and for `number`, where the right answer is known to be one, also

  so she has 72 clips left.          the last number of all

and of what was found only the number is kept, for '72 clips' is no formula:
without currency, thousands commas, unit, percent sign, the left side of an
equation, or a remark ('72, as 48 + 24 is'). A mixed number is the sum that it
means, '1.5 million' the product. If numbers that differ are left ('18 or 20',
'3 hours and 20 minutes') nothing is dropped, and it is wrong unless it equals
the right one as it stands.
"""

import fractions
import re

from rlpt_jax.rewards import extract
from rlpt_jax.rewards.extract import Answer

_HASHES = re.compile(r'####[ \t]*([^\n]*)')
# Up to a full stop that ends a sentence, not one in 3.50 or Dr.
_SAID = re.compile(
  r'\banswer\b[^\n.:=]{0,60}?(?:\bis\b|:|=)[*_ \t:]*'
  r'(?=([^\n]{1,400}))',
  re.IGNORECASE,
)
_SENTENCE_END = re.compile(r'[.!?](?=\s|\*|$)')
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
  """The result that is said. `thinking`: the prompt has opened <think>."""
  text, reason = extract.after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  found = _found(text)
  if not number:
    return found
  if found.reason == 'format/missing':
    numbers = _numbers(text)
    return Answer(numbers[-1]) if numbers else found
  if found.text is None:
    return found
  return Answer(_number(found.text))


def _found(text: str) -> Answer:
  boxed = extract.boxed(text)
  if boxed.reason != 'format/missing':
    return boxed
  for pattern in (_HASHES, _SAID):
    said = [match[1].strip() for match in pattern.finditer(text)]
    if said := [rest for rest in said if rest.strip('*$ ')]:
      rest = said[-1]
      if pattern is _SAID:
        rest = _SENTENCE_END.split(rest, maxsplit=1)[0]
      return Answer(rest.strip('* \t'))
  return Answer(None, 'format/missing')


def _number(text: str) -> str:
  """The one number of a text; the text as it is, if there is not just one."""
  before = _REMARK.split(text, maxsplit=1)[0]
  for part in (text, text.rpartition('=')[2], before):
    numbers = _numbers(part)
    if numbers and len(set(numbers)) == 1:
      return numbers[0]
  return text


def _numbers(text: str) -> list[str]:
  """The numbers of a text, in order, as Python's or as fractions."""
  text = text.replace('{,}', ',').replace('−', '-').replace('\\$', '$')
  text = _SPACING.sub(' ', _FONT.sub(r' \1 ', text))
  for pattern in (_MIXED_LATEX, _MIXED):
    text = pattern.sub(_sum, text)
  text = _FRACTION.sub(r' \1/\2 ', text)
  text = _DOLLAR.sub(r' \1', text)
  return [_value(match[0]) for match in _NUMBER.finditer(text)]


def _value(found: str) -> str:
  number, *scale = found.replace(',', '').split()
  if scale and scale[-1] in _SCALES and len(found) < 100:
    over, _, under = ''.join([number, *scale[:-1]]).partition('/')
    if int(under or 1) == 0:
      return found  # As it stands: it is no number.
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
