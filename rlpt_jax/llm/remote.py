"""A model behind a URL: any endpoint that speaks OpenAI's API.

The kind of a fault decides what happens to a question:

  timeout, connection, 5xx, 408, 425,   asked up to `attempts` times, after
  a response cut off, or invalid JSON   random, ever longer delays
  429                                   asked again likewise, for `wait` seconds
  400, 413, 422 and other 4xx           not asked again: the server refuses it
  3xx, 401, 403, 404, 405, 407          ValueError before the first answer, as
                                        the settings are wrong; later like 5xx

A Retry-After header delays all questions, since it concerns the whole server.
After `open_after` faults in a row the circuit opens: only probes are sent, and
no question of the run. When one is answered, all questions go on. If none is
answered for `wait` seconds, the run stops with `Unavailable`.

The API key is read from the environment when a call begins. No attribute holds
it, and it is removed from all text of the server that is kept or shown.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import random
import re
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Name, Positive
from rlpt_jax.llm.answer_cache import AnswerCache, content_key
from rlpt_jax.llm.chat_api import Fault, Reply
from rlpt_jax.llm.connection import Connection

PROBE = 'Say 1.'
REMIND_S = 60.0  # Seconds between two warnings while waiting for the server.
OURS = frozenset({'model', 'messages', 'prompt', 'stream', 'n'})

Message = Mapping[str, str]  # Such as {'role': 'user', 'content': '...'}.

logger = logging.getLogger(__name__)


class Unavailable(ConnectionError):
  """Raised if a server is down and the run may not wait for it any longer."""

  exit_status = 75  # EX_TEMPFAIL: the same command resumes the run.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
  """The model that is asked, its server, and the form of a request.

  url: includes the API version, as in 'http://judge:8000/v1'.
  chat: True sends the prompt as a user's message; False as a text that a base
    model continues.
  fields: all other fields of the request. Setting it replaces all defaults.
    Reasoning models need a higher `max_tokens`. Some servers have a switch for
    thinking: {..., 'chat_template_kwargs': {'enable_thinking': False}}.
  key_env: the environment variable that holds the API key, if one is needed.
  """

  url: Name
  model: Name
  chat: bool = True
  fields: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {'max_tokens': 16, 'temperature': 0, 'seed': 0}
  )
  key_env: Name | None = None

  def __post_init__(self):
    checks.check_fields(self)
    parts = urllib.parse.urlsplit(self.url)
    if parts.username or parts.password or parts.query:
      raise ValueError(
        'url: contains a user, a password or a query, which would appear in '
        'logs; expected only an address. Pass a key with key_env.'
      )
    if parts.scheme not in ('http', 'https') or not parts.hostname:
      expected = "an address such as 'http://127.0.0.1:8000/v1'"
      raise checks.setting_error(type(self), 'url', self.url, expected)
    if taken := sorted(OURS & self.fields.keys()):
      raise ValueError(
        f'fields: {taken[0]!r} is set by rlpt; expected other fields of the '
        "request, such as 'max_tokens'."
      )

  @property
  def address(self) -> str:
    """The URL that requests are sent to."""
    path = 'chat/completions' if self.chat else 'completions'
    return f'{self.url.rstrip("/")}/{path}'

  def body(self, prompt: str | Sequence[Message]) -> dict[str, Any]:
    """Returns the body of a request; the answer depends on nothing else.

    prompt: a text, or with `chat` also a list of messages.
    """
    question = {'prompt': prompt}
    if self.chat:
      if isinstance(prompt, str):
        prompt = [{'role': 'user', 'content': prompt}]
      question = {'messages': list(prompt)}
    elif not isinstance(prompt, str):
      raise ValueError(
        f'model={self.model!r}, chat=False: expected the prompt as one text, '
        'found a list of messages.'
      )
    return {'model': self.model, **self.fields, **question}

  def key(self) -> str | None:
    """Returns the API key from the environment, or None if none is needed."""
    if self.key_env is None:
      return None
    key = os.environ.get(self.key_env, '').strip()
    if not key or not (key.isascii() and key.isprintable()):
      raise ValueError(
        f'key_env={self.key_env}: expected an environment variable with a key; '
        f'it is {"not plain ASCII" if key else "not set, or empty"}.'
      )
    return key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
  """Limits of requests and retries. Times are in seconds.

  concurrency: the largest number of simultaneous requests.
  timeout: the limit for one request, from connecting to the last byte.
  attempts: the most requests for one question, not counting those with a 429.
  first_delay, longest_delay: upper bounds of the first and of any delay.
  open_after: the number of faults in a row after which only probes are sent.
  wait: how long a server may give no answer at all before the run stops.
  """

  concurrency: Count = 32
  timeout: Positive = 60.0
  attempts: Count = 6
  first_delay: Positive = 0.5
  longest_delay: Positive = 30.0
  open_after: Count = 10
  wait: Positive = 3600.0

  def __post_init__(self):
    checks.check_fields(self)

  def delay(self, times: int) -> float:
    """Returns the upper bound of a delay after `times` earlier delays."""
    return min(self.longest_delay, self.first_delay * 2.0 ** min(times, 60))


class Server:
  """One model's server: asks again after faults, and waits while it is down.

  Its questions belong to the event loop that entered `connected`. It remembers
  faults from one loop to the next. `counts['requests']` is the number of HTTP
  requests; `faults` counts those that failed, by cause.

  kept: the file that keeps the answers, for the message of `Unavailable`.
  """

  def __init__(
    self,
    endpoint: Endpoint,
    patience: Patience,
    kept: str | pathlib.Path | None = None,
  ):
    endpoint.key()  # Raises now if the key is missing.
    self.endpoint, self.patience, self._kept = endpoint, patience, kept
    self.counts: collections.Counter[str] = collections.Counter()
    self.faults: collections.Counter[str] = collections.Counter()
    self.has_answered = False
    # Not seeded by the run: results do not depend on delays, and hosts with the
    # same seed would all retry at the same moment.
    self.random = random.Random()
    self._faults_in_a_row, self._last_fault = 0, None
    self._not_before, self._is_leaving = 0.0, False
    self._stopped_by: BaseException | None = None

  @contextlib.asynccontextmanager
  async def connected(self) -> AsyncIterator[None]:
    """Opens the connections that the questions of this event loop share."""
    self._room = asyncio.Semaphore(self.patience.concurrency)
    self._turn = asyncio.Lock()
    self._connection = Connection(
      self.endpoint.address, self.endpoint.key, self.patience.timeout
    )
    async with self._connection:
      yield

  async def ask(self, body: dict[str, Any]) -> Reply | Fault:
    """Returns the answer to one question, or the fault of its last attempt."""
    attempts = times = 0
    limited_since = None
    while True:
      async with self._room:
        await self._until_open()
        if self._stopped_by:
          raise self._stopped_by
        reply = await self._try(body)
      if isinstance(reply, Reply) or reply.is_refusal:
        return reply
      now = time.monotonic()
      if reply.status == 429:
        limited_since = limited_since or now
        if now - limited_since > self.patience.wait:
          return reply
      else:
        limited_since, attempts = None, attempts + 1
        if attempts >= self.patience.attempts:
          return reply
      await asyncio.sleep(self.random.uniform(0, self.patience.delay(times)))
      times += 1

  async def ask_first(self, body: dict[str, Any]) -> Reply:
    """Returns the answer to a question that should reach a working server.

    Waits if the server is down, and raises a ValueError if it cannot answer.
    """
    reply = await self._try(body)
    if isinstance(reply, Fault) and not reply.is_refusal:
      # One question alone might never open the circuit. Open it after one
      # fault, so that the question waits for the server.
      faults = max(self._faults_in_a_row, self.patience.open_after)
      self._faults_in_a_row = faults
      reply = await self.ask(body)
    if isinstance(reply, Fault):
      raise self.mistake(reply)
    return reply

  def stop_waiting(self):
    """Makes questions raise `Unavailable` instead of waiting."""
    self._is_leaving = True

  def stop(self, error: BaseException):
    """Makes questions raise the error, except those that are in flight."""
    self._stopped_by = error

  async def _try(self, body: dict[str, Any]) -> Reply | Fault:
    self.counts['requests'] += 1
    reply = await self._connection.post(body)
    if isinstance(reply, Reply):
      self.has_answered, self._faults_in_a_row = True, 0
      return reply
    self.faults[reply.cause] += 1
    if reply.is_refusal:
      self._faults_in_a_row = 0
    elif reply.is_mistake and not self.has_answered:
      raise self.mistake(reply)
    else:
      self._faults_in_a_row, self._last_fault = self._faults_in_a_row + 1, reply
      pause = min(reply.retry_after, self.patience.wait)
      self._not_before = max(self._not_before, time.monotonic() + pause)
    return reply

  async def _until_open(self):
    """Waits until a question may be asked."""
    async with self._turn:  # One task probes, the others wait for it.
      await asyncio.sleep(0)  # If that task gave up, the others end here.
      if self._is_down():
        await self._probe()
      await self._sleep(self._not_before - time.monotonic())

  def _is_down(self) -> bool:
    return self._faults_in_a_row >= self.patience.open_after

  async def _probe(self):
    """Sends probes until the server answers, or raises `Unavailable`."""
    since, times = time.monotonic(), 0
    last_reminder, clock = since, time.strftime('%H:%M:%S')
    logger.warning(
      '%s does not answer (%s); waiting for it since %s, for at most %g s',
      self.endpoint.url, self._last_fault.detail, clock, self.patience.wait,
    )  # fmt: skip
    while self._is_down():
      now = time.monotonic()
      if now - last_reminder >= REMIND_S:
        last_reminder = now
        logger.warning(
          '%s: still waiting since %s, %.0f of %g s (%s)', self.endpoint.url,
          clock, now - since, self.patience.wait, self._last_fault.detail,
        )  # fmt: skip
      delay = max(self.patience.delay(times), self._not_before - now)
      if now + delay - since > self.patience.wait:
        raise self._unavailable(now - since)
      await self._sleep(delay)
      # A question that was in flight may have been answered meanwhile.
      if self._is_down():
        await self._try(self.endpoint.body(PROBE))
      times += 1
    logger.warning(
      '%s: answers again after %.0f s', self.endpoint.url,
      time.monotonic() - since,
    )  # fmt: skip

  async def _sleep(self, seconds: float):
    since = time.monotonic()
    while (waited := time.monotonic() - since) < seconds:
      if self._stopped_by:
        raise self._stopped_by
      if self._is_leaving:
        raise self._unavailable(waited)
      await asyncio.sleep(min(seconds - waited, 1.0))
    await asyncio.sleep(0)

  def _unavailable(self, waited: float) -> Unavailable:
    why = f'wait={self.patience.wait:g}'
    if self._is_leaving:
      why = 'preempted'
    kept = 'No cache is set, so no answers are kept'
    if self._kept is not None:
      kept = f'The answers so far are in {self._kept}'
    return Unavailable(
      f'{self.endpoint.url}: no answer after {waited:.0f} s of waiting '
      f'({why}), last: {self._last_fault.detail}. {kept}; restart the run '
      'when it is back.'
    )

  def mistake(self, fault: Fault) -> ValueError:
    """Returns the error for a fault that the settings may have caused."""
    server = self.endpoint
    if server.chat and re.search('chat.?template', fault.detail, re.IGNORECASE):
      return ValueError(
        f'{server.address}: {fault.detail}. model={server.model!r} has no chat '
        'template there: set remote.Endpoint.chat = False for a base model, or '
        'give the server the template.'
      )
    key = f', the key in ${server.key_env}' if server.key_env else ''
    return ValueError(
      f'{server.address}: {fault.detail}. Are the address, '
      f'model={server.model!r}, fields={dict(server.fields)}{key} correct?'
    )


class Remote:
  """A judge behind a URL.

  Called with prompts, it returns their answers in order, None for a prompt
  without one. `counts` has the numbers of prompts ('asked'), of those found in
  the cache ('cached'), of HTTP requests ('requests'), and of prompts without an
  answer, by cause ('failed/timeout', 'failed/http/500', ...).
  """

  def __init__(
    self,
    endpoint: Endpoint,
    patience: Patience | None = None,
    *,
    cache: str | pathlib.Path | None = None,
  ):
    checks.check_arguments(type(self), locals())
    self.endpoint, self.patience = endpoint, patience or Patience()
    self.server = Server(self.endpoint, self.patience, cache)
    self.counts = self.server.counts
    self.cache = AnswerCache(cache) if cache else None
    # Each call has its own event loop, so nothing is left running at exit.
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'judge')
    self._calls: set[_Call] = set()
    self._closed = False

  def settings(self) -> dict[str, Any]:
    """Returns the settings that answers depend on: see core/settings.py."""
    server = self.endpoint
    return {'chat': server.chat, 'model': server.model, 'fields': server.fields}

  def __call__(self, prompts: Sequence[str]) -> list[str | None]:
    prompts = list(prompts)
    return self._run(lambda: self._answer_all(prompts))

  def ask_now(self, prompts: Sequence[str]) -> list[str]:
    """Returns new answers, ignoring the cache; ValueError if one is missing."""
    prompts = list(prompts)
    return self._run(lambda: self._answer_now(prompts))

  def _run(self, main: Callable[[], Any]):
    if self._closed:
      raise RuntimeError(f'{self.endpoint.url}: was asked after it was closed.')
    call = _Call()
    self._calls.add(call)
    try:
      return self._worker.submit(call.run, main).result()
    finally:
      # If this thread is interrupted, its call must end too.
      call.cancel()
      self._calls.discard(call)

  def stop_waiting(self):
    """Makes calls, also later ones, raise `Unavailable` instead of waiting."""
    self.server.stop_waiting()

  def close(self):
    """Cancels running calls of all threads and waits for their end."""
    self._closed = True
    for call in list(self._calls):
      call.cancel()
    self._worker.shutdown(cancel_futures=True)
    if self.cache is not None:
      self.cache.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  # The methods below run in the worker thread.

  async def _answer_all(self, prompts: list[str]) -> list[str | None]:
    answers = [self._cached(prompt) for prompt in prompts]
    missing = [i for i, answer in enumerate(answers) if answer is None]
    self.counts['asked'] += len(prompts)
    self.counts['cached'] += len(prompts) - len(missing)
    if not missing:
      return answers
    faults: list[Fault] = []

    async def ask(i: int):
      reply = await self.server.ask(self.endpoint.body(prompts[i]))
      if isinstance(reply, Fault):
        self.counts[f'failed/{reply.cause}'] += 1
        faults.append(reply)
        return
      answers[i] = reply.text
      # Empty answers are not cached: next time the judge may give an answer.
      if self.cache is not None and reply.text.strip():
        self.cache.put(self._key_of(prompts[i]), reply.text)

    async with self.server.connected():
      try:
        async with asyncio.TaskGroup() as group:
          for i in missing:
            group.create_task(ask(i))
      except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    # If the server refuses every question, the questions are not at fault.
    is_refused = not self.server.has_answered and len(faults) == len(prompts)
    if is_refused and all(fault.is_refusal for fault in faults):
      raise self.server.mistake(faults[0])
    return answers

  async def _answer_now(self, prompts: list[str]) -> list[str]:
    async with self.server.connected():
      bodies = [self.endpoint.body(prompt) for prompt in prompts]
      return [(await self.server.ask_first(body)).text for body in bodies]

  def _cached(self, prompt: str) -> str | None:
    if self.cache is None:
      return None
    return self.cache.get(self._key_of(prompt))

  def _key_of(self, prompt: str) -> str:
    # Without the address: the same model at another URL is the same judge.
    body = self.endpoint.body(prompt)
    return content_key(chat=self.endpoint.chat, body=body)


class _Call:
  """A coroutine that another thread waits for and may cancel."""

  def __init__(self):
    self._lock, self._is_cancelled = threading.Lock(), False
    self._stop: Callable[[], Any] | None = None

  def run(self, main: Callable[[], Any]):
    with asyncio.Runner() as runner:
      loop = runner.get_loop()
      with self._lock:
        task = loop.create_task(main())
        self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._is_cancelled:
          task.cancel()
      try:
        return loop.run_until_complete(task)
      except asyncio.CancelledError:
        raise RuntimeError('the judge was closed before it answered') from None
      finally:
        with self._lock:
          self._stop = None

  def cancel(self):
    with self._lock:
      self._is_cancelled = True
      if self._stop:
        self._stop()
