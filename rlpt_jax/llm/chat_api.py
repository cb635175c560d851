"""Parses the responses of an OpenAI-compatible server without trusting them."""

import contextlib
import datetime
import email.utils
import json
from typing import Any, NamedTuple

# HTTP statuses that say that the settings, such as the key, are wrong.
MISTAKES = frozenset({401, 403, 404, 405, 407})


class Fault(NamedTuple):
  """The reason why a request got no answer that can be used.

  `cause` is one of a few values, so that faults can be counted by cause.
  """

  cause: str
  detail: str
  status: int = 0
  retry_after: float = 0.0

  @property
  def is_refusal(self) -> bool:
    """True if the server works but refuses this question."""
    return 400 <= self.status < 500 and not (
      self.status in MISTAKES or self.status in (408, 425, 429)
    )

  @property
  def is_mistake(self) -> bool:
    """True if the settings are wrong, such as the address or the key."""
    return self.status in MISTAKES or 300 <= self.status < 400


class Tokens(NamedTuple):
  """The size of a call; estimated if the server does not report it."""

  prompt: int
  completion: int
  is_estimated: bool = False


class Reply(NamedTuple):
  """A model's answer.

  finish_reason: 'stop', or 'length' if `max_tokens` cut the text; '' if the
    server does not say.
  seconds: how long the request took.
  is_kept: True if the answer comes from the records of earlier calls.
  """

  text: str
  finish_reason: str = ''
  tokens: Tokens | None = None
  seconds: float = 0.0
  is_kept: bool = False


def reply(data: bytes) -> Reply | None:
  """Returns the model's answer, or None if the bytes are no valid response."""
  try:
    response = json.loads(data)
    choice = response['choices'][0]
    text = (
      choice['message']['content'] if 'message' in choice else choice['text']
    )
  except (ValueError, TypeError, LookupError, RecursionError):
    return None
  if text is None:  # For example, all its tokens went into thinking.
    text = ''
  if not isinstance(text, str):
    return None
  reason = choice.get('finish_reason')
  reason = reason[:40] if isinstance(reason, str) else ''
  return Reply(text, reason, _tokens(response.get('usage')))


def _tokens(usage: Any) -> Tokens | None:
  if not isinstance(usage, dict):
    return None
  found = [usage.get('prompt_tokens'), usage.get('completion_tokens')]
  if all(type(count) is int and count >= 0 for count in found):
    return Tokens(*found)
  return None


def seconds(retry_after: str) -> float:
  """Returns the seconds that a Retry-After header (number or date) asks for.

  It is 0 if the header is not valid.
  """
  try:
    delay = float(retry_after)
  except ValueError:
    try:
      when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
      return 0.0
    if when.tzinfo is None:
      when = when.replace(tzinfo=datetime.UTC)
    delay = (when - datetime.datetime.now(datetime.UTC)).total_seconds()
  return delay if 0 < delay < float('inf') else 0.0


def error_message(text: str) -> str:
  """Returns the message in an error's body, or the body if it has none."""
  with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
    return str(json.loads(text)['error']['message'])
  return text
