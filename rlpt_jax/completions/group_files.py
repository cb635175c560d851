"""Output files that an interrupted run can continue.

A group is the n lines of one prompt. A file grows by whole groups, in the order
of the prompts. FILE.run.json beside it holds the settings. The lines alone say
which prompts are done, so a run killed at any moment can be continued.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlpt_jax.core import output_files

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GroupFile:
  """A .jsonl file of groups; its error messages name `program` and `advice`."""

  path: pathlib.Path
  program: str = 'rlpt generate'  # The program that writes the file.
  advice: str = 'choose another --out or pass --overwrite'  # How to fix errors.

  @property
  def settings_path(self) -> pathlib.Path:
    return self.path.with_name(f'{self.path.name}.run.json')

  def is_begun(self) -> bool:
    """Returns True if the file has content.

    Raises if it has content but no settings file beside it, since then it was
    not written by rlpt.
    """
    output_files.check_regular(self.path)
    if not self.path.exists() or not self.path.stat().st_size:
      return False
    if not self.settings_path.is_file():
      raise ValueError(
        f'{self.path}: exists without {self.settings_path.name} beside it, so '
        f'it was not written by {self.program}. Choose another --out, or move '
        'that file.'
      )
    return True

  def check_settings(self, settings: Line):
    """Raises if the file was begun with other settings."""
    if not self.is_begun():
      return
    try:
      recorded = json.loads(self.settings_path.read_text())
    except json.JSONDecodeError as error:
      raise ValueError(
        f'{self.settings_path}: not JSON: {error}. {self._advice}.'
      ) from error
    changed = [
      f'{name} was {json.dumps(recorded.get(name), ensure_ascii=False)}, '
      f'now {json.dumps(value, ensure_ascii=False)}'
      for name, value in settings.items()
      if recorded.get(name) != value
    ]
    if changed:
      raise ValueError(
        f'{self.path}: was begun with other settings: {"; ".join(changed)}. '
        f'Restore those, or {self.advice} to begin again.'
      )

  def groups(
    self, expected: Sequence[Line], n: int, needed: Sequence[str] = ()
  ) -> Iterator[tuple[list[Line], int]]:
    """Yields (lines, offset of their end) for each whole group of `n` lines.

    Raises at a line whose fields differ from the `expected` ones of its group,
    or that lacks a `needed` field. An interrupted run may leave an incomplete
    group and half a line at the end; these are ignored.
    """
    lines, count, num_bytes = [], 0, 0
    if not self.path.exists():
      return
    with self.path.open('rb') as file:
      for number, data in enumerate(file, 1):
        if not data.endswith(b'\n'):
          return
        num_bytes += len(data)
        lines.append(_line(data))
        fields = {'sample': len(lines) - 1}
        if count < len(expected):
          fields |= expected[count]
        # No line is expected after the last group.
        if count == len(expected) or not _holds(lines[-1], fields, needed):
          raise ValueError(
            f'{self.path}:{number}: differs from what {self.program} wrote '
            f'there. Was the file edited? Undo that, or {self.advice}.'
          )
        if len(lines) == n:
          yield lines, num_bytes
          lines, count = [], count + 1

  @contextlib.contextmanager
  def appending(
    self, settings: Line, *, after: int
  ) -> Iterator[Callable[[list[Line]], None]]:
    """Yields write(lines), which adds a group after the first `after` bytes.

    Whatever follows these bytes is removed. Each group is flushed to the
    system, so a written group survives kill -9.
    """
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open('ab') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f'{self.path}: another {self.program} is writing it. Wait for that '
          'one, or choose another --out.'
        ) from None
      except OSError:
        pass  # Some network file systems do not support locks.
      file.truncate(after)
      # Only after truncating: new settings must never lie beside old lines.
      if not after:
        text = json.dumps(settings, indent=2) + '\n'
        output_files.replace(self.settings_path, [text.encode()])

      def write(lines: list[Line]):
        file.write(b''.join(map(encoded, lines)))
        file.flush()

      yield write
      os.fsync(file.fileno())

  @property
  def _advice(self) -> str:
    return self.advice[0].upper() + self.advice[1:]


def _line(data: bytes) -> Line | None:
  try:
    return json.loads(data)
  except ValueError:  # Not JSON or not UTF-8.
    return None


def _holds(line: Line | None, fields: Line, needed: Sequence[str]) -> bool:
  if not isinstance(line, dict) or not {*fields, *needed} <= line.keys():
    return False
  return all(line[name] == value for name, value in fields.items())


def encoded(line: Line) -> bytes:
  """Returns a line of a group file as bytes."""
  text = json.dumps(line, ensure_ascii=False) + '\n'
  # A lone surrogate is not valid UTF-8, but its escape is valid JSON.
  return text.encode('utf-8', 'backslashreplace')
