"""Samples n completions for each prompt of a file."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
import rich.console

from rlpt_jax.completions import jobs, prompt_files, tokenized
from rlpt_jax.completions.current_model import CurrentModel
from rlpt_jax.completions.group_files import GroupFile, Line
from rlpt_jax.completions.jobs import Job
from rlpt_jax.completions.options import (
  EngineOptions,
  SamplingOptions,
  check_options,
  plan_for,
)
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.core import compilations
from rlpt_jax.core.one_host import broadcast
from rlpt_jax.inference import model_files
from rlpt_jax.sampling.sampler import Sample


def generate(
  model: pathlib.Path,
  *,
  prompts: pathlib.Path,
  out: pathlib.Path,
  n: int = 1,
  chat: bool = False,
  max_prompt_tokens: int | None = None,
  step: int | None = None,
  overwrite: bool = False,
  sampling: SamplingOptions = SamplingOptions(),
  engine: EngineOptions = EngineOptions(),
):
  """Samples n completions for each prompt of a file.

  OUT gets one JSON line per completion, with prompt (or prompt_tokens), sample,
  completion, completion_tokens, logprobs, policy_logprobs, and finish_reason,
  which is 'stop' or 'length'. The lines of a prompt are written as soon as it
  and all prompts before it are done. completion_tokens include the token that
  ended a stopped completion. logprobs are log-probabilities under the
  distribution that was sampled from, so they are 0 at temperature 0;
  policy_logprobs are those at temperature 1 without top_k, top_p and min_p.

  You can stop the command at any time; run again, it continues with the missing
  prompts, and gives the same file as an uninterrupted run. With another number
  of slots, log-probabilities differ by rounding.

  Args:
    model: A Hugging Face directory or a checkpoint directory.
    prompts: A .txt file with one prompt per line, or a .jsonl file with
      "prompt" or "prompt_tokens" in each line.
    out: The .jsonl file to write; OUT.run.json gets the settings.
    n: Completions per prompt.
    chat: Sends each prompt as a user message in the model's chat template.
    max_prompt_tokens: Refuses a file with a longer prompt; by default, there is
      room for the longest prompt of the file.
    step: The checkpoint step; by default the newest.
    overwrite: Starts over if OUT exists, whatever its settings were.
    sampling: How completions are sampled.
    engine: How the model is loaded and run.
  """
  check_options(n=(n, 1, None), max_prompt_tokens=(max_prompt_tokens, 1, None))
  sampling.check()
  engine.check()
  if out.resolve() == prompts.resolve():
    raise ValueError(f'{out}: is the prompts file. Choose another --out.')
  files = model_files.find(model, step=step)
  # Keep this checkpoint to the end, even if a run adds a newer one meanwhile.
  files = dataclasses.replace(files, step=files.found_step)
  read = tokenized.read(
    prompts,
    files,
    tokenizer=engine.tokenizer,
    chat=chat,
    stop=sampling.stop,
    max_prompt_tokens=max_prompt_tokens,
  )
  settings = {
    'model': files.name,
    'step': files.step,
    'prompts': read.digest,
    'chat': chat,
    'n': n,
    **sampling.settings(),
    **engine.settings(),
  }

  # Count the prompts that an earlier run with the same settings finished.
  is_first = jax.process_index() == 0  # Only this process reads and writes OUT.
  file, tally = GroupFile(out), prompt_files.Tally()
  if is_first and file.is_begun() and not overwrite:
    file.check_settings(settings)
    tally = prompt_files.finished(file, read.prompts, n)
  job = Job(
    file=file,
    ids=[str(i) for i in range(len(read.prompts))],
    tokens=read.tokens,
    samples=n,
    sampling=sampling,
    stop_ids=read.stop_ids,
    tokenizer=read.tokenizer,
    to_lines=lambda first, groups: to_lines(read.prompts[first:], groups),
    tally=tally,
    done=broadcast(tally.prompts),
    source=prompts,
  )
  if job.is_done:
    if is_first:
      print(f'{out}: already complete, nothing to do: {summary(tally)}')
    return

  plan = plan_for(
    engine,
    prompts=len(job.ids),
    samples=n,
    max_prompt_tokens=max_prompt_tokens or job.longest,
    max_new_tokens=sampling.max_new_tokens,
    stop_ids=len(job.stop_ids),
  )
  with CurrentModel(plan, engine) as current, compilations.counted() as count:
    about = f'{len(job.ids):,} prompts of up to {job.longest:,} tokens, n={n}; '
    current.load(files, about)
    if is_first:
      if job.done:
        print(f'{out}: resuming, {job.done:,} prompts are done already')
      files.warn_of_length(job.longest, sampling.max_new_tokens)
    settings['weights'] = current.fingerprint
    if is_first and not overwrite:
      file.check_settings(settings)
    earlier_tokens, started = tally.tokens, time.monotonic()
    console = rich.console.Console(highlight=False) if is_first else None
    jobs.run(job, current.sampler, settings, console)
  if is_first:
    seconds = time.monotonic() - started
    rate = (tally.tokens - earlier_tokens) / seconds
    print(
      f'wrote {out}: {summary(tally)}; {seconds:,.1f} s, {rate:,.0f} tokens/s, '
      f'{count.count} programs compiled'
    )


def to_lines(
  prompts: list[Prompt], groups: Iterator[list[Sample]]
) -> Iterator[list[Line]]:
  """Yields, for each prompt, its lines of the completions file."""
  for group, prompt in zip(groups, prompts, strict=False):
    yield [line(prompt, i, sample) for i, sample in enumerate(group)]


def line(prompt: Prompt, number: int, sample: Sample) -> Line:
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
  """Returns float32 values as floats that print as 0.1, not 0.10000000149."""
  return [float(str(x)) for x in x_T]
