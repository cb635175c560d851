"""`rlpt serve` with a real engine, and what it says of mistakes."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pytest

from rlpt_jax import cli
from rlpt_jax.core import weights
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, huggingface, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.programs import serve as lib
from rlpt_jax.serving import http
from tests import compiled
from tests.serving import toy

TOKEN = 'a token that nobody else has'
SMALL = ['--slots', '16', '--max_prompt_tokens', '32', '--tokenizer', 'bytes']


@pytest.fixture(scope='module')
def params(one_device):
  """Of a random byte model."""
  specs = decoder_lib.specs(zoo.get('tiny_llama'))
  return weights.init(specs, jax.random.key(0), layout=one_device)


@pytest.fixture(scope='module')
def model(tmp_path_factory, params):
  """The same as a Hugging Face directory."""
  directory = tmp_path_factory.mktemp('model') / 'tiny'
  config = zoo.get('tiny_llama')
  arrays = [
    (path, np.dtype('float32'), lambda x=x: np.asarray(x))
    for path, x in weights.named(params)
  ]
  huggingface.save(directory, config, decoder_lib.specs(config), arrays)
  return directory


@pytest.fixture
def process(model):
  """(`rlpt serve` in a process of its own, where it is)."""
  started = subprocess.Popen(
    [
      sys.executable, '-m', 'rlpt_jax.cli', 'serve', str(model), *SMALL,
      '--port', '0', '--name', 'org/tiny', '--max_new_tokens', '400',
      '--token_env', 'RLPT_TEST_TOKEN',
    ],
    env=compiled.on_one_device() | {'RLPT_TEST_TOKEN': TOKEN},
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip
  try:
    lines, found = [], None
    while not found and (line := started.stdout.readline()):
      lines.append(line)
      found = re.fullmatch(r'serving org/tiny at (http://127\S+)/v1\n', line)
    assert found, lines
    yield started, found[1]
  finally:
    started.kill()
    started.wait()
    started.stdout.close()


def _ask(client, prompt='Hello', **fields):
  fields = {'max_tokens': 40, **fields}
  return client.completions.create(model='org/tiny', prompt=prompt, **fields)


def _greedy(params, layout, prompt: str, steps: int):
  """(text, log-probabilities) by whole passes without a cache."""
  decoder = Decoder(zoo.get('tiny_llama'), Compute(dtype='float32'), layout)

  @jax.jit
  def logprobs(tokens_BT, segments_BT):
    hidden = decoder_lib.forward(decoder, params, tokens_BT, segments_BT)
    logits = head.logits(decoder, params, hidden.hidden_BTD)
    return jax.nn.log_softmax(logits)

  ids, said = [258, *prompt.encode()], []
  start = len(ids)
  for _ in range(steps):
    segments = np.arange(start + steps) < len(ids)
    tokens = np.zeros(start + steps, np.int32)
    tokens[: len(ids)] = ids
    row = logprobs(
      jnp.array(tokens[None]), jnp.array(segments[None], jnp.int32)
    )
    last = np.asarray(row[0, len(ids) - 1])
    ids.append(int(last.argmax()))
    said.append(float(last.max()))
  return ByteTokenizer().decode(ids[start:]), said


@pytest.mark.slow
def test_a_real_model(process, params, one_device):
  started, url = process
  with openai.OpenAI(base_url=f'{url}/v1', api_key=TOKEN) as client:
    _says_what_the_model_says(client, params, one_device)
    # In this order: a slot that is not freed as it was shows in who sits there.
    _frees_the_slots_of_who_hangs_up(client, url)
    _says_the_same_alone_in_company_and_streamed(client, f'{url}/v1')
    assert client.models.retrieve('org/tiny').id == 'org/tiny'
    with pytest.raises(openai.BadRequestError, match='no chat template'):
      client.chat.completions.create(
        model='org/tiny', messages=[{'role': 'user', 'content': 'Hi'}]
      )
    with pytest.raises(openai.AuthenticationError):
      _ask(client.with_options(api_key='another'))
    _stops_while_it_works(client, started)


def _says_what_the_model_says(client, params, layout):
  text, logprobs = _greedy(params, layout, 'Hello', 12)
  done = _ask(client, temperature=0, max_tokens=12, logprobs=1)
  choice = done.choices[0]
  assert choice.text == text
  np.testing.assert_allclose(
    choice.logprobs.token_logprobs, logprobs, atol=1e-4
  )
  assert choice.finish_reason == 'length'
  assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (6, 12)
  # A stop string from the middle of it.
  stop = text[4:7]
  cut = _ask(client, temperature=0, max_tokens=12, stop=stop)
  assert cut.choices[0].text == text[: text.index(stop)]
  assert cut.choices[0].finish_reason == 'stop'


def _says_the_same_alone_in_company_and_streamed(client, url):
  def texts(done):
    return [choice.text for choice in done.choices]

  alone = [texts(_ask(client, f'{i}', seed=i, n=5)) for i in range(3)]
  assert len({text for each in alone for text in each}) == 15

  async def main():
    async with openai.AsyncOpenAI(
      base_url=url, api_key=TOKEN, timeout=60
    ) as many:

      async def one(i):
        done = await _ask(many, f'{i % 3}', seed=i % 3, n=5)
        return texts(done)

      async def streamed(i):
        said = [''] * 5
        stream = await _ask(many, f'{i}', seed=i, n=5, stream=True)
        async for chunk in stream:
          said[chunk.choices[0].index] += chunk.choices[0].text
        return said

      # 5 * (9 + 3) completions in 16 slots.
      return await asyncio.gather(*map(one, range(9)), *map(streamed, range(3)))

  assert asyncio.run(main()) == alone * 4
  assert texts(_ask(client, n=2)) != texts(_ask(client, n=2))


def _frees_the_slots_of_who_hangs_up(client, url):
  def samples():
    with urllib.request.urlopen(f'{url}/health') as response:
      return int(re.search(r'"samples": (\d+)', response.read().decode())[1])

  stream = _ask(client, n=16, max_tokens=400, stream=True)
  next(iter(stream))
  assert samples() > 0
  stream.close()
  toy.eventually(lambda: samples() == 0)
  assert _ask(client, max_tokens=1).usage.completion_tokens == 1


def _stops_while_it_works(client, started):
  stream = _ask(client, n=16, max_tokens=400, stream=True)
  next(iter(stream))
  started.send_signal(signal.SIGTERM)
  stream.close()
  assert started.wait(120) == 0
  assert started.stdout.read() == 'stopped\n'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--slots', '0'], '--slots=0: expected at least 1'),
    (['--max_new_tokens', '0'], '--max_new_tokens=0: expected at least 1'),
    (['--max_waiting', '-1'], '--max_waiting=-1: expected at least 0'),
    (['--port', '70000'], '--port=70000: expected 1 to 65535'),
    (
      ['--host', '192.0.2.1'],
      r'--host=192.0.2.1 --port=8000: \w+.*expected an',
    ),
    (['--host', 'no.such.host.invalid'], '--host=no.such.host.invalid: '),
    (['--token_env', 'RLPT_NONE'], '--token_env=RLPT_NONE: .*is not set'),
    (['--step', '3'], 'has no step 3'),
    (['--slots', '10000000'], 'is available: lower'),
  ],
)
def test_a_mistake_is_one_line(arguments, message, model, capsys, monkeypatch):
  monkeypatch.delenv('RLPT_NONE', raising=False)
  assert cli.main(['serve', str(model), *SMALL, *arguments]) == 2
  assert re.search(message, capsys.readouterr().err)


def test_a_model_without_a_tokenizer(model, capsys):
  assert cli.main(['serve', str(model)]) == 2
  assert 'no tokenizer found' in capsys.readouterr().err


def test_a_port_that_is_taken_is_known_before_the_weights(
  model, capsys, monkeypatch
):
  monkeypatch.setattr(lib, 'Engine', None)
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    arguments = [*SMALL, '--port', str(port)]
    assert cli.main(['serve', str(model), *arguments]) == 2
  error = capsys.readouterr().err
  assert f'--port={port}: Address already in use; expected' in error


def test_a_pod_is_refused(model, capsys, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  assert cli.main(['serve', str(model)]) == 2
  assert '4 processes: expected one' in capsys.readouterr().err


def test_an_engine_that_fails_is_no_clean_exit(model, monkeypatch, capfd):
  class Failing(toy.ToyEngine):
    closed = False

    def __init__(self, *_, **options):
      super().__init__(say=lambda *_: 'x' * 400, fail_at=20)

    def close(self):
      Failing.closed = True

  errors, with_url = [], lib.url

  def ask(url):
    options = {'api_key': 'none', 'max_retries': 0}
    with openai.OpenAI(base_url=f'{url}/v1', **options) as client:
      try:
        client.completions.create(model='tiny', prompt='a', max_tokens=400)
      except openai.APIError as error:
        errors.append(str(error))

  def url(sock):  # Is asked for once the server is ready.
    threading.Thread(target=ask, args=[with_url(sock)]).start()
    return with_url(sock)

  monkeypatch.setattr(lib, 'Engine', Failing)
  monkeypatch.setattr(lib, 'url', url)
  assert cli.main(['serve', str(model), *SMALL, '--port', '0']) == 2
  toy.eventually(lambda: errors)
  assert 'The engine failed: FloatingPointError: the chip' in errors[0]
  assert Failing.closed
  out, err = capfd.readouterr()
  assert 'nothing is served: the chip is gone' in err
  assert 'stopped' not in out and 'Traceback' not in err


@pytest.mark.parametrize(
  ('host', 'token_env', 'is_warned'),
  [
    ('127.0.0.1', None, False),
    ('0.0.0.0', None, True),
    ('0.0.0.0', 'TOKEN', False),
    ('::', None, True),
    ('::1', None, False),
  ],
)
def test_who_can_be_reached_without_a_token_is_warned(
  host, token_env, is_warned
):
  if ':' in host and not _has_ipv6():
    pytest.skip('no IPv6 here')
  with http.bind(host, 0) as sock:
    warning = lib.exposure(sock, token_env)
    assert bool(warning) == is_warned
    if is_warned:
      assert host in warning and '--token_env' in warning
    port = sock.getsockname()[1]
    shown = f'[{host}]' if ':' in host else host
    assert lib.url(sock) == f'http://{shown}:{port}'


def _has_ipv6():
  try:
    with socket.create_server(('::1', 0), family=socket.AF_INET6):
      return True
  except OSError:
    return False


def test_a_token_comes_from_the_environment(monkeypatch):
  assert lib.read_token(None) is None
  monkeypatch.setenv('RLPT_TEST_TOKEN', f' {TOKEN}\n')
  assert lib.read_token('RLPT_TEST_TOKEN') == TOKEN
  monkeypatch.setenv('RLPT_TEST_TOKEN', ' ')
  with pytest.raises(ValueError, match='not set or empty'):
    lib.read_token('RLPT_TEST_TOKEN')
