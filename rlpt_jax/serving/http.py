"""Serves the routes of OpenAI's API; no other module uses aiohttp's server."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hmac
import json
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.sampling.text import Piece, Transcript
from rlpt_jax.serving import answers, protocol
from rlpt_jax.serving.connections import Connections
from rlpt_jax.serving.protocol import CHAT, COMPLETIONS, ApiError, Query, Served
from rlpt_jax.serving.worker import Job, Worker

LONG_BODY = 2**16  # Bytes; longer bodies are parsed one at a time.
GRACE = 3.0  # Seconds for running requests to finish when the server stops.
# Connections that wait to be accepted. Large, because a client gets no
# explanation if this queue is full. (It gets one if the queue of jobs is.)
BACKLOG = 1024


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits what the clients of a server may use.

  connections: maximum number of open connections. At the limit, a new one
    replaces the one that has been idle for longest.
  patience: seconds before an idle connection may be closed.
  seconds: time limit for each of these: the pause between two requests together
    with the headers of the second; the body; each piece of a stream.
  body: maximum bytes in the body of one request.
  bodies: maximum bytes received but not parsed yet, over all bodies.
  """

  connections: int = 512
  patience: float = 0.5
  seconds: float = 60.0
  body: int = 8 * 2**20
  bodies: int = 64 * 2**20


def bind(host: str, port: int) -> socket.socket:
  """Returns a socket that is bound to the address but does not listen yet."""
  if not 0 <= port <= 65535:
    raise ValueError(
      f'--port={port}: expected 1 to 65535, or 0 for any free one.'
    )
  try:
    addresses = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
  except OSError as error:
    raise ValueError(
      f'--host={host}: {error.strerror}; expected a name or an address of '
      'this machine.'
    ) from error
  family, kind, proto, _, address = addresses[0]
  sock = socket.socket(family, kind, proto)
  try:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
  except OSError as error:
    sock.close()
    raise ValueError(
      f'--host={host} --port={port}: {error.strerror}; expected an address of '
      'this machine and a free port (0 picks one).'
    ) from error
  return sock


async def run(
  sampler: Sampler,
  served: Served,
  sock: socket.socket,
  *,
  token: str | None,
  stopped: asyncio.Event,
  on_ready: Callable[[], None],
  limits: Limits = Limits(),
):
  """Serves until `stopped`; raises RuntimeError if the engine fails first."""
  connections = Connections(limits.connections, patience=limits.patience)
  with (
    Worker(sampler, max_samples=served.max_samples) as worker,
    Server(served, worker, connections, token=token, limits=limits) as server,
  ):
    runner = web.AppRunner(
      server.app(),
      access_log=None,
      handler_cancellation=True,  # Cancels a handler if its client hangs up.
      auto_decompress=False,  # Compressed bodies are refused, not unpacked.
      shutdown_timeout=1.0,
      # Also the time limit for headers: aiohttp then closes a connection that
      # has not sent all of them.
      keepalive_timeout=limits.seconds,
    )
    await runner.setup()
    try:
      sock.setblocking(False)
      sock.listen(BACKLOG)
      accepting = asyncio.ensure_future(connections.accept(sock, runner.server))
      on_ready()
      stopping = asyncio.ensure_future(stopped.wait())
      await asyncio.wait(
        [stopping, worker.failed, accepting],
        return_when=asyncio.FIRST_COMPLETED,
      )
      stopping.cancel()
      accepting.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await accepting
      sock.close()
      await worker.drain(GRACE)
    finally:
      await runner.cleanup()
  if worker.failed.done():
    cause = worker.failed.result()
    raise RuntimeError(
      f'the engine failed, nothing is served: {cause}'
    ) from cause


class Server:
  """Holds the handlers of all routes, and the state that they share."""

  def __init__(
    self,
    served: Served,
    worker: Worker,
    connections: Connections,
    *,
    token: str | None,
    limits: Limits,
  ):
    self._served, self._worker, self._token = served, worker, token
    self._connections, self._limits = connections, limits
    self._created = int(time.time())
    self._bodies = 0  # Bytes received of bodies that are not parsed yet.
    self._long = concurrent.futures.ThreadPoolExecutor(1, 'long_bodies')

  def __enter__(self) -> 'Server':
    return self

  def __exit__(self, *_):
    self._long.shutdown(cancel_futures=True)

  def app(self) -> web.Application:
    app = web.Application(middlewares=[self._answer])
    app.add_routes([
      web.post('/v1/completions', self._completions),
      web.post('/v1/chat/completions', self._chat),
      web.get('/v1/models', self._models),
      web.get('/v1/models/{name:.+}', self._model),
      web.get('/health', self._health),
    ])  # fmt: skip
    return app

  @web.middleware
  async def _answer(self, request: web.Request, handler) -> web.StreamResponse:
    """Checks the token and calls the handler; turns errors into answers."""
    try:
      self._authorize(request)
      return await handler(request)
    except web.HTTPException as error:
      if error.status < 400:
        raise
      answer = _from_aiohttp(request, error)
    except Exception as error:
      answer = _to_api_error(error)
    response = web.Response(
      body=_json(answers.error(answer)),
      status=answer.status,
      content_type='application/json',
      headers=answer.headers,
    )
    if answer.status in (401, 408):
      response.force_close()  # Do not wait for the rest of the body.
    return response

  def _authorize(self, request: web.Request):
    if self._token is None or request.path == '/health':
      return
    scheme, _, given = request.headers.get('Authorization', '').partition(' ')
    is_same = hmac.compare_digest(
      given.strip().encode(errors='surrogateescape'), self._token.encode()
    )
    if scheme.lower() != 'bearer' or not is_same:
      raise ApiError(
        'Expected "Authorization: Bearer TOKEN" with the token of this server.',
        status=401,
        code='invalid_api_key',
        headers={'WWW-Authenticate': 'Bearer'},
      )

  async def _health(self, _) -> web.Response:
    return _ok({'status': 'ok', 'samples': self._worker.samples})

  async def _models(self, _) -> web.Response:
    data = [answers.model(self._served, self._created)]
    return _ok({'object': 'list', 'data': data})

  async def _model(self, request: web.Request) -> web.Response:
    name = request.match_info['name']
    if name != self._served.name:
      raise protocol.no_such_model(name, self._served)
    return _ok(answers.model(self._served, self._created))

  async def _completions(self, request: web.Request) -> web.StreamResponse:
    return await self._complete(request, COMPLETIONS)

  async def _chat(self, request: web.Request) -> web.StreamResponse:
    return await self._complete(request, CHAT)

  async def _complete(
    self, request: web.Request, kind: str
  ) -> web.StreamResponse:
    # This protects from web pages: they can make a browser post to any address,
    # but not post JSON.
    if request.content_type != 'application/json':
      raise ApiError(
        f'Content-Type is {request.content_type}: expected application/json.',
        status=415,
      )
    encoding = request.headers.get('Content-Encoding', 'identity')
    if encoding.lower() != 'identity':
      raise ApiError(
        f'Content-Encoding is {encoding}: expected a body that is not '
        'compressed.',
        status=415,
      )
    query = await self._read(request, kind)
    with self._connections.busy(request.transport):
      job = self._worker.submit(query.requests)
      try:
        await job.next()  # Raises if refused, before any response is sent.
        answer = answers.Answer(query, self._served)
        transcripts = self._transcripts(query)
        pieces = self._pieces(job, transcripts)
        if query.stream:
          seconds = self._limits.seconds
          return await _stream(request, answer, transcripts, pieces, seconds)
        return await _whole(answer, transcripts, pieces)
      finally:
        self._worker.cancel(job)  # The client may have hung up.

  async def _read(self, request: web.Request, kind: str) -> Query:
    """Receives and parses a body; a long one does not block other requests."""
    body = bytearray()
    try:
      try:
        async with asyncio.timeout(self._limits.seconds):
          await self._receive(request, body)
      except TimeoutError:
        raise ApiError(
          f'The body did not arrive within {self._limits.seconds:g} seconds.',
          status=408,
        ) from None
      executor = self._long if len(body) > LONG_BODY else None
      # Busy only now: a client that sends no body must not keep others out.
      with self._connections.busy(request.transport):
        return await asyncio.get_running_loop().run_in_executor(
          executor, protocol.read, kind, body, self._served
        )
    finally:
      self._bodies -= len(body)

  async def _receive(self, request: web.Request, body: bytearray):
    """Appends what the client sends to `body`; adds its size to `_bodies`."""
    # The announced length is checked but not counted: the body may never come.
    announced = request.content_length or 0
    self._check_room(announced, announced)
    # request.read would keep the body until the answer is complete.
    async for data in request.content.iter_any():
      self._check_room(len(body) + len(data), len(data))
      body += data
      self._bodies += len(data)

  def _check_room(self, size: int, more: int):
    """Raises if a body of `size` bytes is too large, or all bodies together.

    more: bytes of this body that `_bodies` does not count yet.
    """
    if size > self._limits.body:
      raise ApiError(
        f'The body is too large: expected at most {self._limits.body} bytes.',
        status=413,
      )
    if self._bodies + more > self._limits.bodies:
      raise ApiError(
        f'{self._bodies:,} bytes of requests are being read: expected at most '
        f'{self._limits.bodies:,}, including yours. Try again later.',
        status=429,
        code='queue_full',
        headers={'Retry-After': '1'},
      )

  def _transcripts(self, query: Query) -> list[Transcript]:
    return [
      Transcript(
        self._served.tokenizer,
        request.prompt_tokens,
        stops=query.stops,
        with_tokens=query.with_logprobs,
      )
      for request in query.requests
      for _ in range(request.samples)
    ]

  async def _pieces(
    self, job: Job, transcripts: list[Transcript]
  ) -> AsyncIterator[tuple[int, Piece]]:
    """Yields the text of each sample piece by piece until all have finished."""
    while not all(transcript.finished for transcript in transcripts):
      index, completion = await job.next()
      transcript = transcripts[index]
      # The sample had ended at a stop string before the engine knew.
      if transcript.finished:
        continue
      piece = transcript.add(completion)
      if transcript.finished:
        self._worker.cancel(job, index)
      yield index, piece


async def _whole(answer, transcripts, pieces) -> web.Response:
  by_transcript: list[list[Piece]] = [[] for _ in transcripts]
  async for index, piece in pieces:
    by_transcript[index].append(piece)
  joined = [
    Piece(
      ''.join(piece.text for piece in each),
      tuple(token for piece in each for token in piece.tokens),
      each[-1].finish_reason,
    )
    for each in by_transcript
  ]
  return _ok(answer.whole(joined, _num_tokens(transcripts)))


async def _stream(
  request, answer, transcripts, pieces, seconds: float
) -> web.StreamResponse:
  response = web.StreamResponse(
    headers={
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache',
    }
  )

  async def send(data: bytes):
    try:
      async with asyncio.timeout(seconds):
        await response.write(b'data: ' + data + b'\n\n')
    except TimeoutError:  # The client does not read the response.
      request.transport.abort()
      raise ConnectionAbortedError from None

  with contextlib.suppress(ConnectionError):  # The client has gone.
    await response.prepare(request)
    try:
      for chunk in answer.first_chunks(len(transcripts)):
        await send(_json(chunk))
      async for index, piece in pieces:
        if piece != Piece(''):
          await send(_json(answer.chunk(index, piece)))
      for chunk in answer.last_chunks(_num_tokens(transcripts)):
        await send(_json(chunk))
      await send(b'[DONE]')
    except ConnectionError:
      raise
    except Exception as error:  # Too late for an error status.
      await send(_json(answers.error(_to_api_error(error))))
    await response.write_eof()
  return response


def _to_api_error(error: Exception) -> ApiError:
  if isinstance(error, ApiError):
    return error
  if isinstance(error, (ConnectionError, web.RequestPayloadError)):
    return ApiError(f'The body cannot be read: {error}.')
  traceback.print_exception(error)
  return ApiError(f'{type(error).__name__} in the server.', status=500)


def _num_tokens(transcripts: list[Transcript]) -> int:
  return sum(transcript.num_tokens for transcript in transcripts)


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> ApiError:
  """Converts an error that aiohttp itself raises to one of this API."""
  messages = {
    404: f'{request.path}: no such route; expected one under /v1.',
    405: f'{request.path}: {request.method} is not allowed; see Allow.',
  }
  allow = error.headers.get('Allow')
  return ApiError(
    messages.get(error.status, error.reason),
    status=error.status,
    headers={'Allow': allow} if allow else {},
  )


def _ok(data: Any) -> web.Response:
  return web.Response(body=_json(data), content_type='application/json')


def _json(data: Any) -> bytes:
  # NaN is no JSON: fail here rather than in the client.
  text = json.dumps(data, ensure_ascii=False, allow_nan=False)
  return answers.well_formed(text).encode()
