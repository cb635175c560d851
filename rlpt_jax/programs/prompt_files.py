"""Prompts files, and completions files that a run can go on with.

A completions file grows by whole groups, the lines of one prompt, in the order
of the prompts; beside it, FILE.run.json says what it is made with. So what it
holds says what is done: a run that ended at any moment goes on from there.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt of a file."""

  where: str  # File and line, for messages.
  fields: Line  # {'prompt': text} or {'prompt_tokens': ids}.


@dataclasses.dataclass
class Tally:
  """What a completions file holds."""

  prompts: int = 0
  completions: int = 0
  tokens: int = 0
  num_bytes: int = 0
  finish_reasons: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def add(self, lines: list[Line]):
    """Counts the lines of one prompt."""
    self.prompts += 1
    self.completions += len(lines)
    for line in lines:
      self.tokens += len(line['completion_tokens'])
      self.finish_reasons[line['finish_reason']] += 1


def read_prompts(path: pathlib.Path) -> list[Prompt]:
  """The prompts of a .txt file, one a line that is not blank, or of a .jsonl
  file, whose lines have "prompt" or "prompt_tokens".
  """
  if path.suffix not in ('.txt', '.jsonl'):
    raise ValueError(
      f'{path}: expected a prompts file that ends in .txt, one prompt a line, '
      'or .jsonl, with "prompt" or "prompt_tokens" in each.'
    )
  try:
    # With or without a mark at the beginning, as Windows leaves it. Not
    # splitlines: a line of JSON may hold other separators.
    lines = path.read_bytes().decode('utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: not UTF-8: {error}.') from error
  prompts = []
  for number, line in enumerate(lines, 1):
    if line.strip():
      where, line = f'{path}:{number}', line.removesuffix('\r')
      parse = _parse if path.suffix == '.jsonl' else _plain
      prompts.append(Prompt(where, parse(line, where)))
  if not prompts:
    raise ValueError(f'{path}: no prompts in it.')
  return prompts


def _plain(line: str, where: str) -> Line:
  return {'prompt': line}


def _parse(line: str, where: str) -> Line:
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f'{where}: not JSON: {error}.') from error
  if isinstance(fields, dict):
    text, ids = fields.get('prompt'), fields.get('prompt_tokens')
    if isinstance(text, str) and ids is None:
      return {'prompt': text}
    is_list = isinstance(ids, list) and ids and text is None
    if is_list and all(type(i) is int and i >= 0 for i in ids):
      return {'prompt_tokens': ids}
  raise ValueError(
    f'{where}: {line[:60]!r}: expected an object with either "prompt", a text, '
    'or "prompt_tokens", a list of ids.'
  )


def settings_path(path: pathlib.Path) -> pathlib.Path:
  """Where the settings of a completions file are."""
  return path.with_name(f'{path.name}.run.json')


def check_settings(path: pathlib.Path, settings: Line):
  """Raises where a completions file was begun with others."""
  if not path.exists() or not path.stat().st_size:
    return  # Nothing is lost.
  try:
    found = json.loads(settings_path(path).read_text())
  except FileNotFoundError:
    raise ValueError(
      f'{path}: exists and has no {settings_path(path).name} beside it, so it '
      'was not written by rlpt generate. Take another --out, or --overwrite.'
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{settings_path(path)}: not JSON: {error}. Take another --out, or '
      '--overwrite.'
    ) from error
  changed = [
    f'{name} was {json.dumps(found.get(name), ensure_ascii=False)}, '
    f'now {json.dumps(value, ensure_ascii=False)}'
    for name, value in settings.items()
    if found.get(name) != value
  ]
  if changed:
    raise ValueError(
      f'{path}: begun with other settings: {"; ".join(changed)}. Go on with '
      'those, take another --out, or --overwrite to begin again.'
    )


def finished(path: pathlib.Path, prompts: list[Prompt], n: int) -> Tally:
  """What a completions file has of `n` completions each, in whole groups.

  What follows them, a run that ended left there: less than a group, of which
  the last line may be half a line.
  """
  tally, lines, num_bytes = Tally(), [], 0
  if not path.exists():
    return tally
  with path.open('rb') as file:
    for number, data in enumerate(file, 1):
      if not data.endswith(b'\n'):
        break
      num_bytes += len(data)
      lines.append(_line(data))
      expected = {'sample': len(lines) - 1}
      if tally.prompts < len(prompts):
        expected |= prompts[tally.prompts].fields
      # Past the last prompt there is nothing that would be expected.
      if tally.prompts == len(prompts) or not _holds(lines[-1], expected):
        raise ValueError(
          f'{path}:{number}: not what rlpt generate wrote there. Was the file '
          'edited? Undo that, take another --out, or --overwrite.'
        )
      if len(lines) == n:
        tally.add(lines)
        tally.num_bytes, lines = num_bytes, []
  return tally


def _line(data: bytes) -> Line | None:
  try:
    return json.loads(data)
  except ValueError:  # Not JSON or not UTF-8.
    return None


def _holds(line: Line | None, expected: Line) -> bool:
  wanted = expected.keys() | {'completion_tokens', 'finish_reason'}
  if not isinstance(line, dict) or not wanted <= line.keys():
    return False
  return all(line[name] == value for name, value in expected.items())


@contextlib.contextmanager
def appending(
  path: pathlib.Path, settings: Line, *, after: int
) -> Iterator[Callable[[list[Line]], None]]:
  """Yields write(lines), which adds a group after the first `after` bytes.

  A group that is written is out of our hands: it survives a kill -9.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('ab') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'{path}: another rlpt generate is writing it. Wait for that one, or '
        'take another --out.'
      ) from None
    except OSError:
      pass  # Some network file systems have no locks.
    file.truncate(after)
    if not after:  # In this order: settings are those of what is there.
      fresh = settings_path(path).with_suffix('.new')
      fresh.write_text(json.dumps(settings, indent=2) + '\n')
      fresh.replace(settings_path(path))

    def write(lines: list[Line]):
      file.write(b''.join(map(encoded, lines)))
      file.flush()

    yield write
    os.fsync(file.fileno())


def encoded(line: Line) -> bytes:
  """A line of a completions file."""
  text = json.dumps(line, ensure_ascii=False) + '\n'
  # Half a surrogate pair is no UTF-8; as an escape it is JSON.
  return text.encode('utf-8', 'backslashreplace')
