"""Evaluates models on benchmarks: samples answers and scores them."""

import contextlib
import dataclasses
import pathlib
import re
import time

import jax
import rich.console

from rlpt_jax.completions import jobs
from rlpt_jax.completions.current_model import CurrentModel
from rlpt_jax.completions.options import (
  EngineOptions,
  SamplingOptions,
  check_options,
  plan_for,
)
from rlpt_jax.evaluation import questions, results
from rlpt_jax.evaluation.next_segment import NextSegment
from rlpt_jax.evaluation.questions import Scorers
from rlpt_jax.evaluation.tasks import Task
from rlpt_jax.inference import judges, model_files
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.rewards import scores
from rlpt_jax.runs import run_folder as runs

# How the RLPT paper samples answers.
RLPT = SamplingOptions(max_new_tokens=32768, temperature=0.6, top_p=0.95)


def evaluate(
  models: tuple[str, ...],
  *,
  benchmarks: list[str | NextSegment],
  out: pathlib.Path,
  data: pathlib.Path | None = None,
  n: int | None = None,
  k: tuple[int, ...] = (1, 8),
  limit: int | None = None,
  chat: bool = False,
  sampling: SamplingOptions = RLPT,
  engine: EngineOptions = EngineOptions(),
):
  """Evaluates models on benchmarks: samples answers and scores them.

  OUT/results.jsonl gets one line per model and benchmark;
  OUT/answers/MODEL/BENCHMARK.jsonl gets every answer with its verdict. The
  defaults for sampling are those of the RLPT paper: 64 samples per problem in
  mathematics, temperature 0.6, top-p 0.95, 32,768 tokens. Answers without a
  verdict are counted, but are left out of all scores.

  You can stop the command at any time; run again, it continues with the missing
  problems. You can add more models and benchmarks to the same OUT.

  Args:
    models: Hugging Face directories or checkpoint directories; DIR@STEP selects
      a checkpoint other than the newest.
    benchmarks: One or more of mmlu, mmlu_pro, gpqa_diamond, supergpqa,
      kor_bench, olympiad_bench, gsm8k, math500, amc23, minerva, aime24, aime25.
      NAME=PATH, such as gsm8k=PATH, reads this benchmark from PATH.
      next_segment=FILES or a .gin file (evaluation/next_segment.py) evaluates
      on held-out text.
    out: The output folder.
    data: The folder of benchmarks, in their public schemas. Each is a file
      (.jsonl, .json, .parquet or .csv), such as gsm8k.jsonl, or a folder of
      such files, such as gsm8k/.
    n: Samples per problem; by default 64 in mathematics, 1 elsewhere.
    k: The values of k for pass@k; values above n are skipped.
    limit: Uses only the first LIMIT problems of each benchmark.
    chat: Asks each question as a user message in the model's chat template.
    sampling: How answers are sampled.
    engine: How the models are loaded and run.
  """
  check_options(
    n=(n, 1, None), k=(min(k, default=1), 1, None), limit=(limit, 1, None)
  )
  sampling.check()
  engine.check()
  is_first = jax.process_index() == 0  # Only this process reads and writes OUT.
  loaded = questions.load(benchmarks, data, chat=chat)
  files_by_name = find_models(models)
  recorded = {**sampling.settings(), 'chat': chat, 'n': n, 'limit': limit}
  recorded |= engine.settings()
  started, console = time.monotonic(), rich.console.Console(highlight=False)
  if is_first:
    describe(loaded)

  with contextlib.ExitStack() as stack:
    scorers = stack.enter_context(contextlib.closing(Scorers()))
    # One task per model and benchmark.
    tasks = []
    for name, files in files_by_name.items():
      tokenizer = files.load_tokenizer(engine.tokenizer)
      for benchmark in loaded:
        source = files.tokenizer_source(engine.tokenizer)
        problems = questions.ask(
          benchmark, scorers, tokenizer,
          source=source, chat=chat, n=n, limit=limit,
        )  # fmt: skip
        task = Task(
          name, files, problems, tokenizer,
          out=out, sampling=sampling, options=recorded,
        )  # fmt: skip
        tasks.append(task)
    runs.check_config(out, recorded, may_replace=not has_answers(out))
    for reward in (x.reward for x in loaded if isinstance(x, NextSegment)):
      stack.callback(scores.of(reward).close)
      if any(not t.job.is_done for t in tasks if t.problems.reward is reward):
        judges.try_out(reward)
        judges.load(reward)  # Before the sampler, which uses the memory left.

    # An engine with room for all questions of all models.
    plan = plan_for(
      engine,
      prompts=max(len(task.job.ids) for task in tasks),
      samples=max(task.job.samples for task in tasks),
      max_prompt_tokens=max(task.job.longest for task in tasks),
      max_new_tokens=sampling.max_new_tokens,
      stop_ids=max(len(task.job.stop_ids) for task in tasks),
    )
    current = stack.enter_context(CurrentModel(plan, engine))
    for task in tasks:
      if not task.job.is_done:
        current.load(task.files, about=f'{task.model}: ')
        task.check_settings(weights=current.fingerprint)
        task.files.warn_of_length(task.job.longest, sampling.max_new_tokens)
        jobs.run(
          task.job,
          current.sampler,
          task.settings | {'weights': current.fingerprint},
          console if is_first else None,
        )
      if is_first:
        results.add(out / 'results.jsonl', task.result(k))
  if is_first:
    # At least 120 columns: a narrower table would cut off digits, and lines
    # that are broken by the terminal are better than that.
    wide = rich.console.Console(width=max(console.width, 120), highlight=False)
    for table in results.tables(results.read(out / 'results.jsonl')):
      wide.print(table)
    seconds = time.monotonic() - started
    print(f'wrote {out / "results.jsonl"}; {seconds:,.1f} s')


def find_models(models: tuple[str, ...]) -> dict[str, ModelFiles]:
  """Returns {name: model files} for models given as DIR or DIR@STEP.

  The name is that of the model's folder in OUT/answers.
  """
  if not models:
    raise ValueError('MODELS: expected at least one model directory.')
  files_by_name = {}
  for model in models:
    path, at, step = model.rpartition('@')
    if not at or not step.isdigit() or pathlib.Path(model).exists():
      path, step = model, None
    files = model_files.find(path, step=None if step is None else int(step))
    # Keep this checkpoint to the end, even if a run adds a newer one meanwhile.
    files = dataclasses.replace(files, step=files.found_step)
    name = re.sub(r'[^A-Za-z0-9_.]+', '-', path).strip('-.')
    if files.step is not None:
      name += f'@{files.step}'
    if name in files_by_name:
      raise ValueError(f'{model}: is given twice; expected each model once.')
    files_by_name[name] = files
  return files_by_name


def has_answers(out: pathlib.Path) -> bool:
  """Returns True if OUT has answers; from then on, its settings are fixed."""
  files = (out / 'answers').glob('*/*.jsonl')
  return any(file.stat().st_size for file in files)


def describe(loaded):
  """Prints each benchmark with its source and its number of problems."""
  for one in loaded:
    if isinstance(one, NextSegment):
      print(f'{one.name}: {", ".join(c.place() for c in one.data.corpora)}')
      continue
    left_out = ''
    if one.left_out:
      left_out = f', {one.left_out:,} left out (not text-only)'
    print(
      f'{one.benchmark.name}: {len(one.problems):,} problems of {one.place}'
      f'{left_out}'
    )
