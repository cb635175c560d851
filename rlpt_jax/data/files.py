"""Reads and writes local files with Python, remote files with TensorFlow.

A path with '://' is in a store that TensorFlow supports (gs://, s3://, ram://).
TensorFlow takes seconds to import, so local files are read without it. Errors
are OSErrors, but for a ValueError if `write` would replace a local folder.
"""

import contextlib
import fcntl
import glob as python_glob
import io
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from rlpt_jax.core import output_files
from rlpt_jax.data import quiet_tensorflow

# How the names of unfinished files end: remote ones, and output_files.py's.
TEMPORARY = '.tmp', '.new'


def is_remote(path: str) -> bool:
  return '://' in path


def open_file(path: str) -> io.IOBase:
  """Opens a binary file for reading, for Python's and Arrow's readers."""
  return _Remote(path) if is_remote(path) else open(path, 'rb')


def read(path: str) -> bytes:
  with open_file(path) as file:
    return file.read()


def size(path: str) -> int | None:
  """The size of a file in bytes; None if it does not exist."""
  if is_remote(path):
    with _remote() as gfile:
      return gfile.stat(path).length if gfile.exists(path) else None
  try:
    return os.stat(path).st_size
  except (FileNotFoundError, NotADirectoryError):
    return None


def is_file(path: str) -> bool:
  return size(path) is not None and not is_directory(path)


def is_directory(path: str) -> bool:
  if is_remote(path):
    with _remote() as gfile:
      return gfile.isdir(path)
  return os.path.isdir(path)


def glob(pattern: str) -> list[str]:
  """Returns the paths that match, hidden ones included.

  A backslash escapes the next character. If a file is named exactly like
  the pattern, returns only that file.
  """
  if is_file(pattern):
    return [pattern]
  if is_remote(pattern):
    with _remote() as gfile:
      return gfile.glob(pattern)
  # Python's glob escapes with brackets, not with backslashes.
  pattern = re.sub(r'\\([*?[])', r'[\1]', pattern)
  pattern = re.sub(r'\\(.)', r'\1', pattern)
  return python_glob.glob(pattern, include_hidden=True)


def write(path: str, data: bytes):
  """Writes a file atomically, and creates its folder if there is none."""
  if is_remote(path):
    with _remote() as gfile:
      gfile.makedirs(os.path.dirname(path))
      with gfile.GFile(f'{path}.tmp', 'wb') as file:
        file.write(data)
      gfile.rename(f'{path}.tmp', path, overwrite=True)
    return
  # Each write has a temporary file of its own: two workers may write the same
  # file, if a runner tries a bundle again.
  output_files.replace(pathlib.Path(path), [data])


def zstd(data: bytes) -> bytes:
  """Compresses data into a frame; a file may have many, one after another."""
  import zstandard

  return zstandard.compress(data, 6)


def names(folder: str) -> list[str]:
  """Returns the sorted names of the files in a folder; none if it is missing.

  Leaves out the temporary files of interrupted writes.
  """
  if is_remote(folder):
    with _remote() as gfile:
      found = gfile.listdir(folder) if gfile.exists(folder) else []
  else:
    found = os.listdir(folder) if os.path.isdir(folder) else []
  # Some stores end the names of folders in a slash.
  found = (name.rstrip('/') for name in found)
  return sorted(name for name in found if not name.endswith(TEMPORARY))


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
  """Raises a ValueError if another process on this machine has the folder.

  Remote folders and some network file systems have no locks.
  """
  if is_remote(folder):
    yield
    return
  os.makedirs(folder, exist_ok=True)
  descriptor = os.open(os.path.join(folder, '.lock'), os.O_RDWR | os.O_CREAT)
  try:
    with contextlib.suppress(OSError):
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f'{folder}: another process is writing there. Wait until it ends, or '
          'choose another folder.'
        ) from None
    yield
  finally:
    os.close(descriptor)


def remove_folder(folder: str):
  """Removes a folder and what is in it, if it exists."""
  if is_remote(folder):
    with _remote() as gfile:
      if gfile.exists(folder):
        gfile.rmtree(folder)
  else:
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _remote() -> Iterator:
  """Yields tf.io.gfile; turns TensorFlow's errors into OSErrors."""
  quiet_tensorflow.load()
  import tensorflow as tf

  try:
    yield tf.io.gfile
  except tf.errors.OpError as error:
    raise OSError(error.message) from error


class _Remote(io.RawIOBase):
  """A file in a remote store."""

  def __init__(self, path: str):
    with _remote() as gfile:
      self._file = gfile.GFile(path, 'rb')
    self.seek(0)  # Opens the file, so that errors are raised now.

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    with _remote():
      return self._file.read(size)

  def readinto(self, buffer) -> int:
    data = self.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    with _remote():
      self._file.seek(offset, whence)
      return self._file.tell()

  def tell(self) -> int:
    return self._file.tell()

  def close(self) -> None:
    if not self.closed:
      self._file.close()
    super().close()
