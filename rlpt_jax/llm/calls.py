"""Calls of models, many at a time, for documents that need several in turn.

Every call is recorded in a file (call_records.py). A call with a reply is never
made again, whatever the reply was and however the run ended: the next run reads
it from the file. So a run that was stopped is repeated from its start.

  async def work(document):
    reply = await calls.ask(f'Sum up: {document}', stage='sum', id=document.id)
    return None if isinstance(reply, Fault) else reply.text

  with Calls('calls.jsonl', {'sum': endpoint}, budget=budget) as calls:
    for summary in calls.run(work, documents):
      ...

If the budget is spent, a server is down for too long, or `work` raises, no
further call is sent. Calls in flight are waited for, since they are paid for;
then the run ends with the first error.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import logging
import pathlib
import threading
import weakref
from collections.abc import (
  Awaitable,
  Callable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, TypeVar

from rlpt_jax.core import checks
from rlpt_jax.llm.answer_cache import content_key
from rlpt_jax.llm.budget import (
  Account,
  Budget,
  estimated_tokens,
  most_tokens,
)
from rlpt_jax.llm.call_records import CallRecords, Record
from rlpt_jax.llm.chat_api import Fault, Reply, Tokens
from rlpt_jax.llm.remote import Endpoint, Message, Patience, Server

TIMEOUT = 600.0  # Seconds. Long answers take minutes, and are paid for.
QUIET_S = 1.0  # Seconds of waiting after which a warning says so.

Prompt = str | Sequence[Message]
Document = TypeVar('Document')
Result = TypeVar('Result')

logger = logging.getLogger(__name__)


class Stopped(OSError):
  """Raised for calls that are asked for after `Calls.stop`."""

  exit_status = 75  # EX_TEMPFAIL: the same command resumes the run.


class Calls:
  """Calls of models, recorded in a file, in an event loop of their own.

  Stages with the same model at the same address share `Patience.concurrency`.
  `counts` has the numbers of calls that were asked for ('asked'), were found in
  the records ('kept'), and got no reply, by cause ('failed/http/400', ...).
  `keys` has the keys of the records of these calls.

  path: the file of records.
  endpoints: the model of each stage.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    endpoints: Mapping[str, Endpoint],
    *,
    patience: Patience | None = None,
    budget: Budget | None = None,
  ):
    checks.check_arguments(type(self), locals())
    self.endpoints = dict(endpoints)
    self.patience = patience or Patience(timeout=TIMEOUT)
    self.account = Account(budget or Budget())
    self.counts: collections.Counter[str] = collections.Counter()
    self.keys: set[str] = set()
    for endpoint in self.endpoints.values():
      self.account.budget.check(endpoint.model, endpoint.fields)
    self._servers: dict[tuple, Server] = {}
    for endpoint in self.endpoints.values():
      server = Server(endpoint, self.patience, path)
      self._servers.setdefault(_server_key(endpoint), server)
    self._refusals: collections.Counter[str] = collections.Counter()
    self._end: BaseException | None = None
    self._asking: set[asyncio.Task] = set()
    self._locks = weakref.WeakValueDictionary[str, asyncio.Lock]()
    self.records = CallRecords(path, self._see)
    self._start()

  def _see(self, record: Record):
    if 'reply' not in record:
      return
    usage = self.account.usage(record['model'], _tokens_of(record))
    if record['model'] not in self.account.budget.prices:
      usage = dataclasses.replace(usage, money=record.get('money', 0.0))
    self.account.add(record['stage'], usage)

  def totals(self) -> collections.Counter[str]:
    """Returns `counts`, and the numbers of HTTP requests and of their faults.

    These are 'requests' and, by cause, 'fault/timeout', 'fault/http/500', ...
    """
    totals = collections.Counter(self.counts)
    for server in self._servers.values():
      totals.update(server.counts)
      totals.update({f'fault/{x}': n for x, n in server.faults.items()})
    return totals

  # The methods below run in the caller's thread.

  def run(
    self,
    work: Callable[[Document], Awaitable[Result]],
    documents: Iterable[Document],
    *,
    window: int | None = None,
  ) -> Iterator[Result]:
    """Yields work(document) of each document, in order.

    window: how many documents are read, but not yet yielded, at any time; by
      default 4 for each request that may be in flight.

    A run that is left early, by an error or by its consumer, ends for good.
    """
    window = window or 4 * self.patience.concurrency * len(self._servers)
    running: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
      for document in documents:
        running.append(self._submit(self._guarded(work, document)))
        if len(running) >= window:
          yield running.popleft().result()
      while running:
        yield running.popleft().result()
    finally:
      if not all(each.done() for each in running):
        self.stop()
      if self._thread.is_alive():
        self._wait([*running, self._submit(self._settle())])

  def _wait(self, running: Iterable[concurrent.futures.Future]):
    _, unfinished = concurrent.futures.wait(running, QUIET_S)
    if unfinished:
      logger.warning(
        '%s: waiting for %d calls in flight, which are paid for; Ctrl-C leaves '
        'them', self.records.path, len(self._asking),
      )  # fmt: skip
      concurrent.futures.wait(unfinished)

  def stop(self):
    """Sends no further call, for good. May be called in any thread."""
    self._stop_for(
      Stopped(
        f'{self.records.path}: stopped. All replies are kept: start again to '
        'continue.'
      )
    )

  def _stop_for(self, error: BaseException):
    self._end = self._end or error
    for server in self._servers.values():
      server.stop(self._end)

  def close(self):
    """Cancels what is in flight, and closes the file."""
    if self._thread.is_alive():
      self._loop.call_soon_threadsafe(self._main.cancel)
      self._thread.join()
    self.records.close()

  def __enter__(self) -> 'Calls':
    return self

  def __exit__(self, *_):
    self.close()

  def _start(self):
    ready = concurrent.futures.Future()
    # A daemon, so that whoever forgets to close does not keep the process.
    self._thread = threading.Thread(
      target=lambda: asyncio.run(self._serve(ready)), name='calls', daemon=True
    )
    self._thread.start()
    ready.result()

  def _submit(self, coroutine) -> concurrent.futures.Future:
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

  # The methods below run in the event loop.

  async def _serve(self, ready: concurrent.futures.Future):
    self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
    try:
      async with contextlib.AsyncExitStack() as stack:
        for server in self._servers.values():
          await stack.enter_async_context(server.connected())
        ready.set_result(None)
        with contextlib.suppress(asyncio.CancelledError):
          await asyncio.Event().wait()
        tasks = asyncio.all_tasks() - {self._main}
        for task in tasks:
          task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    except Exception as error:
      if ready.done():
        raise
      ready.set_exception(error)

  async def _guarded(self, work, document):
    try:
      return await work(document)
    except BaseException as error:
      self._stop_for(error)
      raise

  async def _settle(self):
    """Returns when no call is in flight."""
    while self._asking:
      await asyncio.wait(self._asking)

  async def ask(
    self,
    prompt: Prompt,
    *,
    stage: str,
    id: str,
    attempt: int = 0,
    document: str = '',
  ) -> Reply | Fault:
    """Returns the reply to a prompt, from the records if it is there.

    Called by `work`. A fault means that the server refused the prompt, or did
    not reply in `Patience.attempts` requests.

    attempt: another number makes another call, for example after a reply of
      the wrong form. It is added to the seed if the endpoint has one.
    document: a part of the prompt that need not be in the record, because it is
      kept elsewhere under the id.
    """
    about = {'stage': stage, 'id': id, 'attempt': attempt}
    task = asyncio.create_task(
      self._ask(prompt, about | {'prompt': _without(document, prompt)})
    )
    self._asking.add(task)
    task.add_done_callback(self._asking.discard)
    # If `work` is cancelled, by a time limit or another call's error, this call
    # goes on, since it is paid for.
    return await asyncio.shield(task)

  async def _ask(self, prompt: Prompt, about: Record) -> Reply | Fault:
    endpoint, attempt = self.endpoints[about['stage']], about['attempt']
    body = endpoint.body(prompt)
    if 'seed' in body:
      body['seed'] += attempt
    key = content_key(chat=endpoint.chat, body=body, attempt=attempt)
    self.counts['asked'] += 1
    self.keys.add(key)
    # Documents with the same text make the same call.
    async with self._locks.setdefault(key, asyncio.Lock()):
      if record := self.records.get(key):
        self.counts['kept'] += 1
        return _reply_of(record)
      about = {'key': key, 'model': endpoint.model, **about}
      return await self._send(endpoint, body, _texts(prompt), about)

  async def _send(
    self,
    endpoint: Endpoint,
    body: dict[str, Any],
    texts: list[str],
    about: Record,
  ) -> Reply | Fault:
    server, account = self._servers[_server_key(endpoint)], self.account
    most = account.usage(endpoint.model, most_tokens(body, len(texts)))
    async with account.reserving(most):
      # Nothing is awaited between the end of a reply and its record.
      reply = await server.ask(body)
      now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
      if isinstance(reply, Fault):
        self.counts[f'failed/{reply.cause}'] += 1
        said = {'fault': reply.cause, 'detail': reply.detail, 'time': now}
        self.records.put({**about, **said})
        self._check_refusals(about['stage'], server, reply)
        return reply
      if reply.tokens is None:
        length = sum(map(len, texts))
        reply = reply._replace(tokens=estimated_tokens(length, reply.text))
      usage = account.usage(endpoint.model, reply.tokens)
      account.add(about['stage'], usage)
      self.records.put({**about, **_said(reply, usage.money), 'time': now})
      return reply

  def _check_refusals(self, stage: str, server: Server, fault: Fault):
    """Raises if a server that has answered nothing refuses everything."""
    self._refusals[stage] += fault.is_refusal
    is_all = self._refusals[stage] >= self.patience.open_after
    if is_all and not server.has_answered:
      raise server.mistake(fault)


def _server_key(endpoint: Endpoint) -> tuple:
  return endpoint.address, endpoint.model, endpoint.key_env


def _texts(prompt: Prompt) -> list[str]:
  if isinstance(prompt, str):
    return [prompt]
  return [message['content'] for message in prompt]


def _without(document: str, prompt: Prompt) -> Prompt:
  """Returns the prompt with a note instead of the document."""
  if not document:
    return prompt
  if isinstance(prompt, str):
    note = f'[document: {len(document):,} characters]'
    return prompt.replace(document, note, 1)
  return [
    {**message, 'content': _without(document, message['content'])}
    for message in prompt
  ]


def _said(reply: Reply, money: float) -> Record:
  prompt, completion, is_estimated = reply.tokens
  usage = {'prompt_tokens': prompt, 'completion_tokens': completion}
  if is_estimated:
    usage['estimated'] = True
  return {
    'reply': reply.text, 'finish_reason': reply.finish_reason, 'usage': usage,
    'money': round(money, 9), 'seconds': round(reply.seconds, 3),
  }  # fmt: skip


def _reply_of(record: Record) -> Reply:
  tokens = _tokens_of(record)
  said = record['reply'], record.get('finish_reason', '')
  return Reply(*said, tokens, record.get('seconds', 0.0), is_kept=True)


def _tokens_of(record: Record) -> Tokens:
  usage = record['usage']
  counts = usage['prompt_tokens'], usage['completion_tokens']
  return Tokens(*counts, usage.get('estimated', False))
