"""Writes output files atomically, and checks what they would replace."""

import functools
import os
import pathlib
import shutil
import stat
import uuid
from collections.abc import Iterable

KINDS = (
  (stat.S_ISDIR, 'a folder'),
  (stat.S_ISFIFO, 'a pipe'),
  (stat.S_ISSOCK, 'a socket'),
  (stat.S_ISCHR, 'a device'),
  (stat.S_ISBLK, 'a device'),
)


def check_regular(path: pathlib.Path):
  """Raises if the path exists and is not a regular file."""
  try:
    mode = path.stat().st_mode
  except (FileNotFoundError, NotADirectoryError):
    return
  for is_kind, name in KINDS:
    if is_kind(mode):
      raise ValueError(
        f'{path}: is {name}; expected a file, or a path not yet in use.'
      )


def check(path: pathlib.Path, beginning: bytes):
  """Raises if `path` is a nonempty file that this program did not write.

  beginning: the first bytes of every file that this program writes.
  """
  check_regular(path)
  if not path.exists():
    return
  with path.open('rb') as file:
    first_bytes = file.read(len(beginning))
  if first_bytes and first_bytes != beginning:
    raise ValueError(
      f'{path}: exists, and this program may not have written it, so it is '
      'not replaced. Choose another file, or move that one.'
    )


def replace(path: pathlib.Path, parts: Iterable[bytes]):
  """Writes a file atomically; follows symbolic links."""
  check_regular(path)
  target = pathlib.Path(os.path.realpath(path))
  fresh = target.with_name(f'.{uuid.uuid4().hex}.new')
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    # With its mode from the start: what only its owner may read, nobody else
    # may open while it is written.
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666
    with open(
      fresh, 'xb', opener=functools.partial(os.open, mode=mode)
    ) as file:
      file.writelines(parts)
    if target.exists():
      shutil.copymode(target, fresh)  # Whatever the umask is.
    fresh.replace(target)
  except OSError as error:
    # Name the requested file: users do not know the temporary one.
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    if fresh.exists():  # The write failed.
      fresh.unlink()
