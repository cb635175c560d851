"""Sends requests to one address of an OpenAI-compatible server.

A request returns a reply or a fault; it raises nothing, whatever the server
does. The API key is read from its source when a connection opens. No attribute
holds it, and it is removed from all text of the server.
"""

import time
from collections.abc import Callable
from typing import Any

from rlpt_jax.llm import chat_api
from rlpt_jax.llm.chat_api import Fault, Reply

MAX_ANSWER = 4 * 2**20  # Bytes. A longer response is a fault.
SHORTEST_SECRET = 8  # Shorter keys are placeholders such as 'EMPTY'.

KeySource = Callable[[], str | None]


class Connection:
  """A pool of connections to one address, used in one event loop.

  key: returns the API key, or None if none is needed.
  timeout: the limit for one request in seconds, up to the last byte.
  """

  def __init__(self, address: str, key: KeySource, timeout: float):
    self._address, self._key, self._timeout = address, key, timeout

  async def __aenter__(self) -> 'Connection':
    self._session = _session(self._key, self._timeout)
    self._clean = _cleaner(self._key)
    return self

  async def __aexit__(self, *_):
    await self._session.close()

  async def post(self, body: dict[str, Any]) -> Reply | Fault:
    """Returns the reply to one request, or a fault.

    Catches aiohttp's exceptions, because they hold the headers and so the key.
    """
    import aiohttp

    since = time.monotonic()
    try:
      # No redirects, because another host must not get the key.
      async with self._session.post(
        self._address, json=body, allow_redirects=False
      ) as response:
        status, data = response.status, bytearray()
        retry_after = response.headers.get('Retry-After', '')
        async for chunk in response.content.iter_chunked(2**16):
          data += chunk
          if len(data) > MAX_ANSWER:
            return Fault('garbled', f'more than {MAX_ANSWER:,} bytes')
    except TimeoutError:
      return Fault('timeout', f'no answer in {self._timeout:g} s')
    except (aiohttp.ClientError, OSError) as error:
      text = f'{type(error).__name__}: {self._clean(str(error))}'
      return Fault('connection', text)
    if status == 200:
      reply = chat_api.reply(data)
      if reply is None:
        return Fault('garbled', f'no answer in {self._excerpt(data)}')
      return reply._replace(
        text=self._clean(reply.text),
        finish_reason=self._clean(reply.finish_reason),
        seconds=time.monotonic() - since,
      )
    text = f'HTTP {status} {self._excerpt(data)}'
    return Fault(f'http/{status}', text, status, chat_api.seconds(retry_after))

  def _excerpt(self, data: bytes) -> str:
    """Returns the start of the error's message, or of the body, on one line."""
    text = chat_api.error_message(data.decode(errors='replace'))
    # The API key is removed first, since the cut might leave half of it.
    return repr(' '.join(self._clean(text).split())[:200])


# Some tracebacks show variables, so only these two functions hold the key.


def _session(source: KeySource, timeout: float):
  import aiohttp

  key = source()
  return aiohttp.ClientSession(
    headers={'Authorization': f'Bearer {key}'} if key else {},
    connector=aiohttp.TCPConnector(limit=0),  # The caller limits requests.
    timeout=aiohttp.ClientTimeout(total=timeout),
  )


def _cleaner(source: KeySource) -> Callable[[str], str]:
  key = source()
  if key is None or len(key) < SHORTEST_SECRET:
    return lambda text: text
  return lambda text: text.replace(key, '[key]')
