"""Samples n completions for each prompt of a file."""

import contextlib
import dataclasses
import pathlib
import time
from typing import Literal

import jax
import numpy as np
import rich.console

from rlpt_jax.completions import asked as asked_lib
from rlpt_jax.completions import prompt_files
from rlpt_jax.completions.asked import Asked
from rlpt_jax.completions.group_files import GroupFile, Line
from rlpt_jax.completions.options import check_options
from rlpt_jax.completions.progress import Progress
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.core import compilations
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.one_host import broadcast
from rlpt_jax.inference import model_files
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling import rollouts
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import Sizes
from rlpt_jax.training import fingerprints

# The number of samples of one prompt that run at once, if there are enough
# prompts to fill the slots. With more, too many slots would wait for the last
# samples of a prompt.
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
  """Samples n completions for each prompt of a file.

  OUT gets one JSON line per completion, with prompt (or prompt_tokens), sample,
  completion, completion_tokens, logprobs, policy_logprobs, and finish_reason,
  which is 'stop' or 'length'. The lines of a prompt are written as soon as it
  and all prompts before it are done. logprobs are those of the distribution
  that was sampled from, 0 at temperature 0; policy_logprobs are those at
  temperature 1 without top_k, top_p and min_p.

  You can stop it at any time: the same command continues with the missing
  prompts, and gives the same file as an uninterrupted run.

  Args:
    model: A Hugging Face directory or a checkpoint directory.
    prompts: A .txt file with one prompt per line, or a .jsonl file with
      "prompt" or, for a model without a tokenizer, "prompt_tokens".
    out: The .jsonl file to write; OUT.run.json gets the settings.
    n: Completions per prompt.
    max_new_tokens: The number of tokens after which a completion is cut.
    temperature: The sampling temperature; 0 takes the most probable token.
    top_k: Samples only from this many most probable tokens; 0 means all.
    top_p: Of these, samples only from the most probable ones that together have
      this probability.
    min_p: Drops tokens less probable than this share of the most probable one.
    stop: Ends a completion before this text, or after the special token of this
      name, in addition to EOS; may be given several times. completion_tokens
      include it. In bash, $'\\n' is a line break.
    seed: The same seed gives the same completions.
    chat: Sends each prompt as a user message in the model's chat template.
    slots: The number of completions sampled at once. A continued run may use
      another number; its log-probabilities then differ by rounding.
    max_prompt_tokens: Refuses a file with longer prompts; by default there is
      room for its longest.
    tokenizer: 'bytes' or a path, instead of the model's own.
    dtype: The dtype of weights and activations; log-probabilities are float32.
    cache_dtype: The dtype of keys and values; by default the same as dtype.
    step: The checkpoint step; by default the newest.
    tensor: The number of devices that share one copy of the model.
    overwrite: Starts over if OUT exists, whatever its settings were.
  """
  check_options(
    n=(n, 1, None),
    max_new_tokens=(max_new_tokens, 1, None),
    temperature=(temperature, 0, 1e6),
    top_k=(top_k, 0, 2**31 - 1),
    top_p=(top_p, 1e-6, 1),
    min_p=(min_p, 0, 1),
    seed=(seed, 0, 2**32 - 1),
    slots=(slots, 1, None),
    max_prompt_tokens=(max_prompt_tokens, 1, None),
  )
  if out.resolve() == prompts.resolve():
    raise ValueError(f'{out}: is the prompts file. Take another --out.')
  files = model_files.find(model, step=step)
  # Keep this checkpoint to the end, even if a run adds a newer one meanwhile.
  files = dataclasses.replace(files, step=files.found)
  asked = asked_lib.read(
    prompts,
    files,
    tokenizer=tokenizer,
    chat=chat,
    stop=stop,
    max_prompt_tokens=max_prompt_tokens,
  )
  settings = {
    'model': files.name,
    'step': files.step,
    'tokenizer': tokenizer,
    'prompts': asked.digest,
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

  # Count the prompts that an earlier run with the same settings finished.
  is_first = jax.process_index() == 0  # Only this one reads and writes OUT.
  file, tally = GroupFile(out), prompt_files.Tally()
  if is_first and file.is_begun() and not overwrite:
    file.check_settings(settings)
    tally = prompt_files.finished(file, asked.prompts, n)
  tally.prompts = broadcast(tally.prompts)
  if tally.prompts == len(asked.prompts):
    if is_first:
      print(f'{out}: complete already, nothing to do: {summary(tally)}')
    return

  decoder = files.decoder(dtype=dtype, tensor=tensor)
  plan = plan_for(
    asked,
    decoder.layout,
    n=n,
    slots=slots,
    max_prompt_tokens=max_prompt_tokens or asked.longest,
    max_new_tokens=max_new_tokens,
    cache_dtype=cache_dtype,
  )
  memory = plan_lib.check(plan, decoder)
  if is_first:
    print(
      f'{model_files.describe(files.config)}; {len(asked.prompts):,} prompts '
      f'of up to {asked.longest:,} tokens, n={n}, {plan.slots} slots, '
      f'{memory.total / 2**20:,.1f} MiB on each device',
      flush=True,
    )
    if tally.prompts:
      print(f'{out}: {tally.prompts:,} prompts are done already, going on')
    files.warn_of_length(asked.longest, max_new_tokens)
  params = files.load_params(layout=decoder.layout, dtype=dtype)
  settings['weights'] = fingerprints.of_tree(params)
  if is_first and not overwrite:
    file.check_settings(settings)

  requests = (
    Request(
      prompt_tokens=asked.tokens[i],
      id=str(i),
      samples=n,
      seed=seed,
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      min_p=min_p,
      stops=tuple((i,) for i in asked.stop_ids),
    )
    for i in range(tally.prompts, len(asked.prompts))
  )
  earlier_tokens, started = tally.tokens, time.monotonic()
  try:
    with contextlib.ExitStack() as stack:
      compiled = stack.enter_context(compilations.counted())
      write = None
      if is_first:
        write = stack.enter_context(
          file.appending(settings, after=tally.num_bytes)
        )
      engine = stack.enter_context(Engine(decoder, params, plan, consume=True))
      progress = stack.enter_context(
        Progress(
          rich.console.Console(highlight=False) if is_first else None,
          prompts=len(asked.prompts),
          done=tally.prompts,
          n=n,
          max_new_tokens=max_new_tokens,
        )
      )
      for samples in rollouts.complete(
        engine,
        requests,
        asked.tokenizer,
        stop=asked.stop,
        on_step=progress.update,
      ):
        prompt = asked.prompts[tally.prompts]
        lines = [line(prompt, i, sample) for i, sample in enumerate(samples)]
        if write:
          write(lines)
        tally.add(lines)
  except FloatingPointError as error:
    raise FloatingPointError(f'{prompts}: {error}') from error
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
      f'{tally.prompts:,} of {len(asked.prompts):,} prompts are in {out}, the '
      'same command goes on'
    ) from None
  if is_first:
    seconds = time.monotonic() - started
    rate = (tally.tokens - earlier_tokens) / seconds
    print(
      f'wrote {out}: {summary(tally)}; {seconds:,.1f} s, {rate:,.0f} tokens/s, '
      f'{compiled.count} programs compiled'
    )


def plan_for(
  asked: Asked, layout: Layout, *, n: int, slots: int, **options
) -> Plan:
  """Returns a plan with as many slots as the whole file can fill.

  Finished prompts count too, so that results do not depend on where a run was
  interrupted.
  """
  count = len(asked.prompts)
  slots = layout.whole_batch(min(slots, n * count))
  group = min(n, slots, max(GROUP, -(-slots // count)))
  # A group of one sample frees its prompt when it frees its slot.
  kept = min(count, slots if group == 1 else 2 * (slots // group))
  return Plan(
    slots=slots,
    group=group,
    prompts=layout.whole_batch(kept),
    sizes=Sizes(
      stops=max(1, len(asked.stop_ids)), stop_tokens=1, phrase_tokens=1
    ),
    **options,
  )


def line(prompt: Prompt, number: int, sample: rollouts.Sample) -> Line:
  """Returns the line for a sample in the completions file."""
  completion = sample.completion
  return {
    **prompt.fields,
    'sample': number,
    'completion': sample.text,
    'completion_tokens': completion.tokens.tolist(),
    'logprobs': _short(completion.logprobs),
    'policy_logprobs': _short(completion.policy_logprobs),
    'finish_reason': sample.finish_reason,
  }


def summary(tally: prompt_files.Tally) -> str:
  """Describes the content of a completions file in words."""
  reasons = tally.finish_reasons
  return (
    f'{tally.prompts:,} prompts, {tally.completions:,} completions '
    f'({reasons["stop"]:,} stopped, {reasons["length"]:,} cut by '
    f'max_new_tokens), {tally.tokens:,} tokens'
  )


def _short(x_T: np.ndarray) -> list[float]:
  """Returns the float32 values as floats with the shortest decimal form."""
  return [float(str(x)) for x in x_T]
