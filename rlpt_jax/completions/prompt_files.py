"""Reads prompts files, and counts the finished prompts of completions files."""

import collections
import dataclasses
import json
import pathlib

from rlpt_jax.completions.group_files import GroupFile, Line


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt of a prompts file."""

  where: str  # File and line, for error messages.
  fields: Line  # {'prompt': text} or {'prompt_tokens': ids}.


@dataclasses.dataclass
class Tally:
  """Counts of a completions file."""

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
  """Reads the prompts of a .txt or .jsonl file; skips blank lines.

  A .txt file has one prompt per line; each line of a .jsonl file has "prompt"
  or "prompt_tokens".
  """
  if path.suffix not in ('.txt', '.jsonl'):
    raise ValueError(
      f'{path}: expected a prompts file that ends in .txt, with one prompt '
      'per line, or in .jsonl, with "prompt" or "prompt_tokens" in each line.'
    )
  try:
    # utf-8-sig drops the byte order mark that Windows may write. Do not use
    # splitlines: it also splits at characters that a line of JSON may contain.
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
    raise ValueError(f'{path}: contains no prompts.')
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
    f'{where}: {line[:60]!r}: expected an object with either "prompt" (a '
    'text) or "prompt_tokens" (a list of ids).'
  )


def finished(file: GroupFile, prompts: list[Prompt], n: int) -> Tally:
  """Counts the prompts that have all `n` completions in a completions file."""
  tally = Tally()
  expected = [prompt.fields for prompt in prompts]
  needed = ('completion_tokens', 'finish_reason')
  for lines, tally.num_bytes in file.groups(expected, n, needed):
    tally.add(lines)
  return tally
