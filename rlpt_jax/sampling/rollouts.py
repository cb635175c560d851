"""Samples completions with an engine and decodes them, group by group."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.requests import Completion, Request, cut, join
from rlpt_jax.sampling.text import Transcript


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
    """Adds the next tokens; one that completes a stop text ends the sample."""
    self._pieces.append(piece)
    self.finish_reason = piece.finish_reason
    if self._transcript:
      said = self._transcript.add(piece)
      self.text += said.text
      self.finish_reason = said.finish_reason

  @property
  def completion(self) -> Completion:
    """The tokens so far, up to the one that completes a stop text.

    The rest of the chunk in which that happened is dropped.
    """
    count = self._transcript.num_tokens if self._transcript else None
    whole = cut(join(self._pieces), count)
    return dataclasses.replace(whole, finish_reason=self.finish_reason)


def complete(
  engine: Engine,
  requests: Iterable[Request],
  tokenizer: Tokenizer | None,
  *,
  stop: tuple[str, ...] = (),
  on_step: Callable[[int, int, int], None] = lambda *done: None,
) -> Iterator[list[Sample]]:
  """Yields the samples of each request, in the order of the requests.

  on_step: called after each step of the engine with the number of finished
    requests, of finished samples, and of sampled tokens.
  """
  groups: dict[int, list[Sample]] = {}  # Unfinished ones, by ticket.
  try:
    yield from _complete(
      engine, iter(requests), tokenizer, stop, on_step, groups
    )
  finally:
    for ticket in groups:
      engine.cancel(ticket)


def _complete(engine, requests, tokenizer, stop, on_step, groups):
  prompts = samples = tokens = 0
  while True:
    while engine.waiting < engine.plan.slots and (
      request := next(requests, None)
    ):
      groups[engine.submit(request)] = [
        Sample(tokenizer, request.prompt_tokens, stop)
        for _ in range(request.samples)
      ]
    if not groups:
      return
    for ticket, i, piece in engine.step():
      if ticket not in groups or groups[ticket][i].finish_reason:
        continue  # A stop text has ended it.
      sample = groups[ticket][i]
      sample.add(piece)
      tokens += len(piece.tokens)
      samples += bool(sample.finish_reason)
      if sample.finish_reason and not piece.finish_reason:
        engine.cancel(ticket, i)
    while groups and all(
      sample.finish_reason for sample in next(iter(groups.values()))
    ):
      prompts += 1
      yield groups.pop(next(iter(groups)))
    on_step(prompts, samples, tokens)
