"""The modules of the comparison of methods, and simulated results for them.

Everything here is made up: no number comes from a run.
"""

import dataclasses
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


def text(digits_Q) -> str:
  return ''.join(map(str, digits_Q))


def write(folder, cells, accuracies, *, questions=200, seeds=3, fewer=(), **sd):
  """Writes simulated results of one scale.

  accuracies: {cell: (at the start, at the end)}; cells that lack are missing.
  seeds: of each cell; those in `fewer` have two.
  """
  rng = np.random.default_rng(0)
  kinds = ('doors', 'boxes', 'days')
  (folder / '1m').mkdir(parents=True)
  tasks = ('asr', 'msr')
  fields = [
    {'kind': kinds[i % 3], 'task': tasks[i % 2], 'difficulty': 1 + i // 2 % 2}
    for i in range(questions)
  ]
  (folder / 'questions.json').write_text(
    json.dumps(dict.fromkeys(FILES, fields))
  )
  spread_Q = {file: rng.uniform(-0.15, 0.15, questions) for file in FILES}

  def measured(level, seed_sd, flops, **fields):
    right = {
      file: text(
        simulated(
          rng,
          level - 0.05 * i,
          seeds=1,
          seed_sd=seed_sd,
          spread_Q=spread_Q[file],
        )[0]
      )
      for i, file in enumerate(FILES)
    }
    return {
      'flops': flops, 'seconds': flops / 1e11, 'right': right,
      'text_loss': 2 + level / 10 + rng.normal(0, 0.005),
      'thinking': level / 2, **fields,
    }  # fmt: skip

  def save(name, cell, seed, budgets, after):
    record = {
      'cell': cell, 'seed': seed, 'scale': '1m', 'date': '2026-11-28',
      'commit': 'abcdef1234567', 'budgets': budgets, 'after_rlvr': after,
    }  # fmt: skip
    (folder / '1m' / f'{name}.json').write_text(json.dumps(record))

  start = measured(0.3, 0, 0.0, budget=0, steps=0)
  save('start', 'cold_start', 0, [start], measured(0.5, 0, 2e13))
  for cell in cells:
    if cell.name not in accuracies:
      continue
    low, high = accuracies[cell.name]
    for seed in range(2 if cell.name in fewer else seeds):
      shift = rng.normal(0, sd.get('seed_sd', 0.01))
      budgets = [
        measured(
          low + (high - low) * np.log(at / BUDGETS[0]) / np.log(10) + shift,
          0, at * 1.02, budget=at, steps=int(at / 1e11),
        )
        for at in sd.get('budgets', BUDGETS)
      ]  # fmt: skip
      after = (
        None if cell.family == 'noise' else measured(high + 0.1, 0, 1.2e14)
      )
      save(f'{cell.name}_{seed}', cell.name, seed, budgets, after)
