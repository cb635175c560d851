r"""Masks: spans of a paragraph that are hidden, to be predicted.

PretrainZero (2512.03442) lets the policy choose them, with a prompt that asks
for a span in \mask{}. A `Rule` says why a span is not usable, a `Hide` replaces
it in the paragraph, and a `Choose` chooses spans by chance instead of the
policy, for baselines.

Random numbers come from a generator made from a name, so that a run that is
repeated or resumed hides the same spans.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlpt_jax.core.checks import Count, PositiveShare
from rlpt_jax.data import segment

MARK = '[mask]'  # As in the paper's prompt.

Rule = Callable[[str, str], str | None]  # (paragraph, span) -> why not usable.
Hide = Callable[[str, str, np.random.Generator], str]  # -> the passage.
Choose = Callable[[str, np.random.Generator], 'Mask | None']

# A word may have apostrophes inside; a CJK character is a word.
_WORD = re.compile(rf"{segment.WORD}(?:['’]{segment.WORD})*")


@dataclasses.dataclass(frozen=True)
class Mask:
  """A span of a paragraph, and the passage that hides it."""

  span: str
  passage: str


# Rules.


def limits(
  paragraph: str,
  span: str,
  *,
  max_words: Count = 10,
  max_occurrences: Count = 7,
  max_share: PositiveShare = 0.5,
) -> str | None:
  """Returns why a span is too long or too frequent, or None.

  The paper keeps spans that occur fewer than eight times. It gives no bound on
  their length. We use SpanBERT's ten words, which the random spans have too,
  so that the policy does not win by choosing longer ones.

  max_share: the largest share of the paragraph's characters that may be hidden.
  """
  if not num_words(span):
    return 'no_word'
  if span.strip() == paragraph.strip():
    return 'whole'
  times = paragraph.count(span)
  if times > max_occurrences:
    return 'frequent'
  if num_words(span) > max_words:
    return 'long'
  if times * len(span) > max_share * len(paragraph):
    return 'long'
  return None


def whole_words(paragraph: str, span: str) -> str | None:
  """Returns 'cut' if an occurrence of the span begins or ends inside a word."""
  inside = {
    i
    for word in _WORD.finditer(paragraph)
    for i in range(word.start() + 1, word.end())
  }
  places = re.finditer(re.escape(span), paragraph)
  is_cut = any(inside & {place.start(), place.end()} for place in places)
  return 'cut' if is_cut else None


def fault(paragraph: str, span: str, rules: Sequence[Rule]) -> str | None:
  """Returns why the span is not usable, or None.

  It must be in the paragraph, which must have no mark already. Then the rules
  are asked in order.
  """
  if not span or span not in paragraph:
    return 'not_found'
  if MARK in paragraph:
    return 'mark'
  reasons = (rule(paragraph, span) for rule in rules)
  return next((reason for reason in reasons if reason), None)


def num_words(text: str) -> int:
  return len(_WORD.findall(text))


# Hiding.


def everywhere(paragraph: str, span: str, rng: np.random.Generator) -> str:
  """Hides all occurrences of the span."""
  del rng
  return paragraph.replace(span, MARK)


def once(paragraph: str, span: str, rng: np.random.Generator) -> str:
  """Hides one occurrence of the span, chosen by chance (OneMask)."""
  pieces = paragraph.split(span)
  place = 1 + int(rng.integers(len(pieces) - 1))
  return span.join(pieces[:place]) + MARK + span.join(pieces[place:])


# Choosing by chance.


def random_span(
  paragraph: str,
  rng: np.random.Generator,
  *,
  p: PositiveShare = 0.2,
  max_words: Count = 10,
) -> Mask | None:
  """Chooses a span of whole words; its length is geometric, as in SpanBERT.

  Unlike the policy's, only this occurrence is hidden: the span is a place in
  the paragraph, as in masked language models.

  p, max_words: lengths are drawn from 1 to max_words with probabilities that
    fall by the factor 1 - p; their mean is 3.8 words (1907.10529, section 3.1).
  """
  words = list(_WORD.finditer(paragraph))
  if len(words) < 2:
    return None
  most = min(max_words, len(words) - 1)
  law = (1 - p) ** np.arange(most)
  length = 1 + int(rng.choice(most, p=law / law.sum()))
  first = int(rng.integers(len(words) - length + 1))
  return _mask(paragraph, words[first].start(), words[first + length - 1].end())


def next_word(paragraph: str, rng: np.random.Generator) -> Mask | None:
  """Cuts the paragraph at a random word, which is to be predicted.

  The paper predicts the next token. A word is the closest that has a meaning in
  any tokenizer, and that a text in a box can be compared with.
  """
  words = list(_WORD.finditer(paragraph))
  if len(words) < 2:
    return None
  word = words[int(rng.integers(1, len(words)))]
  return Mask(word[0], paragraph[: word.start()] + MARK)


def _mask(paragraph: str, start: int, end: int) -> Mask:
  passage = paragraph[:start] + MARK + paragraph[end:]
  return Mask(paragraph[start:end], passage)


def generator(name: str, seed: int) -> np.random.Generator:
  """Returns random numbers that depend only on the name and the seed."""
  data = name.encode('utf-8', 'surrogatepass')
  digest = hashlib.blake2b(data, digest_size=8).digest()
  return np.random.default_rng([seed, int.from_bytes(digest, 'little')])
