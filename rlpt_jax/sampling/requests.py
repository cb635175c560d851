"""Requests to an engine and the completions it returns, as plain host data.

An engine only knows token ids; text stops, chat templates and tokenizers are
handled by its callers.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

NEVER = np.int32(2**31 - 1)  # A position that no completion reaches.


def _check_tokens(name: str, tokens):
  # The sampler uses negative ids for itself, such as 'any token'.
  if min(tokens, default=0) < 0 or max(tokens, default=0) > NEVER:
    wrong = next(token for token in tokens if not 0 <= token <= NEVER)
    raise ValueError(f'{name}: expected token ids, got {wrong}.')


@dataclasses.dataclass(frozen=True)
class Interruption:
  """Ends thinking that takes too long (ScaleRL, section 4).

  After a number of tokens drawn uniformly from `after`, both ends included, the
  next tokens are forced to be `phrase`. The model then has `answer` tokens
  left. `max_new_tokens` counts all of these, and may end the completion
  earlier. A sample that produces `unless` (the end of thinking) by itself
  before the phrase is due is not interrupted.
  """

  phrase: tuple[int, ...]
  after: tuple[int, int]
  answer: int
  unless: tuple[int, ...] = ()

  def __post_init__(self):
    low, high = self.after
    if not 0 <= low <= high:
      raise ValueError(f'after={self.after}: expected 0 <= low <= high.')
    if not self.phrase or self.answer < 1:
      raise ValueError(
        f'phrase of {len(self.phrase)} tokens, answer={self.answer}: expected '
        'at least one token for each.'
      )
    _check_tokens('phrase', self.phrase)
    _check_tokens('unless', self.unless)
    longest = high + len(self.phrase) + self.answer
    if longest > NEVER:
      raise ValueError(
        f'after={self.after}, answer={self.answer}: {longest} tokens with the '
        f'phrase, expected at most {NEVER}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Asks for `samples` completions of one prompt, which form a group.

  The random numbers of a completion depend only on (seed, id, sample,
  position), so its tokens do not depend on other rows, the order of requests or
  restarts. Samples are numbered from `first_sample` on, so that a group can be
  split over several requests without repeating its random numbers.

  max_new_tokens: one limit for all samples, or a tuple with one per sample.
  temperature: 0 always takes the most probable token.
  top_k: 0 keeps all tokens. Here and in top_p, ties for last place are kept.
  top_p: of the tokens that top_k keeps, keeps the smallest set of most probable
    ones that has at least this share of their probability.
  min_p: drops tokens with less than this share of the largest probability.
  stops: a completion ends after any of these token sequences; an EOS is a
    sequence of one token.
  """

  prompt_tokens: tuple[int, ...]
  id: str
  samples: int = 1
  first_sample: int = 0
  seed: int = 0
  max_new_tokens: int | tuple[int, ...]
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  stops: tuple[tuple[int, ...], ...] = ()
  interruption: Interruption | None = None

  def __post_init__(self):
    for name, value, low, high in (
      ('prompt_tokens', len(self.prompt_tokens), 1, NEVER),
      ('samples', self.samples, 1, NEVER),
      ('first_sample', self.first_sample, 0, NEVER),
      ('seed', self.seed, 0, 2**32 - 1),
      ('max_new_tokens', min(self.limits, default=1), 1, NEVER),
      ('max_new_tokens', max(self.limits, default=1), 1, NEVER),
      ('temperature', self.temperature, 0, 1e6),
      ('top_k', self.top_k, 0, NEVER),
      ('top_p', self.top_p, 1e-6, 1),
      ('min_p', self.min_p, 0, 1),
    ):
      if not low <= value <= high:  # Also True for NaN.
        count = 'a number of ' if name == 'prompt_tokens' else ''
        raise ValueError(
          f'{name}: expected {count}{low} to {high}, got {value}.'
        )
    if len(self.limits) != self.samples:
      raise ValueError(
        f'max_new_tokens: {len(self.limits)} limits for {self.samples} '
        'samples: expected one limit per sample, or one number for all.'
      )
    if not all(self.stops):
      raise ValueError('stops: expected sequences of at least one token.')
    _check_tokens('prompt_tokens', self.prompt_tokens)
    for stop in self.stops:
      _check_tokens('stops', stop)

  def check_vocabulary(self, vocab_size: int):
    """Raises if a token is not in the model's vocabulary."""
    phrase = self.interruption.phrase if self.interruption else ()
    largest = max(*self.prompt_tokens, *phrase, 0)
    if largest >= vocab_size:
      raise ValueError(
        f'request {self.id}: has token {largest}, but the ids of the model '
        f'are 0 to {vocab_size - 1}. Is this its tokenizer?'
      )

  @property
  def limits(self) -> tuple[int, ...]:
    """The maximum number of new tokens of each sample."""
    if isinstance(self.max_new_tokens, tuple):
      return self.max_new_tokens
    return (self.max_new_tokens,) * self.samples

  def key_words(self, sample: int) -> np.ndarray:
    """[4] uint32: the seed words of a sample's random numbers."""
    name = self.id.encode('utf-8', 'surrogatepass')
    digest = hashlib.blake2b(name, digest_size=8).digest()
    high, low = np.frombuffer(digest, '<u4')
    return np.array([self.seed, high, low, sample], np.uint32)

  def interrupted_at(self, sample: int) -> int:
    """Returns where the forced phrase starts in a sample; NEVER without one."""
    if self.interruption is None:
      return int(NEVER)
    low, high = self.interruption.after
    # No numpy generator: its numbers may change with the version of numpy.
    words = self.key_words(sample).astype('<u4').tobytes()
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return low + int.from_bytes(digest, 'little') % (high - low + 1)


def sampling_fields(settings: Any) -> dict[str, Any]:
  """The sampling options of `settings`, as keyword arguments for a Request."""
  names = ('max_new_tokens', 'temperature', 'top_k', 'top_p', 'min_p')
  return {name: getattr(settings, name) for name in names}


FinishReason = Literal['stop', 'length']


@dataclasses.dataclass(frozen=True)
class Completion:
  """The tokens of one sample: all of them, or those of one `Engine.step`.

  A stop that ends a completion is part of it. Log-probabilities are float32 and
  under the weights that sampled each token; `versions` numbers these weights.
  """

  tokens: np.ndarray  # int32
  logprobs: np.ndarray  # Under the distribution sampled from; greedy: 0.
  policy_logprobs: np.ndarray  # Under the model, unfiltered, temperature 1.
  is_own: np.ndarray  # False: forced by an interruption, not sampled.
  versions: np.ndarray  # int32
  finish_reason: FinishReason | None  # None: still running.
  prompt_version: int = 0  # Version of the weights that computed the prefix.


def cut(completion: Completion, length: int | None) -> Completion:
  """The completion cut to its first `length` tokens; None keeps all."""
  return _sliced(completion, slice(length))


def _sliced(completion: Completion, place: slice) -> Completion:
  arrays = {
    field.name: getattr(completion, field.name)[place]
    for field in dataclasses.fields(Completion)
    if field.type is np.ndarray
  }
  return dataclasses.replace(completion, **arrays)


def without_first(completion: Completion, count: int) -> Completion:
  """The completion without its first `count` tokens."""
  return _sliced(completion, slice(count, None))


def in_pieces(completion: Completion, size: int) -> Iterator[Completion]:
  """Yields pieces of at most `size` tokens, the last with the finish reason."""
  length = len(completion.tokens)
  for first in range(0, length or 1, size):
    piece = _sliced(completion, slice(first, first + size))
    is_last = first + size >= length
    yield piece if is_last else dataclasses.replace(piece, finish_reason=None)


def join(pieces: list[Completion]) -> Completion:
  """One completion from the pieces of a sample, in order."""
  arrays = {
    field.name: np.concatenate([getattr(piece, field.name) for piece in pieces])
    for field in dataclasses.fields(Completion)
    if field.type is np.ndarray
  }
  return dataclasses.replace(pieces[-1], **arrays)
