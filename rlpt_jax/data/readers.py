"""Reads documents from jsonl, txt and parquet files, and reports their faults.

However large a file is, a reader holds only a block and a document in memory
or, for parquet, at most a row group.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rlpt_jax.data import files
from rlpt_jax.data.faults import BLOCK, Faults, Place, Where

# Compressed bytes per piece, small enough to bound the decompressed piece:
# deflate makes up to 1032 bytes from one byte, and zstd 128 KiB from four.
GZIP_PIECE = 8 << 10
ZSTD_PIECE = 256
PARQUET_ROWS = 256
SEARCH_BYTES = 64 << 10  # Read at a time to find the first line of a part.
BOM = b'\xef\xbb\xbf'


@dataclasses.dataclass(frozen=True)
class Document:
  """A document of a corpus and where it came from."""

  id: str  # Unique in the corpus, and the same on every machine.
  where: Where  # For messages, by str().
  fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of a corpus that one worker reads from its start to its end.

  `start` and `end` count bytes of jsonl and txt, row groups of parquet, and
  rows of a TFDS split.
  """

  name: str  # As it appears in the ids of documents.
  file: str
  start: int = 0
  end: int | None = None


class Line(NamedTuple):
  offset: int
  where: Place
  data: bytes | None  # Includes the line end; None if longer than the limit.


class Damage(Exception):
  """The bytes of a file are damaged; the message says how."""


class Unreadable(Exception):
  """The rest of a part cannot be read; `args` are arguments of Faults.add."""


def too_long(limit: int) -> str:
  return f'longer than max_document_bytes={limit}'


def read_jsonl(part: Part, limit: int, faults: Faults) -> Iterator[Document]:
  """Yields a document for each line that begins in the part."""
  for line in _lines_within(part, limit):
    record = _json_object(line, limit, faults)
    if record is not None:
      yield Document(f'{part.name}@{line.offset}', line.where, record)


def _json_object(line: Line, limit: int, faults: Faults) -> dict | None:
  if line.data is None:
    return faults.add(too_long(limit), line.where)
  if not line.data.strip():
    return None
  if b'\0' in line.data:
    return faults.add('NUL bytes', line.where)
  try:
    record = json.loads(line.data.decode())
  except UnicodeDecodeError as error:
    return faults.add('invalid UTF-8', line.where, str(error))
  except (ValueError, RecursionError) as error:
    return faults.add('not JSON, or cut', line.where, str(error))
  if not isinstance(record, dict):
    return faults.add('not a JSON object', line.where)
  return record


def read_txt(
  part: Part, document: str, field: str, limit: int, faults: Faults
) -> Iterator[Document]:
  """Yields the documents of a part, split by `document` (see sources.Files)."""
  lines, reason = _lines(part, limit), too_long(limit)
  if document == 'file':
    texts = _whole(part, lines, limit)
    reason += "; set document to 'line' or a pattern of first lines"
  elif document == 'line':
    texts = _lines_within(part, limit)
  else:
    texts = _headed(part, lines, limit, re.compile(document))
  for offset, where, data in texts:
    if data is None:
      faults.add(reason, where)
      continue
    if document != 'file' and data.isspace():
      continue
    data = _without_end(data) if document == 'line' else data
    try:
      fields = {field: data.decode()}
    except UnicodeDecodeError as error:
      line = where.line + data.count(b'\n', 0, error.start)
      faults.add('invalid UTF-8', where._replace(line=line))
      continue
    yield Document(f'{part.name}@{offset}', where, fields)


def _whole(part: Part, lines: Iterable[Line], limit: int) -> Iterator[Line]:
  held, size = [], 0
  for line in lines:
    size += limit + 1 if line.data is None else len(line.data)
    if size > limit:
      break
    held.append(line.data)
  data = b''.join(held) if size <= limit else None
  yield Line(0, Place(part.name, part.file, 0, 1), data)


def _headed(
  part: Part, lines: Iterable[Line], limit: int, heading: re.Pattern
) -> Iterator[Line]:
  """Joins lines into texts that begin with a heading or at the file's start."""
  begins = _within(part)
  first, held, size = None, [], 0

  def text() -> Line:
    return first._replace(data=b''.join(held) if size <= limit else None)

  for line in lines:
    is_heading = line.data is not None and heading.match(
      _without_end(line.data).decode(errors='replace')
    )
    if not begins(line.offset) and (
      is_heading or first is None or size > limit
    ):
      break
    if is_heading:
      if first:
        yield text()
      first, held, size = line, [], 0
    elif first is None:
      if part.start:
        continue  # The rest of a text that begins in an earlier part.
      first = line
    size += limit + 1 if line.data is None else len(line.data)
    if size <= limit:
      held.append(line.data)
  if first:
    yield text()


def _within(part: Part) -> Callable[[int], bool]:
  end = math.inf if part.end is None else part.end
  return lambda offset: offset < end


def _lines_within(part: Part, limit: int) -> Iterator[Line]:
  begins = _within(part)
  return itertools.takewhile(
    lambda line: begins(line.offset), _lines(part, limit)
  )


def _without_end(data: bytes) -> bytes:
  return data.removesuffix(b'\n').removesuffix(b'\r')


def _lines(part: Part, limit: int) -> Iterator[Line]:
  """Yields the lines from the first one in the part to the end of the file."""
  start, number = part.start, 0
  try:
    with files.open_file(part.file) as file:
      if start:
        start = _first_line(file, part)
      if start is None:
        return
      file.seek(start)
      pieces = _decompressed(file, part.file)
      for number, (offset, data) in enumerate(_split(pieces, start, limit), 1):
        if offset == 0 and data is not None:
          data = data.removeprefix(BOM)
        yield Line(offset, Place(part.name, part.file, start, number), data)
  except OSError as error:
    # No line number if no line was read: the file may not exist.
    where = f'{part.name} from byte {start}' if start else part.name
    where = Place(part.name, part.file, start, number) if number else where
    raise Unreadable('cannot be read', where, str(error)) from error
  except Damage as error:
    where = Place(part.name, part.file, start, number + 1)
    raise Unreadable(str(error), where) from error


def _first_line(file: io.IOBase, part: Part) -> int | None:
  """Returns the offset of the first line at or after the part's start.

  Returns None if the search passes the part's end before it finds a line.
  """
  begins = _within(part)
  # If the byte before the start is a line break, a line begins at the start.
  offset = part.start - 1
  file.seek(offset)
  while begins(offset) and (block := file.read(SEARCH_BYTES)):
    line_break = block.find(b'\n')
    if line_break >= 0:
      return offset + line_break + 1
    offset += len(block)
  return None


def _split(
  pieces: Iterable[bytes], offset: int, limit: int
) -> Iterator[tuple[int, bytes | None]]:
  """Yields (offset, line); line is None if longer than limit."""
  held, size, skipping = [], 0, False  # The state of the unfinished line.
  for piece in pieces:
    if b'\n' in piece:
      *lines, rest = _keeping_ends(b''.join([*held, piece]))
      if skipping:
        offset += size + len(lines[0])
        del lines[0]
      for line in lines:
        yield offset, line if len(line) <= limit else None
        offset += len(line)
      held, size, skipping = [rest], len(rest), False
    else:
      held.append(piece)
      size += len(piece)
    if size > limit:
      if not skipping:
        yield offset, None
      held, skipping = [], True
  if size and not skipping:
    yield offset, b''.join(held)


def _keeping_ends(data: bytes) -> list[bytes]:
  """Returns the lines with their ends, and last the unfinished line or b''."""
  # bytes.splitlines would also split at a lone carriage return.
  lines = io.BytesIO(data).readlines()
  return [*lines, b''] if lines[-1].endswith(b'\n') else lines


def _decompressed(file: io.IOBase, path: str) -> Iterator[bytes]:
  """Yields the content in pieces; raises Damage where the file is damaged."""
  if path.endswith('.gz'):
    new, errors = lambda: zlib.decompressobj(wbits=31), zlib.error
    return _inflated(file, GZIP_PIECE, new, errors, 'gzip')
  if path.endswith('.zst'):
    try:
      import zstandard
    except ImportError as error:
      raise ValueError(f'{path}: needs `pip install zstandard`.') from error
    new = zstandard.ZstdDecompressor().decompressobj
    return _inflated(file, ZSTD_PIECE, new, zstandard.ZstdError, 'zstd')
  return iter(lambda: file.read(BLOCK), b'')


def _inflated(
  file: io.IOBase,
  piece: int,
  new: Callable[[], Any],
  errors: type[Exception],
  kind: str,
) -> Iterator[bytes]:
  decompressor = new()
  while block := file.read(BLOCK):
    for i in range(0, len(block), piece):
      compressed = block[i : i + piece]
      while compressed:
        # A file can hold several streams in a row, and zeros as padding.
        if decompressor.eof:
          compressed = compressed.lstrip(b'\0')
          decompressor = new() if compressed else decompressor
          continue
        try:
          data = decompressor.decompress(compressed)
        except errors as error:
          raise Damage(f'corrupt {kind}') from error
        yield data
        compressed = decompressor.unused_data if decompressor.eof else b''
  if not decompressor.eof:
    raise Damage(f'truncated {kind}')


def row_group_bytes(path: str) -> list[int]:
  """Returns the size in bytes of every row group of a parquet file."""
  with files.open_file(path) as file:
    metadata = _open_parquet(file).metadata
    groups = range(metadata.num_row_groups)
    return [metadata.row_group(group).total_byte_size for group in groups]


def read_parquet(part: Part, faults: Faults) -> Iterator[Document]:
  """Yields the rows of a part; skips the rest of a damaged row group."""
  try:
    with files.open_file(part.file) as file:
      parquet, row = _open_parquet(file), 0
      for group in range(parquet.num_row_groups):
        if part.start <= group < (part.end or math.inf):
          yield from _rows(part.name, parquet, group, row, faults)
        row += parquet.metadata.row_group(group).num_rows
  except (OSError, Damage) as error:
    reason = 'cannot be read' if isinstance(error, OSError) else str(error)
    note = str(error.__cause__ or error)
    raise Unreadable(reason, part.name, note) from error


def _open_parquet(file: io.IOBase):
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise ValueError('parquet needs `pip install pyarrow`.') from error
  with _arrow_errors():
    # Read with small buffers instead of a whole row group at a time.
    return pyarrow.parquet.ParquetFile(
      file, pre_buffer=False, buffer_size=BLOCK, page_checksum_verification=True
    )


def _rows(
  name: str, parquet, group: int, row: int, faults: Faults
) -> Iterator[Document]:
  after = row + parquet.metadata.row_group(group).num_rows
  try:
    with _arrow_errors():
      batches = parquet.iter_batches(PARQUET_ROWS, row_groups=[group])
      for batch in batches:
        for fields in _fields(batch):
          where = f'{name} row {row}'
          if fields is None:
            faults.add('invalid UTF-8', where)
          else:
            yield Document(f'{name}@{row}', where, fields)
          row += 1
  except Damage as error:
    note = f'to row {after - 1}; {error.__cause__}'
    faults.add(str(error), f'{name} row {row}', note)


def _fields(batch) -> Iterator[dict[str, Any] | None]:
  """Yields the rows of a pyarrow.RecordBatch; None if a row is not UTF-8."""
  try:
    rows = batch.to_pylist()
  except UnicodeDecodeError:  # Find out which rows are invalid.
    for i in range(len(batch)):
      try:
        yield plain(batch.slice(i, 1).to_pylist()[0])
      except UnicodeDecodeError:
        yield None
    return
  yield from map(plain, rows)


@contextlib.contextmanager
def _arrow_errors():
  import pyarrow

  try:
    yield
  except (pyarrow.ArrowException, OSError) as error:
    raise Damage('corrupt parquet') from error


def plain(value: Any) -> Any:
  """Converts arrays to lists, numbers to Python's and UTF-8 bytes to str."""
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value
  if isinstance(value, dict):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list):
    return [plain(item) for item in value]
  if hasattr(value, 'to_list'):  # A ragged tensor.
    return plain(value.to_list())
  if hasattr(value, 'tolist'):  # A NumPy array or number.
    return plain(value.tolist())
  return value
