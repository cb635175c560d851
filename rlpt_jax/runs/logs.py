"""Reads what runs have logged: their metrics and settings."""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpt_jax.core.run_files import CONFIG, METRICS, TIMING
from rlpt_jax.core.timeline import SPANS


def read_columns(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {key: value at each step} of metrics and timing; NaN if missing.

  Spans of time are left out: see `read_spans`.
  """
  path = workdir / METRICS
  if not path.is_file():
    raise ValueError(
      f'{workdir}: has no {METRICS}; expected the folder of a run, the '
      '--workdir of rlpt train_rl or rlpt train_sft.'
    )
  lines = {line['step']: line for line in read_lines(path)}
  if not lines:
    raise ValueError(
      f'{path}: has no step yet. Wait for the first one, or leave this run out.'
    )
  if (workdir / TIMING).is_file():
    for line in read_lines(workdir / TIMING):
      # A run may have written only one of the two lines of a step.
      if line['step'] in lines:
        lines[line['step']] |= line
  steps = [lines[step] for step in sorted(lines)]
  for line in steps:
    for key in [key for key in line if key.startswith(SPANS)]:
      del line[key]
  steps = [flat_arrays(line) for line in steps]
  keys = {key: None for line in steps for key in line}
  return {
    key: np.array([number(line.get(key)) for line in steps]) for key in keys
  }


def read_spans(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {part: its spans in the run's last start, [n, 2]}."""
  if not (workdir / TIMING).is_file():
    return {}
  found = collections.defaultdict(list)
  for line in read_lines(workdir / TIMING):
    parts = {
      key.removeprefix(SPANS): spans
      for key, spans in line.items()
      if key.startswith(SPANS)
    }
    if any(
      found[part] and spans[0][0] < found[part][-1][0]
      for part, spans in parts.items()
    ):
      found.clear()  # A new start of the run, whose clock begins at 0.
    for part, spans in parts.items():
      found[part] += spans
  return {part: np.array(spans) for part, spans in found.items()}


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the complete lines of a file that a run may still be writing."""
  whole, _, _ = path.read_bytes().rpartition(b'\n')
  lines = []
  for i, line in enumerate(whole.splitlines(), 1):
    try:
      lines.append(json.loads(line))
      lines[-1]['step'] + 0  # Raises unless it is a number.
    except (ValueError, KeyError, TypeError):
      raise ValueError(
        f'{path}, line {i}: expected a JSON object with a "step", found '
        f'{line[:60]!r}.'
      ) from None
  return lines


def flat_arrays(line: dict[str, Any]) -> dict[str, Any]:
  """Returns a line that has the elements of an array x as 'x/0', 'x/1', ..."""
  flat = {}
  for key, value in line.items():
    if isinstance(value, list):
      flat |= {f'{key}/{i}': x for i, x in enumerate(value)}
    else:
      flat[key] = value
  return flat


def number(value: Any) -> float:
  """Returns a number as float; NaN for null and all else."""
  return float(value) if isinstance(value, bool | int | float) else np.nan


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  path = workdir / CONFIG
  if not path.is_file():
    return {}
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}.') from None


def distinct_names(workdirs: Sequence[pathlib.Path]) -> list[str]:
  """Returns the ends of the paths, just long enough to tell the runs apart."""
  paths = [workdir.resolve() for workdir in workdirs]
  if len({*paths}) < len(paths):
    twice = next(path for path in paths if paths.count(path) > 1)
    raise ValueError(f'{twice} is given twice; expected each run once.')
  for length in range(1, max(len(path.parts) for path in paths) + 1):
    names = ['/'.join(path.parts[-length:]) for path in paths]
    if len({*names}) == len(names):
      return names
  raise AssertionError('paths that differ have names that differ')
