r"""Finds the letter of the option that a completion chooses.

Thinking is removed first (`extract.after_thinking`). Then the first rule that
matches decides; if it matches several times, the last match counts:

  \boxed{B}, \boxed{\text{(B)}}, \boxed{B. Paris}, \boxed{Paris}
  The answer is (B).   Answer: **B**   The correct option is B   answer is Paris
  (B) or **B** or B., alone on a line
  (B)                  anywhere in the text
  ..., so it is B.     the letter that ends the text
  Paris                the last line names exactly one option

A bare letter within a sentence does not count, since 'A' is an article and 'I'
a pronoun. A box that holds no option is wrong, whatever the rest of the text
says. If no rule matches, there is no answer: `format/missing`.
"""

import dataclasses
import re
import string

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.extract import Answer
from rlpt_jax.rewards.scores import Reward, Scores, Verdict

_FONT = re.compile(r'\\(?:text|textbf|mathbf|mathrm|textit|mathit|bf|rm)\b\s*')
_MARKS = '(){}[]$*_`"\'.,:;!? \t\r\n'
# A lookahead, so that matches may overlap: 'Answer: The answer is (B)' has two.
_STATED = re.compile(
  r'\b(?:answer|option|choice)s?\b[^\n.:]{0,40}?(?:\bis\b|:|=)[ \t:]*'
  r'(?=(?P<rest>[^\n]{1,400}))',
  re.IGNORECASE,
)
_RIGHT = re.compile(
  r'(?<![A-Za-z0-9])(?P<rest>[A-Z])[)\]*]{0,4}'
  r'\s+is\s+(?:the\s+)?(?:correct|right|best)\b'
)
_LEADING = re.compile(
  r'(?i:the )?(?i:option|choice|answer)? ?[(\[{$*_`"\']{0,4}'
  r'([A-Z])(?![A-Za-z0-9\'’])'
)
_ARTICLE = re.compile(r'[AI] [a-z]')
_ALONE = re.compile(r'^[ (\[$*_`]{0,8}([A-Z])[)\]$*_`. ]{0,8}$', re.MULTILINE)
_BRACKETED = re.compile(r'[(\[*]([A-Z])[)\]*]')
_LAST = re.compile(r'(?<![A-Za-z0-9])([A-Z])[)\]$*_`.\s]*\Z')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Reward):
  """Rewards 1 if the chosen letter is references[0].

  The other references are the texts of the options, in the order of their
  letters.

  thinking: True if the prompt has opened <think>.
  """

  thinking: bool = False

  def __call__(self, examples, completions) -> Scores:
    return scores.Each(self._judge)(examples, completions)

  def _judge(self, example: Example, completion: str) -> Verdict:
    gold, *options = example.references
    answer = letter(completion, options, thinking=self.thinking)
    if answer.text is None:
      return Verdict(0.0, answer.reason)
    return Verdict(*((1.0, 'right') if answer.text == gold else (0.0, 'wrong')))


def letter(
  completion: str, options: list[str], *, thinking: bool = False
) -> Answer:
  """Returns the chosen letter; '' if the last box holds text but no option."""
  text, reason, _ = extract.after_thinking(completion, thinking=thinking)
  if text is None:
    return Answer(None, reason)
  letters = string.ascii_uppercase[: len(options)]
  boxed = extract.boxed(text)
  if boxed.reason != 'format/missing':
    if boxed.text is None:
      return boxed
    return Answer(_named(boxed.text, letters, options) or '')
  for find in (_stated, _alone, _bracketed, _last, _option):
    if choice := find(text, letters, options):
      return Answer(choice)
  return Answer(None, 'format/missing')


def _stated(text: str, letters: str, options: list[str]) -> str | None:
  statements = sorted(
    (match.start('rest'), match['rest'])
    for pattern in (_STATED, _RIGHT)
    for match in pattern.finditer(text)
  )
  for _, rest in reversed(statements):
    if choice := _named(rest, letters, options):
      return choice
  return None


def _alone(text: str, letters: str, options: list[str]) -> str | None:
  return _last_of(_ALONE, text, letters)


def _bracketed(text: str, letters: str, options: list[str]) -> str | None:
  return _last_of(_BRACKETED, text, letters)


def _last(text: str, letters: str, options: list[str]) -> str | None:
  return _last_of(_LAST, text[-200:], letters)


def _option(text: str, letters: str, options: list[str]) -> str | None:
  """Returns the option's letter if the last line names exactly one option."""
  lines = text.strip().splitlines()
  line = f' {_plain(lines[-1])} ' if lines else ''
  named = [
    i for i, option in enumerate(options) if f' {_plain(option)} ' in line
  ]
  # If '12' and '12 apples' are options, '12 apples' names only the latter.
  named = [
    i
    for i in named
    if not any(
      i != j and f' {_plain(options[i])} ' in f' {_plain(options[j])} '
      for j in named
    )
  ]
  return letters[named[0]] if len(named) == 1 else None


def _named(text: str, letters: str, options: list[str]) -> str | None:
  """Returns the letter of an answer given as a letter or an option's text."""
  text = _FONT.sub('', text).strip()
  spaced = ' '.join(text.split())
  match = _LEADING.match(spaced)
  if match and match[1] in letters:
    # 'A dog' may be the text of an option.
    is_article = _ARTICLE.match(spaced)
    return (is_article and _option(text, letters, options)) or match[1]
  lower = text.strip(_MARKS)  # 'the answer is b'
  if len(lower) == 1 and lower.upper() in letters:
    return lower.upper()
  return _option(text, letters, options)


def _last_of(pattern: re.Pattern, text: str, letters: str) -> str | None:
  matches = [m[1] for m in pattern.finditer(text) if m[1] in letters]
  return matches[-1] if matches else None


def _plain(text: str) -> str:
  return ' '.join(_FONT.sub('', text).casefold().strip(_MARKS).split())
