"""A file of a judge's answers, so that a restarted run need not ask again.

Each line is {"key": ..., "answer": ...}. An append is one write that starts
with the line break, so kill -9 can only leave an unfinished last line. Such a
line is skipped when the file is read, and the next entry starts on a line of
its own. An answer of null deletes the earlier answer of its key. There is no
fsync, so a power failure may lose the newest answers, but never damages the
others. Several processes on one machine may append to one file; each sees its
own entries and those that the file had when that process opened it.
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Collection
from typing import Any


def content_key(**content: Any) -> str:
  """Returns a hash of the content; the order of its fields does not matter."""
  # ASCII escapes, because UTF-8 cannot encode a lone surrogate.
  data = json.dumps(content, sort_keys=True, ensure_ascii=True).encode()
  return hashlib.blake2b(data, digest_size=16).hexdigest()


class AnswerCache:
  """A judge's answers by key, kept in memory and appended to a file.

  `skipped` counts the lines of the file that could not be read.
  """

  def __init__(self, path: str | pathlib.Path):
    self.path, self.skipped = pathlib.Path(path), 0
    self._answers: dict[bytes, str] = {}
    self.path.parent.mkdir(parents=True, exist_ok=True)
    # Readable by the owner only: answers may quote prompts.
    self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with open(self._file, 'rb', closefd=False) as lines:
      for line in lines:
        self._read(line)

  def _read(self, line: bytes):
    try:
      entry = json.loads(line)
      key, answer = bytes.fromhex(entry['key']), entry['answer']
      if answer is None:
        self._answers.pop(key, None)
        return
      if not isinstance(answer, str):
        raise TypeError(answer)
    except (ValueError, TypeError, KeyError):
      self.skipped += bool(line.strip())
      return
    # Interned, because most answers are equal ('Score: 1').
    self._answers[key] = sys.intern(answer)

  def __len__(self) -> int:
    return len(self._answers)

  def get(self, key: str) -> str | None:
    """Returns the answer stored under the key, or None."""
    return self._answers.get(bytes.fromhex(key))

  def put(self, key: str, answer: str):
    """Stores an answer in memory and in the file."""
    self._append(key, answer)
    self._answers[bytes.fromhex(key)] = sys.intern(answer)

  def forget(self, answers: Collection[str]):
    """Deletes entries with these answers, so that the judge is asked again."""
    for key in [k for k, answer in self._answers.items() if answer in answers]:
      self._append(key.hex(), None)
      del self._answers[key]

  def _append(self, key: str, answer: str | None):
    data = f'\n{json.dumps({"key": key, "answer": answer})}'.encode()
    try:
      written = os.write(self._file, data)
      # A full disk may take only a part without an error. Writing the rest then
      # raises one.
      if written < len(data):
        os.write(self._file, data[written:])
    except OSError as error:
      raise OSError(
        error.errno, f"{error.strerror}; the judge's answers are kept there",
        str(self.path),
      ) from error  # fmt: skip

  def close(self):
    if self._file >= 0:
      os.close(self._file)
      self._file = -1
