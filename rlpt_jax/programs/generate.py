"""Completes the prompts of a file, n times each."""

import json
import pathlib
import time
from typing import Literal

import jax
import numpy as np

from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.programs import model_files
from rlpt_jax.sampling import decode


def generate(
  model: pathlib.Path,
  *,
  prompts: pathlib.Path,
  out: pathlib.Path,
  max_new_tokens: int = 128,
  temperature: float = 1.0,
  n: int = 1,
  seed: int = 0,
  prompts_per_batch: int = 8,
  tokenizer: str | None = None,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  step: int | None = None,
):
  """Completes the prompts of a file, n times each.

  OUT gets one JSON line a completion: prompt, sample, completion,
  completion_tokens, logprobs, finish_reason ('stop' or 'length').

  Args:
    model: A Hugging Face directory or a directory of checkpoints.
    prompts: A .txt file, one prompt a line, or .jsonl with "prompt" or, for a
      model without a tokenizer, "prompt_tokens".
    out: The .jsonl file to write.
    max_new_tokens: Tokens after which a completion is cut.
    temperature: Of sampling; 0 always takes the most probable token.
    n: Completions of each prompt.
    seed: The same seed gives the same completions.
    prompts_per_batch: Prompts that are completed at the same time.
    tokenizer: 'bytes', or a path, instead of the model's own.
    dtype: Of weights, activations and caches; log-probabilities are float32.
    step: Which checkpoint; by default the newest.
  """
  for name, value, least in (
    ('max_new_tokens', max_new_tokens, 1),
    ('n', n, 1),
    ('temperature', temperature, 0),
    ('prompts_per_batch', prompts_per_batch, 1),
  ):
    if not value >= least:
      raise ValueError(f'--{name}={value}: expected at least {least}.')
  files = model_files.find(model, step=step)
  examples = read_prompts(prompts)
  has_text = any('prompt' in example for example in examples)
  if tokenizer or has_text or files.has_tokenizer():
    loaded_tokenizer = files.load_tokenizer(tokenizer)
  else:
    loaded_tokenizer = None  # Tokens in, tokens out, up to max_new_tokens.
  tokens = [_tokens(loaded_tokenizer, example) for example in examples]
  largest = max(max(ids, default=0) for ids in tokens)
  if largest >= files.config.vocab_size:
    raise ValueError(
      f'{prompts}: token {largest} is beyond the vocabulary of {model} '
      f'({files.config.vocab_size}). Is this its tokenizer?'
    )

  layout = make_layout()
  decoder = Decoder(files.config, Compute(dtype=dtype), layout)
  params = files.load_params(layout=layout, dtype=dtype)
  started, num_tokens = time.perf_counter(), 0
  out.parent.mkdir(parents=True, exist_ok=True)
  with out.open('w') as file:
    for first in range(0, len(tokens), prompts_per_batch):
      batch = slice(first, first + prompts_per_batch)
      prompts_PS, segments_PS = pad_prompts(
        tokens[batch], rows=prompts_per_batch
      )
      ids_P = first + np.arange(prompts_per_batch)
      rollouts = decode.sample(
        decoder, params,
        layout.put(prompts_PS, 'batch', None),
        layout.put(segments_PS, 'batch', None),
        decode.sample_keys(seed, ids_P, n),
        temperature,
        max_new_tokens=max_new_tokens,
        eos_ids=loaded_tokenizer.eos_ids if loaded_tokenizer else (),
      )  # fmt: skip
      rollouts = jax.device_get(rollouts)
      for i, example in enumerate(examples[batch]):
        for row in range(i * n, (i + 1) * n):
          line = completion(
            loaded_tokenizer, example, row - i * n, rollouts, row
          )
          num_tokens += len(line['completion_tokens'])
          file.write(json.dumps(line, ensure_ascii=False) + '\n')
      rate = num_tokens / (time.perf_counter() - started)
      done = min(first + prompts_per_batch, len(tokens))
      print(f'{done}/{len(tokens)} prompts, {rate:,.0f} tokens/s')
  print(f'wrote {out}')


def read_prompts(path: pathlib.Path) -> list[dict]:
  """[{'prompt': text} or {'prompt_tokens': ids}, ...] of a file."""
  try:
    # Not splitlines: a line of JSON may hold other separators.
    lines = path.read_text(encoding='utf-8').split('\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: not UTF-8: {error}.') from error
  numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
  if path.suffix == '.jsonl':
    examples = [_parse(line, f'{path}:{n}') for n, line in numbered]
  else:
    examples = [{'prompt': line.rstrip('\r')} for _, line in numbered]
  if not examples:
    raise ValueError(f'{path}: no prompts in it.')
  return examples


def _parse(line: str, where: str) -> dict:
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f'{where}: not JSON: {error}.') from error
  if isinstance(fields, dict):
    if isinstance(fields.get('prompt'), str):
      return {'prompt': fields['prompt']}
    ids = fields.get('prompt_tokens')
    if (
      isinstance(ids, list)
      and ids
      and all(isinstance(i, int) and i >= 0 for i in ids)
    ):
      return {'prompt_tokens': ids}
  raise ValueError(
    f'{where}: {line[:60]!r}: expected an object with "prompt", a text, or '
    '"prompt_tokens", a list of ids.'
  )


def _tokens(tokenizer: Tokenizer | None, example: dict) -> list[int]:
  if 'prompt_tokens' in example:
    return example['prompt_tokens']
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  tokens = begin + tokenizer.encode(example['prompt'])
  if not tokens:
    raise ValueError(
      f'prompt {example["prompt"]!r} has no tokens: expected at least one.'
    )
  return tokens


def pad_prompts(prompts: list[list[int]], *, rows: int):
  """(tokens, segments) of [rows, S], padded on the right.

  S is a power of two, so that few shapes are compiled; rows without a prompt
  are one token long.
  """
  longest = max(len(prompt) for prompt in prompts)
  S = max(16, 1 << (longest - 1).bit_length())
  tokens_PS, segments_PS = np.zeros((2, rows, S), np.int32)
  segments_PS[len(prompts) :, 0] = 1
  for row, prompt in enumerate(prompts):
    tokens_PS[row, : len(prompt)] = prompt
    segments_PS[row, : len(prompt)] = 1
  return tokens_PS, segments_PS


def completion(
  tokenizer, example: dict, sample: int, rollouts, row: int
) -> dict:
  """One line of the completions file."""
  length = int(rollouts.length_B[row])
  ids = rollouts.tokens_BT[row, :length].tolist()
  return {
    **example,
    'sample': sample,
    'completion': tokenizer.decode(ids) if tokenizer else None,
    'completion_tokens': ids,
    'logprobs': rollouts.logprobs_BT[row, :length].tolist(),
    'finish_reason': 'stop' if rollouts.stopped_B[row] else 'length',
  }
