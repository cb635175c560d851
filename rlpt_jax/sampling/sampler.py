"""The owner of an engine: whoever submits a request gets its completions.

Several callers may sample at the same time: training and its held-out examples,
a judge that is the same model, the clients of a server. Each gets its own
completions, no matter which of them runs the steps of the engine.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from rlpt_jax.core.layout import Layout
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.models.config import Decoder
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Completion, Request, cut, join
from rlpt_jax.sampling.text import Transcript

# Called with the number of a sample and its next tokens.
Deliver = Callable[[int, Completion], None]


class Sampler:
  """Runs an engine, and hands each piece to the caller who requested it."""

  def __init__(self, engine: Engine):
    self.engine = engine
    self._deliver: dict[int, Deliver] = {}  # By ticket.
    self._missing: dict[int, set[int]] = {}  # Unfinished samples, by ticket.

  def submit(
    self,
    request: Request,
    deliver: Deliver,
    *,
    begun: Mapping[int, np.ndarray] | None = None,
  ) -> int:
    """Queues a request; returns its ticket.

    deliver: is called with every piece of the request's completions; the last
      piece of each has a finish reason. It may call `cancel`, but not `submit`.
    begun: the tokens that samples have already; they are not delivered.
    """
    ticket = self.engine.submit(request, begun)
    self._deliver[ticket] = deliver
    self._missing[ticket] = set(range(request.samples))
    return ticket

  def cancel(self, ticket: int, sample: int | None = None):
    """Ends a request, or one sample of it: nothing more of it is delivered."""
    self.engine.cancel(ticket, sample)
    if sample is None:
      self._forget(ticket)
    else:
      self._end(ticket, sample)

  def step(self):
    """Decodes a chunk and delivers its tokens."""
    for ticket, sample, piece in self.engine.step():
      # An earlier delivery of this step may have cancelled the sample.
      if sample not in self._missing.get(ticket, ()):
        continue
      deliver = self._deliver[ticket]
      if piece.finish_reason:
        self._end(ticket, sample)
      deliver(sample, piece)

  def _end(self, ticket: int, sample: int):
    if ticket in self._missing:
      self._missing[ticket].discard(sample)
      if not self._missing[ticket]:
        self._forget(ticket)

  def _forget(self, ticket: int):
    self._missing.pop(ticket, None)
    self._deliver.pop(ticket, None)

  @property
  def decoder(self) -> Decoder:
    return self.engine.decoder

  @property
  def params(self):
    """The newest published weights."""
    return self.engine.params

  @property
  def plan(self) -> Plan:
    return self.engine.plan

  def is_apart_from(self, layout: Layout) -> bool:
    """Returns True if it uses no device of a layout."""
    return layout.is_apart_from(self.decoder.layout)

  def take_slots_in_use(self) -> float:
    """The share of all rows that sampled a token, since the last call."""
    counts, self.engine.counts = self.engine.counts, collections.Counter()
    return counts['tokens'] / max(counts['row_steps'], 1)

  @property
  def is_idle(self) -> bool:
    return self.engine.is_idle

  @property
  def version(self) -> int:
    """The version of the weights; see `Engine`."""
    return self.engine.version

  def publish(self, params, *, version: int | None = None):
    """Uses new weights from the next step on; version: see `Engine`."""
    self.engine.publish(params, version=version)

  def close(self):
    """Frees the memory of the devices."""
    self.engine.close()

  def __enter__(self) -> 'Sampler':
    return self

  def __exit__(self, *_):
    self.close()

  def run(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
    """Yields the completions of each request, in the order of the requests."""
    for group in self.complete(requests, None):
      yield [sample.completion for sample in group]

  def complete(
    self,
    requests: Iterable[Request],
    tokenizer: Tokenizer | None,
    *,
    stop: tuple[str, ...] = (),
    on_step: Callable[[int, int, int], None] = lambda *counts: None,
  ) -> Iterator[list['Sample']]:
    """Yields the samples of each request, in the order of the requests.

    Takes the next request only while fewer samples wait than there are slots.
    If the iterator is closed or a request is refused, cancels what is
    unfinished.

    stop: texts that end a sample, if there is a tokenizer.
    on_step: called before each step of the engine, and at the end, with the
      numbers of yielded requests, of finished samples, and of sampled tokens.
    """
    requests, is_last = iter(requests), False
    groups: collections.deque[SampleGroup] = collections.deque()
    counts = collections.Counter()
    try:
      while True:
        while not is_last and self.engine.waiting < self.plan.slots:
          request = next(requests, None)
          if request is None:
            is_last = True
          else:
            group = SampleGroup(request, tokenizer, stop, counts)
            group.enter(self)
            groups.append(group)
        while groups and groups[0].is_done:
          counts['prompts'] += 1
          yield groups.popleft().samples
        on_step(counts['prompts'], counts['samples'], counts['tokens'])
        if is_last and not groups:
          return
        self.step()
    finally:
      for group in groups:
        group.leave()


class Sample:
  """A completion being sampled, with its text if there is a tokenizer."""

  def __init__(
    self,
    tokenizer: Tokenizer | None,
    prompt_tokens: tuple[int, ...],
    stop: tuple[str, ...] = (),
  ):
    self._transcript = self.text = None
    if tokenizer:
      self._transcript = Transcript(tokenizer, prompt_tokens, stops=stop)
      self.text = ''
    self._pieces: list[Completion] = []
    self.finish_reason = None

  def add(self, piece: Completion):
    """Adds the next tokens; if they complete a stop text, the sample ends."""
    self._pieces.append(piece)
    self.finish_reason = piece.finish_reason
    if self._transcript:
      text_piece = self._transcript.add(piece)
      self.text += text_piece.text
      self.finish_reason = text_piece.finish_reason

  @property
  def has_tokens(self) -> bool:
    return bool(self._pieces)

  @property
  def completion(self) -> Completion:
    """The tokens so far, up to the one that completes a stop text.

    The rest of the chunk in which that happened is dropped.
    """
    count = self._transcript.num_tokens if self._transcript else None
    whole = cut(join(self._pieces), count)
    return dataclasses.replace(whole, finish_reason=self.finish_reason)


class SampleGroup:
  """The samples of a request, which may leave a sampler and return to it."""

  def __init__(
    self,
    request: Request,
    tokenizer: Tokenizer | None = None,
    stop: tuple[str, ...] = (),
    counts: collections.Counter | None = None,
  ):
    """counts: counts finished samples and tokens, for `Sampler.complete`."""
    self.request = request
    self.samples = [
      Sample(tokenizer, request.prompt_tokens, stop)
      for _ in range(request.samples)
    ]
    self._counts = collections.Counter() if counts is None else counts
    self._sampler: Sampler | None = None
    self._ticket: int | None = None

  @property
  def is_done(self) -> bool:
    return all(sample.finish_reason for sample in self.samples)

  def enter(self, sampler: Sampler):
    """Submits the samples that are not finished, with their tokens so far."""
    unfinished = {
      i: sample for i, sample in enumerate(self.samples)
      if not sample.finish_reason
    }  # fmt: skip
    begun = {
      i: sample.completion.tokens
      for i, sample in unfinished.items()
      if sample.has_tokens
    }
    self._sampler = sampler
    self._ticket = sampler.submit(self.request, self.add, begun=begun)
    for i in range(len(self.samples)):
      if i not in unfinished:
        sampler.cancel(self._ticket, i)

  def leave(self):
    """Cancels what is unfinished; the samples keep their tokens."""
    if self._sampler:
      self._sampler.cancel(self._ticket)
      self._sampler = self._ticket = None

  def add(self, number: int, piece: Completion):
    sample = self.samples[number]
    sample.add(piece)
    self._counts['tokens'] += len(piece.tokens)
    if sample.finish_reason:
      self._counts['samples'] += 1
      if not piece.finish_reason:  # A stop text ended it.
        self._sampler.cancel(self._ticket, number)
