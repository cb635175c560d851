"""Evaluates models on benchmarks: samples answers and scores them."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Literal

import jax
import rich.console

from rlpt_jax.completions.asked import check_tokens, special_ids
from rlpt_jax.completions.group_files import GroupFile, Line
from rlpt_jax.completions.options import check_options
from rlpt_jax.completions.progress import Progress
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.core import settings as settings_lib
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.one_host import broadcast, on_one_host
from rlpt_jax.evaluation import questions, results
from rlpt_jax.evaluation.next_segment import NextSegment
from rlpt_jax.evaluation.questions import Questions, Scorers
from rlpt_jax.inference import judges, model_files
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.rewards import scores
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling import rollouts
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import Sizes
from rlpt_jax.training import fingerprints

# The number of samples of one problem that run at once, as in `rlpt generate`.
GROUP = 8


def evaluate(
  models: tuple[str, ...],
  *,
  benchmarks: list[str | NextSegment],
  out: pathlib.Path,
  data: pathlib.Path | None = None,
  n: int | None = None,
  k: tuple[int, ...] = (1, 8),
  limit: int | None = None,
  max_new_tokens: int = 32768,
  temperature: float = 0.6,
  top_k: int = 0,
  top_p: float = 0.95,
  min_p: float = 0.0,
  stop: tuple[str, ...] = (),
  seed: int = 0,
  chat: bool = False,
  slots: int = 64,
  tokenizer: str | None = None,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None,
  tensor: int = 1,
):
  """Evaluates models on benchmarks: samples answers and scores them.

  OUT/results.jsonl gets one line per model and benchmark;
  OUT/answers/MODEL/BENCHMARK.jsonl gets every answer with its verdict. Defaults
  for sampling are RLPT's (64 samples in mathematics, temperature 0.6, top-p
  of 0.95, 32,768 tokens). Answers without a verdict are counted, but are left
  out of all means.

  You can stop it at any time: the same command continues with the missing
  problems. You can add more models and benchmarks to the same OUT.

  Args:
    models: Hugging Face directories or checkpoint directories; DIR@STEP selects
      a checkpoint other than the newest.
    benchmarks: One or more of mmlu, mmlu_pro, gpqa_diamond, supergpqa,
      kor_bench, olympiad_bench, gsm8k, math500, amc23, minerva, aime24, aime25.
      NAME=PATH, such as gsm8k=PATH, gives the location. next_segment=FILES or a
      .gin file (programs/next_segment.py) evaluates on held-out text.
    out: The output folder.
    data: The folder of benchmarks, in their public schemas: gsm8k.jsonl, or
      .json, .parquet, .csv, or a folder gsm8k with such files.
    n: Samples per problem; by default 64 in mathematics, else 1.
    k: The values of k for pass@k; values above n are skipped.
    limit: Uses only the first LIMIT problems of each benchmark.
    max_new_tokens: The number of tokens after which an answer is cut.
    temperature: The sampling temperature; 0 takes the most probable token.
    top_k: Samples only from this many most probable tokens; 0 means all.
    top_p: Of these, samples only from the most probable ones that together have
      this probability.
    min_p: Drops tokens less probable than this share of the most probable one.
    stop: Ends an answer before this text, or after the special token of this
      name, in addition to EOS; may be given several times.
    seed: The same seed gives the same answers.
    chat: Asks each question as a user message in the model's chat template.
    slots: The number of answers sampled at once. A continued run may use
      another number.
    tokenizer: 'bytes' or a path, instead of the models' own.
    dtype: The dtype of weights and activations.
    cache_dtype: The dtype of keys and values; by default the same as dtype.
    tensor: The number of devices that share one copy of a model.
  """
  check_options(
    n=(n, 1, None),
    k=(min(k, default=1), 1, None),
    limit=(limit, 1, None),
    max_new_tokens=(max_new_tokens, 1, None),
    temperature=(temperature, 0, 1e6),
    top_k=(top_k, 0, 2**31 - 1),
    top_p=(top_p, 1e-6, 1),
    min_p=(min_p, 0, 1),
    seed=(seed, 0, 2**32 - 1),
    slots=(slots, 1, None),
  )
  is_first = jax.process_index() == 0  # Only this one reads and writes OUT.
  loaded = questions.load(benchmarks, data, chat=chat)
  found = find_models(models)
  sampling = {
    'max_new_tokens': max_new_tokens,
    'temperature': temperature,
    'top_k': top_k,
    'top_p': top_p,
    'min_p': min_p,
    'stop': list(stop),
    'seed': seed,
  }
  options = {'chat': chat, 'n': n, 'limit': limit, 'dtype': dtype}
  options |= {'cache_dtype': cache_dtype or dtype, 'tokenizer': tokenizer}
  started, console = time.monotonic(), rich.console.Console(highlight=False)
  if is_first:
    describe(loaded)

  with contextlib.ExitStack() as stack:
    scorers = Scorers()
    stack.callback(scorers.close)
    # One task per model and benchmark, with the answers of an earlier run.
    tasks = []
    for name, files in found.items():
      words = files.load_tokenizer(tokenizer)
      stop_ids = words.eos_ids + special_ids(words, stop)
      asked = [
        questions.ask(
          benchmark,
          scorers,
          words,
          source=files.tokenizer_source(tokenizer),
          chat=chat,
          n=n,
          limit=limit,
        )
        for benchmark in loaded
      ]
      for one in asked:
        check_lengths(one, files)
        task = Task(name, files, one, out, words, stop_ids, sampling | options)
        task.check_settings()
        task.read_done()
        tasks.append(task)
    runs.check_config(out, sampling | options, is_free=not has_answers(out))
    rewards = [one.reward for one in loaded if isinstance(one, NextSegment)]
    for part in settings_lib.objects(rewards):
      if hasattr(part, 'close') and not isinstance(part, type):
        stack.callback(part.close)
    for reward in rewards:
      if any(t.left for t in tasks if t.asked.reward is reward):
        judges.try_out(reward)

    plan = plan_for(tasks, slots=slots, max_new_tokens=max_new_tokens)
    plan = dataclasses.replace(plan, cache_dtype=cache_dtype)
    engine = sampled = None
    for task in tasks:
      if task.left and (sampled is None or sampled.files != task.files):
        decoder = task.files.decoder(dtype=dtype, tensor=tensor)
        fits = whole(plan, decoder.layout)
        memory = plan_lib.check(fits, decoder)
        if is_first:
          print(
            f'{task.model}: {model_files.describe(task.files.config)}; '
            f'{fits.slots} slots, {memory.total / 2**20:,.1f} MiB on each '
            'device',
            flush=True,
          )
        params = task.files.load_params(layout=decoder.layout, dtype=dtype)
        weights = fingerprints.of_tree(params)
        # Models of one architecture share an engine: only the weights differ.
        if engine and engine.decoder.config == decoder.config:
          engine.publish(params)
        else:
          if engine:
            engine.close()
          engine = Engine(decoder, params, fits, consume=True)
          stack.callback(engine.close)
        del params
        sampled = task
      if task.left:
        task.check_settings(weights=weights)
        task.files.warn_of_length(task.asked.longest, max_new_tokens)
        answer(engine, task, weights, sampling, console if is_first else None)
      if is_first:
        results.add(out / 'results.jsonl', task.result(k))
  if is_first:
    # At least 120 columns: the last digits matter more than line breaks.
    wide = rich.console.Console(width=max(console.width, 120), highlight=False)
    for table in results.tables(results.read(out / 'results.jsonl')):
      wide.print(table)
    seconds = time.monotonic() - started
    print(f'wrote {out / "results.jsonl"}; {seconds:,.1f} s')


@dataclasses.dataclass
class Task:
  """One benchmark for one model, with the answers so far."""

  model: str
  files: ModelFiles
  asked: Questions
  out: pathlib.Path
  tokenizer: object
  stop_ids: tuple[int, ...]
  options: Line

  def __post_init__(self):
    self.file = GroupFile(
      self.out / 'answers' / self.model / f'{self.asked.name}.jsonl',
      program='rlpt evaluate',
      advice='take another --out',
    )
    self.tally = results.Tally()
    self.done = 0

  @property
  def settings(self) -> Line:
    return {
      'model': self.files.name,
      'step': self.files.step,
      'benchmark': self.asked.name,
      'problems': self.asked.digest,
      'samples': self.asked.samples,
      **self.options,
    }

  @property
  def left(self) -> int:
    return len(self.asked.ids) - self.done

  def check_settings(self, **more):
    """Raises if the file of answers was begun with other settings."""
    if jax.process_index() == 0:
      self.file.check_settings(self.settings | more)

  def read_done(self):
    """Counts the answers of an earlier run."""
    if jax.process_index() == 0:
      expected = [{'problem': id} for id in self.asked.ids]
      needed = ('reward', 'reason', 'tokens', 'finish_reason')
      groups = self.file.groups(expected, self.asked.samples, needed)
      for lines, self.tally.num_bytes in groups:
        self.tally.add(lines)
    self.done = broadcast(self.tally.problems)

  def requests(self, sampling: Line):
    """Yields a request for each problem without answers."""
    options = {k: v for k, v in sampling.items() if k != 'stop'}
    for i in range(self.done, len(self.asked.ids)):
      yield Request(
        prompt_tokens=tuple(self.asked.examples[i].prompt_tokens.tolist()),
        id=self.asked.ids[i],
        samples=self.asked.samples,
        stops=tuple((i,) for i in self.stop_ids),
        **options,
      )

  def result(self, ks: tuple[int, ...]) -> Line:
    """Returns its line of results.jsonl."""
    numbers = results.result(self.tally, self.asked.groups, ks)
    return {
      'model': self.model,
      'benchmark': self.asked.name,
      'step': self.files.step,
      **numbers,
      'settings': self.options,
    }


def answer(
  engine: Engine,
  task: Task,
  weights: int,
  sampling: Line,
  console: rich.console.Console | None,
):
  """Samples and scores the remaining problems of a benchmark."""
  asked = task.asked
  with contextlib.ExitStack() as stack:
    write = None
    if console:
      settings = task.settings | {'weights': weights}
      write = stack.enter_context(
        task.file.appending(settings, after=task.tally.num_bytes)
      )
    progress = stack.enter_context(
      Progress(
        console,
        prompts=len(asked.ids),
        done=task.done,
        n=asked.samples,
        max_new_tokens=sampling['max_new_tokens'],
      )
    )
    groups = rollouts.complete(
      engine,
      task.requests(sampling),
      task.tokenizer,
      stop=tuple(sampling['stop']),
      on_step=progress.update,
    )
    try:
      for lines in judged(asked, task.done, groups):
        if write:
          write(lines)
        task.tally.add(lines)
    except FloatingPointError as error:
      raise FloatingPointError(f'{task.model}: {error}') from error
    except KeyboardInterrupt:
      raise KeyboardInterrupt(
        f'{task.tally.problems:,} of {len(asked.ids):,} problems are in '
        f'{task.file.path}, the same command goes on'
      ) from None
  task.done = len(asked.ids)


def judged(
  asked: Questions, first: int, groups: Iterator[list[rollouts.Sample]]
) -> Iterator[list[Line]]:
  """Yields the lines of each group, starting with that of problem `first`."""
  parts = settings_lib.objects(asked.reward)
  # A local judge computes on all hosts, so all must call it.
  is_local = any(isinstance(part, judges.LocalModel) for part in parts)
  reward = asked.reward if is_local else on_one_host(asked.reward)
  while some := list(itertools.islice(groups, asked.together)):
    examples = asked.examples[first : first + len(some)]
    texts = [[sample.text for sample in group] for group in some]
    found = questions.decided(scores.ask(reward, examples, texts))
    for group, rewards_G, reasons_G in zip(
      some, found.rewards_PG, found.reasons_PG, strict=True
    ):
      verdicts = zip(group, rewards_G, reasons_G, strict=True)
      yield [line(asked, first, g, *v) for g, v in enumerate(verdicts)]
      first += 1


def line(
  asked: Questions, p: int, g: int, sample: rollouts.Sample, reward, reason
) -> Line:
  """Returns the line for sample g of problem p in the file of answers."""
  return {
    'problem': asked.ids[p],
    'sample': g,
    'reward': None if math.isnan(reward) else float(reward),
    'reason': str(reason),
    'right': asked.examples[p].references[0],
    'finish_reason': sample.finish_reason,
    'tokens': len(sample.completion.tokens),
    'prompt': asked.prompts[p],
    'completion': sample.text,
  }


def find_models(models: tuple[str, ...]) -> dict[str, ModelFiles]:
  """Returns {name for OUT/answers: model files} for each DIR or DIR@STEP."""
  if not models:
    raise ValueError('MODELS: expected at least one directory of a model.')
  found = {}
  for model in models:
    path, at, step = model.rpartition('@')
    if not at or not step.isdigit() or pathlib.Path(model).exists():
      path, step = model, None
    files = model_files.find(path, step=None if step is None else int(step))
    # Keep this checkpoint to the end, even if a run adds a newer one meanwhile.
    files = dataclasses.replace(files, step=files.found)
    name = re.sub(r'[^A-Za-z0-9_.]+', '-', path).strip('-.')
    if files.step is not None:
      name += f'@{files.step}'
    if name in found:
      raise ValueError(f'{model}: is there twice; expected each model once.')
    found[name] = files
  return found


def has_answers(out: pathlib.Path) -> bool:
  """Returns True if any answer was written, so that settings are fixed."""
  files = (out / 'answers').glob('*/*.jsonl')
  return any(file.stat().st_size for file in files)


def check_lengths(asked: Questions, files: ModelFiles):
  """Raises if a question has a token that the model does not know."""
  prompts = [Prompt(id, {}) for id in asked.ids]
  tokens = [tuple(x.prompt_tokens.tolist()) for x in asked.examples]
  check_tokens(tokens, prompts, files.config.vocab_size, None)


def plan_for(tasks: list[Task], *, slots: int, max_new_tokens: int) -> Plan:
  """Returns an engine plan with room for all questions of all models.

  Answered questions count too, so that results do not depend on where a run was
  interrupted.
  """
  count = max(len(task.asked.ids) for task in tasks)
  samples = max(task.asked.samples for task in tasks)
  slots = min(slots, samples * count)
  group = min(samples, slots, max(GROUP, -(-slots // count)))
  return Plan(
    slots=slots,
    group=group,
    prompts=min(count, slots if group == 1 else 2 * -(-slots // group)),
    max_prompt_tokens=max(task.asked.longest for task in tasks),
    max_new_tokens=max_new_tokens,
    sizes=Sizes(
      stops=max(1, *(len(task.stop_ids) for task in tasks)),
      stop_tokens=1,
      phrase_tokens=1,
    ),
  )


def whole(plan: Plan, layout: Layout) -> Plan:
  """Rounds slots and prompts up to split evenly over the devices."""
  return dataclasses.replace(
    plan,
    slots=layout.whole_batch(plan.slots),
    prompts=layout.whole_batch(plan.prompts),
  )


def describe(loaded):
  """Prints each benchmark with its source and its number of problems."""
  for one in loaded:
    if isinstance(one, NextSegment):
      print(f'{one.name}: {", ".join(c.place() for c in one.data.corpora)}')
      continue
    left_out = ''
    if one.left_out:
      left_out = f', {one.left_out:,} that words alone do not ask left out'
    print(
      f'{one.benchmark.name}: {len(one.problems):,} problems of {one.place}'
      f'{left_out}'
    )
