"""A file of a judge's answers, so that a restarted run need not ask again.

Each line is {"key": ..., "answer": ...}. An answer of null deletes the earlier
answer of its key. It survives kill -9: see line_file.py. Several processes on
one machine may append to one file; each sees its own entries and those that the
file had when that process opened it.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Collection
from typing import Any

from rlpt_jax.llm.line_file import LineFile


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
    self._file = LineFile(path, "the judge's answers are kept there")
    for _, line in self._file.lines():
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
      self.skipped += 1
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
    self._file.append({'key': key, 'answer': answer})

  def close(self):
    self._file.close()
