"""An append-only file of JSON lines that survives kill -9.

An append is one write that starts with the line break, so kill -9 can only
leave an unfinished last line. Such a line is skipped when the file is read, and
the next entry starts on a line of its own. There is no fsync, so a power
failure may lose the newest entries, but never damages the others.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

_READ = 2**16  # Bytes read at once; most lines are shorter.


class LineFile:
  """A file of JSON lines, created if it is missing.

  what: what the file keeps, for the message of a failed write.
  """

  def __init__(self, path: str | pathlib.Path, what: str):
    self.path, self._what = pathlib.Path(path), what
    self.path.parent.mkdir(parents=True, exist_ok=True)
    # Readable by the owner only: answers may quote prompts.
    self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

  def lines(self) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, each with its place in the file."""
    with open(self.path, 'rb') as lines:
      start = 0
      for line in lines:
        if line.strip():
          yield start, line
        start += len(line)

  def line_at(self, start: int) -> bytes:
    """Returns the line that starts at this place of the file."""
    parts = []
    while part := os.pread(self.file, _READ, start):
      line, end, _ = part.partition(b'\n')
      parts.append(line)
      if end:
        break
      start += len(part)
    return b''.join(parts)

  def append(self, entry: Any) -> int:
    """Appends an entry and returns the place of its line in the file."""
    try:
      data = f'\n{json.dumps(entry, ensure_ascii=False)}'.encode()
    except UnicodeEncodeError:  # UTF-8 cannot encode a lone surrogate.
      data = f'\n{json.dumps(entry)}'.encode()
    try:
      written = os.write(self.file, data)
      # A full disk may take only a part without an error. Writing the rest then
      # raises one.
      if written < len(data):
        os.write(self.file, data[written:])
    except OSError as error:
      raise OSError(
        error.errno, f'{error.strerror}; {self._what}', str(self.path)
      ) from error
    return os.lseek(self.file, 0, os.SEEK_CUR) - len(data) + 1

  def close(self):
    if self.file >= 0:
      os.close(self.file)
      self.file = -1
