"""The file of all calls: for reading, and so that none is paid for twice.

Each line is a record of one call:

  {"key": "9f...", "stage": "filter", "id": "doc-17", "attempt": 0,
   "model": "gpt-4.1", "prompt": [{"role": "user", "content": "You are ..."}],
   "reply": "{...}", "finish_reason": "stop", "usage": {"prompt_tokens": 812,
   "completion_tokens": 40}, "money": 0.0019, "seconds": 1.3,
   "time": "2026-01-31T12:00:00+00:00"}

The key is a hash of all that the reply depends on. A call that failed has
"fault" and "detail" instead of a reply; it is made again after a restart. The
usage says "estimated": true if the server did not report it.

The file survives kill -9: see line_file.py. One process may use it at a time.
Memory holds the keys and the places of the lines, about 150 bytes a call.
"""

import fcntl
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from rlpt_jax.llm.line_file import LineFile

Record = dict[str, Any]


class CallRecords:
  """Records of calls, in a file. `skipped` counts its unreadable lines.

  see: is called with each record that the file had when it was opened.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    see: Callable[[Record], Any] = lambda record: None,
  ):
    self.path, self.skipped = pathlib.Path(path), 0
    self._places: dict[bytes, int] = {}
    self._file = LineFile(path, 'the records of calls are kept there')
    try:
      fcntl.flock(self._file.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.close()
      raise ValueError(
        f'{path}: another process is using these records. Wait until it ends, '
        'or choose another file.'
      ) from None
    except OSError:
      pass  # Some network file systems do not support locks.
    for place, line in self._file.lines():
      record = _read(line)
      if record is None:
        self.skipped += 1
        continue
      if 'reply' in record:
        self._places[bytes.fromhex(record['key'])] = place
      see(record)

  def __len__(self) -> int:
    """Returns the number of calls with a reply."""
    return len(self._places)

  def get(self, key: str) -> Record | None:
    """Returns the record of the call with this key, if it had a reply."""
    place = self._places.get(bytes.fromhex(key))
    if place is None:
      return None
    return json.loads(self._file.line_at(place))

  def put(self, record: Record):
    """Appends a record with one write."""
    place = self._file.append(record)
    if 'reply' in record:
      self._places[bytes.fromhex(record['key'])] = place

  def close(self):
    self._file.close()


def read(path: str | pathlib.Path) -> Iterator[Record]:
  """Yields the records of a file that may be in use; skips unreadable lines."""
  with open(path, 'rb') as lines:
    for line in lines:
      if (record := _read(line)) is not None:
        yield record


def _read(line: bytes) -> Record | None:
  try:
    record = json.loads(line)
    bytes.fromhex(record['key'])
    if not {'stage', 'id', 'model'} <= record.keys():
      return None
    if 'reply' in record:
      counts = [
        record['usage'][f'{x}_tokens'] for x in ('prompt', 'completion')
      ]
      if not isinstance(record['reply'], str) or not all(
        type(count) is int for count in counts
      ):
        return None
  except (ValueError, TypeError, KeyError, AttributeError):
    return None
  return record
