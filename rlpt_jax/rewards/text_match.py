"""Rewards that compare words, without a model or a service that may fail.

Texts are compared as tokens: words, numbers with their decimals, single CJK
characters and single marks. White space only separates tokens: a line break
equals a space, spaces between Chinese characters do not matter, and a prefix
ends where a word ends.

A match is a function (prediction, references) -> float in [0, 1]. Its arguments
are lists of tokens, and the references are segments in the order of the text.
`TextMatch` turns a match into a reward. The matches:

  exact           1 if the prediction is the first segment
  whole_segments  1 if it is the first k segments, for any k
  prefix          1 if it is a prefix of all segments, ending at any word, and
                  has at least `min_share` times as many words as the first
                  segment. RLPT's prefix reward has no such guard, and its judge
                  would pass 'The'
  overlap         the F1 of its words and those of the first k segments, in any
                  order, for the best k
  common_prefix   the number of words before the first wrong one, as a share of
                  the prediction, or of the first segment if that is longer

The first three are strict about words, so they suit text that must be exact:
masked spans, short answers. A free continuation needs a judge or the last two.

With `split = characters`, texts are compared as they are, for tokens of a model
(masks.next_token), which may be a part of a word or a mark.
"""

import collections
import dataclasses
import math
import re
import unicodedata
from collections.abc import Callable, Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import PositiveShare
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Reward, Scores, Verdict

Match = Callable[[list[str], list[list[str]]], float]

_CJK = (
  r'\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
  r'\U00020000-\U0003ffff'
)
_TOKEN = re.compile(rf'[{_CJK}]|[^\W{_CJK}]+(?:(?<=\d)[.,]\d[^\W{_CJK}]*)*|\S')
_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], '-')
_HYPHEN = re.compile(r'(?<=[^\W\d])-(?=[^\W\d])')
# Marks that end or quote sentences are dropped. Marks that change a number or a
# formula are kept, though Unicode calls them punctuation: '-5', '50%', '1/2',
# 'f(x)'.
_SENTENCE_MARKS = frozenset({'Po', 'Pi', 'Pf'})
_KEPT, _QUOTES = frozenset('#%&*/@\\‰'), frozenset('`´「」『』')
# Text is normalized in pieces, because Python sorts the combining marks of a
# word in quadratic time: 40,000 marks take two seconds, a million take twenty
# minutes.
_PIECE = re.compile(r'\S{1,200}|\s+')


def tokens(
  text: str,
  *,
  ignore_form: bool = True,
  ignore_case: bool = True,
  ignore_punctuation: bool = True,
) -> list[str]:
  """Returns the tokens that are compared.

  ignore_form: apply Unicode's NFKC, which makes full-width letters, ligatures
    and superscripts plain, and make all dashes the same.
  ignore_punctuation: drop marks that end or quote sentences, and split words at
    hyphens.
  """
  if not text.isascii():
    text = normalized(text, 'NFKC' if ignore_form else 'NFC')
    if ignore_form:
      text = text.translate(_DASHES)
  if ignore_case:
    text = text.casefold()
  if not ignore_punctuation:
    return _TOKEN.findall(text)
  matches = _TOKEN.findall(_HYPHEN.sub(' ', text))
  return [token for token in matches if not _is_dropped(token)]


def characters(text: str) -> list[str]:
  """Returns the characters of the text, none of them changed.

  With `match = whole_segments`, and references that are the next tokens of a
  text, this gives RPT's reward (2506.08007): 1 if the prediction is a byte
  prefix of what follows and ends at a token boundary. Comparing characters
  gives the same result, since UTF-8 is a prefix code. With `match = exact`, the
  prediction must be the first token.

  extract.boxed strips white space from the prediction, and masks.next_token
  from the reference, so 'Paris' is right for the token ' Paris'.
  """
  return list(text)


def normalized(text: str, form: str) -> str:
  """Returns the text in a Unicode normal form, made in pieces for speed."""
  return ''.join(
    unicodedata.normalize(form, piece) for piece in _PIECE.findall(text)
  )


def exact(prediction: list[str], references: list[list[str]]) -> float:
  """Returns 1 if the prediction is the first segment."""
  return float(prediction == references[0])


def whole_segments(prediction: list[str], references: list[list[str]]) -> float:
  """Returns 1 if the prediction is the first k segments, for some k."""
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
  """Returns 1 if the prediction is a long enough prefix of the references."""
  if not 0 < min_share <= 1:
    raise ValueError(
      f'min_share: expected a share of the first segment, more than 0 and at '
      f'most 1, found {min_share}.'
    )
  if len(prediction) < math.ceil(min_share * len(references[0])):
    return 0.0
  # A prediction longer than all references is not equal to the slice, which is
  # then shorter.
  return float(prediction == _joined(references)[: len(prediction)])


def overlap(prediction: list[str], references: list[list[str]]) -> float:
  """Returns the largest F1, over k, with the words of the first k segments."""
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
  """Returns the share of the words that come before the first wrong one.

  It is a share of the prediction, or of the first segment if that is longer. It
  is 1 exactly where `prefix`, with its default `min_share`, is 1.
  """
  common = 0
  for ours, theirs in zip(prediction, _joined(references), strict=False):
    if ours != theirs:
      break
    common += 1
  return common / max(len(prediction), len(references[0]), 1)


@dataclasses.dataclass(frozen=True)
class TextMatch(Reward):
  """The reward is match(tokens of the answer, [tokens of each reference]).

  It is NaN if there is no first reference, or if that has no tokens. Otherwise,
  it is 0 if there is no answer.
  """

  match: Match
  _: dataclasses.KW_ONLY
  find: extract.Extract = extract.prediction
  split: Callable[[str], list[str]] = tokens

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    verdicts = []
    for example, group in zip(examples, completions, strict=True):
      references = [self.split(text) for text in example.references]
      verdicts += [self._judge(references, text) for text in group]
    return scores.grouped(verdicts, len(examples))

  def _judge(self, references: list[list[str]], completion: str) -> Verdict:
    if not references or not references[0]:
      return Verdict(math.nan, 'gold/empty')
    answer = self.find(completion)
    if answer.text is None:
      return Verdict(0.0, answer.reason)
    share = self.match(self.split(answer.text), references)
    reason = {0.0: 'wrong', 1.0: 'right'}.get(share, 'partly')
    return Verdict(share, reason)


def _joined(references: Sequence[list[str]]) -> list[str]:
  return [token for segment in references for token in segment]


def _is_dropped(token: str) -> bool:
  if len(token) > 1 or token in _KEPT:
    return False
  return token in _QUOTES or unicodedata.category(token) in _SENTENCE_MARKS
