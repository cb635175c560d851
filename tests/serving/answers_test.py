"""Objects of the API: of OpenAI's own types, and what they say."""

import json

import openai.types
import pytest
from openai.types import chat

from rlpt_jax.sampling.text import Piece, Token
from rlpt_jax.serving import answers, protocol
from rlpt_jax.serving.protocol import CHAT, COMPLETIONS, ApiError
from tests import small_sentencepiece
from tests.serving.toy import EOS, served


def _answer(kind=COMPLETIONS, **fields):
  prompt = {'prompt': ['a', 'bc']}
  if kind == CHAT:
    prompt = {'messages': [{'role': 'user', 'content': 'Hi'}]}
  body = json.dumps({'model': 'toy', **prompt, **fields}).encode()
  return answers.Answer(protocol.read(kind, body, served()), served())


TOKENS = (Token(97, -0.5, 0), Token(0xC3, -float('inf'), 1), Token(EOS, -1, 2))


def test_a_completion():
  answer = _answer(logprobs=1, temperature=0)
  whole = answer.whole(
    [Piece('aé', TOKENS, 'stop'), Piece('b', (), 'length')], 7
  )
  parsed = openai.types.Completion.model_validate(whole)
  assert parsed.id.startswith('cmpl-') and parsed.model == 'toy'
  assert [(c.index, c.text) for c in parsed.choices] == [(0, 'aé'), (1, 'b')]
  assert parsed.choices[0].finish_reason == 'stop'
  logprobs = parsed.choices[0].logprobs
  assert logprobs.tokens == ['a', '\ufffd', '<eos>']
  assert logprobs.token_logprobs == [-0.5, -9999.0, -1]
  assert logprobs.text_offset == [0, 1, 2]
  assert logprobs.top_logprobs[0] == {'a': -0.5}
  # Two prompts, each with a BOS.
  assert parsed.usage.model_dump(exclude_none=True) == {
    'prompt_tokens': 5, 'completion_tokens': 7, 'total_tokens': 12,
  }  # fmt: skip


def test_no_logprobs_unless_asked_and_no_invented_tops():
  choice = _answer().whole([Piece('a', TOKENS)], 1)['choices'][0]
  assert choice['logprobs'] is None
  choice = _answer(logprobs=1).whole([Piece('a', TOKENS)], 1)['choices'][0]
  assert choice['logprobs']['top_logprobs'] is None


def test_a_chat():
  answer = _answer(CHAT, logprobs=True)
  whole = answer.whole([Piece('aé', TOKENS, 'length')], 3)
  parsed = chat.ChatCompletion.model_validate(whole)
  assert parsed.object == 'chat.completion'
  message = parsed.choices[0].message
  assert (message.role, message.content) == ('assistant', 'aé')
  content = parsed.choices[0].logprobs.content
  assert [(t.token, t.logprob) for t in content] == [
    ('a', -0.5), ('\ufffd', -9999.0), ('<eos>', -1),
  ]  # fmt: skip
  # The bytes of a part of a character are not known.
  assert [t.bytes for t in content] == [[97], None, list(b'<eos>')]
  assert content[0].top_logprobs == []


def test_a_stream_of_a_completion():
  answer = _answer()
  assert answer.first_chunks(2) == []
  assert answer.last_chunks(3) == []
  chunk = answer.chunk(1, Piece('x'))
  # As by OpenAI, though its own type for it knows no null.
  assert chunk['choices'] == [
    {'index': 1, 'text': 'x', 'logprobs': None, 'finish_reason': None}
  ]
  last = answer.chunk(1, Piece('', (), 'stop'))
  openai.types.Completion.model_validate(last)
  assert 'usage' not in chunk


def test_a_stream_of_a_chat():
  stream = {'stream': True, 'stream_options': {'include_usage': True}}
  answer = _answer(CHAT, n=2, **stream)
  chunks = [
    *answer.first_chunks(2),
    answer.chunk(0, Piece('x')),
    answer.chunk(0, Piece('', (), 'stop')),
    *answer.last_chunks(3),
  ]
  parsed = [chat.ChatCompletionChunk.model_validate(c) for c in chunks]
  assert len({c.id for c in parsed}) == 1
  assert [c.choices[0].index for c in parsed[:2]] == [0, 1]
  assert parsed[0].choices[0].delta.role == 'assistant'
  assert parsed[2].choices[0].delta.content == 'x'
  assert chunks[3]['choices'][0]['delta'] == {}
  assert parsed[3].choices[0].finish_reason == 'stop'
  assert [c['usage'] for c in chunks[:-1]] == [None] * 4
  assert chunks[-1]['choices'] == []
  assert parsed[-1].usage.completion_tokens == 3


@pytest.mark.parametrize(
  ('status', 'kind'),
  [
    (400, 'invalid_request_error'),
    (401, 'authentication_error'),
    (404, 'invalid_request_error'),
    (429, 'rate_limit_error'),
    (503, 'server_error'),
  ],
)
def test_errors(status, kind):
  error = ApiError('no', status=status, param='n', code='c')
  assert answers.error(error) == {
    'error': {'message': 'no', 'type': kind, 'param': 'n', 'code': 'c'}
  }


def test_a_token_has_the_blank_that_it_begins_with(tmp_path):
  tokenizer = small_sentencepiece.train(tmp_path)
  text = answers._token_texts(tokenizer)
  ids = tokenizer.encode('the ship left')
  assert ''.join(map(text, ids)) == ' the ship left'
  assert text(tokenizer.eos_ids[0]) == '</s>'


def test_what_is_not_utf8_becomes_the_sign_for_it():
  assert answers.well_formed('a\ud800é') == 'a\ufffdé'
