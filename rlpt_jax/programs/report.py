"""Shows runs side by side, with rollouts, on one page that opens offline."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpt_jax.analysis import page, report_page
from rlpt_jax.analysis.report_page import Run
from rlpt_jax.core import output_files, settings
from rlpt_jax.core.run_files import ROLLOUTS
from rlpt_jax.rollout import rollout_files
from rlpt_jax.runs import logs


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
  names = logs.distinct_names(workdirs)
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
  columns = logs.read_columns(workdir)
  config = logs.read_config(workdir)
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
    spans=logs.read_spans(workdir),
    judge=judge_of(config),
  )


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
