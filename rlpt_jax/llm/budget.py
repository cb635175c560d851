"""Counts what calls use, and stops before a limit is exceeded.

A call reserves the most that it may use before it is sent: the bytes of its
request as tokens, since a token has at least one byte, and `max_tokens` for its
reply. If used and reserved amounts leave no room, the call waits until calls
in flight return what they did not use. If none is in flight, the run stops with
`Spent`, and no later call is sent.

So what is used never exceeds a limit, with three exceptions. A server may break
the two rules above, for example if it does not count thinking in `max_tokens`.
Requests without a reply (timeouts, broken connections) may be charged for, but
nobody knows. And a killed run loses the replies that were on their way, at most
`Patience.concurrency` for each model.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from rlpt_jax.core import checks
from rlpt_jax.core.checks import NonNegative, Positive, Range
from rlpt_jax.llm.chat_api import Tokens

CHARACTERS_PER_TOKEN = 4  # If the server does not report the tokens of a call.
FORM_TOKENS = 64  # More than a chat template adds to a message.

TokenCount = Annotated[int, Range(1, 10**15)]


class Spent(ValueError):
  """Raised if the next call might exceed the budget."""


@dataclasses.dataclass(frozen=True)
class Price:
  """The price of a million tokens of the prompt and of the answer."""

  prompt: NonNegative
  completion: NonNegative

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, tokens: Tokens) -> float:
    """Returns the price of a call."""
    return (
      self.prompt * tokens.prompt + self.completion * tokens.completion
    ) / 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """The limits of a run and of all earlier runs with the same records.

  max_tokens: of prompts and answers together.
  max_money: in the currency of the prices.
  prices: by the model's name. With max_money, every model needs one.
  """

  max_tokens: TokenCount | None = None
  max_money: Positive | None = None
  prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    checks.check_fields(self)

  def check(self, model: str, fields: Mapping[str, Any]):
    """Raises if calls of the model with these fields have no known limit."""
    if self.max_money is not None and model not in self.prices:
      raise checks.setting_error(
        type(self), 'prices', dict(self.prices),
        f'a Price for {model!r}, since max_money is set',
      )  # fmt: skip
    is_limited = self.max_money is not None or self.max_tokens is not None
    if is_limited and max_completion(fields) is None:
      raise ValueError(
        f"{model}: fields={dict(fields)}: expected 'max_tokens', since the run "
        'has a budget, and a call reserves the most that it may use.'
      )


@dataclasses.dataclass(frozen=True)
class Usage:
  """What some calls used; `estimated` counts those of estimated size."""

  calls: float = 0
  prompt_tokens: float = 0
  completion_tokens: float = 0
  money: float = 0.0
  estimated: float = 0

  def __add__(self, other: 'Usage') -> 'Usage':
    return self.plus(other, 1)

  def __sub__(self, other: 'Usage') -> 'Usage':
    return self.plus(other, -1)

  def plus(self, other: 'Usage', times: float) -> 'Usage':
    """Returns the sum with a multiple of another usage."""
    return Usage(
      self.calls + times * other.calls,
      self.prompt_tokens + times * other.prompt_tokens,
      self.completion_tokens + times * other.completion_tokens,
      self.money + times * other.money,
      self.estimated + times * other.estimated,
    )

  @property
  def tokens(self) -> float:
    return self.prompt_tokens + self.completion_tokens


NOTHING = Usage()


class Account:
  """What a run has used, by stage, within a budget.

  Its methods belong to one event loop.
  """

  def __init__(self, budget: Budget):
    self.budget = budget
    self.by_stage: dict[str, Usage] = {}
    self.total = NOTHING
    self._reserved, self._changed = NOTHING, asyncio.Condition()
    self._spent: Spent | None = None

  def add(self, stage: str, usage: Usage):
    self.by_stage[stage] = self.by_stage.get(stage, NOTHING) + usage
    self.total += usage

  def usage(self, model: str, tokens: Tokens) -> Usage:
    """Returns what a call of this size uses; money is 0 without a price."""
    price = self.budget.prices.get(model)
    money = price(tokens) if price else 0.0
    return Usage(
      1, tokens.prompt, tokens.completion, money, tokens.is_estimated
    )

  @contextlib.asynccontextmanager
  async def reserving(self, most: Usage) -> AsyncIterator[None]:
    """Reserves the most that a call may use, or raises `Spent`."""
    async with self._changed:
      while not self._has_room(most):
        if self._spent is None and not self._reserved.calls:
          self._spent = self._stop(most)
        if self._spent:
          self._changed.notify_all()
          raise self._spent
        await self._changed.wait()
      self._reserved += most
    try:
      yield
    finally:
      self._reserved -= most
      if not self._reserved.calls:
        self._reserved = NOTHING  # Without the rounding errors of the sums.
      async with self._changed:
        self._changed.notify_all()

  def _has_room(self, most: Usage) -> bool:
    if self._spent:
      return False
    planned, budget = self.total + self._reserved + most, self.budget
    return planned.tokens <= (budget.max_tokens or math.inf) and (
      planned.money <= (budget.max_money or math.inf)
    )

  def _stop(self, most: Usage) -> Spent:
    limits = []
    for name, used, next_one in (
      ('max_tokens', self.total.tokens, most.tokens),
      ('max_money', self.total.money, most.money),
    ):
      limit = getattr(self.budget, name)
      if limit is not None and used + next_one > limit:
        limits.append(
          f'{name}={limit:,}: {used:,.6g} used, up to {next_one:,.6g} needed '
          'for the next call'
        )
    return Spent(
      f'The budget is spent after {self.total.calls:,} calls '
      f'({"; ".join(limits)}). All replies are kept: start again with a larger '
      'budget to continue.'
    )


def max_completion(fields: Mapping[str, Any]) -> int | None:
  """Returns the most tokens that an answer may have, or None if unlimited."""
  for name in ('max_completion_tokens', 'max_tokens'):
    if type(fields.get(name)) is int:
      return fields[name]
  return None


def estimated_tokens(prompt_characters: int, text: str) -> Tokens:
  """Returns the size of a call whose server does not report it."""
  counts = [
    math.ceil(characters / CHARACTERS_PER_TOKEN)
    for characters in (prompt_characters, len(text))
  ]
  return Tokens(*counts, is_estimated=True)


def most_tokens(body: Mapping[str, Any], messages: int) -> Tokens:
  """Returns the most tokens of a call with this body and number of messages."""
  data = json.dumps(body, ensure_ascii=False).encode(errors='replace')
  prompt = len(data) + FORM_TOKENS * messages
  return Tokens(prompt, max_completion(body) or 0)
