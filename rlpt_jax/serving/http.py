"""The routes of OpenAI's API. The only module that knows aiohttp."""

import asyncio
import contextlib
import hmac
import json
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from rlpt_jax.serving import answers, protocol
from rlpt_jax.serving.protocol import CHAT, COMPLETIONS, ApiError, Query, Served
from rlpt_jax.serving.text import Piece, Transcript
from rlpt_jax.serving.worker import Job, Worker

MAX_BODY = 8 * 2**20
GRACE = 3.0  # Seconds that what runs has to finish when the server stops.
BACKLOG = 1024  # A queue that is full says so; a refused connection does not.


def bind(host: str, port: int) -> socket.socket:
  """A socket that has its address and does not listen yet."""
  if not 0 <= port <= 65535:
    raise ValueError(
      f'--port={port}: expected 1 to 65535, or 0 for any free one.'
    )
  try:
    found = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
  except OSError as error:
    raise ValueError(
      f'--host={host}: {error.strerror}; expected a name or an address of '
      'this machine.'
    ) from error
  family, kind, proto, _, address = found[0]
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
  engine,
  served: Served,
  sock: socket.socket,
  *,
  token: str | None,
  stopped: asyncio.Event,
  on_ready: Callable[[], None],
):
  """Serves until `stopped`; RuntimeError if the engine fails before that."""
  with Worker(engine, max_samples=served.max_samples) as worker:
    server = Server(served, worker, token=token)
    runner = web.AppRunner(
      server.app(),
      access_log=None,
      handler_cancellation=True,  # Of those whose client has hung up.
      shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
      site = web.SockSite(runner, sock, backlog=BACKLOG)
      await site.start()
      on_ready()
      stopping = asyncio.ensure_future(stopped.wait())
      await asyncio.wait(
        [stopping, worker.failed], return_when=asyncio.FIRST_COMPLETED
      )
      stopping.cancel()
      await site.stop()
      await worker.drain(GRACE)
    finally:
      await runner.cleanup()
  if worker.failed.done():
    cause = worker.failed.result()
    raise RuntimeError(
      f'the engine failed, nothing is served: {cause}'
    ) from cause


class Server:
  """The handlers, and what they share."""

  def __init__(self, served: Served, worker: Worker, *, token: str | None):
    self._served, self._worker, self._token = served, worker, token
    self._created = int(time.time())

  def app(self) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY, middlewares=[self._answer])
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
    """Calls the handler of whom may; what it raises becomes an answer."""
    try:
      self._authorize(request)
      return await handler(request)
    except web.HTTPException as error:
      if error.status < 400:
        raise
      answer = _of_aiohttp(request, error)
    except Exception as error:
      answer = _as_answer(error)
    return web.Response(
      body=_json(answers.error(answer)),
      status=answer.status,
      content_type='application/json',
      headers=answer.headers,
    )

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
    # A page in a browser may post anything to any address, but not JSON.
    if request.content_type != 'application/json':
      raise ApiError(
        f'Content-Type is {request.content_type}: expected application/json.',
        status=415,
      )
    body = await request.read()
    # A long prompt takes a while: the others go on meanwhile.
    query = await asyncio.to_thread(protocol.read, kind, body, self._served)
    job = self._worker.submit(query.requests)
    try:
      await job.next()  # Accepted: only now is it known that this is no error.
      answer = answers.Answer(query, self._served)
      transcripts = self._transcripts(query)
      pieces = self._pieces(job, transcripts)
      if query.stream:
        return await _stream(request, answer, transcripts, pieces)
      return await _whole(answer, transcripts, pieces)
    finally:
      self._worker.cancel(job)  # Of a client that has hung up, say.

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
    """What the samples say, as they say it, until the last has ended."""
    while not all(transcript.finished for transcript in transcripts):
      index, completion = await job.next()
      transcript = transcripts[index]
      if transcript.finished:  # By a stop string; the engine did not know yet.
        continue
      piece = transcript.add(completion)
      if transcript.finished:
        self._worker.cancel(job, index)
      yield index, piece


async def _whole(answer, transcripts, pieces) -> web.Response:
  said: list[list[Piece]] = [[] for _ in transcripts]
  async for index, piece in pieces:
    said[index].append(piece)
  joined = [
    Piece(
      ''.join(piece.text for piece in each),
      tuple(token for piece in each for token in piece.tokens),
      each[-1].finish_reason,
    )
    for each in said
  ]
  return _ok(answer.whole(joined, _num_tokens(transcripts)))


async def _stream(request, answer, transcripts, pieces) -> web.StreamResponse:
  response = web.StreamResponse(
    headers={
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-cache',
    }
  )

  async def send(data: bytes):
    await response.write(b'data: ' + data + b'\n\n')

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
    except Exception as error:  # Too late for a status.
      await send(_json(answers.error(_as_answer(error))))
    await response.write_eof()
  return response


def _as_answer(error: Exception) -> ApiError:
  if isinstance(error, ApiError):
    return error
  if isinstance(error, (ConnectionError, web.RequestPayloadError)):
    return ApiError(f'The body cannot be read: {error}.')
  traceback.print_exception(error)
  return ApiError(f'{type(error).__name__} in the server.', status=500)


def _num_tokens(transcripts: list[Transcript]) -> int:
  return sum(transcript.num_tokens for transcript in transcripts)


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> ApiError:
  """What aiohttp refuses by itself, in words of ours."""
  messages = {
    404: f'{request.path}: no such route; expected one below /v1.',
    405: f'{request.path}: no {request.method} here; see Allow.',
    413: f'The body is too large: expected at most {MAX_BODY} bytes.',
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
  # NaN is no JSON: better an error here than a client's.
  text = json.dumps(data, ensure_ascii=False, allow_nan=False)
  return answers.well_formed(text).encode()
