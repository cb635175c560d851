"""One request on a real socket; remote_test.py has every fault, and the key."""

import asyncio

import pytest

from rlpt_jax.llm import connection as lib
from rlpt_jax.llm.chat_api import Fault, Reply, Tokens
from tests.llm import scripted_models
from tests.rewards import judges

BODY = {'model': 'm', 'messages': [{'role': 'user', 'content': 'a b c'}]}


def _post(server, *, key=lambda: None, timeout=5.0):
  async def main():
    address = f'{server.url}/chat/completions'
    async with lib.Connection(address, key, timeout) as connection:
      return await connection.post(BODY)

  return asyncio.run(main())


def test_a_reply_has_its_size_and_its_time():
  with scripted_models.running(
    lambda body: 'x y', lambda *_: ('slow', 0.1)
  ) as models:
    reply = _post(models)
  assert reply._replace(seconds=0) == Reply('x y', 'stop', Tokens(3, 2))
  assert 0.1 <= reply.seconds < 5


@pytest.mark.parametrize(
  ('act', 'cause', 'detail'),
  [
    ('hang', 'timeout', 'no answer in 0.2 s'),
    ('drop', 'connection', 'ServerDisconnectedError'),
    ('flood', 'garbled', 'more than 4,194,304 bytes'),
    ('garbage', 'garbled', "no answer in '<html>Welcome"),
    (('status', 503, 'a\nb'), 'http/503', "HTTP 503 'a b'"),
  ],
)
def test_a_fault_has_a_cause_and_a_detail(act, cause, detail):
  timeout = 0.2 if act == 'hang' else 5.0
  with judges.running(lambda *_: act) as judge:
    fault = _post(judge, timeout=timeout)
  assert isinstance(fault, Fault) and fault.cause == cause
  assert detail in fault.detail


def test_the_key_is_read_when_it_opens_and_removed_from_replies():
  with judges.running(lambda *_: ('say', 'my secret-key is yours')) as judge:
    assert _post(judge, key=lambda: 'secret-key').text == 'my [key] is yours'
    (_, _, _, headers) = judge.seen[0]
  assert headers['Authorization'] == 'Bearer secret-key'
