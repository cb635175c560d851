"""Reads the prompts of `rlpt generate` and tokenizes them for one model."""

import dataclasses
import hashlib
import json
import pathlib

from rlpt_jax.completions import prompt_files
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.inference.model_files import ModelFiles


@dataclasses.dataclass(frozen=True)
class TokenizedPrompts:
  """The prompts of one file, tokenized for one model."""

  prompts: list[Prompt]
  tokens: list[tuple[int, ...]]  # One tuple per prompt.
  tokenizer: Tokenizer | None  # None: the run uses token ids only.
  stop_ids: tuple[int, ...]  # Of EOS, and of special tokens in --stop.

  @property
  def longest(self) -> int:
    return max(map(len, self.tokens))

  @property
  def digest(self) -> str:
    """The number of prompts, and a hash of their fields and tokens."""
    sha256 = hashlib.sha256()
    for prompt, ids in zip(self.prompts, self.tokens, strict=True):
      sha256.update(json.dumps([prompt.fields, ids]).encode())
    return f'{len(self.prompts)}, sha256 {sha256.hexdigest()[:16]}'


def read(
  path: pathlib.Path,
  files: ModelFiles,
  *,
  tokenizer: str | None,
  chat: bool,
  stop: tuple[str, ...],
  max_prompt_tokens: int | None,
) -> TokenizedPrompts:
  """Reads and tokenizes a prompts file; raises at the first invalid prompt."""
  prompts = prompt_files.read_prompts(path)
  has_text = any('prompt' in prompt.fields for prompt in prompts)
  loaded = None
  if tokenizer or has_text or chat or stop or files.has_tokenizer():
    loaded = files.load_tokenizer(tokenizer)
  tokens = [tokens_of(prompt, loaded, chat) for prompt in prompts]
  check_tokens(tokens, prompts, files.config.vocab_size, max_prompt_tokens)
  eos_ids = loaded.eos_ids if loaded else files.eos_ids()
  stop_ids = eos_ids + special_ids(loaded, stop)
  return TokenizedPrompts(prompts, tokens, loaded, stop_ids)


def tokens_of(
  prompt: Prompt, tokenizer: Tokenizer | None, chat: bool
) -> tuple[int, ...]:
  """Returns the token ids that the model reads for a prompt."""
  if 'prompt_tokens' in prompt.fields:
    if chat:
      raise ValueError(
        f'{prompt.where}: prompt_tokens cannot be used with --chat: expected '
        '"prompt", a text for the chat template. Leave out --chat if the '
        'tokens already contain the template.'
      )
    return tuple(prompt.fields['prompt_tokens'])
  text = prompt.fields['prompt']
  if chat:
    return tuple(tokenizer.encode_chat([{'role': 'user', 'content': text}]))
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  tokens = begin + tokenizer.encode(text)
  if not tokens:
    raise ValueError(
      f'{prompt.where}: {text!r} has no tokens: expected at least one.'
    )
  return tuple(tokens)


def check_tokens(
  tokens: list[tuple[int, ...]],
  prompts: list[Prompt],
  vocab_size: int,
  max_prompt_tokens: int | None,
):
  """Raises at the first prompt with an unknown token or too many tokens."""
  for prompt, ids in zip(prompts, tokens, strict=True):
    if max(ids) >= vocab_size:
      raise ValueError(
        f'{prompt.where}: token {max(ids)} is outside the vocabulary of the '
        f'model ({vocab_size}). Is this its tokenizer?'
      )
    if max_prompt_tokens and len(ids) > max_prompt_tokens:
      raise ValueError(
        f'{prompt.where}: {len(ids):,} tokens, expected at most '
        f'--max_prompt_tokens={max_prompt_tokens}. Shorten the prompt, or '
        'raise that limit.'
      )


def special_ids(
  tokenizer: Tokenizer | None, stop: tuple[str, ...]
) -> tuple[int, ...]:
  """Returns the ids of the stop strings that name a special token.

  Decoded text omits special tokens, so they cannot be found as text.
  """
  if not all(stop):
    raise ValueError("--stop='': expected at least one character.")
  ids = []
  for i in range(tokenizer.vocab_size if stop else 0):
    name = tokenizer.decode([i], keep_special=True)
    mixed = [text for text in stop if name and name in text]
    if not mixed or tokenizer.decode([i]):
      continue
    for text in mixed:
      if text != name:
        raise ValueError(
          f'--stop={text!r}: {name!r} is a special token, which the text of a '
          'completion does not contain: expected the special token alone, or '
          'only text.'
        )
    ids.append(i)
  return tuple(ids)
