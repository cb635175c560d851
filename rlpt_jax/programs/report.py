"""Shows runs side by side, with rollouts, on one page that opens offline."""

import collections
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpt_jax.analysis import page, report_page
from rlpt_jax.analysis.report_page import Run
from rlpt_jax.core import output_files, settings
from rlpt_jax.core.run_files import CONFIG, METRICS, ROLLOUTS, TIMING
from rlpt_jax.core.timeline import SPANS
from rlpt_jax.rollout import rollout_files


def report(
  workdirs: tuple[pathlib.Path, ...],
  *,
  out: pathlib.Path = pathlib.Path('report.html'),
  max_mib: int = 200,
):
  """Shows runs side by side, with rollouts, on one page that opens offline.

  Args:
    workdirs: Folders of train_rl or train_sft runs; also of runs that are under
      way.
    out: The page to write.
    max_mib: The approximate size limit of the page. If the rollouts do not all
      fit, the page has those of evenly spaced steps, and says so.
  """
  if not workdirs:
    raise ValueError('WORKDIR: expected the folders of one or more runs.')
  output_files.check(out, page.BEGINNING.encode())
  names = distinct_names(workdirs)
  room = max(max_mib, 0) * 2**20 / len(workdirs)
  runs = [
    read(workdir, name, room)
    for workdir, name in zip(workdirs, names, strict=True)
  ]
  title = f'Report: {", ".join(names)}'
  parts = report_page.report_page(runs, title)
  output_files.replace(out, (part.encode() for part in parts))
  for run in runs:
    kept = f', rollouts of {len(run.rollouts):,}' if run.rollouts else ''
    steps = len(run.columns['step'])
    print(f'{run.name}: {steps:,} steps{kept}. {run.note}'.rstrip())
  print(f'wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)')


def read(workdir: pathlib.Path, name: str, room: float) -> Run:
  """Reads a run's folder, with as many rollouts as fit into `room` bytes."""
  columns = read_columns(workdir)
  config = read_config(workdir)
  files = sorted((workdir / ROLLOUTS).glob('*.jsonl.gz'))
  kept = evenly(files, [path.stat().st_size for path in files], room)
  note = ''
  if len(kept) < len(files):
    note = (
      f'{len(kept):,} of the {len(files):,} steps with rollouts are on the '
      'page; raise --max_mib for more.'
    )
  return Run(
    name=name,
    columns=columns,
    settings=flat_settings(config),
    rollouts=[
      (
        int(path.name.partition('.')[0]) + 1,
        functools.partial(read_rollouts, path),
      )
      for path in kept
    ],
    note=note,
    spans=read_spans(workdir),
    judge=judge_of(config),
  )


def read_columns(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {key: value at each step} of metrics and timing; NaN if missing."""
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
    for key, spans in line.items():
      if key.startswith(SPANS):
        part = found[key.removeprefix(SPANS)]
        if part and spans[0][0] < part[-1][0]:
          part.clear()  # A new start of the run, whose clock begins at 0.
        part += spans
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


def flat_settings(config: dict[str, Any]) -> dict[str, Any]:
  """Returns {path: value} of all settings, for the table of the page.

  A config records the class of `optimizer` as `optimizer.is`, for example. Here
  it is `optimizer`, where a reader of the table looks for it.
  """
  return {
    'program' if path == 'is' else path.removesuffix('.is'): value
    for path, value in settings.flat(config)
  }


def judge_of(config: dict[str, Any]) -> str:
  """Returns 'judge' if a judge alone gives the reward, else ''."""
  values = [str(value) for _, value in settings.flat(config.get('reward'))]

  def has(module):
    return any(value.startswith(f'{module}.') for value in values)

  return 'judge' if has('judge') and not has('combine') else ''


def read_rollouts(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the completions of a step; none if the run has deleted its file."""
  try:
    return rollout_files.read(path)
  except FileNotFoundError:  # A run under way deletes old ones.
    return []
  except (OSError, EOFError, ValueError) as error:
    raise ValueError(
      f'{path}: cannot be read ({error}). Remove it to do without it.'
    ) from None


def evenly(
  files: Sequence[pathlib.Path], sizes: Sequence[int], room: float
) -> list[pathlib.Path]:
  """Returns all files, or evenly spaced ones that take about `room` bytes.

  The first and the last file are always kept. `sizes` are those of the files;
  on the page, a file takes a third more.
  """
  # Base64 turns three bytes into four.
  share = min(1.0, room / max(1, sum(sizes) * 4 / 3))
  count = max(int(len(files) * share), min(2, len(files)))
  chosen = np.linspace(0, len(files) - 1, count).round().astype(int)
  return [files[i] for i in chosen] if count else []


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
