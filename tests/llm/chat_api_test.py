"""Bodies and headers of a server, of whatever sort."""

import datetime
import email.utils

import pytest

from rlpt_jax.llm import chat_api


@pytest.mark.parametrize(
  ('body', 'found'),
  [
    (b'{"choices": [{"message": {"content": "Score: 1"}}]}', 'Score: 1'),
    (b'{"choices": [{"text": "Score: 1"}]}', 'Score: 1'),
    (b'{"choices": [{"message": {"content": null}}]}', ''),
    (b'{"choices": [{"message": {"content": 3}}]}', None),
    (b'{"choices": []}', None), (b'[', None), (b'', None), (b'\xff', None),
    (b'[' * 100_000, None),
  ],
)  # fmt: skip
def test_an_answer(body, found):
  reply = chat_api.reply(body)
  assert (reply and reply.text) == found


@pytest.mark.parametrize(
  ('fields', 'tokens'),
  [
    ('', None),
    (', "usage": {"prompt_tokens": 3, "completion_tokens": 0}', (3, 0)),
    (', "usage": {"prompt_tokens": 3}', None),
    (', "usage": {"prompt_tokens": 3, "completion_tokens": -1}', None),
    (', "usage": {"prompt_tokens": true, "completion_tokens": 1}', None),
    (', "usage": [1, 2]', None),
  ],
)  # fmt: skip
def test_the_size_of_a_reply(fields, tokens):
  body = f'{{"choices": [{{"text": "a"}}]{fields}}}'
  expected = tokens and chat_api.Tokens(*tokens)
  assert chat_api.reply(body.encode()).tokens == expected


@pytest.mark.parametrize(
  ('said', 'reason'),
  [
    ('"length"', 'length'),
    ('null', ''),
    ('7', ''),
    (f'"{"x" * 99}"', 'x' * 40),
  ],
)
def test_why_a_reply_ended(said, reason):
  body = f'{{"choices": [{{"text": "a", "finish_reason": {said}}}]}}'
  assert chat_api.reply(body.encode()).finish_reason == reason


def test_an_error():
  assert chat_api.error_message('{"error": {"message": "no"}}') == 'no'
  for text in ('{"error": "no"}', 'Bad gateway', '[' * 100_000, ''):
    assert chat_api.error_message(text) == text


def test_retry_after():
  now = datetime.datetime.now(datetime.UTC)
  in_a_minute = email.utils.format_datetime(
    now + datetime.timedelta(seconds=60), usegmt=True
  )
  assert 55 < chat_api.seconds(in_a_minute) <= 60
  assert chat_api.seconds('2.5') == 2.5
  for odd in ('', 'soon', '-1', 'nan', 'inf', 'Wed, 21 Oct 2015 07:28:00 GMT'):
    assert chat_api.seconds(odd) == 0
