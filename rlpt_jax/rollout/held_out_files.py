"""Files of held-out rewards, question by question: held_out/00000050.jsonl.

A file is named after the updates made before its evaluation, and each line is a
question: {"example": id, "rewards": one per sample, null without a verdict}.
The means in metrics.jsonl do not say how much of their noise is due to the
choice of the questions, since all evaluations ask the same ones. A file is
written completely or not at all, and a repeated evaluation writes the same
bytes.
"""

import json
import math
import pathlib

import jax
import numpy as np

from rlpt_jax.core import output_files
from rlpt_jax.core.append_files import not_written
from rlpt_jax.core.run_files import HELD_OUT
from rlpt_jax.rollout.judged import Judged


def write(workdir: pathlib.Path, updates: int, judged: Judged):
  """Writes an evaluation on process 0 only, since all have the same rewards."""
  if jax.process_index() != 0:
    return
  # A killed write has left these; no other process writes here.
  for path in (workdir / HELD_OUT).glob('*.new'):
    path.unlink()
  lines = (
    {
      'example': example.id,
      'rewards': [None if math.isnan(x) else x for x in rewards],
    }
    for example, rewards in zip(
      judged.examples, judged.scores.rewards_PG.tolist(), strict=True
    )
  )
  text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  path = workdir / HELD_OUT / f'{updates:08}.jsonl'
  try:
    # A lone surrogate is not valid UTF-8, but its escape is valid JSON.
    output_files.replace(path, [text.encode('utf-8', 'backslashreplace')])
  except OSError as error:
    raise not_written(path, error, 'could not be written') from None


def read(workdir: pathlib.Path) -> dict[int, dict[str, float]]:
  """Returns {updates: {question: its mean reward}}; NaN without a verdict."""
  found = {}
  for path in sorted((workdir / HELD_OUT).glob('*.jsonl')):
    try:
      rows = map(json.loads, path.read_bytes().splitlines())
      found[int(path.stem)] = {
        row['example']: _mean(row['rewards']) for row in rows
      }
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{path}: expected lines of an "example" and its "rewards" ({error!r}).'
      ) from None
  return found


def _mean(rewards: list[float | None]) -> float:
  known = [float(reward) for reward in rewards if reward is not None]
  return float(np.mean(known)) if known else math.nan
