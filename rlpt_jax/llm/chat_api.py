"""Parses the responses of an OpenAI-compatible server without trusting them."""

import contextlib
import datetime
import email.utils
import json
from typing import NamedTuple

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


def answer(data: bytes) -> str | None:
  """Returns the model's text, or None if the bytes are not a valid response."""
  try:
    choice = json.loads(data)['choices'][0]
    text = (
      choice['message']['content'] if 'message' in choice else choice['text']
    )
  except (ValueError, TypeError, LookupError, RecursionError):
    return None
  if text is None:  # For example, all its tokens went into thinking.
    return ''
  return text if isinstance(text, str) else None


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
