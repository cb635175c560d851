"""The host's table of slots: the sample in each slot and its state."""

import dataclasses

import jax
import numpy as np

from rlpt_jax.sampling.chunks import (
  ANY,
  LENGTH,
  NO_TOKEN,
  RUNNING,
  STOP,
  Report,
  Slots,
)
from rlpt_jax.sampling.logits import Settings
from rlpt_jax.sampling.requests import NEVER, Completion, Request

FINISH_REASONS = {RUNNING: None, STOP: 'stop', LENGTH: 'length'}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Limits on a request's stops and forced phrase, which set array shapes."""

  stops: int = 4
  stop_tokens: int = 8
  phrase_tokens: int = 32

  def __post_init__(self):
    for name, value in vars(self).items():
      if value < 1:
        raise ValueError(f'{name}={value}: expected at least 1.')

  def check(self, request: Request):
    """Raises if a request does not fit."""
    interruption = request.interruption
    phrase = interruption.phrase if interruption else ()
    unless = interruption.unless if interruption else ()
    longest = max(map(len, (*request.stops, unless)), default=0)
    for name, count, room, field in (
      ('stops', len(request.stops), self.stops, 'stops'),
      ('tokens in a stop', longest, self.stop_tokens, 'stop_tokens'),
      ('tokens in the phrase', len(phrase), self.phrase_tokens,
       'phrase_tokens'),
    ):  # fmt: skip
      if count > room:
        raise ValueError(
          f'request {request.id}: {count} {name}, but at most {room} fit: '
          f'raise Sizes.{field}.'
        )


SIZES = Sizes()


class Table:
  """The state of all slots as numpy arrays, updated by requests and reports."""

  def __init__(self, num_slots: int, sizes: Sizes):
    self.sizes = sizes
    B, C, W = num_slots, sizes.stops, sizes.stop_tokens
    zeros = np.zeros(B, np.int32)
    self._arrays = {
      'running_B': np.zeros(B, bool),
      'token_B': zeros,
      'sampled_B': zeros.copy(),
      'key_words_BC': np.zeros((B, 4), np.uint32),
      'limit_B': zeros.copy(),
      'stops_BCW': np.full((B, C, W), NO_TOKEN, np.int32),
      'last_BW': np.full((B, W), NO_TOKEN, np.int32),
      'interrupt_B': np.full(B, NEVER, np.int32),
      'phrase_BW': np.zeros((B, sizes.phrase_tokens), np.int32),
      'phrase_length_B': zeros.copy(),
      'answer_B': zeros.copy(),
      'unless_BW': np.full((B, W), NO_TOKEN, np.int32),
    }
    self._settings = {
      'temperature_B': np.zeros(B, np.float32),
      'top_k_B': zeros.copy(),
      'top_p_B': np.ones(B, np.float32),
      'min_p_B': np.zeros(B, np.float32),
    }

  @property
  def running_B(self) -> np.ndarray:
    return self._arrays['running_B']

  @property
  def sampled_B(self) -> np.ndarray:
    return self._arrays['sampled_B']

  def enter(self, slot: int, request: Request, i: int, begun=()):
    """Assigns the i-th sample of a request to a slot.

    begun: its tokens so far, whose keys and values are in the caches.
    """
    sample = request.first_sample + i
    W = self.sizes.stop_tokens
    row = {
      'running_B': True,
      'token_B': request.prompt_tokens[-1],
      'sampled_B': 0,
      'key_words_BC': request.key_words(sample),
      'limit_B': request.limits[i],
      'stops_BCW': NO_TOKEN,
      'last_BW': NO_TOKEN,
      'interrupt_B': request.interrupted_at(sample),
      'phrase_length_B': 0,
      'answer_B': 0,
      'unless_BW': NO_TOKEN,
    }
    for name, value in row.items():
      self._arrays[name][slot] = value
    for i, stop in enumerate(request.stops):
      self._arrays['stops_BCW'][slot, i] = _right_aligned(stop, W)
    if request.interruption:
      phrase = request.interruption.phrase
      self._arrays['phrase_BW'][slot, : len(phrase)] = phrase
      self._arrays['phrase_length_B'][slot] = len(phrase)
      self._arrays['answer_B'][slot] = request.interruption.answer
      if request.interruption.unless:
        self._arrays['unless_BW'][slot] = _right_aligned(
          request.interruption.unless, W
        )
    for name, values_B in self._settings.items():
      values_B[slot] = getattr(request, name.removesuffix('_B'))
    if len(begun):
      self._continue(slot, request, begun)

  def _continue(self, slot: int, request: Request, begun):
    """Sets the state of a slot to that after the tokens `begun`."""
    self._arrays['token_B'][slot] = begun[-1]
    self._arrays['sampled_B'][slot] = len(begun)
    last = begun[-self.sizes.stop_tokens :]
    self._arrays['last_BW'][slot, -len(last) :] = last
    if request.interruption and (unless := request.interruption.unless):
      thinking = tuple(begun[: self._arrays['interrupt_B'][slot]])
      if any(
        thinking[i : i + len(unless)] == unless for i in range(len(thinking))
      ):
        self._arrays['interrupt_B'][slot] = NEVER

  def leave(self, slot: int):
    """Frees a slot."""
    self.running_B[slot] = False
    # Attention reads as many columns of blocks as the longest row has.
    self.sampled_B[slot] = 0
    # Reset its filters, or every step would still run them.
    for name, value in (('top_k_B', 0), ('top_p_B', 1), ('min_p_B', 0)):
      self._settings[name][slot] = value

  def slots(self, prefix_length_P, readers, **more) -> Slots:
    """Copies the table to a `Slots`; `more`: fields that it does not have."""
    # On a CPU, a device array may share memory with its numpy array.
    arrays = {name: array.copy() for name, array in self._arrays.items()}
    settings = {name: array.copy() for name, array in self._settings.items()}
    return Slots(
      **arrays,
      settings=Settings(**settings),
      prefix_length_P=np.array(prefix_length_P, np.int32),
      readers=readers,
      **more,
    )

  def read(self, report: Report, version: int) -> dict[int, Completion]:
    """Updates the table after a chunk; frees the slots of ended samples.

    Returns the new tokens of each slot that was running.
    """
    report = jax.device_get(report)
    pieces = {}
    for slot in np.flatnonzero(self.running_B):
      count = report.count_B[slot]
      pieces[int(slot)] = Completion(
        tokens=report.tokens_BT[slot, :count],
        logprobs=report.logprobs_BT[slot, :count],
        policy_logprobs=report.policy_logprobs_BT[slot, :count],
        is_own=report.is_own_BT[slot, :count],
        versions=np.full(count, version, np.int32),
        finish_reason=FINISH_REASONS[int(report.finish_B[slot])],
      )
      self._arrays['token_B'][slot] = report.tokens_BT[slot, count - 1]
      self._arrays['sampled_B'][slot] += count
      if report.finish_B[slot] != RUNNING:
        self.leave(slot)
    self._arrays['last_BW'][:] = report.last_BW
    self._arrays['interrupt_B'][:] = report.interrupt_B
    return pieces


def _right_aligned(tokens, width: int) -> list[int]:
  return [ANY] * (width - len(tokens)) + list(tokens)
