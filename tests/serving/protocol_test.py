"""Bodies in, queries or errors that name the field out."""

import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from rlpt_jax.serving import protocol
from rlpt_jax.serving.protocol import CHAT, COMPLETIONS, ApiError
from tests.serving.toy import EOS, ChatTokenizer, served

MESSAGES = [{'role': 'user', 'content': 'Hi'}]


def _read(kind=COMPLETIONS, toy=None, /, **fields):
  start = {'prompt': 'ab'} if kind == COMPLETIONS else {'messages': MESSAGES}
  body = json.dumps({'model': 'toy', **start, **fields}).encode()
  return protocol.read(kind, body, toy or served())


def _refused(*args, **fields) -> ApiError:
  with pytest.raises(ApiError) as info:
    _read(*args, **fields)
  assert '\n' not in str(info.value)
  return info.value


def test_a_prompt_alone():
  query = _read()
  assert query.kind == COMPLETIONS
  assert query.num_prompt_tokens == 3
  assert not (query.stream or query.include_usage or query.with_logprobs)
  (request,) = query.requests
  assert request.prompt_tokens == (258, *b'ab')  # BOS.
  assert request.stops == ((EOS,),)
  assert (request.temperature, request.top_p, request.top_k) == (1, 1, 0)
  assert request.max_new_tokens == 16  # As of OpenAI.


def test_all_that_can_be_asked():
  query = _read(
    n=3, max_tokens=7, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=4,
    stop=['x', 'yz'], stream=True, stream_options={'include_usage': True},
    logprobs=1, echo=False, best_of=3, presence_penalty=0.0, logit_bias={},
    suffix=None, user='me', metadata={'a': 'b'}, store=True,
  )  # fmt: skip
  (request,) = query.requests
  assert (request.samples, request.max_new_tokens, request.seed) == (3, 7, 4)
  assert (request.temperature, request.top_p) == (0.5, 0.9)
  assert (request.top_k, request.min_p) == (5, 0.1)
  assert query.stops == ('x', 'yz')
  assert query.stream and query.include_usage and query.with_logprobs


@pytest.mark.parametrize(
  ('prompt', 'tokens'),
  [
    ('a', [(258, 97)]),
    (['a', 'b'], [(258, 97), (258, 98)]),
    ([1, 2], [(1, 2)]),
    ([[1, 2], [3]], [(1, 2), (3,)]),
    (['a', [3]], [(258, 97), (3,)]),
    ('', [(258,)]),
  ],
)
def test_the_forms_of_a_prompt(prompt, tokens):
  assert [r.prompt_tokens for r in _read(prompt=prompt).requests] == tokens


def test_the_id_follows_from_the_prompt_and_the_seed_is_drawn():
  first, again = (_read(prompt=['a', 'a', 'b']).requests for _ in range(2))
  assert [r.id for r in first] == [r.id for r in again]
  assert first[0].id == first[1].id != first[2].id
  # Six of 2**32.
  assert len({r.seed for r in (*first, *again)}) == 6
  assert _read(prompt='a', n=2).requests[0].id == first[0].id
  # A text is what its tokens are.
  assert _read(prompt=[258, 97]).requests[0].id == first[0].id
  assert protocol.prompt_id([1, 23]) != protocol.prompt_id([12, 3])


@pytest.mark.parametrize(
  ('seed', 'expected'), [(7, 7), (-1, 2**32 - 1), (2**63 - 1, 2**32 - 1)]
)
def test_any_integer_of_64_bits_is_a_seed(seed, expected):
  requests = _read(prompt=['a', 'b'], seed=seed).requests
  assert [r.seed for r in requests] == [expected] * 2


def test_samples_beyond_a_group_are_another_request():
  query = _read(prompt=['a', 'b'], n=6, seed=3)
  assert [
    (r.prompt_tokens[-1], r.first_sample, r.samples, r.seed)
    for r in query.requests
  ] == [(97, 0, 4, 3), (97, 4, 2, 3), (98, 0, 4, 3), (98, 4, 2, 3)]
  assert query.num_prompt_tokens == 4
  # Drawn once for a prompt: the index tells its samples apart.
  first, again, other, _ = _read(prompt=['a', 'b'], n=6).requests
  assert first.seed == again.seed != other.seed


def test_chats():
  parts = [{'type': 'text', 'text': 'H'}, {'type': 'text', 'text': 'i'}]
  messages = [
    {'role': 'system', 'content': 'Be.', 'name': 'x'},
    {'role': 'user', 'content': parts},
  ]
  query = _read(CHAT, messages=messages, logprobs=True, top_logprobs=0)
  (request,) = query.requests
  assert bytes(request.prompt_tokens) == b'system:Be.|user:Hi|'
  assert request.max_new_tokens == 200  # All that the server allows.
  assert query.with_logprobs and not query.with_top_logprobs


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({}, 200),
    ({'max_tokens': 5}, 5),
    ({'max_completion_tokens': 6}, 6),
    ({'max_completion_tokens': 6, 'max_tokens': 6}, 6),
    ({'max_completion_tokens': None, 'max_tokens': 7}, 7),
  ],
)
def test_max_tokens_of_a_chat(fields, expected):
  (request,) = _read(CHAT, **fields).requests
  assert request.max_new_tokens == expected


def test_max_tokens_of_a_completion():
  (request,) = _read(max_tokens=None).requests
  assert request.max_new_tokens == 16
  (request,) = _read(COMPLETIONS, served(max_new_tokens=9)).requests
  assert request.max_new_tokens == 9


def test_values_that_others_use_for_none():
  (request,) = _read(top_k=-1, top_p=0, temperature=0, stop=None).requests
  assert (request.top_k, request.top_p) == (0, 1e-6)
  assert _read(stop=[]).stops == ()
  assert _read(stop='x').stops == ('x',)
  assert _read(CHAT, tools=[], tool_choice='none').stops == ()
  _read(CHAT, response_format={'type': 'text'}, modalities=['text'])


def test_top_logprobs_are_known_where_sampling_is_greedy():
  assert _read(logprobs=1, temperature=0).with_top_logprobs
  assert not _read(logprobs=0, temperature=0).with_top_logprobs
  assert not _read(logprobs=1).with_top_logprobs
  assert _read(logprobs=0).with_logprobs


@pytest.mark.parametrize(
  ('fields', 'param', 'message'),
  [
    ({'prompt': None}, 'prompt', 'expected a text'),
    ({'prompt': []}, 'prompt', r'got \[\]'),
    ({'prompt': [[]]}, 'prompt', 'list of token ids'),
    ({'prompt': [1, 'a']}, 'prompt', 'list of token ids'),
    ({'prompt': [True]}, 'prompt', 'list of token ids'),
    ({'prompt': [1.0]}, 'prompt', 'list of token ids'),
    ({'prompt': {'a': 1}}, 'prompt', 'expected a text'),
    ({'prompt': [259]}, 'prompt', 'token 259 is not .* 0 to 258'),
    ({'prompt': [1, -1, 5]}, 'prompt', 'token -1 is not'),
    ({'prompt': [10**50]}, 'prompt', 'token 1000.* is not'),
    ({'n': 0}, 'n', 'integer from 1 to 256, got 0'),
    ({'n': 257}, 'n', 'integer from 1 to 256, got 257'),
    ({'n': True}, 'n', 'got true'),
    ({'n': '2'}, 'n', 'got "2"'),
    ({'n': 1.5}, 'n', 'got 1.5'),
    ({'n': 200, 'prompt': ['a', 'b']}, 'prompt', 'at most 256 completions'),
    ({'prompt': ['a'] * 300}, 'prompt', 'at most 256 prompts'),
    ({'max_tokens': 0}, 'max_tokens', 'integer from 1 to 200'),
    ({'max_tokens': 201}, 'max_tokens', r'--max_new_tokens\), got 201'),
    ({'max_tokens': 10**400}, 'max_tokens', r'got 1000000.*\.\.\.'),
    ({'temperature': -0.1}, 'temperature', 'number from 0'),
    ({'temperature': '1'}, 'temperature', 'got "1"'),
    ({'temperature': 1e7}, 'temperature', 'number from 0 to 1e\\+06'),
    ({'top_p': 1.01}, 'top_p', 'number from 0 to 1,'),
    ({'top_p': []}, 'top_p', r'got \[\]'),
    ({'top_k': -2}, 'top_k', 'integer from -1'),
    ({'top_k': 1.5}, 'top_k', 'integer'),
    ({'min_p': 2}, 'min_p', 'number from 0 to 1'),
    ({'seed': 1.5}, 'seed', 'integer'),
    ({'seed': 2**64}, 'seed', 'integer'),
    ({'stop': ''}, 'stop', 'string or up to 4'),
    ({'stop': ['a'] * 5}, 'stop', 'string or up to 4'),
    ({'stop': ['a', 1]}, 'stop', 'string or up to 4'),
    ({'stop': 3}, 'stop', 'got 3'),
    ({'stop': 'x' * 1001}, 'stop', 'up to 4, each of 1 to 1000'),
    ({'stream': 1}, 'stream', 'true or false'),
    ({'stream_options': 1}, 'stream_options', 'an object'),
    ({'stream_options': {'x': 1}}, 'stream_options', '"x" is not supported'),
    ({'stream_options': {'include_usage': 1}}, 'stream_options.include_usage',
     'true or false'),
    ({'logprobs': 2}, 'logprobs', 'expected 0 or 1'),
    ({'logprobs': 6}, 'logprobs', 'integer from 0 to 5'),
    ({'logprobs': True}, 'logprobs', 'integer from 0 to 5'),
    ({'echo': True}, 'echo', 'true is not supported; expected false'),
    ({'suffix': 'x'}, 'suffix', '"x" is not supported'),
    ({'best_of': 2}, 'best_of', '2 is not supported; expected 1'),
    ({'presence_penalty': 0.5}, 'presence_penalty', '0.5 is not supported'),
    ({'frequency_penalty': -1}, 'frequency_penalty', 'not supported'),
    ({'logit_bias': {'5': 1}}, 'logit_bias', 'not supported'),
    ({'temprature': 1}, 'temprature', 'not a field of this endpoint'),
    ({'messages': MESSAGES}, 'messages', 'not a field of this endpoint'),
    ({'max_completion_tokens': 3}, 'max_completion_tokens', 'not a field'),
    ({'model': None}, 'model', "expected the name of a model, 'toy'"),
    ({'model': 3}, 'model', 'got 3'),
  ],
)  # fmt: skip
def test_a_completion_that_is_refused(fields, param, message):
  error = _refused(**fields)
  assert (error.status, error.param) == (400, param)
  assert error.args[0].startswith(param)
  _matches(message, error)


@pytest.mark.parametrize(
  ('fields', 'param', 'message'),
  [
    ({'messages': None}, 'messages', 'at least one message, got null'),
    ({'messages': []}, 'messages', 'at least one message'),
    ({'messages': 'Hi'}, 'messages', 'at least one message'),
    ({'messages': ['Hi']}, 'messages[0]', '"role"'),
    ({'messages': [{'content': 'x'}]}, 'messages[0].role', 'got null'),
    ({'messages': [{'role': 'tool', 'content': 'x'}]}, 'messages[0].role',
     'no tools'),
    ({'messages': [*MESSAGES, {'role': 'user'}]}, 'messages[1].content',
     'parts of type text, got null'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]},
     'messages[0].content[0]', '"type": "text"'),
    ({'messages': [{'role': 'user', 'content': [{'type': 'text'}]}]},
     'messages[0].content[0]', 'got null'),
    ({'messages': [{**MESSAGES[0], 'tool_calls': [{}]}]},
     'messages[0].tool_calls', 'not supported'),
    ({'messages': [{'role': 'clown', 'content': ''}]}, 'messages',
     'roles are system, user and assistant'),
    ({'tools': [{'type': 'function'}]}, 'tools', 'not supported'),
    ({'tool_choice': 'required'}, 'tool_choice', '"none" or "auto"'),
    ({'response_format': {'type': 'json_object'}}, 'response_format',
     'not supported'),
    ({'logprobs': 1}, 'logprobs', 'true or false'),
    ({'logprobs': True, 'top_logprobs': 2}, 'top_logprobs', 'expected 0'),
    ({'max_tokens': 1, 'max_completion_tokens': 2}, 'max_tokens',
     'both the same'),
    ({'max_completion_tokens': 0}, 'max_completion_tokens', 'from 1 to 200'),
    ({'reasoning_effort': 'low'}, 'reasoning_effort', 'not a field'),
    ({'prompt': 'x'}, 'prompt', 'not a field'),
  ],
)  # fmt: skip
def test_a_chat_that_is_refused(fields, param, message):
  error = _refused(CHAT, **fields)
  assert (error.status, error.param) == (400, param)
  _matches(message, error)


def test_a_tokenizer_without_a_chat_template():
  from rlpt_jax.core.tokenizer import ByteTokenizer

  error = _refused(CHAT, served(ByteTokenizer()))
  assert error.status == 400
  _matches('the byte tokenizer: has no chat template', error)


def test_a_prompt_that_is_too_long_says_both_numbers():
  for kind, fields, count in (
    (COMPLETIONS, {'prompt': 'x' * 100}, 101),
    (COMPLETIONS, {'prompt': ['a', [1] * 102]}, 102),
    (CHAT, {'messages': [{'role': 'user', 'content': 'x' * 200}]}, 206),
  ):
    error = _refused(kind, served(Wide()), **fields)
    assert (error.status, error.code) == (400, 'context_length_exceeded')
    _matches(f'{count} tokens, expected at most 100', error)
  _read(prompt='x' * 99)


class Wide(ChatTokenizer):
  """A token may stand for three characters, so texts are encoded to know."""

  longest_token = 3


@pytest.mark.parametrize(
  ('kind', 'fields', 'characters'),
  [
    (COMPLETIONS, {'prompt': 'x' * 301}, 301),
    (COMPLETIONS, {'prompt': ['a', 'x' * 400]}, 400),
    (CHAT, {'messages': [{'role': 'u', 'content': 'x' * 300}]}, 301),
    (CHAT, {'messages': [{'role': 'u', 'content': 'x' * 50}] * 6}, 306),
    (CHAT, {'messages': [{'role': 'u', 'content': ['']}] * 301}, 301),
  ],
)
def test_a_text_that_cannot_fit_is_not_encoded(kind, fields, characters):
  class Measured(Wide):
    def encode(self, text):
      raise AssertionError('it takes long')

    encode_chat = encode

  error = _refused(kind, served(Measured()), **fields)
  assert (error.status, error.code) == (400, 'context_length_exceeded')
  _matches(
    f'{characters} characters, expected at most 100 tokens, which have at '
    'most 300',
    error,
  )


def test_a_prompt_without_tokens():
  class WithoutBos(type(served().tokenizer)):
    bos_id = None

  _matches('no tokens', _refused(COMPLETIONS, served(WithoutBos()), prompt=''))


def test_another_model_is_not_found():
  error = _refused(**{'model': 'gpt-9'})
  assert (error.status, error.code) == (404, 'model_not_found')
  _matches('"gpt-9" is not served here; expected \'toy\'', error)


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'', 'not JSON'),
    (b'{"model": "toy"', 'not JSON'),
    (b'\xff\xfe\xfd', 'not JSON'),
    (b'[1]', r'The body is \[1\]: expected an object'),
    (b'"x"', 'expected an object'),
    (b'null', 'expected an object'),
    (b'{"model": "toy", "prompt": "a", "temperature": NaN}', 'NaN is not JSON'),
    (b'{"temperature": -Infinity}', '-Infinity is not JSON'),
    (b'{"n": ' + b'1' * 5000 + b'}', 'not JSON'),
    (b'[' * 100_000, 'not JSON'),
    (b'{"model": "toy", "prompt": "a", "top_p": 1e999}', 'top_p: .*Infinity'),
    (b'{"model": "toy", "prompt": ' + b'[' * 900 + b']' * 900 + b'}', 'prompt'),
    (b'{"model": "\\ud800"}', 'is not served'),
  ],
)
def test_a_body_that_is_none(body, message):
  with pytest.raises(ApiError, match=message) as info:
    protocol.read(COMPLETIONS, body, served())
  assert len(str(info.value)) < 300


NAMES = sorted(
  protocol.SHARED | protocol.IGNORED | set(protocol.NEUTRAL)
  | protocol.FIELDS[COMPLETIONS] | protocol.FIELDS[CHAT]
)  # fmt: skip
json_values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(
      st.sampled_from(['role', 'content', 'type', 'text']) | st.text(),
      inner,
      max_size=3,
    )
  ),
  max_leaves=8,
)


@hypothesis.settings(max_examples=300)
@hypothesis.example(CHAT, {'kind': None})
@hypothesis.given(
  kind=st.sampled_from([COMPLETIONS, CHAT]),
  fields=st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=5), json_values, max_size=4
  ),
)
def test_any_json_is_a_query_or_an_error(kind, fields):
  try:
    query = _read(kind, **{'model': 'toy', **fields})
  except ApiError as error:
    assert error.status in (400, 404)
    assert len(str(error)) < 500
  else:
    assert query.requests


def _matches(pattern, error):
  assert re.search(pattern, str(error)), str(error)
