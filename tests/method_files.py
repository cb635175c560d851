"""The modules of the comparison of methods, and simulated results for them.

Everything here is made up: no number comes from a run.
"""

import dataclasses
import functools
import json
import pathlib
import sys

import numpy as np

# Benchmarks are scripts, which import their neighbours.
_FOLDER = str(pathlib.Path(__file__).parents[1] / 'benchmarks')
if _FOLDER not in sys.path:
  sys.path.append(_FOLDER)

FILES = ('questions', 'longer', 'noisier', 'harder')
BUDGETS = (1e13, 3e13, 1e14)


@dataclasses.dataclass(frozen=True)
class Cell:
  """Stands for a line of the table in method_cells.py."""

  name: str
  question: str
  family: str
  baseline: str | None = 'rlpt'


def simulated(
  rng, accuracy, *, seeds=3, questions=300, seed_sd=0.03, spread_Q=None
) -> np.ndarray:
  """Returns digits [seeds, questions] whose expected share is `accuracy`.

  spread_Q: how much easier than the mean each question is; by default drawn
    from -0.25 to 0.25.
  """
  if spread_Q is None:
    spread_Q = rng.uniform(-0.25, 0.25, questions)
  offset_S = rng.normal(0, seed_sd, (seeds, 1))
  return rng.binomial(4, np.clip(accuracy + offset_S + spread_Q, 0, 1))


def write(
  folder: pathlib.Path,
  cells,
  accuracies,
  *,
  questions=200,
  seeds=3,
  fewer=(),
  budgets=BUDGETS,
  seed_sd=0.01,
):
  """Writes simulated results of one scale.

  accuracies: {cell: (at the first budget, at the last)}, with a straight line
    along the logarithm of compute between them; other cells are missing.
  seeds: of each cell; those in `fewer` have two.
  """
  rng = np.random.default_rng(0)
  (folder / '1m').mkdir(parents=True)
  kinds = {file: [_kind(i) for i in range(questions)] for file in FILES}
  (folder / 'questions.json').write_text(json.dumps(kinds))
  spread_Q = {file: rng.uniform(-0.15, 0.15, questions) for file in FILES}
  measured = functools.partial(_measured, rng, spread_Q)
  start = measured(0.3, 0.0) | {'budget': 0, 'steps': 0}
  _save(folder, 'start', 'cold_start', 0, [start], measured(0.5, 2e13))
  for cell in cells:
    if cell.name not in accuracies:
      continue
    low, high = accuracies[cell.name]
    for seed in range(2 if cell.name in fewer else seeds):
      shift = rng.normal(0, seed_sd)
      found = []
      for budget in budgets:
        along = np.log(budget / budgets[0]) / np.log(budgets[-1] / budgets[0])
        level = low + (high - low) * along + shift
        found.append(
          measured(level, 1.02 * budget) | {'budget': budget, 'steps': 9}
        )
      after = measured(high + 0.1, 1.2e14) if cell.family != 'noise' else None
      _save(folder, f'{cell.name}_{seed}', cell.name, seed, found, after)


def _kind(i: int) -> dict:
  return {
    'kind': ('doors', 'boxes', 'days')[i % 3],
    'task': ('asr', 'msr')[i % 2],
    'difficulty': 1 + i // 2 % 2,
  }


def _measured(rng, spread_Q, level: float, flops: float) -> dict:
  """Returns one evaluation; each file is harder than the one before."""
  right = {}
  for i, file in enumerate(FILES):
    digits_SQ = simulated(
      rng, level - 0.05 * i, seeds=1, seed_sd=0, spread_Q=spread_Q[file]
    )
    right[file] = ''.join(map(str, digits_SQ[0]))
  return {
    'flops': flops, 'seconds': flops / 1e11, 'right': right,
    'text_loss': 2 + level / 10 + rng.normal(0, 0.005), 'thinking': level / 2,
  }  # fmt: skip


def _save(folder, name: str, cell: str, seed: int, budgets, after):
  record = {
    'cell': cell, 'seed': seed, 'scale': '1m', 'date': '2026-11-28',
    'commit': 'abcdef1234567', 'budgets': budgets, 'after_rlvr': after,
  }  # fmt: skip
  (folder / '1m' / f'{name}.json').write_text(json.dumps(record))
