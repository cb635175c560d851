"""What a server of OpenAI's API sends, read without trust in it."""

import contextlib
import datetime
import email.utils
import json
from typing import NamedTuple

MISTAKES = frozenset({401, 403, 404, 405, 407})


class Fault(NamedTuple):
  """Why there was no answer. `cause` is one of few, to be counted."""

  cause: str
  detail: str
  status: int = 0
  retry_after: float = 0.0

  @property
  def is_refusal(self) -> bool:
    """The server works, but does not want this question."""
    return 400 <= self.status < 500 and not (
      self.status in MISTAKES or self.status in (408, 425, 429)
    )

  @property
  def is_mistake(self) -> bool:
    return self.status in MISTAKES or 300 <= self.status < 400


def answer(data: bytes) -> str | None:
  """What the model said; None where these are not the bytes of an answer."""
  try:
    choice = json.loads(data)['choices'][0]
    said = (
      choice['message']['content'] if 'message' in choice else choice['text']
    )
  except (ValueError, TypeError, LookupError, RecursionError):
    return None
  if said is None:  # All its tokens went into thinking, say.
    return ''
  return said if isinstance(said, str) else None


def seconds(retry_after: str) -> float:
  """How long a Retry-After asks to wait: it is a number or a date."""
  try:
    found = float(retry_after)
  except ValueError:
    try:
      when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
      return 0.0
    if when.tzinfo is None:
      when = when.replace(tzinfo=datetime.UTC)
    found = (when - datetime.datetime.now(datetime.UTC)).total_seconds()
  return found if 0 < found < float('inf') else 0.0


def error_message(text: str) -> str:
  """The message in the body of an error, or the body where there is none."""
  with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
    return str(json.loads(text)['error']['message'])
  return text
