"""Reading files: those of this machine by Python, all others by TensorFlow.

A path with '://' is in one of the stores that TensorFlow knows (gs://, s3://,
ram://). It takes seconds to load, so that what is here is read without it.
Whatever goes wrong is an OSError.
"""

import contextlib
import glob as python_glob
import io
import os
import re
from collections.abc import Iterator

from rlpt_jax.data import quiet_tensorflow


def is_remote(path: str) -> bool:
  return '://' in path


def open_file(path: str) -> io.IOBase:
  """A file of bytes to read, as Python's and Arrow's readers expect it."""
  return _Remote(path) if is_remote(path) else open(path, 'rb')


def size(path: str) -> int | None:
  """How many bytes a file has; None where there is no file."""
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
  """The paths that match, also hidden ones; a backslash makes the character
  after it an ordinary one. A file that has this very name is the one meant.
  """
  if is_file(pattern):
    return [pattern]
  if is_remote(pattern):
    with _remote() as gfile:
      return gfile.glob(pattern)
  # Python escapes by brackets, and has no use for a backslash.
  pattern = re.sub(r'\\([*?[])', r'[\1]', pattern)
  pattern = re.sub(r'\\(.)', r'\1', pattern)
  return python_glob.glob(pattern, include_hidden=True)


@contextlib.contextmanager
def _remote() -> Iterator:
  """TensorFlow's files."""
  quiet_tensorflow.load()
  import tensorflow as tf

  try:
    yield tf.io.gfile
  except tf.errors.OpError as error:
    raise OSError(error.message) from error


class _Remote(io.RawIOBase):
  """A file in a store."""

  def __init__(self, path: str):
    with _remote() as gfile:
      self._file = gfile.GFile(path, 'rb')
    self.seek(0)  # Which opens it: fail now rather than later.

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
