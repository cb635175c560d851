r"""Masks: spans of a paragraph that are hidden, to be predicted.

PretrainZero (2512.03442) lets the policy choose them, with a prompt that asks
for a span in \mask{}. A `Locate` finds what is meant in the paragraph, a `Rule`
says why a span is not usable, a `Hide` replaces it in the paragraph, and a
`Choose` chooses spans by chance instead of the policy, for baselines:

  random_span      a span of whole words
  next_token       the token that follows a cut: the text after it is hidden too
  uncertain_token  the same, at one of the tokens with the highest entropies

Random numbers come from a generator made from a name, so that a run that is
repeated or resumed hides the same spans.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlpt_jax.core.checks import Count, PositiveShare
from rlpt_jax.core.tokenizer import INCOMPLETE, Tokenizer
from rlpt_jax.data import segment

MARK = '[mask]'  # As in the paper's prompt.
# A prediction may go on after the token that is asked for. This many more
# tokens are compared: far more than a box holds, and few in a file of rollouts,
# which repeats them for every prediction.
FOLLOWING = 32

# A word may have apostrophes inside; a CJK character is a word.
_WORD = re.compile(rf"{segment.WORD}(?:['’]{segment.WORD})*")


@dataclasses.dataclass(frozen=True)
class Mask:
  """A span of a paragraph, and the passage that hides it.

  following: the texts of the next tokens after the span, if all that follows is
    hidden too.
  """

  span: str
  passage: str
  following: tuple[str, ...] = ()

  @property
  def references(self) -> tuple[str, ...]:
    """The references of an example that asks for the span."""
    return (self.span, *self.following)


@dataclasses.dataclass(frozen=True)
class Piece:
  """Consecutive tokens of a paragraph that are whole characters together."""

  tokens: range
  text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
  """A paragraph in which a `Choose` chooses what to hide.

  tokens: the ids of the text.
  look: returns the entropies. It is called once, at the first look at them.
  """

  text: str
  tokens: Sequence[int]
  tokenizer: Tokenizer
  look: Callable[[], np.ndarray]

  @functools.cached_property
  def entropies(self) -> np.ndarray:
    """For each token, the entropy of the policy's distribution there, in nats.

    The policy knows the earlier tokens of the paragraph. There are none before
    the first token, whose entropy is NaN.
    """
    return self.look()

  @functools.cached_property
  def pieces(self) -> list[Piece]:
    """The shortest pieces; most are one token.

    Joined, their texts are that of the paragraph as the tokenizer decodes it.
    """
    decode, pieces = self.tokenizer.decode, []
    # Decode a piece after the one before: alone, it would lose a blank at its
    # start (SentencePiece).
    before, first = [], 0
    for end in range(1, len(self.tokens) + 1):
      ids = [*self.tokens[first:end]]
      text = decode(before + ids)[len(decode(before)) :]
      if not text.endswith(INCOMPLETE):
        pieces.append(Piece(range(first, end), text))
        before, first = (ids if text else before + ids), end
    return pieces


Locate = Callable[[str, str], str]  # (paragraph, chosen text) -> the span.
Rule = Callable[[str, str], str | None]  # (paragraph, span) -> why not usable.
Hide = Callable[[str, str, np.random.Generator], str]  # -> the passage.
Choose = Callable[[Paragraph, np.random.Generator], Mask | None]


# Locating.


def as_written(paragraph: str, text: str) -> str:
  """Returns the chosen text; a span must be in the paragraph as it is."""
  del paragraph
  return text


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
  paragraph: Paragraph,
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
  words = list(_WORD.finditer(paragraph.text))
  if len(words) < 2:
    return None
  most = min(max_words, len(words) - 1)
  law = (1 - p) ** np.arange(most)
  length = 1 + int(rng.choice(most, p=law / law.sum()))
  first = int(rng.integers(len(words) - length + 1))
  start, end = words[first].start(), words[first + length - 1].end()
  text = paragraph.text
  return Mask(text[start:end], text[:start] + MARK + text[end:])


def next_token(paragraph: Paragraph, rng: np.random.Generator) -> Mask | None:
  """Cuts the paragraph before a random token, which is to be predicted.

  This is next-token reasoning with random tokens, a baseline of PretrainZero
  (2512.03442, section 3.1). The reward must not split texts into words, as a
  token may be a part of a word or a mark: see `text_match.characters`.
  """
  targets = _targets(paragraph)
  if not targets:
    return None
  return _next_token(paragraph, targets[int(rng.integers(len(targets)))])


def uncertain_token(
  paragraph: Paragraph,
  rng: np.random.Generator,
  *,
  share: PositiveShare = 0.2,
) -> Mask | None:
  """Cuts the paragraph before one of the tokens with the highest entropies.

  This is next-token reasoning with uncertain tokens, another baseline of
  PretrainZero (2512.03442, section 3.1), after RPT (2506.08007). There, a small
  model filters the tokens once; here, the policy does at each step.

  share: the share of the tokens that may be predicted among which one is chosen
    by chance. Entropies are those at temperature 1.
  """
  targets = _targets(paragraph)
  if not targets:
    return None
  entropies = paragraph.entropies
  targets.sort(key=lambda i: -entropies[paragraph.pieces[i].tokens[0]])
  most = max(1, round(share * len(targets)))
  return _next_token(paragraph, targets[int(rng.integers(most))])


def _targets(paragraph: Paragraph) -> list[int]:
  """Returns the pieces that may be predicted: single tokens that are visible.

  Nobody could write a part of a character in a box, white space alone, or a
  brace or backslash, which end or open it. The first piece follows nothing that
  it could be predicted from.
  """
  visible = [
    i
    for i, piece in enumerate(paragraph.pieces)
    if piece.text.strip() and not set(piece.text) & set('{}\\')
  ]
  return [i for i in visible[1:] if len(paragraph.pieces[i].tokens) == 1]


def _next_token(paragraph: Paragraph, i: int) -> Mask:
  """Returns the mask that hides piece `i` and what follows it.

  Neither the span nor a prediction in a box has white space at its ends. So the
  span of ' Paris' is 'Paris', and white space that ends a text is moved to the
  beginning of the next one.
  """
  texts, space = [], ''
  for piece in paragraph.pieces[i : i + 1 + FOLLOWING]:
    text = space + piece.text
    space = text[len(text.rstrip()) :]
    if text != space:
      texts.append(text.rstrip())
  span, *following = texts
  before = ''.join(piece.text for piece in paragraph.pieces[:i])
  return Mask(span.lstrip(), before + MARK, tuple(following))


def generator(name: str, seed: int) -> np.random.Generator:
  """Returns random numbers that depend only on the name and the seed."""
  data = name.encode('utf-8', 'surrogatepass')
  digest = hashlib.blake2b(data, digest_size=8).digest()
  return np.random.default_rng([seed, int.from_bytes(digest, 'little')])
