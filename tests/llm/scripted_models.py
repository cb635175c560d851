"""Models on a real socket that reply well, badly or not at all, for tests.

  say = lambda body: '{"qualified": "Y"}'
  with scripted_models.running(say, mixed({'good': 8, 'hang': 1})) as models:
    ...  # models.url

What happens to a request follows from its body and from how often the same body
was sent before, so it is the same in every run. `paid` counts the replies that
were sent in full, by a hash of the body.
"""

import collections
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from rlpt_jax.llm.answer_cache import content_key
from tests.rewards.judges import Act, Judge

Body = dict[str, Any]
PROSE = 'Sure! Here is what I think about the material that you sent.'


def mixed(weights: Mapping[Act, float], seed: int = 0):
  """Returns an `act` that chooses by weights, at random but reproducibly."""

  def act(body: Body, nth: int) -> Act:
    rng = random.Random(f'{seed} {nth} {content_key(body=body)}')
    return rng.choices(list(weights), list(weights.values()))[0]

  return act


def text_of(body: Body) -> str:
  """Returns the texts of all messages."""
  return '\n'.join(message['content'] for message in body['messages'])


class Models(Judge):
  """A server of all models.

  say: returns the text of a good reply to a request.
  act: returns what happens to a request when it comes for the nth time: one of
    the methods below or of Judge, such as 'hang' or ('status', 500).
  """

  def __init__(
    self,
    say: Callable[[Body], str],
    act: Callable[[Body, int], Act] = lambda *_: 'good',
  ):
    super().__init__(act)
    self.say = say
    self.paid: collections.Counter[str] = collections.Counter()
    self.used: collections.Counter[str] = collections.Counter()

  async def _handle(self, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    key = content_key(body=body)
    self.tries[key] += 1
    self.running += 1
    self.most_running = max(self.most_running, self.running)
    try:
      act = self.act(body, self.tries[key])
      name, *rest = (act,) if isinstance(act, str) else act
      return await getattr(self, f'_{name}')(request, body, *rest)
    finally:
      self.running -= 1

  async def _reply(self, request, body, text, reason='stop', with_usage=True):
    message = {'role': 'assistant', 'content': text}
    said = {'choices': [{'message': message, 'finish_reason': reason}]}
    usage = {
      'prompt_tokens': len(text_of(body).split()),
      'completion_tokens': len(text.split()),
    }
    if with_usage:
      said['usage'] = usage
    response = web.json_response(said)
    await response.prepare(request)
    await response.write_eof()
    self.paid[content_key(body=body)] += 1
    self.used.update(usage)
    return response

  async def _good(self, request, body):
    return await self._reply(request, body, self.say(body))

  async def _limited(self, request, body, seconds=0.01):
    headers = {'Retry-After': str(seconds)}
    return await self._status(request, body, 429, 'slow down', headers)

  _answer = _good  # What Judge's 'slow' ends with.

  async def _fenced(self, request, body):
    text = f'```json\n{self.say(body)}\n```'
    return await self._reply(request, body, text)

  async def _wrong_json(self, request, body):
    return await self._reply(request, body, self.say(body)[:-1] + ',]')

  async def _cut(self, request, body):
    text = self.say(body)
    return await self._reply(request, body, text[: len(text) // 2], 'length')

  async def _prose(self, request, body):
    return await self._reply(request, body, PROSE)

  async def _empty(self, request, body):
    return await self._reply(request, body, '', 'length')

  async def _without_usage(self, request, body):
    return await self._reply(request, body, self.say(body), with_usage=False)


@contextlib.contextmanager
def running(say, act=lambda *_: 'good'):
  """Yields models that listen, and stops them at the end."""
  models = Models(say, act)
  models.start()
  try:
    yield models
  finally:
    models.stop()
