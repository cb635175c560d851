"""The API as clients of OpenAI see it, over a real socket."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading

import openai
import pytest

from tests.serving import toy

LONG = 'x' * 150


def _client(server, key='none', **options) -> openai.OpenAI:
  options = {'max_retries': 0, 'timeout': 10, **options}
  return openai.OpenAI(base_url=f'{server.url}/v1', api_key=key, **options)


@pytest.fixture(scope='module')
def server():
  with toy.running(toy.ToyEngine()) as state:
    yield state


@pytest.fixture(scope='module')
def client(server):
  with _client(server) as opened:
    yield opened


def _endless(**options):
  """An engine that does not finish by itself in the time of a test."""
  return toy.ToyEngine(**{**toy.ENDLESS, **options})


PATIENT = toy.served(max_new_tokens=10_000)


def _complete(client, prompt='ab', **fields):
  fields = {'max_tokens': 100, 'seed': 7, **fields}
  return client.completions.create(model='toy', prompt=prompt, **fields)


def _chat(client, text='Hi', **fields):
  messages = [{'role': 'user', 'content': text}]
  fields = {'seed': 7, **fields}
  return client.chat.completions.create(
    model='toy', messages=messages, **fields
  )


def _streamed(stream) -> dict[int, str]:
  texts = {}
  for chunk in stream:
    for choice in chunk.choices:
      delta = getattr(choice, 'delta', None)
      text = delta.content if delta else getattr(choice, 'text', '')
      texts[choice.index] = texts.get(choice.index, '') + (text or '')
  return texts


def _raw(server, method, path, body=None, headers=()):
  """(status, headers, object) without a client's help."""
  port = int(server.url.rsplit(':', 1)[1])
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
  headers = {'Content-Type': 'application/json', **dict(headers)}
  connection.request(method, path, body, headers)
  response = connection.getresponse()
  data = response.read()
  connection.close()
  return response.status, response.headers, json.loads(data)


# What is said.


def test_a_completion(client):
  done = _complete(client)
  assert done.choices[0].text == ' ba/0/7/1'
  assert done.choices[0].finish_reason == 'stop'
  assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 10)
  cut = _complete(client, max_tokens=3)
  assert cut.choices[0].text == ' ba'
  assert cut.choices[0].finish_reason == 'length'


def test_several_prompts_and_samples(client):
  # More than a group of the engine.
  done = _complete(client, ['ab', [258, 99]], n=6)
  assert [choice.index for choice in done.choices] == list(range(12))
  assert [choice.text for choice in done.choices] == [
    f' {backwards}/{i}/7/1' for backwards in ('ba', 'c') for i in range(6)
  ]
  assert done.usage.prompt_tokens == 5


def test_a_stream_is_what_is_not_streamed(client):
  done = _complete(client, ['ab', 'é😀'], n=2)
  stream = _complete(client, ['ab', 'é😀'], n=2, stream=True)
  texts = _streamed(stream)
  assert [texts[i] for i in range(4)] == [c.text for c in done.choices]


def test_a_chat_and_its_stream(client):
  done = _chat(client, temperature=0.5)
  text = ' |iH:resu/0/7/0.5'
  assert done.choices[0].message.content == text
  stream = list(
    _chat(
      client, temperature=0.5, stream=True,
      stream_options={'include_usage': True},
    )
  )  # fmt: skip
  assert stream[0].choices[0].delta.role == 'assistant'
  assert _streamed(stream) == {0: text}
  assert [c.choices[0].finish_reason for c in stream[-2:-1]] == ['stop']
  assert stream[-1].usage == done.usage


def test_the_asynchronous_client(server):
  async def main():
    async with openai.AsyncOpenAI(
      base_url=f'{server.url}/v1', api_key='none', timeout=10
    ) as client:
      done = await _complete(client)
      assert done.choices[0].text == ' ba/0/7/1'
      texts = []
      async for chunk in await _chat(client, stream=True):
        texts.append(chunk.choices[0].delta.content or '')
      assert ''.join(texts) == ' |iH:resu/0/7/1'

  asyncio.run(main())


def test_many_at_the_same_time_share_the_slots():
  engine = toy.ToyEngine(slots=16, seconds=0.002)
  with toy.running(engine) as server:

    async def main():
      async with openai.AsyncOpenAI(
        base_url=f'{server.url}/v1', api_key='none', timeout=20
      ) as client:

        async def one(i):
          if i % 2:
            done = await _complete(client, f'p{i}', n=2)
            return [choice.text for choice in done.choices]
          texts = ['', '']
          stream = await _complete(client, f'p{i}', n=2, stream=True)
          async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].text
          return texts

        said = await asyncio.gather(*map(one, range(64)))
      for i, texts in enumerate(said):
        backwards = f'p{i}'[::-1]
        assert texts == [f' {backwards}/{k}/7/1' for k in (0, 1)]

    asyncio.run(main())
  assert engine.most_rows == 16
  assert engine.threads == {'engine_0'}


def test_seeds(client, server):
  # None: drawn, so that two answers differ.
  first, again = (_complete(client, seed=None) for _ in range(2))
  assert first.choices[0].text != again.choices[0].text
  first, again = (_complete(client, seed=3) for _ in range(2))
  assert first.choices[0].text == again.choices[0].text == ' ba/0/3/1'
  assert len({r.id for r in server.engine.submitted[-4:]}) == 1


def test_a_stop_string_over_chunks_ends_its_sample_alone():
  def say(request, sample):
    return 'one two STOP three' if sample == 1 else 'one two three'

  engine = toy.ToyEngine(say=say, chunk=3)
  with toy.running(engine) as server, _client(server) as client:
    for stream in (False, True):
      done = _complete(client, n=3, stop=['STOP', 'nine'], stream=stream)
      texts = (
        _streamed(done) if stream else {c.index: c.text for c in done.choices}
      )
      assert texts == {0: 'one two three', 1: 'one two ', 2: 'one two three'}
    toy.eventually(lambda: engine.is_idle)
    # It may come to the end before it hears of it; None: the last of its own.
    assert all(sample in (1, None) for _, sample in engine.cancelled)
    # Twice 14 tokens with an end, and the 12 of 'one two STOP'.
    done = _complete(client, n=3, stop='STOP')
    assert done.usage.completion_tokens == 40
    assert [c.finish_reason for c in done.choices] == ['stop'] * 3


def test_a_stop_string_frees_the_slot():
  engine = _endless(say=lambda *_: 'abc STOP' + 'x' * 10_000)
  with toy.running(engine, PATIENT) as server, _client(server) as client:
    done = _complete(client, stop='STOP', max_tokens=10_000)
    assert done.choices[0].text == 'abc '
    toy.eventually(lambda: engine.is_idle)
  assert engine.cancelled == [(0, None)]


def test_a_stop_string_frees_the_slot_of_its_sample_alone():
  def say(request, sample):
    return 'abc STOP' + 'x' * 10_000 if sample else LONG

  engine = _endless(say=say)
  with toy.running(engine, PATIENT) as server, _client(server) as client:
    done = _complete(client, n=2, stop='STOP', max_tokens=10_000)
    assert [choice.text for choice in done.choices] == [LONG, 'abc ']
    assert engine.cancelled == [(0, 1)]


def test_log_probabilities_are_the_models_own(client):
  done = _complete(client, logprobs=0, stop='/')
  logprobs = done.choices[0].logprobs
  assert logprobs.tokens == [' ', 'b', 'a']
  # Of the toy: -id / 100; the sampler's are twice that.
  assert logprobs.token_logprobs == pytest.approx([-0.32, -0.98, -0.97])
  assert logprobs.text_offset == [0, 1, 2]
  done = _chat(client, logprobs=True, max_completion_tokens=2)
  content = done.choices[0].logprobs.content
  assert [token.token for token in content] == [' ', '|']
  stream = _chat(client, logprobs=True, max_completion_tokens=2, stream=True)
  streamed = [
    token
    for chunk in stream
    if chunk.choices[0].logprobs
    for token in chunk.choices[0].logprobs.content
  ]
  assert streamed == content


def test_other_fields_of_ours(client, server):
  _complete(client, extra_body={'top_k': 5, 'min_p': 0.25}, top_p=0.5)
  request = server.engine.submitted[-1]
  assert (request.top_k, request.min_p, request.top_p) == (5, 0.25, 0.5)


def test_what_is_no_utf8_is_json_all_the_same():
  engine = toy.ToyEngine()
  # A lone surrogate, which the byte tokenizer lets pass.
  data = bytes([0x61, 0xED, 0xA0, 0x80, 0x62])
  engine._say = lambda *_: type('Bytes', (), {'encode': lambda _: data})()
  with toy.running(engine) as server, _client(server) as client:
    assert _complete(client).choices[0].text == 'a\ufffdb'


# What there is.


def test_models_and_health(client, server):
  (model,) = client.models.list().data
  assert (model.id, model.object) == ('toy', 'model')
  assert client.models.retrieve('toy') == model
  with pytest.raises(openai.NotFoundError, match='not served here'):
    client.models.retrieve('toy2')
  status, _, body = _raw(server, 'GET', '/health')
  assert (status, body) == (200, {'status': 'ok', 'samples': 0})


# What is refused.


@pytest.mark.parametrize(
  ('fields', 'kind', 'param', 'code', 'message'),
  [
    ({'n': -1}, 400, 'n', None, 'an integer from 1'),
    ({'logprobs': 5}, 400, 'logprobs', 'unsupported_parameter', '0 or 1'),
    ({'temperature': -1.0}, 400, 'temperature', None, 'expected'),
    ({'model': 'x'}, 404, 'model', 'model_not_found', "expected 'toy'"),
    ({'prompt': 'x' * 500}, 400, 'prompt', 'context_length_exceeded',
     '500 characters, expected at most 100 tokens'),
    ({'prompt': 'never'}, 400, None, None, 'this cannot be served'),
    ({'prompt': 'never', 'stream': True}, 400, None, None, 'cannot be served'),
  ],
)  # fmt: skip
def test_errors_are_those_of_the_client(
  fields, kind, param, code, message, client
):
  kinds = {400: openai.BadRequestError, 404: openai.NotFoundError}
  with pytest.raises(kinds[kind], match=message) as info:
    client.completions.create(**{'model': 'toy', 'prompt': 'a', **fields})
  error = info.value
  assert (error.param, error.code) == (param, code)
  assert error.type == 'invalid_request_error'


def test_a_chat_without_a_template():
  from rlpt_jax.core.tokenizer import ByteTokenizer

  with toy.running(model=toy.served(ByteTokenizer())) as server:
    with _client(server) as client:
      with pytest.raises(openai.BadRequestError, match='no chat template'):
        _chat(client)


@pytest.mark.parametrize(
  ('method', 'path', 'body', 'headers', 'status', 'message'),
  [
    ('POST', '/v1/completions', b'{', {}, 400, 'not JSON'),
    ('POST', '/v1/completions', b'', {}, 400, 'not JSON'),
    ('POST', '/v1/completions', b'[]', {}, 400, 'expected an object'),
    ('POST', '/v1/completions', b'{}', {}, 400, 'model: expected the name'),
    ('POST', '/v1/completions', b'{"model": "toy"}', {}, 400, 'prompt: exp'),
    ('POST', '/v1/completions', b'{}', {'Content-Type': 'text/plain'}, 415,
     'text/plain: expected application/json'),
    ('POST', '/v1/completions', b'{}', {'Content-Encoding': 'gzip'}, 415,
     'Content-Encoding is gzip: expected a body that is not compressed'),
    ('POST', '/v1/completions', b' ' * (8 * 2**20 + 1), {}, 413, 'at most 83'),
    ('POST', '/v1/completions', b'{"model": "toy", "prompt": "%s"}'
     % (b'x' * 2**22), {}, 400, '4,194,304 characters, expected at most 100'),
    ('POST', '/v1/chat/completions', b'{"model": "toy"}', {}, 400, 'messages'),
    ('GET', '/v1/completions', None, {}, 405, ': GET is not allowed'),
    ('POST', '/v1/models', b'', {}, 405, ': POST is not allowed'),
    ('GET', '/v1/nothing', None, {}, 404, '/v1/nothing: no such route'),
    ('GET', '/', None, {}, 404, 'no such route'),
  ],
)  # fmt: skip
def test_what_is_no_call(method, path, body, headers, status, message, server):
  found, _, answer = _raw(server, method, path, body, headers)
  assert found == status
  assert answer['error'].keys() == {'message', 'type', 'param', 'code'}
  assert answer['error']['type'] == 'invalid_request_error'
  assert message in answer['error']['message']


def test_a_token(capfd):
  with toy.running(token='sésame') as server:
    with _client(server, 'wrong') as client:
      with pytest.raises(openai.AuthenticationError) as info:
        _complete(client)
      assert info.value.code == 'invalid_api_key'
    for given in ({}, {'Authorization': 'sésame'.encode().decode('latin1')}):
      for path in ('/v1/models', '/v1/nothing'):
        status, headers, body = _raw(server, 'GET', path, None, given)
        assert status == 401
        assert headers['WWW-Authenticate'] == 'Bearer'
        assert 'sésame' not in json.dumps(body, ensure_ascii=False)
    right = 'Bearer sésame'.encode().decode('latin1')
    given = {'Authorization': right}
    assert _raw(server, 'GET', '/v1/models', None, given)[0] == 200
    # Those who only ask whether it lives need none.
    assert _raw(server, 'GET', '/health')[0] == 200
    assert server.engine.submitted == []
  out, err = capfd.readouterr()
  assert 'sésame' not in out + err


def test_a_full_queue():
  engine = _endless(slots=2)
  model = toy.served(max_samples=3, max_new_tokens=10_000)
  with toy.running(engine, model) as server, _client(server) as client:
    stream = _complete(client, n=3, max_tokens=10_000, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match='queue is full') as info:
      _complete(client)
    assert info.value.response.headers['Retry-After'] == '1'
    stream.close()
    toy.eventually(lambda: engine.is_idle)
    _complete(client, max_tokens=1)


# Those who hang up.


def _socket(server, body: dict):
  """A socket with a call sent."""
  host, port = server.url.removeprefix('http://').split(':')
  data = json.dumps(body).encode()
  sock = socket.create_connection((host, int(port)), timeout=5)
  head = (
    'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json'
    f'\r\nContent-Length: {len(data)}\r\n\r\n'
  )
  sock.sendall(head.encode() + data)
  return sock


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('slots', [1, 8])  # Some wait; none does.
def test_a_client_that_hangs_up(stream, slots, caplog):
  engine = _endless(slots=slots)
  with toy.running(engine, PATIENT) as server:
    body = {
      'model': 'toy', 'prompt': ['a', 'b'], 'n': 2, 'max_tokens': 10_000,
      'stream': stream,
    }  # fmt: skip
    sock = _socket(server, body)
    if stream:
      assert sock.recv(10).startswith(b'HTTP/1.1 2')
    toy.eventually(lambda: engine.rows)
    sock.close()
    toy.eventually(lambda: engine.is_idle)
    assert engine.cancelled == [(0, None), (1, None)]
    assert _raw(server, 'GET', '/health')[2]['samples'] == 0
    # And the slots are there for others.
    with _client(server) as client:
      assert _complete(client, max_tokens=2).choices[0].text == 'xx'
  assert caplog.records == []


@pytest.mark.parametrize('place', ['prepare', 'write', 'write_eof'])
def test_a_stream_that_breaks_is_no_error_of_ours(place, monkeypatch, caplog):
  from aiohttp import web

  async def broken(*_):
    raise ConnectionResetError('Cannot write to closing transport')

  with toy.running(_endless(), PATIENT) as server:
    with monkeypatch.context() as patch, _client(server) as client:
      patch.setattr(web.StreamResponse, place, broken)
      tokens = 5 if place == 'write_eof' else 10_000
      with contextlib.suppress(openai.APIConnectionError):
        _streamed(_complete(client, stream=True, max_tokens=tokens))
    toy.eventually(lambda: server.engine.is_idle)
    with _client(server) as client:
      assert _complete(client, max_tokens=2).choices[0].text == 'xx'
  assert caplog.records == []


def test_half_a_call_is_none():
  with toy.running() as server:
    host, port = server.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as sock:
      sock.sendall(
        b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n'
        b'Content-Type: application/json\r\n\r\n{"model"'
      )
    with _client(server) as client:
      _complete(client)
  assert len(server.engine.submitted) == 1


# Those who hold what others need.

CHUNKED = (
  b'POST /v1/completions HTTP/1.1\r\nHost: x\r\n'
  b'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'
)
HALF = b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Half: '
HEAD = (
  b'POST /v1/completions HTTP/1.1\r\nHost: x\r\n'
  b'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n'
)


@contextlib.contextmanager
def _sockets(server, data: bytes, count: int = 1):
  """Sockets of clients that send the data, and no more."""
  host, port = server.url.removeprefix('http://').split(':')
  with contextlib.ExitStack() as stack:
    opened = []
    for _ in range(count):
      sock = socket.create_connection((host, int(port)), timeout=5)
      opened.append(stack.enter_context(sock))
      sock.sendall(data)
    yield opened


def test_who_has_no_token_keeps_nobody_out(capfd):
  limits = {'token': 'mine', 'connections': 4, 'patience': 0.0}
  with toy.running(**limits) as server:
    with _sockets(server, HALF, 40), _client(server, 'mine') as client:
      assert _complete(client).choices[0].text == ' ba/0/7/1'
    # Nor who asks for what needs no token, over and over.
    with _sockets(server, b'GET /health HTTP/1.1\r\nHost: x\r\n\r\n', 40):
      with _client(server, 'mine') as client:
        assert _complete(client).choices[0].text == ' ba/0/7/1'
  assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
  'head', [HEAD % 100, CHUNKED], ids=['length', 'chunks']
)
def test_who_sends_no_body_keeps_nobody_out(head, capfd, caplog):
  head = head[:-2] + b'Expect: 100-continue\r\n\r\n'
  limits = {'connections': 4, 'patience': 0.0}
  with toy.running(**limits) as server, _client(server) as client:
    with contextlib.ExitStack() as stack:
      for _ in range(4):
        (sock,) = stack.enter_context(_sockets(server, head))
        assert b' 100 ' in sock.recv(100)  # The server waits for the body.
      assert _complete(client).choices[0].text == ' ba/0/7/1'
  assert capfd.readouterr().err == '' and caplog.records == []


def test_who_is_answered_does_not_give_way():
  limits = {'connections': 2, 'patience': 0.0}
  engine = _endless(say=lambda *_: LONG, chunk=20)
  with toy.running(engine, **limits) as server, _client(server) as client:
    stream = _complete(client, max_tokens=150, stream=True)
    next(iter(stream))
    with _sockets(server, HALF, 10):
      assert len(_streamed(stream)[0]) + 20 == 150


def test_half_a_head_is_not_waited_for():
  with toy.running(seconds=0.05) as server:
    with _sockets(server, HALF) as (sock,):
      assert sock.recv(100) == b''


def test_half_a_body_is_not_waited_for():
  with toy.running(seconds=0.05) as server:
    with _sockets(server, HEAD % 100 + b'{"model"') as (sock,):
      answer = sock.recv(1000)
      assert b' 408 ' in answer and b'Connection: close' in answer
      assert b'did not arrive within 0.05 seconds' in answer
    assert _raw(server, 'GET', '/health')[0] == 200


def test_a_stream_that_nobody_reads_is_not_waited_for(monkeypatch, caplog):
  from aiohttp import web

  async def full(*_):  # As where the client's buffers are.
    await asyncio.Event().wait()

  monkeypatch.setattr(web.StreamResponse, 'write', full)
  body = {'model': 'toy', 'prompt': 'a', 'max_tokens': 10_000, 'stream': True}
  with toy.running(_endless(), PATIENT, seconds=0.05) as server:
    with contextlib.closing(_socket(server, body)) as sock:
      with contextlib.suppress(ConnectionResetError):
        while sock.recv(1000):
          pass
    toy.eventually(lambda: server.engine.is_idle)
  assert server.engine.cancelled == [(0, None)]
  assert caplog.records == []


@pytest.mark.parametrize(
  ('token', 'length', 'status', 'message'),
  [
    ('mine', 2**20, b' 401 ', b'Expected'),
    (None, 2**23 + 1, b' 413 ', b'expected at most 8388608 bytes'),
  ],
)
def test_a_body_that_is_not_taken_is_not_read(token, length, status, message):
  with toy.running(token=token) as server:
    with _sockets(server, HEAD % length) as (sock,):  # It never comes.
      answer = sock.recv(1000)
  assert status in answer and message in answer


def test_all_bodies_together_have_a_limit():
  with toy.running(bodies=1000) as server, _client(server) as client:
    with _sockets(server, HEAD % 950 + b' ' * 900):  # The rest does not come.
      toy.eventually(lambda: _is_refused(client))
    toy.eventually(lambda: not _is_refused(client))
    # Too large when it is announced, or when it has come.
    for data in (HEAD % 1001, CHUNKED + b'3e9\r\n' + b' ' * 1001):
      with _sockets(server, data) as (sock,):
        assert b' 429 ' in sock.recv(1000)
    assert not _is_refused(client)  # Those refused are not counted.


def test_what_is_announced_does_not_count_before_it_comes():
  with toy.running(bodies=1000) as server, _client(server) as client:
    with _sockets(server, HEAD % 900, 8):
      assert not _is_refused(client)


def test_a_body_that_turns_out_too_large():
  with toy.running(body=10) as server:
    with _sockets(server, CHUNKED + b'b\r\n' + b' ' * 11) as (sock,):
      answer = sock.recv(1000)
  assert b' 413 ' in answer and b'expected at most 10 bytes' in answer


def _is_refused(client):
  try:
    _complete(client, 'x' * 99, max_tokens=1)
  except openai.RateLimitError as error:
    assert 'expected at most 1,000, including yours' in str(error)
    assert error.response.headers['Retry-After'] == '1'
    return True
  return False


def test_a_long_prompt_keeps_nobody_waiting():
  began, go_on = threading.Event(), threading.Event()

  class Slow(toy.ChatTokenizer):
    def encode(self, text):
      if len(text) > 1000:
        began.set()
        assert go_on.wait(60)
        return []
      return super().encode(text)

  model = toy.served(Slow(), max_prompt_tokens=10**5)
  with toy.running(model=model) as server, _client(server) as client:
    body = json.dumps({'model': 'toy', 'prompt': 'x' * 70_000}).encode()
    with _sockets(server, HEAD % len(body) + body, 40) as sockets:
      assert began.wait(60)
      assert _complete(client).choices[0].text == ' ba/0/7/1'
      go_on.set()
      for sock in sockets:
        assert b' 200 ' in sock.recv(100)


# How it ends.


def test_what_runs_may_finish_when_the_server_stops():
  engine = _endless(say=lambda *_: LONG, chunk=20)
  with toy.running(engine) as server, _client(server) as client:
    stream = _complete(client, max_tokens=150, stream=True)
    next(iter(stream))
    server.stop()
    assert len(_streamed(stream)[0]) + 20 == 150
    assert server.ended.wait(60)
    assert server.error is None
    with pytest.raises(openai.APIConnectionError):
      _complete(client)


def _two_calls_that_go_on(server, client):
  """A stream that has begun, and the socket of a call that waits for all."""
  stream = _complete(client, max_tokens=10_000, stream=True)
  next(iter(stream))
  waiting = _socket(
    server, {'model': 'toy', 'prompt': 'a', 'max_tokens': 10_000}
  )
  toy.eventually(lambda: len(server.engine.rows) == 2)
  return stream, waiting


def test_what_takes_too_long_is_told_so(monkeypatch):
  from rlpt_jax.serving import http as http_lib

  monkeypatch.setattr(http_lib, 'GRACE', 0.1)
  engine = _endless()
  with toy.running(engine, PATIENT) as server, _client(server) as client:
    stream, waiting = _two_calls_that_go_on(server, client)
    server.stop()
    with pytest.raises(openai.APIError, match='shutting down'):
      _streamed(stream)
    assert b' 503 ' in waiting.recv(1000)
    waiting.close()
    assert server.ended.wait(60)
    assert server.error is None
  assert not engine.rows


def test_a_client_that_does_not_read_does_not_keep_it_from_stopping():
  # Six bytes each in JSON: more than the buffers of a socket take.
  engine = _endless(say=lambda *_: '\0' * 3_000_000, chunk=100_000)
  model = toy.served(max_new_tokens=3_000_000)
  with toy.running(engine, model) as server:
    body = {'model': 'toy', 'prompt': 'a', 'max_tokens': 3_000_000}
    with contextlib.closing(_socket(server, {**body, 'stream': True})):
      toy.eventually(lambda: engine.steps > 5)
      server.stop()
      assert server.ended.wait(60)
  assert server.error is None


def test_an_engine_that_fails_ends_the_server():
  engine = _endless()
  with toy.running(engine, PATIENT) as server, _client(server) as client:
    stream, waiting = _two_calls_that_go_on(server, client)
    engine.fail_at = engine.steps + 5
    with pytest.raises(openai.APIError, match='The engine failed: Floating'):
      _streamed(stream)
    answer = waiting.recv(1000)
    assert b' 500 ' in answer and b'the chip is gone' in answer
    waiting.close()
    assert server.ended.wait(60)
  assert isinstance(server.error, RuntimeError)
  assert 'nothing is served: the chip is gone' in str(server.error)
  assert isinstance(server.error.__cause__, FloatingPointError)


@pytest.mark.parametrize('stream', [False, True])
def test_a_mistake_of_ours_is_an_error_of_one_call(stream, monkeypatch, capfd):
  from rlpt_jax.serving.answers import Answer

  with toy.running() as server, _client(server) as client:
    with monkeypatch.context() as patch:
      patch.setattr(Answer, '_choice', lambda *_: 1 / 0)
      with pytest.raises(openai.APIError, match='ZeroDivisionError in the'):
        _streamed(_complete(client, stream=stream))
    assert 'ZeroDivisionError' in capfd.readouterr().err
    assert _complete(client).choices[0].text == ' ba/0/7/1'
    assert server.engine.is_idle
