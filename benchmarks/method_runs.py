"""Trains one cell of benchmarks/methods.py to its budgets, and asks it.

All of a cell happens in one process, so that libraries load once. Commands run
in the folder of the study, where gin files find the world; a cell's own files
are in runs/CELL_SEED. Each part of the work is done once: what is stopped goes
on where it was.
"""

import dataclasses
import datetime
import itertools
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import method_world
from method_cells import EXPERTS, RL, SFT, Cell
from method_world import ASKED
from small_world import (
  SAMPLES,
  SAVED,
  SMALL,
  lines,
  spent,
  step_of,
  train_to,
)

from rlpt_jax.inference import judges, model_files
from rlpt_jax.models import flops
from rlpt_jax.quickstart import stages, truth
from rlpt_jax.training.preemption import EXIT_PREEMPTED

STUDY = 'study.json'  # In the folder of a study: its sizes and budgets.
COLD_START = 'cold_start/checkpoints'
COLD_ANSWERS = 'cold_start/answers.jsonl'
RLVR = 'rl_right_questions'
FIRST_STEPS = 20  # Not more than small_world.KEPT.
LENGTHS = 'train_rl.Hardware.lengths = 4'  # Updates without most padding.
# Expert iteration: rounds until the first budget, the share of a round's
# compute that samples, and the samples of a prompt. No outcome chose them.
ROUNDS, SAMPLING_SHARE, EXPERT_SAMPLES = 2, 0.5, 8
MAX_NEW_TOKENS = 64
# An optimizer is new in each round, and a round has some twenty steps.
FEW_WARMUP_STEPS = 'optimizer.AdamW.warmup_steps = 2'


@dataclasses.dataclass(frozen=True)
class Study:
  """A folder, and the budgets that every cell has there.

  rlvr: the FLOPs of the RLVR that may follow after a cell.
  """

  folder: pathlib.Path
  scale: str
  budgets: tuple[float, ...]
  rlvr: float

  @classmethod
  def read(cls, folder: pathlib.Path) -> 'Study':
    said = json.loads((folder / STUDY).read_text())
    return cls(folder, said['scale'], tuple(said['budgets']), said['rlvr'])


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model, as the name of its folder, and what it has cost since the start.

  seconds: of steps, and of the commands that sample for expert iteration;
    without evaluation, and without the starts of commands that train.
  """

  model: str = COLD_START
  flops: float = 0
  steps: int = 0
  seconds: float = 0


def run_cell(study: Study, cell: Cell, seed: int) -> dict:
  """Trains a cell to each budget in turn; returns its result."""
  home = f'runs/{cell.name}_{seed}'
  (study.folder / home).mkdir(parents=True, exist_ok=True)
  follow = expert_iteration if cell.program == EXPERTS else one_run
  budgets, trained = [], Trained()
  for i, trained in enumerate(follow(study, cell, seed, home)):
    measured = ask(study, trained.model, f'{home}/answers_{i}.jsonl')
    budgets.append(
      {'budget': study.budgets[i], **costs(trained), 'steps': trained.steps}
      | measured
    )
  after = None
  if cell.rlvr_after:
    rlvr = train(
      study, RL, RLVR, (), seed, f'{home}/rlvr', trained.model, study.rlvr
    )
    measured = ask(study, rlvr.model, f'{home}/answers_after.jsonl')
    after = {**costs(rlvr), **measured}
  return result(study, cell.name, seed, budgets, after)


def result(
  study: Study,
  name: str,
  seed: int,
  budgets: Sequence[dict],
  after: dict | None = None,
) -> dict:
  """Returns what is committed of a cell, with today's date."""
  return {
    'cell': name,
    'seed': seed,
    'scale': study.scale,
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'commit': commit(),
    'budgets': list(budgets),
    'after_rlvr': after,
  }


def costs(trained: Trained) -> dict:
  return {'flops': trained.flops, 'seconds': round(trained.seconds, 1)}


def commit() -> str:
  """Returns the commit of this repository, 'unknown' outside of one."""
  found = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'],
    cwd=SMALL, capture_output=True, text=True, check=False,
  )  # fmt: skip
  return found.stdout.strip() or 'unknown'


# Training.


def one_run(
  study: Study, cell: Cell, seed: int, home: str
) -> Iterator[Trained]:
  """Yields the model of each budget of one run, or of one and another."""
  first = Trained()
  for i, budget in enumerate(study.budgets):
    follows = i > 0 and cell.then is not None
    trained = train(
      study, cell.program, cell.then if follows else cell.experiment,
      () if follows else cell.settings, seed,
      f'{home}/{"then" if follows else "run"}',
      first.model if follows else COLD_START,
      budget - (first.flops if follows else 0), f'budget_{i}',
    )  # fmt: skip
    if follows:
      trained = added(first, trained)
    elif i == 0:
      first = trained
    yield trained


def train(
  study: Study,
  program: str,
  experiment: str,
  settings: Sequence[str],
  seed: int,
  run: str,
  model: str,
  budget: float,
  kept: str = 'model',
) -> Trained:
  """Trains a model by a gin file until a budget is spent; exports it.

  kept: the name of the exported model's folder.
  """
  all_settings = (
    f"{program}.Config.model = '{model}'", f'{program}.Config.seed = {seed}',
    f'config.Data.seed = {seed}', *SAVED,
    *((LENGTHS,) if program == RL else ()), *settings,
  )  # fmt: skip

  def train_steps(steps: int):
    rlpt(
      study.folder, program, SMALL / f'{experiment}.gin', *all_settings,
      f'{program}.Config.num_steps = {steps}', '--workdir', run,
    )  # fmt: skip

  where, exported = study.folder / run, f'{run}_{kept}'
  if not (study.folder / exported).exists():
    step = train_to(budget, where, train_steps, FIRST_STEPS)
    rlpt(
      study.folder, 'convert', f'{run}/checkpoints', exported,
      '--step', step, '--dtype', 'float32',
    )  # fmt: skip
  step = step_of(budget, where)
  return Trained(exported, spent(where, step), step, seconds(where, step))


def seconds(run: pathlib.Path, step: int) -> float:
  """Returns how long the steps of a run took, up to a step."""
  return sum(x['timing/step_s'] for x in lines(run / 'timing.jsonl')[:step])


def added(before: Trained, after: Trained) -> Trained:
  """Returns the second model, with the costs of both."""
  return Trained(
    after.model, before.flops + after.flops, before.steps + after.steps,
    before.seconds + after.seconds,
  )  # fmt: skip


# Expert iteration.


def expert_iteration(
  study: Study, cell: Cell, seed: int, home: str
) -> Iterator[Trained]:
  """Yields the model of each budget of rounds of sampling and SFT.

  A round samples answers to prompts from documents, keeps the right ones, and
  continues with train_sft on them until the budget of the round is spent.
  """
  prompts = lines(study.folder / 'world' / 'prompts.jsonl')
  random.Random(seed).shuffle(prompts)
  unused = itertools.cycle(prompts)
  trained, number = Trained(), 0
  length = mean_length(lines(study.folder / COLD_ANSWERS))
  for budget in study.budgets:
    rest = budget - trained.flops
    rounds = max(1, round(ROUNDS * rest / study.budgets[0]))
    for end in [budget - rest / rounds * i for i in reversed(range(rounds))]:
      before, run = trained, f'{home}/round_{number}'
      sampled, length = sample(
        study, before, unused, run, seed, length,
        SAMPLING_SHARE * (end - before.flops),
      )  # fmt: skip
      spent_already = added(before, sampled)
      settings = (
        *cell.settings, FEW_WARMUP_STEPS,
        f"demonstrations/sources.Files.files = '{run}_right.jsonl'",
      )  # fmt: skip
      tuned = train(
        study, SFT, cell.experiment, settings, seed, run, before.model,
        end - spent_already.flops,
      )  # fmt: skip
      trained, number = added(spent_already, tuned), number + 1
    yield trained


def sample(
  study: Study,
  policy: Trained,
  unused: Iterator[dict],
  run: str,
  seed: int,
  length: float,
  budget: float,
) -> tuple[Trained, float]:
  """Samples answers until a budget is spent, and writes the right ones.

  Returns what it has cost, and the mean length of an answer.

  length: what the mean length is expected to be, which decides how many prompts
    are asked.
  """
  asked, answers, right = (
    study.folder / f'{run}_{name}.jsonl'
    for name in ('asked', 'answers', 'right')
  )
  model = model_files.find(study.folder / policy.model)
  encode, some, cost = model.load_tokenizer().encode, [], 0.0
  expected = [round(length)] * EXPERT_SAMPLES
  while cost < budget:
    some.append(next(unused))
    count = len(encode(some[-1]['prompt']))
    cost += flops.rollout(model.config, count, expected)
  method_world.write_lines(asked, some)
  generate(study, policy.model, asked, answers, EXPERT_SAMPLES, seed)
  found, cost, shown = lines(answers), 0, {}
  for i, question in enumerate(some):
    group = found[i * EXPERT_SAMPLES : (i + 1) * EXPERT_SAMPLES]
    lengths = [len(answer['completion_tokens']) for answer in group]
    count = len(encode(question['prompt']))
    cost += flops.rollout(model.config, count, lengths)
    shown |= {
      (question['prompt'], answer['completion']): None
      for answer in group
      if truth.is_right(question, answer['completion'])
    }
  if not shown:
    sys.exit(f'{answers}: no answer is right, so there is nothing to learn.')
  method_world.write_lines(
    right, ({'prompt': a, 'response': b} for a, b in shown)
  )
  seconds_taken = float(took(answers).read_text())
  return Trained('', cost, 0, seconds_taken), mean_length(found)


def mean_length(answers: Sequence[dict]) -> float:
  return statistics.mean(len(x['completion_tokens']) for x in answers)


# Evaluation.


def ask(study: Study, model: str, answers: str) -> dict:
  """Returns what a model answers right, its loss on texts, and its thinking."""
  path, each = study.folder / answers, {}
  world = study.folder / 'world'
  asked = world / 'asked.jsonl'
  generate(study, model, asked, path, SAMPLES)
  right = truth.right_answers(asked, path)
  for name in ASKED:
    count = len(lines(world / f'{name}.jsonl'))
    each[name] = ''.join(map(str, right[:count]))
    right = right[count:]
  # Those of `questions` are the first.
  some = path.with_suffix('.first.jsonl')
  count = len(each['questions'])
  method_world.write_lines(some, lines(path)[: SAMPLES * count])
  thinking = truth.thinking_stats(world / 'questions.jsonl', some)
  return {
    'right': each,
    'text_loss': round(text_loss(study.folder / model, world), 5),
    'thinking': round(thinking.think, 5),
  }


def text_loss(model: pathlib.Path, world: pathlib.Path) -> float:
  """Returns the mean loss of a token of the held-out texts and their ends."""
  reading = judges.Reading(model=str(model), dtype='float32', rows=32)
  end = list(model_files.find(model).load_tokenizer().eos_ids[:1])
  texts = [
    reading.encode(line['text']) + end
    for line in lines(world / 'held_out.jsonl')
  ]
  # The first token is not predicted: see tasks.Ntp.
  logprobs = reading([text[:1] for text in texts], [text[1:] for text in texts])
  return -sum(logprobs) / sum(len(text) - 1 for text in texts)


def generate(
  study: Study,
  model: str,
  asked: pathlib.Path,
  answers: pathlib.Path,
  samples: int,
  seed: int = 0,
):
  """Answers a file of prompts, and notes how many seconds that took."""
  begun = time.monotonic()
  rlpt(
    study.folder, 'generate', model, '--prompts', asked, '--out', answers,
    '-n', samples, '--max_new_tokens', MAX_NEW_TOKENS, '--slots', 256,
    '--seed', seed,
  )  # fmt: skip
  if not took(answers).exists():
    took(answers).write_text(f'{time.monotonic() - begun:.1f}')


def took(answers: pathlib.Path) -> pathlib.Path:
  """Returns the file with the seconds in which answers were sampled."""
  return answers.with_suffix('.seconds')


def rlpt(folder: pathlib.Path, *command):
  """Runs a command of rlpt in this process, in a folder."""
  command = [*map(str, command)]
  print('$ rlpt', *command, flush=True)
  status = stages.status_of(command, folder)
  if status in (stages.INTERRUPTED, EXIT_PREEMPTED):
    raise KeyboardInterrupt
  if status:
    sys.exit(f'rlpt {command[0]} ended with status {status}.')
