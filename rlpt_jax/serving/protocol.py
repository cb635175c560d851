"""Parses requests of OpenAI's API strictly: a body of JSON becomes a `Query`.

A field that is unknown or not supported is an error that names the field,
unless its value has no effect (NEUTRAL, or null). Fields that cannot change a
completion are ignored.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.sampling.requests import Request

COMPLETIONS, CHAT = 'completions', 'chat'
# Fields of a body, besides SHARED, IGNORED and NEUTRAL ones.
FIELDS = {
  COMPLETIONS: {'prompt', 'max_tokens', 'logprobs'},
  CHAT: {
    'messages', 'max_tokens', 'max_completion_tokens', 'logprobs',
    'top_logprobs',
  },
}  # fmt: skip
SHARED = {
  'model', 'n', 'temperature', 'top_p', 'top_k', 'min_p', 'stop', 'seed',
  'stream', 'stream_options',
}  # fmt: skip
# These concern accounts, caches and tools, which do not exist here.
IGNORED = {
  'user', 'metadata', 'store', 'service_tier', 'safety_identifier',
  'prompt_cache_key', 'prompt_cache_options', 'prompt_cache_retention',
  'prediction', 'parallel_tool_calls',
}  # fmt: skip
# Fields that are not supported -> their values that have no effect and are
# therefore accepted; null is accepted too.
NEUTRAL = {
  'echo': (False,),
  'suffix': ('',),
  'presence_penalty': (0,),
  'frequency_penalty': (0,),
  'repetition_penalty': (1,),
  'logit_bias': ({},),
  'tools': ([],),
  'functions': ([],),
  'tool_choice': ('none', 'auto'),
  'function_call': ('none', 'auto'),
  'response_format': ({'type': 'text'},),
  'modalities': (['text'],),
  'best_of': (),  # Accepted if equal to n.
}
STREAM_OPTIONS = {'include_usage', 'include_obfuscation'}
DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions.
MAX_STOPS, MAX_STOP_LENGTH = 4, 1000
NON_TEXT_ROLES = ('tool', 'function')


class ApiError(Exception):
  """An error that is sent to the client, whoever caused it."""

  def __init__(
    self,
    message: str,
    *,
    status: int = 400,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
  ):
    super().__init__(message)
    self.status, self.param, self.code = status, param, code
    self.headers = headers or {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
  """The model that is served and the limits of requests."""

  name: str
  tokenizer: Tokenizer
  vocab_size: int  # The model's; its tokenizer may have fewer tokens.
  max_prompt_tokens: int
  max_new_tokens: int
  max_samples: int  # The most in one call, and in all unfinished calls.
  group: int  # The most samples in one request of the engine.

  @property
  def max_prompt_characters(self) -> int:
    """The most characters in a prompt, if all its tokens are the longest."""
    return self.max_prompt_tokens * self.tokenizer.longest_token


@dataclasses.dataclass(frozen=True)
class Query:
  """A parsed call; its requests are in the order of the prompts."""

  kind: str  # COMPLETIONS or CHAT.
  requests: tuple[Request, ...]
  num_prompt_tokens: int
  stops: tuple[str, ...]
  stream: bool
  include_usage: bool
  with_logprobs: bool
  # True only at temperature 0. Then the largest log-probability is that of the
  # sampled token, the only one that is known.
  with_top_logprobs: bool


def read(kind: str, body: bytes | bytearray, served: Served) -> Query:
  """Returns the query that a body of JSON asks for, or raises ApiError."""
  fields = _parse(body)
  _check_model(fields.get('model'), served)
  n = _integer(fields, 'n', 1, low=1, high=served.max_samples)
  _check_supported(kind, fields, n)
  with_logprobs, with_top_logprobs = _logprobs(kind, fields)
  temperature = _number(fields, 'temperature', 1.0, high=1e6)
  seed = _integer(fields, 'seed', None, low=-(2**63), high=2**63)
  top_k = _integer(fields, 'top_k', 0, low=-1, high=2**31 - 1)
  options = {
    'max_new_tokens': _max_new_tokens(kind, fields, served),
    'temperature': temperature,
    'top_k': max(0, top_k),  # For other servers, -1 means all tokens.
    # Some clients send 0, to keep only the most probable token.
    'top_p': max(1e-6, _number(fields, 'top_p', 1.0, high=1)),
    'min_p': _number(fields, 'min_p', 0.0, high=1),
    'stops': tuple((i,) for i in served.tokenizer.eos_ids),
  }
  stops, stream = _stops(fields), _boolean(fields, 'stream')
  include_usage = _include_usage(fields)
  prompts = (_prompts if kind == COMPLETIONS else _chat)(fields, served)
  if len(prompts) * n > served.max_samples:
    raise ApiError(
      f'prompt: {len(prompts)} prompts with n={n}: expected at most '
      f'{served.max_samples} completions per call. Ask for them in several '
      'calls.',
      param='prompt',
    )
  requests = []
  for tokens in prompts:
    # Without a seed every prompt gets a random one, so that a prompt listed
    # twice gets two different completions.
    own_seed = _draw_seed() if seed is None else seed % 2**32
    for first in range(0, n, served.group):
      request = Request(
        prompt_tokens=tuple(tokens),
        id=prompt_id(tokens),
        samples=min(served.group, n - first),
        first_sample=first,
        seed=own_seed,
        **options,
      )
      requests.append(request)
  return Query(
    kind,
    tuple(requests),
    num_prompt_tokens=sum(map(len, prompts)),
    stops=stops,
    stream=stream,
    include_usage=include_usage,
    with_logprobs=with_logprobs,
    with_top_logprobs=with_top_logprobs and temperature == 0,
  )


def prompt_id(tokens: Iterable[int]) -> str:
  """Returns an id made from the tokens; id and seed determine the samples."""
  text = ','.join(map(str, tokens))
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _draw_seed() -> int:
  return int.from_bytes(os.urandom(4), 'little')


def _parse(body: bytes | bytearray) -> dict[str, Any]:
  def refuse(constant: str):
    raise ValueError(f'{constant} is not JSON')

  try:
    fields = json.loads(body, parse_constant=refuse)
  except (ValueError, RecursionError) as error:  # Includes UnicodeDecodeError.
    raise ApiError(
      f'The body is not JSON: {str(error) or "nested too deeply"}.',
      code='invalid_json',
    ) from error
  if not isinstance(fields, dict):
    raise ApiError(
      f'The body is {_shown(fields)}: expected an object, '
      '{"model": ..., ...}.'
    )
  return fields


def _check_model(name: Any, served: Served):
  if not isinstance(name, str):
    raise _expected('model', f'the name of a model, {served.name!r}', name)
  if name != served.name:
    raise no_such_model(name, served)


def no_such_model(name: str, served: Served) -> ApiError:
  return ApiError(
    f'model: {_shown(name)} is not served here; expected {served.name!r}.',
    status=404,
    param='model',
    code='model_not_found',
  )


def _check_supported(kind: str, fields: dict[str, Any], n: int):
  known = FIELDS[kind] | SHARED | IGNORED
  for name, value in fields.items():
    if name in known or value is None:
      continue
    neutral = (n,) if name == 'best_of' else NEUTRAL.get(name)
    if neutral is None:
      raise ApiError(
        f'{_shown(name)[1:-1]}: not a field of this endpoint, or not '
        'supported; leave it out.',
        param=name[:60],
        code='unknown_parameter',
      )
    if value not in neutral:
      allowed = ' or '.join(json.dumps(v) for v in neutral)
      raise ApiError(
        f'{name}: {_shown(value)} is not supported; expected {allowed}, or '
        'leave it out.',
        param=name,
        code='unsupported_parameter',
      )


def _logprobs(kind: str, fields: dict[str, Any]) -> tuple[bool, bool]:
  """Returns (logprobs are asked for, top logprobs are asked for)."""
  advice = 'Only the log-probability of the token itself is known'
  if kind == COMPLETIONS:
    count = _integer(fields, 'logprobs', None, low=0, high=5)
    if count is not None and count > 1:
      raise ApiError(
        f'logprobs: {count} is not supported; expected 0 or 1. {advice}.',
        param='logprobs',
        code='unsupported_parameter',
      )
    return count is not None, count == 1
  wanted = _boolean(fields, 'logprobs')
  if _integer(fields, 'top_logprobs', 0, low=0, high=20):
    raise ApiError(
      f'top_logprobs: {fields["top_logprobs"]} is not supported; expected 0. '
      f'{advice}.',
      param='top_logprobs',
      code='unsupported_parameter',
    )
  return wanted, False


def _stops(fields: dict[str, Any]) -> tuple[str, ...]:
  value = fields.get('stop')
  stops = [] if value is None else [value] if isinstance(value, str) else value
  if (
    not isinstance(stops, list)
    or len(stops) > MAX_STOPS
    or not all(
      isinstance(s, str) and 0 < len(s) <= MAX_STOP_LENGTH for s in stops
    )
  ):
    raise _expected(
      'stop',
      f'a string or up to {MAX_STOPS}, each of 1 to {MAX_STOP_LENGTH} '
      'characters',
      value,
    )
  return tuple(stops)


def _max_new_tokens(kind: str, fields: dict[str, Any], served: Served) -> int:
  high = served.max_new_tokens
  default = min(DEFAULT_MAX_TOKENS, high) if kind == COMPLETIONS else high
  old, new = (
    _integer(
      fields, name, None, low=1, high=high,
      why=" (the server's --max_new_tokens)",
    )
    for name in ('max_tokens', 'max_completion_tokens')
  )  # fmt: skip
  if old is not None and new is not None and old != new:
    raise ApiError(
      f'max_tokens={old} and max_completion_tokens={new}: expected one of '
      'them, or both the same.',
      param='max_tokens',
    )
  return next((x for x in (new, old) if x is not None), default)


def _include_usage(fields: dict[str, Any]) -> bool:
  options = fields.get('stream_options')
  if options is None:
    return False
  if not isinstance(options, dict):
    raise _expected('stream_options', 'an object', options)
  if unknown := options.keys() - STREAM_OPTIONS:
    raise ApiError(
      f'stream_options: {_shown(min(unknown))} is not supported; expected '
      'include_usage.',
      param='stream_options',
      code='unknown_parameter',
    )
  return _boolean(options, 'include_usage', 'stream_options.include_usage')


def _prompts(fields: dict[str, Any], served: Served) -> list[list[int]]:
  """Returns the tokens of each prompt; the field may hold one or several."""
  value = fields.get('prompt')
  if isinstance(value, str) or _is_ids(value):
    prompts = [value]
  elif isinstance(value, list) and value:
    prompts = value
  else:
    prompts = []
  if not prompts or not all(isinstance(p, str) or _is_ids(p) for p in prompts):
    raise _expected(
      'prompt',
      'a text, a list of token ids, or a list of texts or such lists',
      value,
    )
  if len(prompts) > served.max_samples:
    raise ApiError(
      f'prompt: expected at most {served.max_samples} prompts, got '
      f'{len(prompts)}. Ask for them in several calls.',
      param='prompt',
    )
  # Check all lengths first: encoding a text takes much longer than this.
  for p in prompts:
    _check_length(len(p), 'prompt', served)
  tokenizer = served.tokenizer
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  tokens = [
    begin + tokenizer.encode(p) if isinstance(p, str) else p for p in prompts
  ]
  for ids in tokens:
    _check_tokens(ids, 'prompt', served)
  return tokens


def _is_ids(value: Any) -> bool:
  return (
    isinstance(value, list)
    and bool(value)
    and all(type(i) is int for i in value)  # isinstance accepts a bool.
  )


def _chat(fields: dict[str, Any], served: Served) -> list[list[int]]:
  messages = fields.get('messages')
  if not isinstance(messages, list) or not messages:
    raise _expected('messages', 'a list of at least one message', messages)
  chat = [_message(m, f'messages[{i}]') for i, m in enumerate(messages)]
  # An empty message counts too: the template turns it into at least one token.
  lengths = [max(1, len(m['role'] + m['content'])) for m in chat]
  _check_length(sum(lengths), 'messages', served)
  try:
    tokens = served.tokenizer.encode_chat(chat)
  except Exception as error:  # Templates raise errors of many kinds.
    message = ' '.join(str(error).split()) or type(error).__name__
    raise ApiError(f'messages: {message[:300]}', param='messages') from error
  _check_tokens(tokens, 'messages', served)
  return [tokens]


def _message(message: Any, where: str) -> dict[str, str]:
  if not isinstance(message, dict):
    raise _expected(where, '{"role": ..., "content": ...}', message)
  role, content = message.get('role'), message.get('content')
  if not isinstance(role, str) or not role or role in NON_TEXT_ROLES:
    raise _expected(
      f'{where}.role', "'system', 'user' or 'assistant'; no tools", role
    )
  for name in ('tool_calls', 'function_call', 'audio'):
    if message.get(name):
      raise ApiError(
        f'{where}.{name}: not supported; leave it out.',
        param=f'{where}.{name}',
        code='unsupported_parameter',
      )
  parts = [content] if isinstance(content, str) else content
  if not isinstance(parts, list) or not parts:
    raise _expected(f'{where}.content', 'a text or parts of type text', content)
  texts = []
  for i, part in enumerate(parts):
    if isinstance(part, dict) and part.get('type') == 'text':
      part = part.get('text')
    if not isinstance(part, str):
      raise _expected(
        f'{where}.content[{i}]', '{"type": "text", "text": ...}', part
      )
    texts.append(part)
  return {'role': role, 'content': ''.join(texts)}


def _check_length(characters: int, param: str, served: Served):
  """Raises if a text is too long even if all its tokens are the longest."""
  if characters > served.max_prompt_characters:
    raise ApiError(
      f'{param}: {characters:,} characters, expected at most '
      f'{served.max_prompt_tokens:,} tokens, which have at most '
      f'{served.max_prompt_characters:,} characters. Shorten it, or start the '
      'server with a larger --max_prompt_tokens.',
      param=param,
      code='context_length_exceeded',
    )


def _check_tokens(tokens: list[int], param: str, served: Served):
  if not tokens:
    raise ApiError(
      f'{param}: it has no tokens; expected at least one.', param=param
    )
  if len(tokens) > served.max_prompt_tokens:
    raise ApiError(
      f'{param}: {len(tokens)} tokens, expected at most '
      f'{served.max_prompt_tokens}. Shorten it, or start the server with a '
      'larger --max_prompt_tokens.',
      param=param,
      code='context_length_exceeded',
    )
  for i in (min(tokens), max(tokens)):
    if not 0 <= i < served.vocab_size:
      raise ApiError(
        f'{param}: token {_shown(i)} is not in the vocabulary; expected 0 to '
        f'{served.vocab_size - 1}.',
        param=param,
      )


def _boolean(fields: dict[str, Any], name: str, param: str = '') -> bool:
  value = fields.get(name)
  if value is None:
    return False
  if not isinstance(value, bool):
    raise _expected(param or name, 'true or false', value)
  return value


def _integer(fields, name: str, default, *, low: int, high: int, why=''):
  value = fields.get(name)
  if value is None:
    return default
  if type(value) is not int or not low <= value <= high:
    raise _expected(name, f'an integer from {low} to {high}{why}', value)
  return value


def _number(fields, name: str, default: float, *, high: float) -> float:
  value = fields.get(name)
  if value is None:
    return default
  if type(value) not in (int, float) or not 0 <= value <= high:
    raise _expected(name, f'a number from 0 to {high:g}', value)
  return float(value)


def _expected(param: str, expected: str, value: Any) -> ApiError:
  return ApiError(
    f'{param}: expected {expected}, got {_shown(value)}.', param=param
  )


def _shown(value: Any) -> str:
  try:
    text = json.dumps(value, ensure_ascii=False)
  except RecursionError:
    text = 'deeply nested JSON'
  return text if len(text) <= 60 else text[:57] + '...'
