"""What of a corpus could not be used: all counted, the first few shown."""

import functools
from typing import Any, NamedTuple

from rlpt_jax.data import files

BLOCK = 1 << 20
FAR = 1 << 30


class Place(NamedTuple):
  """A line of a file. str(place) is for people: 'x.jsonl line 17'.

  Counted from byte `start`, where a reader began: the lines before it are
  counted when a place is shown, which few are.
  """

  name: str
  file: str
  start: int
  line: int

  def __str__(self) -> str:
    before = _newlines(self.file, self.start)
    if before is None:
      return f'{self.name} line {self.line} after byte {self.start}'
    return f'{self.name} line {before + self.line}'


Where = str | Place


class Faults:
  """Counts what could not be used, by reason, and keeps the first few places.

  Parts that other processes read have their own, which come home by to_json
  and merge.
  """

  def __init__(self, *, strict: bool = False, shown: int = 3):
    self._strict, self._shown = strict, shown
    self._first: dict[str, list[tuple[Where, str]]] = {}
    self.counts: dict[str, int] = {}

  def add(self, reason: str, where: Where, note: str = '') -> None:
    """Counts one; `note` is what more there is to say of this very place."""
    self.counts[reason] = self.counts.get(reason, 0) + 1
    self._keep(reason, where, note)
    if self._strict:
      raise ValueError(
        f'{_described(where, note)}: {reason}. strict is on: mend the file, or '
        'set strict=False to go on without it.'
      )

  @property
  def first(self) -> dict[str, list[str]]:
    """The first few places of every reason."""
    return {
      reason: [_described(where, note) for where, note in places]
      for reason, places in self._first.items()
    }

  def report(self) -> list[str]:
    """A line for every reason: '5 x invalid UTF-8: a.txt line 3, ...'."""
    lines = []
    for reason, places in self.first.items():
      more = [] if self.counts[reason] == len(places) else ['...']
      shown = ', '.join(places + more)
      lines.append(f'{self.counts[reason]} x {reason}: {shown}')
    return lines

  def to_json(self) -> dict[str, Any]:
    first = {reason: list(places) for reason, places in self._first.items()}
    return {'counts': dict(self.counts), 'first': first}

  def merge(self, other: dict[str, Any]) -> None:
    """Adds what another's to_json gave, also by way of JSON text."""
    for reason, count in other['counts'].items():
      self.counts[reason] = self.counts.get(reason, 0) + count
      for where, note in other['first'][reason]:
        where = where if isinstance(where, str) else Place(*where)
        self._keep(reason, where, note)

  def _keep(self, reason: str, where: Where, note: str) -> None:
    places = self._first.setdefault(reason, [])
    if len(places) < self._shown:
      places.append((where, note))


def _described(where: Where, note: str) -> str:
  return f'{where} ({note})' if note else str(where)


@functools.lru_cache(maxsize=1024)
def _newlines(file: str, end: int) -> int | None:
  """How many lines end before byte `end`; None if that is far, or unknown."""
  if end == 0:
    return 0
  if end > FAR:
    return None
  count = 0
  try:
    with files.open_file(file) as opened:
      while end and (block := opened.read(min(BLOCK, end))):
        count += block.count(b'\n')
        end -= len(block)
  except OSError:  # It vanished: a place is worth no error.
    return None
  return count
