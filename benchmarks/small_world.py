"""What comparisons in the small world share: runs, their FLOPs and answers."""

import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

from rlpt_jax.quickstart import truth

SMALL = pathlib.Path(__file__).parents[1] / 'experiments' / 'small'
SAMPLES = 4  # Answers to each question.
KEPT = 25  # The newest checkpoints of a run that trains to a budget.
SAVED = 'runs.Saving.every = 1', f'runs.Saving.keep_last = {KEPT}'
# The 97.5% quantiles of Student's t, by degrees of freedom.
T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}


def rlpt(workdir: pathlib.Path, *command):
  """Runs a command of rlpt in a folder."""
  command = [*map(str, command)]
  print('$ rlpt', *command, file=sys.stderr, flush=True)
  subprocess.run(
    [sys.executable, '-m', 'rlpt_jax.cli', *command],
    cwd=workdir, check=True, stdout=sys.stderr,
  )  # fmt: skip


def is_made(world: pathlib.Path, **counts: int) -> bool:
  """True if the world's folder exists; exits if it is another world.

  counts: {file name without .jsonl: its number of lines}.
  """
  if not world.exists():
    return False
  for name, count in counts.items():
    found = len((world / f'{name}.jsonl').read_text().splitlines())
    if found != count:
      sys.exit(
        f'{world}: has {found} lines in {name}.jsonl, not {count}. Choose '
        'another --workdir.'
      )
  return True


def train(
  workdir: pathlib.Path,
  program: str,
  experiment: str,
  name: str,
  seed: int,
  steps: int,
):
  """Trains by a gin file of experiments/small up to a number of steps."""
  rlpt(
    workdir, program, SMALL / f'{experiment}.gin',
    f'{program}.Config.num_steps = {steps}',
    f'{program}.Config.seed = {seed}', *SAVED, '--workdir', name,
  )  # fmt: skip


def train_to(
  budget: float,
  run: pathlib.Path,
  train: Callable[[int], None],
  steps: int = 10,
) -> int:
  """Trains until a budget of FLOPs is spent; returns the step that spent it.

  The cost of a step changes in a run, so a run makes a few steps beyond its
  budget before it can be known. They do not count: the model of this budget is
  the checkpoint of the step that is returned. A larger budget continues.

  train: trains the run up to a number of steps, and saves as `SAVED` says.
  steps: the first number of steps; with fewer, a run starts more often.
  """
  if steps_made(run) == 0:
    train(steps)
  while (step := step_of(budget, run)) is None:
    made = steps_made(run)
    # At most twice as many, until the rest can be foretold. If a step costs at
    # most twice as much as before, no checkpoint that is needed is dropped.
    rest = math.ceil((budget - spent(run)) / step_cost(run))
    train(made + min(made, rest, 2 * KEPT))
    if steps_made(run) == made:
      sys.exit(f'{run}: ends after {made} steps, with its budget not spent.')
  checkpoint = run / 'checkpoints' / str(step)
  if not checkpoint.exists():
    train(steps_made(run))  # It was stopped before it had saved this step.
  if not checkpoint.exists():
    sys.exit(
      f'{checkpoint}: is not there any more. Delete {run} to train again.'
    )
  return step


def steps_made(run: pathlib.Path) -> int:
  """Returns the number of steps of a run, 0 if it has not begun."""
  return len(totals(run))


def step_cost(run: pathlib.Path) -> float:
  """Returns the mean FLOPs of a run's last steps, at most ten."""
  some = [0, *totals(run)][-11:]
  return (some[-1] - some[0]) / (len(some) - 1)


def step_of(budget: float, run: pathlib.Path) -> int | None:
  """Returns the number of steps that spend a budget, None if none do yet."""
  return next((i for i, x in enumerate(totals(run), 1) if x >= budget), None)


def spent(run: pathlib.Path, step: int | None = None) -> int:
  """Returns the FLOPs that a run has spent on everything, up to a step."""
  made = totals(run)
  return made[-1 if step is None else step - 1]


def totals(run: pathlib.Path) -> list[int]:
  """Returns the FLOPs that a run had spent on everything after each step."""
  return [
    sum(
      count
      for name, count in metrics.items()
      if name.startswith('compute/total_') and name.endswith('_flops')
    )
    for metrics in lines(run / 'metrics.jsonl')
  ]


def accuracy(
  workdir: pathlib.Path,
  name: str,
  questions: str = 'questions',
  step: int | None = None,
) -> dict[str, float]:
  """Returns the shares of right answers of a run to questions of the world.

  step: of its checkpoint, by default the last.
  """
  prompts = f'world/{questions}.jsonl'
  step = step or steps_made(workdir / name)
  kind = '' if questions == 'questions' else f'{questions}_'
  answers = workdir / name / f'{kind}answers_{step}.jsonl'
  rlpt(
    workdir, 'generate', f'{name}/checkpoints', '--prompts', prompts,
    '--out', answers, '-n', SAMPLES, '--max_new_tokens', 64, '--slots', 256,
    '--step', step,
  )  # fmt: skip
  shares = truth.accuracy(workdir / prompts, answers)
  return {name: round(share, 4) for name, share in sorted(shares.items())}


def difference(values: Sequence[float], others: Sequence[float]) -> str:
  """Returns the mean difference of shares, paired by seed.

  Its 95% interval is Student's, over the seeds.
  """
  each = [a - b for a, b in zip(values, others, strict=True)]
  text = f'{100 * statistics.mean(each):+.1f} points'
  if len(each) > 1:
    error = statistics.stdev(each) / math.sqrt(len(each))
    text += f' +- {100 * T[len(each) - 1] * error:.1f}'
  return text


def lines(path: pathlib.Path) -> list[dict]:
  """Returns the lines of a file of JSON lines, none if it is not there."""
  if not path.exists():
    return []
  # The last may be half written, if the run was killed.
  whole, *_ = path.read_text().rpartition('\n')
  return [json.loads(line) for line in whole.split('\n') if line]
