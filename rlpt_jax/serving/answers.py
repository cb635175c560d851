"""Builds the responses of OpenAI's API from pieces of samples."""

import functools
import re
import time
import uuid
from typing import Any

from rlpt_jax.core.tokenizer import INCOMPLETE, Tokenizer
from rlpt_jax.sampling.text import Piece, Token
from rlpt_jax.serving.protocol import CHAT, ApiError, Query, Served

SURROGATES = re.compile('[\ud800-\udfff]')
LEAST_LOGPROB = -9999.0  # JSON has no infinity.
ERROR_TYPES = {401: 'authentication_error', 429: 'rate_limit_error'}


class Answer:
  """Builds the objects of one response, whole or streamed."""

  def __init__(self, query: Query, served: Served):
    self._query, self._chat = query, query.kind == CHAT
    prefix = 'chatcmpl' if self._chat else 'cmpl'
    self._head = {
      'id': f'{prefix}-{uuid.uuid4().hex}',
      'created': int(time.time()),
      'model': served.name,
    }
    self._token_text = _token_texts(served.tokenizer)

  def whole(self, pieces: list[Piece], num_tokens: int) -> dict[str, Any]:
    """Returns a response that is not streamed, from one piece per sample."""
    return {
      **self._head,
      'object': 'chat.completion' if self._chat else 'text_completion',
      'choices': [self._choice(i, p, 'message') for i, p in enumerate(pieces)],
      'usage': self._usage(num_tokens),
    }

  def first_chunks(self, samples: int) -> list[dict[str, Any]]:
    """Returns the chunks that begin a stream: in a chat, each sample's role."""
    if not self._chat:
      return []
    delta = {'role': 'assistant', 'content': ''}
    empty = {'delta': delta, 'logprobs': None, 'finish_reason': None}
    return [self._chunk([{'index': i, **empty}]) for i in range(samples)]

  def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
    return self._chunk([self._choice(index, piece, 'delta')])

  def last_chunks(self, num_tokens: int) -> list[dict[str, Any]]:
    if not self._query.include_usage:
      return []
    return [{**self._chunk([]), 'usage': self._usage(num_tokens)}]

  def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
    kind = 'chat.completion.chunk' if self._chat else 'text_completion'
    chunk = {**self._head, 'object': kind, 'choices': choices}
    return {**chunk, 'usage': None} if self._query.include_usage else chunk

  def _choice(self, index: int, piece: Piece, name: str) -> dict[str, Any]:
    logprobs = self._logprobs(piece.tokens)
    end = {'logprobs': logprobs, 'finish_reason': piece.finish_reason}
    if not self._chat:
      return {'index': index, 'text': piece.text, **end}
    message: dict[str, Any] = {'content': piece.text}
    if name == 'message':
      message = {'role': 'assistant', 'refusal': None, **message}
    elif not piece.text:
      message = {}
    return {'index': index, name: message, **end}

  def _logprobs(self, tokens: tuple[Token, ...]) -> dict[str, Any] | None:
    if not self._query.with_logprobs:
      return None
    texts = [self._token_text(token.id) for token in tokens]
    logprobs = [max(LEAST_LOGPROB, token.logprob) for token in tokens]
    if self._chat:
      each = zip(texts, logprobs, strict=True)
      return {'content': [_chat_token(*x) for x in each], 'refusal': None}
    tops = [{text: x} for text, x in zip(texts, logprobs, strict=True)]
    return {
      'tokens': texts,
      'token_logprobs': logprobs,
      'top_logprobs': tops if self._query.with_top_logprobs else None,
      'text_offset': [token.offset for token in tokens],
    }

  def _usage(self, num_tokens: int) -> dict[str, int]:
    prompt = self._query.num_prompt_tokens
    return {
      'prompt_tokens': prompt,
      'completion_tokens': num_tokens,
      'total_tokens': prompt + num_tokens,
    }


def _chat_token(text: str, logprob: float) -> dict[str, Any]:
  # A part of a character has bytes too, but the tokenizer does not give them.
  known = INCOMPLETE not in text
  return {
    'token': text,
    'logprob': logprob,
    'bytes': list(well_formed(text).encode()) if known else None,
    'top_logprobs': [],
  }


@functools.lru_cache(maxsize=1)
def _token_texts(tokenizer: Tokenizer):
  """Returns a function from an id to its text, with any leading space."""
  letter = tokenizer.encode('a')[-1:]
  before = tokenizer.decode(letter)

  @functools.cache
  def token_text(i: int) -> str:
    text = tokenizer.decode([*letter, i], keep_special=True)
    return text.removeprefix(before)

  return token_text


def model(served: Served, created: int) -> dict[str, Any]:
  """Returns the model's entry in /v1/models."""
  return {
    'id': served.name,
    'object': 'model',
    'created': created,
    'owned_by': 'rlpt',
  }


def error(error: ApiError) -> dict[str, Any]:
  """Returns the body of an error in OpenAI's format."""
  default = 'server_error' if error.status >= 500 else 'invalid_request_error'
  return {
    'error': {
      'message': str(error),
      'type': ERROR_TYPES.get(error.status, default),
      'param': error.param,
      'code': error.code,
    }
  }


def well_formed(text: str) -> str:
  """Replaces lone surrogates, which UTF-8 cannot encode."""
  return SURROGATES.sub(INCOMPLETE, text)
