"""Reads all rows of small tables, such as benchmarks, into memory.

  PATH               .jsonl, .json (a list), .parquet or .csv; all but .parquet
                     also with .gz
  FOLDER             all such files below it, for example in a clone of a
                     dataset's repository; `find` says which of them belong to
                     a configuration and a split
  hf:REPO[[:CONFIG]:SPLIT]   with Hugging Face datasets, if installed
  tfds:NAME[:SPLIT]          with TFDS; the dataset must be prepared

SPLIT is 'test' by default.

The module `sources` reads corpora: it streams, and counts faults. Here the
first fault is an error, since a benchmark with some of its problems missing is
a different benchmark.
"""

import csv
import gzip
import io
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlpt_jax.data import sources
from rlpt_jax.data.faults import Faults

SUFFIXES = (
  '.jsonl', '.jsonl.gz', '.json', '.json.gz', '.parquet', '.csv', '.csv.gz'
)  # fmt: skip


class Row(NamedTuple):
  where: str  # The file and line, for messages.
  file: str  # The file's path, or a name like 'hf:...'.
  fields: dict[str, Any]


def find(place: pathlib.Path, config: str = '', split: str = '') -> list[str]:
  """Returns the file at a path, or all tables below a folder.

  If some paths in the folder contain `config` as a word, keeps only those. Then
  selects among these by `split` in the same way.
  """
  if place.is_file():
    return [str(place)]
  files = sorted(
    path
    for path in place.rglob('*')
    if path.name.endswith(SUFFIXES)
    and not any(part.startswith('.') for part in path.relative_to(place).parts)
  )
  for wanted in (config, split):
    if wanted:
      word = re.compile(rf'(?<![a-z]){re.escape(wanted.lower())}(?![a-z])')
      some = [
        path
        for path in files
        if word.search(str(path.relative_to(place)).lower())
      ]
      files = some or files
  return [str(path) for path in files]


def read(files: Sequence[str]) -> list[Row]:
  """Returns the rows of several files, in order."""
  return [row for file in files for row in _read_file(file)]


def read_named(name: str) -> list[Row]:
  """Returns the rows of 'hf:...' or 'tfds:...'."""
  kind, _, rest = name.partition(':')
  return {'hf': _read_hub, 'tfds': _read_tfds}[kind](name, rest)


def is_named(name: str) -> bool:
  return name.startswith(('hf:', 'tfds:'))


def _read_file(file: str) -> list[Row]:
  name = file.removesuffix('.gz')
  read = {
    '.jsonl': _jsonl, '.json': _json, '.parquet': _parquet, '.csv': _csv
  }.get(pathlib.Path(name).suffix)  # fmt: skip
  if read is None:
    raise ValueError(
      f'{file}: unknown file type; expected {", ".join(SUFFIXES)}.'
    )
  try:
    data = pathlib.Path(file).read_bytes()
    if name != file:
      data = gzip.decompress(data)
    rows = read(file, data)
  except (EOFError, gzip.BadGzipFile) as error:
    raise ValueError(f'{file}: damaged, or not gzip: {error}.') from error
  except UnicodeDecodeError as error:
    raise ValueError(f'{file}: not UTF-8: {error}.') from error
  for row in rows:
    if not isinstance(row.fields, dict):
      raise ValueError(f'{row.where}: expected an object with fields.')
  return rows


def _jsonl(file: str, data: bytes) -> list[Row]:
  rows = []
  # Not splitlines: JSON text may contain other line separators.
  for number, line in enumerate(data.decode('utf-8-sig').split('\n'), 1):
    if line.strip():
      where = f'{file}:{number}'
      rows.append(Row(where, file, _parsed(where, line)))
  return rows


def _json(file: str, data: bytes) -> list[Row]:
  text = data.decode('utf-8-sig')
  try:
    content = json.loads(text)
  except ValueError:
    return _jsonl(file, data)  # Many .json files have one object per line.
  if isinstance(content, dict):
    content = [content]
  if not isinstance(content, list):
    raise ValueError(f'{file}: expected a list of objects.')
  return [Row(f'{file} row {i}', file, row) for i, row in enumerate(content, 1)]


def _csv(file: str, data: bytes) -> list[Row]:
  csv.field_size_limit(1 << 30)
  text = io.StringIO(data.decode('utf-8-sig'), newline='')
  return [
    Row(f'{file} row {i}', file, row)
    for i, row in enumerate(csv.DictReader(text), 1)
  ]


def _parquet(file: str, data: bytes) -> list[Row]:
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
  except pa.ArrowException as error:
    first_line = str(error).partition('\n')[0]
    raise ValueError(
      f'{file}: not parquet, or damaged: {first_line}'
    ) from error
  return [Row(f'{file} row {i}', file, row) for i, row in enumerate(rows, 1)]


def _parsed(where: str, line: str) -> Any:
  try:
    return json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: not JSON: {error}.') from error


def _read_hub(name: str, rest: str) -> list[Row]:
  repo, *more = rest.split(':')
  if not repo or len(more) > 2:
    raise ValueError(f'{name}: expected hf:REPO, hf:REPO:SPLIT or with CONFIG.')
  split = more[-1] if more else 'test'
  config = more[0] if len(more) == 2 else None
  try:
    import datasets
  except ImportError:
    raise ValueError(
      f'{name}: Hugging Face datasets is not installed: run pip install '
      'datasets, or give a local path.'
    ) from None
  try:
    dataset = datasets.load_dataset(repo, config or None, split=split)
  except Exception as error:  # Its type varies with the cause.
    first_line = str(error).partition('\n')[0][:200]
    raise ValueError(
      f'{name}: Hugging Face datasets cannot load it '
      f'({type(error).__name__}: {first_line}). Give a local path.'
    ) from error
  return [Row(f'{name} row {i}', name, row) for i, row in enumerate(dataset, 1)]


def _read_tfds(name: str, rest: str) -> list[Row]:
  builder, _, split = rest.partition(':')
  if not builder:
    raise ValueError(f'{name}: expected tfds:NAME or tfds:NAME:SPLIT.')
  source = sources.Tfds('benchmark', builder, split=split or 'test')
  faults, rows = Faults(strict=True), []
  for part in source.parts():
    for document in source.read(part, faults):
      rows.append(Row(str(document.where), name, document.fields))
  return rows
