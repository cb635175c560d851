"""Rewards that compare words: nothing to ask, nothing that can fail.

Texts are compared as tokens: words, numbers with their decimals, each CJK
character and each mark by itself. White space only separates them, so that a
line break for a blank, or none between Chinese characters, is no difference,
and a prefix ends where a word ends.

A match is a function (prediction, references) -> float in [0, 1] on tokens, the
references being segments in the order of the text, and `text_match` makes a
reward of it:

  exact           1 for the first segment
  whole_segments  1 for the first k of them, for any k
  prefix          1 for a prefix of all of them, wherever a word ends, that has
                  at least `min_share` of the first one's words. RLPT's prefix
                  reward names no such guard, and its judge would pass 'The'
  overlap         F1 of the words, in any order, with the first k: the best k
  common_prefix   how far the prediction is right from its beginning on

The first three are strict about words and so for what must be quoted: masked
spans, short answers. A free continuation wants a judge, or the last two.
"""

import collections
import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import PositiveShare
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Reward, Verdict

Match = Callable[[list[str], list[list[str]]], float]

_CJK = (
  r'\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
  r'\U00020000-\U0003ffff'
)
_TOKEN = re.compile(rf'[{_CJK}]|[^\W{_CJK}]+(?:(?<=\d)[.,]\d[^\W{_CJK}]*)*|\S')
_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], '-')
_HYPHEN = re.compile(r'(?<=[^\W\d])-(?=[^\W\d])')
# What ends and quotes sentences is dropped. What changes a number or a formula
# is not, though Unicode calls it punctuation: '-5', '50%', '1/2', 'f(x)'.
_SENTENCE_MARKS = frozenset({'Po', 'Pi', 'Pf'})
_KEPT, _QUOTES = frozenset('#%&*/@\\‰'), frozenset('`´「」『』')
# Python sorts the combining marks of a word in time quadratic in their number:
# 40,000 take two seconds, a million twenty minutes.
_PIECE = re.compile(r'\S{1,200}|\s+')


def tokens(
  text: str,
  *,
  ignore_form: bool = True,
  ignore_case: bool = True,
  ignore_punctuation: bool = True,
) -> list[str]:
  """What is compared. `ignore_form`: by Unicode's NFKC, so that full-width
  letters, ligatures and superscripts are plain ones, and dashes are one.
  """
  if not text.isascii():
    text = normalized(text, 'NFKC' if ignore_form else 'NFC')
    if ignore_form:
      text = text.translate(_DASHES)
  if ignore_case:
    text = text.casefold()
  if not ignore_punctuation:
    return _TOKEN.findall(text)
  found = _TOKEN.findall(_HYPHEN.sub(' ', text))
  return [token for token in found if not _is_dropped(token)]


def normalized(text: str, form: str) -> str:
  """The text in a form of Unicode, a long word in pieces."""
  return ''.join(
    unicodedata.normalize(form, piece) for piece in _PIECE.findall(text)
  )


def exact(prediction: list[str], references: list[list[str]]) -> float:
  """1 if the prediction is the first segment."""
  return float(prediction == references[0])


def whole_segments(prediction: list[str], references: list[list[str]]) -> float:
  """1 if the prediction is the first k segments, for some k."""
  text: list[str] = []
  for segment in references:
    text += segment
    if len(text) >= len(prediction):
      break
  return float(text == prediction)


def prefix(
  prediction: list[str],
  references: list[list[str]],
  *,
  min_share: PositiveShare = 1.0,
) -> float:
  """1 if the prediction is how the references begin, and is long enough."""
  if not 0 < min_share <= 1:
    raise ValueError(
      f'min_share: expected a share of the first segment, more than 0 and at '
      f'most 1, found {min_share}.'
    )
  if len(prediction) < math.ceil(min_share * len(references[0])):
    return 0.0
  # Equal lengths, unless the prediction is the longer.
  return float(prediction == _joined(references)[: len(prediction)])


def overlap(prediction: list[str], references: list[list[str]]) -> float:
  """F1 of the words with those of the first k segments, for the best k."""
  left = collections.Counter(prediction)
  best, shared, size = 0.0, 0, len(prediction)
  for segment in references:
    size += len(segment)
    for token in segment:
      if left[token] > 0:
        left[token] -= 1
        shared += 1
    best = max(best, 2 * shared / max(size, 1))
  return best


def common_prefix(prediction: list[str], references: list[list[str]]) -> float:
  """The share that is right before the first wrong word: of the prediction, or
  of the first segment if that is longer. 1 exactly where `prefix` is.
  """
  common = 0
  for ours, theirs in zip(prediction, _joined(references), strict=False):
    if ours != theirs:
      break
    common += 1
  return common / max(len(prediction), len(references[0]), 1)


def text_match(
  match: Match,
  *,
  find: extract.Extract = extract.prediction,
  split: Callable[[str], list[str]] = tokens,
) -> Reward:
  """The reward `match`(tokens of the answer, of each reference).

  NaN only where there is nothing to compare with: a reference without a word.
  """
  checks.check_arguments(text_match, locals())

  def reward(examples, completions):
    scores.check_groups(examples, completions)
    verdicts = []
    for example, group in zip(examples, completions, strict=True):
      references = [split(text) for text in example.references]
      verdicts += [
        _judge(match, references, find, split, text) for text in group
      ]
    return scores.grouped(verdicts, len(examples))

  return reward


def _judge(match, references, find, split, completion: str) -> Verdict:
  if not references or not references[0]:
    return Verdict(math.nan, 'gold/empty')
  answer = find(completion)
  if answer.text is None:
    return Verdict(0.0, answer.reason)
  share = match(split(answer.text), references)
  reason = {0.0: 'wrong', 1.0: 'right'}.get(share, 'partly')
  return Verdict(share, reason)


def _joined(references: Sequence[list[str]]) -> list[str]:
  return [token for segment in references for token in segment]


def _is_dropped(token: str) -> bool:
  if len(token) > 1 or token in _KEPT:
    return False
  return token in _QUOTES or unicodedata.category(token) in _SENTENCE_MARKS
