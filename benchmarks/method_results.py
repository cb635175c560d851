"""Reads what the comparison of methods measured: a file for each run.

`<folder>/<scale>/<cell>_<seed>.json` is a run, `<folder>/<scale>/start.json`
the model that all runs start from, and `<folder>/questions.json` says of what
kind each question is. A digit is the number of right answers to a question, of
`SAMPLES`. All were asked the same questions.

In the names of arrays, S stands for seeds and Q for questions.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SAMPLES = 4  # Answers to each question.
QUESTIONS = 'questions'  # The questions that are like those in training.
START = 'cold_start'
RLVR = 'rlvr'  # Stands for a budget: after training on questions as well.

At = float | str  # A budget, or RLVR.


@dataclasses.dataclass(frozen=True)
class Measured:
  """One evaluation: for each file of questions, the share of right answers.

  flops, seconds: all since the start; those of RLVR, only of that.
  text_loss: of held-out documents. thinking: the share of tokens in thoughts.
  """

  flops: float
  seconds: float
  text_loss: float
  thinking: float
  right_Q: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a cell, measured at one budget or more."""

  cell: str
  seed: int
  date: str
  commit: str
  measured: Mapping[At, Measured]


@dataclasses.dataclass(frozen=True)
class Results:
  """All runs of one scale.

  kinds: for each file of questions, the fields of each question.
  """

  scale: str
  start: Run | None
  runs: Mapping[str, Sequence[Run]]
  kinds: Mapping[str, Sequence[Mapping[str, Any]]]

  @property
  def budgets(self) -> list[float]:
    found = {
      at for runs in self.runs.values() for run in runs for at in run.measured
    }
    return sorted(found - {RLVR})

  @property
  def files(self) -> list[str]:
    """The files of questions; the one that is like training is the first."""
    return sorted(self.kinds, key=lambda file: file != QUESTIONS)

  def measured(self, cell: str, at: At) -> list[Measured]:
    """Returns what was measured there, for each seed that got so far."""
    runs = self.runs.get(cell, ())
    return [run.measured[at] for run in runs if at in run.measured]

  def right_SQ(self, cell: str, at: At, file: str) -> np.ndarray:
    """Returns shares of right answers; no rows if nothing was measured."""
    rows = [each.right_Q[file] for each in self.measured(cell, at)]
    return np.array(rows).reshape(len(rows), len(self.kinds[file]))

  def started(self, at: At = 0) -> Measured | None:
    """Returns what the start was like; by default, before everything."""
    return self.start.measured.get(at) if self.start else None

  def flops(self, cell: str, at: At) -> float:
    """Returns the mean over seeds of what was spent."""
    return float(np.mean([each.flops for each in self.measured(cell, at)]))


def load(folder: pathlib.Path) -> list[Results]:
  """Returns the results of each scale that has a folder."""
  path = folder / 'questions.json'
  if not path.exists():
    raise ValueError(
      f'{path}: no such file; expected the kinds of all questions. Run '
      'benchmarks/methods.py first, or choose another --results.'
    )
  kinds = json.loads(path.read_text())
  places = sorted(each for each in folder.iterdir() if each.is_dir())
  return [_scale(place, kinds) for place in places]


def _scale(folder: pathlib.Path, kinds) -> Results:
  start, runs = None, {}
  for path in sorted(folder.glob('*.json')):
    record = json.loads(path.read_text())
    run = _run(path, record, {file: len(each) for file, each in kinds.items()})
    if record['scale'] != folder.name:
      raise ValueError(
        f'{path}: scale {record["scale"]!r}, expected that of its folder. Move '
        'the file.'
      )
    if path.stem == 'start':
      start = run
    elif path.stem != f'{run.cell}_{run.seed}':
      raise ValueError(
        f'{path}: cell {run.cell!r} and seed {run.seed}, expected those of its '
        'name. Rename the file.'
      )
    else:
      runs.setdefault(run.cell, []).append(run)
  return Results(folder.name, start, runs, kinds)


def _run(path: pathlib.Path, record, counts: Mapping[str, int]) -> Run:
  measured = {}
  for each in record['budgets']:
    measured[each['budget']] = _measured(path, each, counts)
  if record['after_rlvr']:
    measured[RLVR] = _measured(path, record['after_rlvr'], counts)
  return Run(
    record['cell'], record['seed'], record['date'], record['commit'], measured
  )


def _measured(path: pathlib.Path, each, counts: Mapping[str, int]) -> Measured:
  return Measured(
    each['flops'], each['seconds'], each['text_loss'], each['thinking'],
    {
      file: _shares(path, file, each['right'].get(file, ''), count)
      for file, count in counts.items()
    },
  )  # fmt: skip


def _shares(path, file: str, digits: str, count: int) -> np.ndarray:
  if len(digits) != count or {*digits} - {*map(str, range(SAMPLES + 1))}:
    raise ValueError(
      f'{path}: {len(digits)} digits for {file!r}, {digits[:9]!r}...; expected '
      f'{count} from 0 to {SAMPLES}, one for each of its questions in '
      'questions.json. Ask the questions again.'
    )
  return np.array([int(digit) for digit in digits]) / SAMPLES
