"""What a run sampled, to be looked at: rollouts/00000012.jsonl.gz.

A file is one step, a line is one completion; it appears whole, and a step that
is done again writes the same bytes.
"""

import gzip
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from rlpt_jax.core.append_files import not_written

FOLDER = 'rollouts'


def write(workdir: pathlib.Path, step: int, lines: Iterable[dict[str, Any]]):
  """Writes the file of a step; process 0 does, for all have the same."""
  if jax.process_index() != 0:
    return
  folder = workdir / FOLDER
  text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  # Half a surrogate pair is no UTF-8; as an escape it is JSON.
  data = text.encode('utf-8', 'backslashreplace')
  path = folder / f'{step:08}.jsonl.gz'
  fresh = path.with_suffix('.new')
  try:
    folder.mkdir(exist_ok=True)
    # No time in it: the same lines are the same file.
    fresh.write_bytes(gzip.compress(data, compresslevel=6, mtime=0))
    os.replace(fresh, path)
  except OSError as error:
    fresh.unlink(missing_ok=True)
    raise not_written(path, error, 'could not be written') from None


def prune(workdir: pathlib.Path, step: int, *, last: int, every: int | None):
  """Leaves the files of the last steps, and of every so many."""
  if jax.process_index() != 0:
    return
  for path in (workdir / FOLDER).glob('*.jsonl.gz'):
    number = int(path.name.partition('.')[0])
    is_kept = every is not None and number % every == 0
    if number <= step - last and not is_kept:
      path.unlink(missing_ok=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The completions of a step."""
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    return [json.loads(line) for line in lines]
