"""Append-only files that stay consistent when a run is killed and restarted.

A run's JSON-lines files have one line per step, in order: {"step": 0, ...}, ...
"""

import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from rlpt_jax.core import output_files


class AppendFile:
  """A file that is truncated to `size` when opened, and then only appended to.

  Each record is written whole before the next, so only the last record can be
  incomplete after a kill.
  """

  def __init__(self, path: pathlib.Path, size: int):
    self._path, self._size = path, size
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
      self._descriptor = os.open(path, flags, 0o666)
    except OSError as error:
      raise _refused(path, error) from None
    os.ftruncate(self._descriptor, size)
    if not size:
      _sync_directory(path.parent)

  def __enter__(self) -> 'AppendFile':
    return self

  def __exit__(self, *exc_info):
    self.close()

  def append(self, record: bytes, what: str):
    """Appends a record; on failure restores the file's old size and raises.

    what: a name for the record, used in the error message.
    """
    try:
      left = memoryview(record)
      # A full disk may take only a part of a record without an error; writing
      # the rest then raises one.
      while left:
        left = left[os.write(self._descriptor, left) :]
    except OSError as error:
      with contextlib.suppress(OSError):
        os.ftruncate(self._descriptor, self._size)
      raise self._failed(error, what) from None
    self._size += len(record)

  def sync(self):
    try:
      os.fsync(self._descriptor)
    except OSError as error:
      raise self._failed(error, 'the last records') from None

  def close(self):
    os.close(self._descriptor)

  def _failed(self, error: OSError, what: str) -> OSError:
    return not_written(self._path, error, f'{what} could not be written')


def not_written(path: pathlib.Path, error: OSError, what: str) -> OSError:
  """Returns the error for a failed write; it says how to resume the run."""
  return OSError(
    error.errno,
    f'{path}: {what} ({error.strerror}). Fix this and restart: the run '
    'resumes from its newest checkpoint.',
  )


def _sync_directory(path: pathlib.Path):
  """Syncs a directory: a crash may lose a new file whose entry is not on disk.

  Syncing the file itself does not write that entry.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def size_before(path: pathlib.Path, first_step: int) -> int:
  """Returns the size in bytes of the lines before first_step.

  Raises a ValueError if one of them is missing.
  """
  output_files.check_regular(path)
  if not first_step:
    return 0
  missing = 0
  try:
    with open(path, 'rb') as lines:
      while missing < first_step and _is_line(lines.readline(), missing):
        missing += 1
      if missing == first_step:
        return lines.tell()
  except FileNotFoundError:
    pass  # Treated like an empty file.
  except OSError as error:
    raise _refused(path, error) from None
  raise ValueError(
    f'{path}: the line of step {missing} is missing, but the run resumes at '
    f'step {first_step}. Restore a checkpoint that resumes at step {missing} '
    'or earlier, or choose another workdir.'
  )


def _is_line(line: bytes, step: int) -> bool:
  return bool(re.fullmatch(rb'\{"step": %d(, .*)?\}\n' % step, line))


def _refused(path: pathlib.Path, error: OSError) -> ValueError:
  return ValueError(
    f'{path}: cannot be used ({error.strerror}). Choose another workdir, or '
    'make this one readable and writable.'
  )


def line(step: int, values: Mapping[str, Any]) -> bytes:
  """Returns a step's line of JSON: "step" first, then the keys of `values`.

  The keys are sorted. NaN and infinity, which JSON lacks, become null.
  """
  ordered = {key: _without_nan(values[key]) for key in sorted(values)}
  return json.dumps({'step': step, **ordered}, allow_nan=False).encode() + b'\n'


def _without_nan(value):
  if isinstance(value, list):
    return [_without_nan(element) for element in value]
  return value if math.isfinite(value) else None
