"""A judge that fails in every way there is, on a real socket, for tests."""

import asyncio
import collections
import contextlib
import json
import threading
import time
from collections.abc import Callable

from aiohttp import web

Act = str | tuple  # 'drop', ('status', 503), ('say', 'Score: 1'), ...


def verdict(prompt: str) -> str:
  """What it answers: something that follows from the question alone."""
  return f'Score: {len(prompt) % 2} <{prompt}>'


class Judge:
  """Acts on a question as told; keeps what it was sent."""

  def __init__(self, act: Callable[[str, int], Act] = lambda *_: 'answer'):
    self.act = act
    self.tries: collections.Counter[str] = collections.Counter()
    self.answered: list[str] = []
    self.seen: list[tuple[float, str, dict, dict]] = []
    self.running = self.most_running = 0
    self.port, self._thread = 0, None

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.port}/v1'

  async def _handle(self, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    prompt = body.get('prompt') or body['messages'][0]['content']
    self.tries[prompt] += 1
    self.seen.append(
      (time.monotonic(), request.path, body, dict(request.headers))
    )
    self.running += 1
    self.most_running = max(self.most_running, self.running)
    try:
      act = self.act(prompt, self.tries[prompt])
      name, *rest = (act,) if isinstance(act, str) else act
      return await getattr(self, f'_{name}')(request, prompt, *rest)
    finally:
      self.running -= 1

  async def _answer(self, request, prompt) -> web.Response:
    self.answered.append(prompt)
    return await self._say(request, prompt, verdict(prompt))

  async def _say(self, request, prompt, said) -> web.Response:
    choice = {'message': {'role': 'assistant', 'content': said}}
    if 'chat' not in request.path:
      choice = {'text': said}
    return web.json_response({'choices': [choice]})

  async def _slow(self, request, prompt, seconds=0.05):
    await asyncio.sleep(seconds)
    return await self._answer(request, prompt)

  async def _status(self, request, prompt, status, said='no', headers=None):
    body = json.dumps({'error': {'message': said}})
    return web.Response(status=status, text=body, headers=headers or {})

  async def _hang(self, request, prompt):
    await asyncio.sleep(30)

  async def _drop(self, request, prompt):
    request.transport.close()
    return web.Response()

  async def _garbage(self, request, prompt):
    return web.Response(text='<html>Welcome to the proxy</html>')

  async def _other_json(self, request, prompt, body='{"choices": []}'):
    return web.Response(text=body)

  async def _truncated(self, request, prompt):
    """Says that there is more than it sends."""
    request.transport.write(
      b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"choices": [{"mess'
    )
    request.transport.close()
    return web.Response()

  async def _drip(self, request, prompt):
    """Alive, but not in time."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
      for _ in range(300):
        await response.write(b' ')
        await asyncio.sleep(0.1)
    return response

  async def _flood(self, request, prompt):
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
      for _ in range(6):
        await response.write(b' ' * 2**20)
      # Whoever reads on finds an answer.
      await response.write(b'{"choices": [{"text": "Score: 1"}]}')
    return response

  def start(self):
    """Listens, on the port it had if it had one."""
    ready, self._ended = threading.Event(), None

    async def main():
      self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
      app = web.Application(client_max_size=2**26)
      app.router.add_post('/v1/{kind:.+}', self._handle)
      runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
      )
      await runner.setup()
      site = web.TCPSite(
        runner, '127.0.0.1', self.port, reuse_address=True, backlog=1024
      )
      await site.start()
      self.port = site._server.sockets[0].getsockname()[1]
      ready.set()
      await self._ended.wait()
      await runner.cleanup()

    self._thread = threading.Thread(target=asyncio.run, args=[main()])
    self._thread.start()
    assert ready.wait(60)

  def stop(self):
    """Refuses connections until it is started again."""
    if self._thread:
      self._loop.call_soon_threadsafe(self._ended.set)
      self._thread.join(10)
      self._thread = None


@contextlib.contextmanager
def running(act=lambda *_: 'answer'):
  """A judge that listens; stopped at the end."""
  judge = Judge(act)
  judge.start()
  try:
    yield judge
  finally:
    judge.stop()
