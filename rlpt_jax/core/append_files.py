"""Files that a run which is killed and started again adds to.

Their lines are {"step": 0, ...}, {"step": 1, ...}, each step in its place.
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
  """A file that grows by whole records, or not at all.

  Each is one write: a kill leaves all of it, or a part at the end of the file.
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
    """Raises with the file as it was; `what` is the record in that message."""
    try:
      left = memoryview(record)
      while left:  # Once, unless something is wrong: the next time says what.
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
      raise self._failed(error, 'what was written last') from None

  def close(self):
    os.close(self._descriptor)

  def _failed(self, error: OSError, what: str) -> OSError:
    return not_written(self._path, error, f'{what} could not be written')


def not_written(path: pathlib.Path, error: OSError, what: str) -> OSError:
  """The error of a run that can be mended and started again."""
  return OSError(
    error.errno,
    f'{path}: {what} ({error.strerror}). Mend that and start again: the run '
    'goes on at its newest checkpoint.',
  )


def _sync_directory(path: pathlib.Path):
  """A new file that is on the disk is lost if its name is not."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def size_before(path: pathlib.Path, first_step: int) -> int:
  """Bytes of the lines before first_step, all of which must be there."""
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
    pass  # As good as empty.
  except OSError as error:
    raise _refused(path, error) from None
  raise ValueError(
    f'{path}: the line of step {missing} is missing, but the run goes on at '
    f'step {first_step}. Restore a checkpoint that goes on at step {missing} '
    'or before, or choose another workdir.'
  )


def _is_line(line: bytes, step: int) -> bool:
  return bool(re.fullmatch(rb'\{"step": %d(, .*)?\}\n' % step, line))


def _refused(path: pathlib.Path, error: OSError) -> ValueError:
  return ValueError(
    f'{path}: cannot be used ({error.strerror}). Choose another workdir, or '
    'make this one readable and writable.'
  )


def line(step: int, values: Mapping[str, Any]) -> bytes:
  """JSON in the order of the keys; null for what is not finite."""
  ordered = {key: _without_nan(values[key]) for key in sorted(values)}
  return json.dumps({'step': step, **ordered}, allow_nan=False).encode() + b'\n'


def _without_nan(value):
  if isinstance(value, list):
    return [_without_nan(element) for element in value]
  return value if math.isfinite(value) else None
