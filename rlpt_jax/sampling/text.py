"""Decodes a sample as it grows: from new tokens to text that may be sent."""

import dataclasses

from rlpt_jax.core.tokenizer import INCOMPLETE, Tokenizer
from rlpt_jax.sampling.requests import Completion, FinishReason

# Tokens may yield no text yet; at most this many of them are decoded again.
MOST_PENDING = 32


@dataclasses.dataclass(frozen=True)
class Token:
  """A sampled token; `offset` is where it begins in the text."""

  id: int
  logprob: float  # Under the model, before temperature and filters.
  offset: int


@dataclasses.dataclass(frozen=True)
class Piece:
  """The next part of a sample; all pieces of a sample, joined, are its text."""

  text: str
  tokens: tuple[Token, ...] = ()
  finish_reason: FinishReason | None = None


class Transcript:
  """The text of one sample, cut before the first stop string.

  The text is what the tokens add to the text of the prompt, so a space between
  the two is kept. It does not depend on how the tokens are split into pieces,
  except that bytes that form no character may become one replacement character
  or several. With stop strings or `with_tokens`, tokens are decoded one by one.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    prompt_tokens: tuple[int, ...],
    *,
    stops: tuple[str, ...] = (),
    with_tokens: bool = False,
  ):
    self._decode, self._stops = tokenizer.decode, stops
    self._with_tokens = with_tokens
    # Decoding starts a few tokens before the new ones: characters of several
    # tokens and SentencePiece's spaces come out right, and the time per token
    # does not grow with the text.
    self._ids = lead(tokenizer, prompt_tokens)
    self._num_read = len(self._ids)
    self._text, self._sent = '', 0
    self._tokens: list[Token] = []
    self._ends: list[int] = []  # The text's length after each decoded token.
    self._num_sent_tokens = 0
    self.num_tokens = 0  # Includes the one that completes a stop string.
    self.finished = False

  def add(self, completion: Completion) -> Piece:
    """Adds the next tokens of the sample; returns what may be sent now."""
    ids = completion.tokens.tolist()
    logprobs = completion.policy_logprobs.tolist()
    reason = completion.finish_reason
    stride = 1 if self._with_tokens or self._stops else max(1, len(ids))
    cut = None
    for first in range(0, len(ids) or 1, stride):
      part = ids[first : first + stride]
      searched = len(self._text)
      if self._with_tokens and part:
        self._tokens.append(Token(part[0], logprobs[first], searched))
      self._extend(part, flush=bool(reason) and first + stride >= len(ids))
      self.num_tokens += len(part)
      cut = self._find_stop(searched)
      if cut is not None:
        self._text, reason = self._text[:cut], 'stop'
        break
    self.finished = bool(reason)
    return self._next_piece(reason, cut)

  def _extend(self, ids: list[int], *, flush: bool):
    self._ids += ids
    text = self._decode(self._ids)
    # A character has at most four bytes, so eight replacement characters are
    # not the start of one: waiting for its other bytes would be in vain.
    is_broken = text.endswith(INCOMPLETE * 8)
    if text.endswith(INCOMPLETE) and not is_broken and not flush:
      return
    new = text[len(self._decode(self._ids[: self._num_read])) :]
    self._text += new
    missing = len(self._tokens) - len(self._ends)
    self._ends += [len(self._text)] * missing
    # Once tokens have text, they alone are the context of the next ones. Tokens
    # without text are decoded again with the old context.
    if new or self._num_read >= MOST_PENDING:
      self._ids = self._ids[self._num_read :]
    self._num_read = len(self._ids)

  def _find_stop(self, searched: int) -> int | None:
    """Returns the start of the first stop string that ends after `searched`."""
    starts = []
    for stop in self._stops:
      place = self._text.find(stop, max(0, searched - len(stop) + 1))
      if place >= 0:
        starts.append(place)
    return min(starts, default=None)

  def _next_piece(self, reason: FinishReason | None, cut: int | None) -> Piece:
    end = len(self._text) if reason else len(self._text) - self._undecided()
    first = last = self._num_sent_tokens
    while last < len(self._ends):
      belongs = cut is None or self._tokens[last].offset < cut
      if not (belongs if reason else self._ends[last] <= end):
        break
      last += 1
    piece = Piece(
      self._text[self._sent : end], tuple(self._tokens[first:last]), reason
    )
    self._sent, self._num_sent_tokens = end, last
    return piece

  def _undecided(self) -> int:
    """The length of the longest suffix of the text that may begin a stop."""
    longest = 0
    for stop in self._stops:
      for length in range(min(len(stop) - 1, len(self._text)), longest, -1):
        if self._text.endswith(stop[:length]):
          longest = length
          break
    return longest


def lead(tokenizer: Tokenizer, prompt_tokens: tuple[int, ...]) -> list[int]:
  """The fewest last tokens of a prompt that decode to whole characters.

  At most four; if there are none such, an empty list.
  """
  for count in range(1, min(4, len(prompt_tokens)) + 1):
    text = tokenizer.decode(prompt_tokens[-count:])
    if text and INCOMPLETE not in text:
      return list(prompt_tokens[-count:])
  return []
