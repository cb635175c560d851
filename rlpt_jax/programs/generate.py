"""Completes the prompts of a file, n times each."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
import zlib
from typing import Literal

import jax
import numpy as np
import rich.console

from rlpt_jax.core import compilations, weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.programs import model_files, prompt_files
from rlpt_jax.programs.progress import Progress
from rlpt_jax.programs.prompt_files import Prompt
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Completion, Request, join
from rlpt_jax.sampling.table import Sizes
from rlpt_jax.serving.text import Transcript
from rlpt_jax.training import fingerprints

# Samples of one prompt that run at the same time, if there are prompts enough
# to fill the slots: with more, its last ones would keep too many waiting.
GROUP = 8


def generate(
  model: pathlib.Path,
  *,
  prompts: pathlib.Path,
  out: pathlib.Path,
  n: int = 1,
  max_new_tokens: int = 128,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
  stop: tuple[str, ...] = (),
  seed: int = 0,
  chat: bool = False,
  slots: int = 64,
  max_prompt_tokens: int | None = None,
  tokenizer: str | None = None,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None,
  step: int | None = None,
  tensor: int = 1,
  overwrite: bool = False,
):
  """Completes the prompts of a file, n times each.

  OUT gets a JSON line a completion, those of a prompt as soon as it and all
  before it are done: prompt (or prompt_tokens), sample, completion,
  completion_tokens, logprobs, policy_logprobs, finish_reason ('stop' or
  'length'). logprobs are those of the distribution that was sampled from, 0 at
  temperature 0; policy_logprobs those at temperature 1 without top_k, top_p and
  min_p.

  Stop it whenever you like: the same command goes on with the prompts that are
  missing, and the file becomes what it would have been.

  Args:
    model: A Hugging Face directory or a directory of checkpoints.
    prompts: A .txt file, one prompt a line, or .jsonl with "prompt" or, for a
      model without a tokenizer, "prompt_tokens".
    out: The .jsonl file to write; OUT.run.json gets the settings.
    n: Completions of each prompt.
    max_new_tokens: Tokens after which a completion is cut.
    temperature: Of sampling; 0 always takes the most probable token.
    top_k: Samples among so many of the most probable tokens; 0 is all.
    top_p: Of these, the most probable that together have this probability.
    min_p: Drops tokens less probable than this share of the most probable one.
    stop: Ends a completion before this text, or after a special token with this
      name, besides the model's own end; may be given several times.
      completion_tokens have it. In bash, $'\\n' is a line break.
    seed: The same seed gives the same completions.
    chat: Each prompt is what a user says, by the model's chat template.
    slots: Completions that run at the same time. A run may go on with another
      number; its log-probabilities then differ by rounding.
    max_prompt_tokens: Refuses a file with longer prompts; by default there is
      room for its longest.
    tokenizer: 'bytes', or a path, instead of the model's own.
    dtype: Of weights and activations; log-probabilities are float32.
    cache_dtype: Of keys and values, if not that of the rest.
    step: Which checkpoint; by default the newest.
    tensor: Devices that share one copy of the model.
    overwrite: Begins again where OUT exists, whatever it is.
  """
  for name, value, least, most in (
    ('n', n, 1, None),
    ('max_new_tokens', max_new_tokens, 1, None),
    ('temperature', temperature, 0, 1e6),
    ('top_k', top_k, 0, 2**31 - 1),
    ('top_p', top_p, 1e-6, 1),
    ('min_p', min_p, 0, 1),
    ('seed', seed, 0, 2**32 - 1),
    ('slots', slots, 1, None),
    ('max_prompt_tokens', max_prompt_tokens, 1, None),
  ):
    if value is None:
      continue
    if not least <= value <= (value if most is None else most):  # NaN too.
      upper = '' if most is None else f' and at most {most}'
      raise ValueError(f'--{name}={value}: expected at least {least}{upper}.')
  if out.resolve() == prompts.resolve():
    raise ValueError(f'{out}: is the prompts file. Take another --out.')

  # What is asked, in tokens.
  files = model_files.find(model, step=step)
  # The same one to the end, also if a run adds a newer one meanwhile.
  files = dataclasses.replace(files, step=files.found)
  examples = prompt_files.read_prompts(prompts)
  has_text = any('prompt' in example.fields for example in examples)
  loaded_tokenizer = None  # Tokens in, tokens out, up to max_new_tokens.
  if tokenizer or has_text or chat or stop or files.has_tokenizer():
    loaded_tokenizer = files.load_tokenizer(tokenizer)
  tokens = [tokens_of(example, loaded_tokenizer, chat) for example in examples]
  check_tokens(tokens, examples, files.config.vocab_size, max_prompt_tokens)
  stop_ids = loaded_tokenizer.eos_ids if loaded_tokenizer else ()
  stop_ids += special_ids(loaded_tokenizer, stop)

  # What is done already, by an earlier run with the same settings.
  settings = {
    'model': str(model.resolve()),
    'step': files.step,
    'tokenizer': tokenizer,
    'prompts': digest(examples, tokens),
    'chat': chat,
    'n': n,
    'max_new_tokens': max_new_tokens,
    'temperature': temperature,
    'top_k': top_k,
    'top_p': top_p,
    'min_p': min_p,
    'stop': list(stop),
    'seed': seed,
    'dtype': dtype,
    'cache_dtype': cache_dtype or dtype,
  }
  is_first = jax.process_index() == 0  # The one that reads and writes OUT.
  tally = prompt_files.Tally()
  if is_first and not overwrite:
    prompt_files.check_settings(out, settings)
    tally = prompt_files.finished(out, examples, n)
  done = _from_first_process(tally.prompts)
  if done == len(examples):
    if is_first:
      print(f'{out}: complete already, nothing to do: {summary(tally)}')
    return

  # The model, in as many slots as the whole file can fill: not only what is
  # left of it, so that numbers do not depend on where a run goes on.
  # Weights whole, or split by `tensor`: what the batch splits would have to be
  # gathered again for every chunk.
  layout = make_layout(data=-1, fsdp=1, tensor=tensor)
  decoder = Decoder(files.config, Compute(dtype=dtype), layout)
  slots = min(slots, n * len(tokens))
  slots = -(-slots // layout.batch_size) * layout.batch_size
  group = min(n, slots, max(GROUP, -(-slots // len(tokens))))
  # Where a group is one sample, its prompt goes when it goes.
  kept = min(len(tokens), slots if group == 1 else 2 * (slots // group))
  longest = max(map(len, tokens))
  plan = Plan(
    slots=slots,
    group=group,
    prompts=-(-kept // layout.batch_size) * layout.batch_size,
    max_prompt_tokens=max_prompt_tokens or longest,
    max_new_tokens=max_new_tokens,
    cache_dtype=cache_dtype,
    sizes=Sizes(stops=max(1, len(stop_ids)), stop_tokens=1, phrase_tokens=1),
  )
  memory = plan_lib.check(plan, decoder)
  console = rich.console.Console(highlight=False) if is_first else None
  if console:
    print(
      f'{model_files.describe(files.config)}; {len(tokens):,} prompts of up to '
      f'{longest:,} tokens, n={n}, {slots} slots, '
      f'{memory.total / 2**30:,.2f} GiB on each device',
      flush=True,
    )
    if done:
      print(f'{out}: {done:,} prompts are done already, going on', flush=True)
    if longest + max_new_tokens > files.config.max_length:
      print(
        f'warning: {longest:,} prompt tokens and {max_new_tokens:,} new ones '
        f'are more than the {files.config.max_length:,} of the training of '
        f'{model}; what comes after those may be nonsense.',
        file=sys.stderr,
      )
  params = files.load_params(layout=layout, dtype=dtype)
  settings['weights'] = fingerprint(params)
  if is_first and not overwrite:
    prompt_files.check_settings(out, settings)

  requests = (
    Request(
      prompt_tokens=tokens[i],
      id=str(i),
      samples=n,
      seed=seed,
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      min_p=min_p,
      stops=tuple((i,) for i in stop_ids),
    )
    for i in range(done, len(tokens))
  )
  groups: dict[int, list[Sample]] = {}  # By ticket, those not yet written.
  sampled = completions = 0
  earlier_tokens, started = tally.tokens, time.monotonic()
  try:
    with contextlib.ExitStack() as stack:
      compiled = stack.enter_context(compilations.counted())
      write = None
      if is_first:
        write = stack.enter_context(
          prompt_files.appending(out, settings, after=tally.num_bytes)
        )
      engine = stack.enter_context(Engine(decoder, params, plan))
      del params  # The engine has its own.
      progress = stack.enter_context(
        Progress(
          console,
          prompts=len(tokens),
          done=done,
          n=n,
          max_new_tokens=max_new_tokens,
        )
      )
      while done < len(tokens):
        while engine.waiting < slots and (request := next(requests, None)):
          groups[engine.submit(request)] = [
            Sample(loaded_tokenizer, request.prompt_tokens, stop)
            for _ in range(n)
          ]
        for ticket, i, piece in engine.step():
          if ticket not in groups or groups[ticket][i].finish_reason:
            continue  # Its text had ended.
          sample = groups[ticket][i]
          sample.add(piece)
          sampled += len(piece.tokens)
          completions += bool(sample.finish_reason)
          if sample.finish_reason and not piece.finish_reason:
            engine.cancel(ticket, i)
        while groups and all(
          sample.finish_reason for sample in next(iter(groups.values()))
        ):
          samples = groups.pop(next(iter(groups)))
          lines = [
            sample.line(examples[done], i) for i, sample in enumerate(samples)
          ]
          if write:
            write(lines)
          tally.add(lines)
          done += 1
        progress.update(prompts=done, completions=completions, tokens=sampled)
  except FloatingPointError as error:
    raise ValueError(
      f'{prompts}: {error} Is the model whole? Try --dtype=float32.'
    ) from error
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
      f'{done:,} of {len(tokens):,} prompts are in {out}, the same command '
      'goes on'
    ) from None
  if is_first:
    seconds = time.monotonic() - started
    rate = (tally.tokens - earlier_tokens) / seconds
    print(
      f'wrote {out}: {summary(tally)}; {seconds:,.1f} s, {rate:,.0f} tokens/s, '
      f'{compiled.count} programs compiled'
    )


class Sample:
  """A completion on its way, with its text where there is a tokenizer."""

  def __init__(
    self,
    tokenizer: Tokenizer | None,
    prompt_tokens: tuple[int, ...],
    stop: tuple[str, ...],
  ):
    self._transcript = self._text = None
    if tokenizer:
      self._transcript = Transcript(tokenizer, prompt_tokens, stops=stop)
      self._text = ''
    self._pieces: list[Completion] = []
    self.finish_reason = None

  def add(self, piece: Completion):
    """Takes the next tokens; one that completes a stop string ends it."""
    self._pieces.append(piece)
    self.finish_reason = piece.finish_reason
    if self._transcript:
      said = self._transcript.add(piece)
      self._text += said.text
      self.finish_reason = said.finish_reason

  def line(self, prompt: Prompt, number: int) -> prompt_files.Line:
    """What the completions file says of it."""
    whole = join(self._pieces)
    # The rest of the chunk in which a stop string was completed is nobody's.
    count = self._transcript.num_tokens if self._transcript else None
    return {
      **prompt.fields,
      'sample': number,
      'completion': self._text,
      'completion_tokens': whole.tokens[:count].tolist(),
      'logprobs': _short(whole.logprobs[:count]),
      'policy_logprobs': _short(whole.policy_logprobs[:count]),
      'finish_reason': self.finish_reason,
    }


def tokens_of(
  prompt: Prompt, tokenizer: Tokenizer | None, chat: bool
) -> tuple[int, ...]:
  """What the model reads of a prompt."""
  if 'prompt_tokens' in prompt.fields:
    if chat:
      raise ValueError(
        f'{prompt.where}: prompt_tokens and --chat: expected "prompt", a text '
        'for the chat template. Leave out --chat for tokens that have theirs.'
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
  """Raises for the first prompt that the model or the user has no room for."""
  for prompt, ids in zip(prompts, tokens, strict=True):
    if max(ids) >= vocab_size:
      raise ValueError(
        f'{prompt.where}: token {max(ids)} is beyond the vocabulary of the '
        f'model ({vocab_size}). Is this its tokenizer?'
      )
    if max_prompt_tokens and len(ids) > max_prompt_tokens:
      raise ValueError(
        f'{prompt.where}: {len(ids):,} tokens, expected at most '
        f'--max_prompt_tokens={max_prompt_tokens}. Shorten the prompt, or '
        'raise that.'
      )


def special_ids(
  tokenizer: Tokenizer | None, stop: tuple[str, ...]
) -> tuple[int, ...]:
  """The special tokens among the stop strings, which no text would show."""
  if not all(stop):
    raise ValueError("--stop='': expected at least one character.")
  found = []
  for i in range(tokenizer.vocab_size if stop else 0):
    name = tokenizer.decode([i], keep_special=True)
    mixed = [text for text in stop if name and name in text]
    if not mixed or tokenizer.decode([i]):
      continue
    for text in mixed:
      if text != name:
        raise ValueError(
          f'--stop={text!r}: {name!r} is a special token, which the text of a '
          'completion does not have: expected it alone, or text alone.'
        )
    found.append(i)
  return tuple(found)


def digest(prompts: list[Prompt], tokens: list[tuple[int, ...]]) -> str:
  """Says which prompts these are, as texts and as tokens."""
  sha256 = hashlib.sha256()
  for prompt, ids in zip(prompts, tokens, strict=True):
    sha256.update(json.dumps([prompt.fields, ids]).encode())
  return f'{len(prompts)}, sha256 {sha256.hexdigest()[:16]}'


def fingerprint(params) -> int:
  """Says which weights these are, the same on every mesh."""
  prints = {path: fingerprints.of_array(x) for path, x in weights.named(params)}
  prints = {path: int(x) for path, x in jax.device_get(prints).items()}
  return zlib.crc32(json.dumps(prints, sort_keys=True).encode())


def summary(tally: prompt_files.Tally) -> str:
  """What a completions file holds, in words."""
  reasons = tally.finish_reasons
  return (
    f'{tally.prompts:,} prompts, {tally.completions:,} completions '
    f'({reasons["stop"]:,} stopped, {reasons["length"]:,} cut by '
    f'max_new_tokens), {tally.tokens:,} tokens'
  )


def _short(x_T: np.ndarray) -> list[float]:
  """The shortest numbers that are these of float32."""
  return [float(str(x)) for x in x_T]


def _from_first_process(count: int) -> int:
  if jax.process_count() == 1:
    return count
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.int32(count)))
