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
    f'{program}.Config.seed = {seed}', '--workdir', name,
  )  # fmt: skip


def train_to(
  budget: int, run: pathlib.Path, train: Callable[[int], None], steps: int = 10
):
  """Trains until a budget of FLOPs is spent.

  The cost of a step changes in a run, so its number of steps is at most
  doubled until the rest of the budget can be foretold.

  train: trains the run up to a number of steps.
  steps: the first number of steps; with fewer, a run starts more often.
  """
  train(steps)
  while (flops := spent(run)) < budget:
    steps += min(steps, math.ceil(steps * (budget / flops - 1)))
    train(steps)


def spent(run: pathlib.Path) -> int:
  """Returns the FLOPs that a run has spent on everything."""
  return sum(
    count
    for name, count in _last(run).items()
    if name.startswith('compute/total_') and name.endswith('_flops')
  )


def accuracy(
  workdir: pathlib.Path, name: str, questions: str = 'questions'
) -> dict[str, float]:
  """Returns the shares of right answers of a run to questions of the world."""
  prompts = f'world/{questions}.jsonl'
  step = _last(workdir / name)['step']
  kind = '' if questions == 'questions' else f'{questions}_'
  answers = workdir / name / f'{kind}answers_{step}.jsonl'
  rlpt(
    workdir, 'generate', f'{name}/checkpoints', '--prompts', prompts,
    '--out', answers, '-n', SAMPLES, '--max_new_tokens', 64, '--slots', 256,
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


def _last(run: pathlib.Path) -> dict[str, float]:
  """Returns the metrics of a run's last step."""
  *_, last = (run / 'metrics.jsonl').read_text().splitlines()
  return json.loads(last)
