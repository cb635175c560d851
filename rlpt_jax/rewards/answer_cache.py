"""Answers that were paid for, kept in a file: a run that is killed and started
again asks only what it does not know.

A line is {"key": ..., "answer": ...}, appended by one write that begins with
the line break: what kill -9 leaves may be a line without its end, which is
skipped and its question asked again, but what follows is on a line of its own.
An answer of null takes back what was there under its key.
No fsync: a power cut may lose the newest answers, never spoil the others.
Several processes of a machine may append to one file; each knows what was there
when it opened it, and what it adds.
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Collection
from typing import Any


def content_key(**content: Any) -> str:
  """The same for the same content, whatever the order of its fields."""
  # Escaped, since a lone surrogate has no UTF-8.
  data = json.dumps(content, sort_keys=True, ensure_ascii=True).encode()
  return hashlib.blake2b(data, digest_size=16).hexdigest()


class AnswerCache:
  """What was answered under a key; `skipped` counts lines that are none."""

  def __init__(self, path: str | pathlib.Path):
    self.path, self.skipped = pathlib.Path(path), 0
    self._answers: dict[bytes, str] = {}
    self.path.parent.mkdir(parents=True, exist_ok=True)
    # Of its owner alone: answers quote what was asked.
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
    # Few answers differ: 'Score: 1' is held once.
    self._answers[key] = sys.intern(answer)

  def __len__(self) -> int:
    return len(self._answers)

  def get(self, key: str) -> str | None:
    """The answer, if there is one."""
    return self._answers.get(bytes.fromhex(key))

  def put(self, key: str, answer: str):
    """Keeps an answer from now on, in the file too."""
    self._append(key, answer)
    self._answers[bytes.fromhex(key)] = sys.intern(answer)

  def forget(self, answers: Collection[str]):
    """Whatever was answered by one of these is to be asked again."""
    for key in [k for k, said in self._answers.items() if said in answers]:
      self._append(key.hex(), None)
      del self._answers[key]

  def _append(self, key: str, answer: str | None):
    data = f'\n{json.dumps({"key": key, "answer": answer})}'.encode()
    try:
      written = os.write(self._file, data)
      if written < len(data):  # The disk is nearly full: what says so is
        os.write(self._file, data[written:])  # the next write.
    except OSError as error:
      raise OSError(
        error.errno, f'{error.strerror}; the answers of the judge go there',
        str(self.path),
      ) from error  # fmt: skip

  def close(self):
    if self._file >= 0:
      os.close(self._file)
      self._file = -1
