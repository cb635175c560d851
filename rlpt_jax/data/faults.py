"""Counts the faults of a corpus, and keeps the first few of each kind."""

import functools
from typing import Any, NamedTuple

from rlpt_jax.data import files

BLOCK = 1 << 20
FAR = 1 << 30


class Place(NamedTuple):
  """A line of a file; str(place) is for messages: 'x.jsonl line 17'.

  `line` counts from byte `start`, where the reader began. The lines before
  `start` are counted only when a place is shown, which is rare.
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
  """Counts faults by reason, and keeps the first few places of each.

  Each worker process has its own Faults; to_json and merge combine them.
  """

  def __init__(self, *, strict: bool = False, shown: int = 3):
    self._strict, self._shown = strict, shown
    self._first: dict[str, list[tuple[Where, str]]] = {}
    self.counts: dict[str, int] = {}

  def add(self, reason: str, where: Where, note: str = '') -> None:
    """Counts a fault; if strict, raises. `note` has details of this place."""
    self.counts[reason] = self.counts.get(reason, 0) + 1
    self._keep(reason, where, note)
    if self._strict:
      raise ValueError(
        f'{_describe(where, note)}: {reason}. strict is on: fix the file, or '
        'set strict=False to skip this.'
      )

  @property
  def first(self) -> dict[str, list[str]]:
    """The first few places of the faults of each reason, as text."""
    return {
      reason: [_describe(where, note) for where, note in places]
      for reason, places in self._first.items()
    }

  def report(self) -> list[str]:
    """Returns a line per reason: '5 x invalid UTF-8: a.txt line 3, ...'."""
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
    """Adds the to_json() of another Faults, even if read back from a file."""
    for reason, count in other['counts'].items():
      self.counts[reason] = self.counts.get(reason, 0) + count
      for where, note in other['first'][reason]:
        where = where if isinstance(where, str) else Place(*where)
        self._keep(reason, where, note)

  def _keep(self, reason: str, where: Where, note: str) -> None:
    places = self._first.setdefault(reason, [])
    if len(places) < self._shown:
      places.append((where, note))


def _describe(where: Where, note: str) -> str:
  return f'{where} ({note})' if note else str(where)


@functools.lru_cache(maxsize=1024)
def _newlines(file: str, end: int) -> int | None:
  """The number of lines before byte `end`; None if too far or unreadable."""
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
  except OSError:  # The file is gone; do not fail over a line number.
    return None
  return count
