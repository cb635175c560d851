"""Sources of text: jsonl, txt and parquet files, and TFDS datasets.

A source is split into parts, which workers read independently and in any order.
Unusable documents are counted in Faults and skipped.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Bytes, Name, Positive
from rlpt_jax.data import files, quiet_tensorflow, readers
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Document, Part

CHECKED_BYTES = 64 << 20
CHECKED_BLOCKS = 1024
KNOWN = (
  '.jsonl, .txt (both also with .gz or .zst) and .parquet (compressed inside)'
)


class Source(Protocol):
  """The interface of a corpus."""

  name: str
  text: str | Sequence[str]  # The field or fields that hold the text.
  weight: float
  task: Any  # The task or tasks of this corpus; None uses those of the run.

  def parts(self) -> list[Part]:
    """Returns the parts of the corpus, in the same order on every machine."""

  def read(self, part: Part, faults: Faults) -> Iterator[Document]:
    """Yields a part's documents; use text_of to check that they have text."""

  def fingerprint(self) -> dict[str, list]:
    """Returns {file name: [size, checksum]}, to detect changes."""

  def settings(self) -> dict[str, Any]:
    """Returns the options for reading its files, as JSON data."""

  def place(self) -> str:
    """Returns the configured location."""


@dataclasses.dataclass(frozen=True)
class Files:
  """All files that match the globs; local and remote files can be mixed.

  For txt, `document` says what a document is: 'file', 'line', or a regular
  expression that matches (re.match) the first line of each document, such as
  r'^ = [^=].* = $' for WikiText. Text before the first such line of a file is
  also a document.

  Files are split into parts of about `part_bytes`, parquet files only between
  row groups. A txt file that is one document is one part. So is a compressed
  file, since it can only be read from its start: many files of about 100 MB are
  better than a single large one.
  """

  name: Name
  files: Name | Sequence[Name]
  text: Name | Sequence[Name] = 'text'
  weight: Positive = 1.0
  task: Any = None
  document: Name = 'file'
  max_document_bytes: Bytes = 8 << 20
  part_bytes: Bytes = 16 << 20

  def __post_init__(self):
    _check(self)
    globs = [self.files] if isinstance(self.files, str) else list(self.files)
    if not globs:
      raise checks.setting_error(
        type(self), 'files', self.files, "a glob like 'data/*.jsonl'"
      )
    object.__setattr__(self, 'files', tuple(globs))
    # A plain word is a valid pattern too, but is probably a typo.
    if self.document not in ('file', 'line'):
      try:
        known = not self.document.isidentifier() and re.compile(self.document)
      except re.error:
        known = False
      if not known:
        raise ValueError(
          f"corpus {self.name}: document={self.document!r}; expected 'file', "
          "'line' or a regular expression of first lines, like '^Chapter '."
        )

  def parts(self) -> list[Part]:
    paths = self._paths_by_name().items()
    return [part for name, path in paths for part in self._cut(name, path)]

  def read(self, part: Part, faults: Faults) -> Iterator[Document]:
    limit, form = self.max_document_bytes, _form(part.file)
    if form == 'jsonl':
      documents = readers.read_jsonl(part, limit, faults)
    elif form == 'txt':
      documents = readers.read_txt(
        part, self.document, fields(self.text)[0], limit, faults
      )
    else:
      documents = readers.read_parquet(part, faults)
    return _counted(documents, self.text, limit, faults)

  def fingerprint(self) -> dict[str, list]:
    return {
      name: _checksum(path) for name, path in self._paths_by_name().items()
    }

  def settings(self) -> dict[str, Any]:
    return {
      'document': self.document,
      'max_document_bytes': self.max_document_bytes,
      'part_bytes': self.part_bytes,
    }

  def place(self) -> str:
    return ' '.join(self.files)

  def _paths_by_name(self) -> dict[str, str]:
    """Returns {name: path} of all files, sorted by name."""
    globs = [_absolute(glob) for glob in self.files]
    # Names are paths relative to the deepest directory common to all globs. So
    # they are unique, and do not depend on the machine or the corpus's place.
    levels = zip(*map(_fixed_directories, globs), strict=False)
    same = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    depth = len(list(same))
    paths = {}
    for glob in globs:
      for path in _expanded(self.name, glob):
        _form(path)
        paths['/'.join(path.split('/')[depth:])] = path
    return dict(sorted(paths.items()))

  def _cut(self, name: str, path: str) -> list[Part]:
    whole = [Part(name, path)]
    try:
      if path.endswith('.parquet'):
        bounds = _bounds(readers.row_group_bytes(path), self.part_bytes)
      elif path.endswith('.jsonl') or (
        path.endswith('.txt') and self.document != 'file'
      ):
        with files.open_file(path) as file:
          size = file.seek(0, os.SEEK_END)
        bounds = [*range(0, size, self.part_bytes), size]
      else:
        return whole
    except (OSError, readers.Damage):
      _check_no_directory(path)
      return whole  # The reader will count the fault.
    return [Part(name, path, a, b) for a, b in itertools.pairwise(bounds)]


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A prepared TensorFlow dataset.

  `builder` is its name ('wikipedia/20230601.en'), found in `data_dir`, or the
  directory with its dataset_info.json. `split` may be a slice ('train[:90%]')
  or a sum ('train+test'). Nothing is downloaded: prepare the dataset with
  `tfds build` or tfds.load.
  """

  name: Name
  builder: Name
  data_dir: Name | None = None
  split: Name = 'train'
  text: Name | Sequence[Name] = 'text'
  weight: Positive = 1.0
  task: Any = None
  max_document_bytes: Bytes = 8 << 20
  part_bytes: Bytes = 16 << 20

  def __post_init__(self):
    _check(self)

  def parts(self) -> list[Part]:
    splits, parts = self._builder().info.splits, []
    for name, start, end in self._rows():
      split = splits[name]
      row_bytes = max(1, split.num_bytes // max(1, split.num_examples))
      step = max(1, self.part_bytes // row_bytes)
      bounds = [*range(start, end, step), end]
      parts += [Part(name, name, a, b) for a, b in itertools.pairwise(bounds)]
    return parts

  def read(self, part: Part, faults: Faults) -> Iterator[Document]:
    documents = self._documents(part)
    return _counted(documents, self.text, self.max_document_bytes, faults)

  def fingerprint(self) -> dict[str, list]:
    splits = self._builder().info.splits
    names = sorted({name for name, _, _ in self._rows()})
    paths = [str(path) for name in names for path in splits[name].filepaths]
    return {os.path.basename(path): _checksum(path) for path in paths}

  def settings(self) -> dict[str, Any]:
    return {
      'rows': [list(rows) for rows in self._rows()],
      'max_document_bytes': self.max_document_bytes,
      'part_bytes': self.part_bytes,
    }

  def place(self) -> str:
    return f'{self.builder} {self.split}'

  def _builder(self):
    return _prepared(self.builder, self.data_dir)

  def _rows(self) -> list[tuple[str, int, int]]:
    """Returns (split, first row, end) of each slice in `split`."""
    splits = self._builder().info.splits
    import tensorflow_datasets as tfds

    try:
      split = tfds.core.ReadInstruction.from_spec(self.split)
      pieces = split.to_absolute(splits)
    except (ValueError, AssertionError) as error:
      raise ValueError(
        f'corpus {self.name}: split={self.split!r} of {self.builder} cannot '
        f'be read ({error}); its splits are {", ".join(splits)}.'
      ) from error
    rows = []
    for piece in pieces:
      end = splits[piece.splitname].num_examples
      end = end if piece.to is None else piece.to
      rows.append((piece.splitname, piece.from_ or 0, end))
    for one, other in itertools.pairwise(sorted(rows)):
      if one[0] == other[0] and one[2] > other[1]:
        raise ValueError(
          f'corpus {self.name}: split={self.split!r} contains some rows '
          'twice; expected slices that do not overlap.'
        )
    return rows

  def _documents(self, part: Part) -> Iterator[Document]:
    builder, row = self._builder(), part.start
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
      dataset = builder.as_dataset(
        split=tfds.core.ReadInstruction(
          part.file, from_=part.start, to=part.end, unit='abs'
        ),
        shuffle_files=False,
        # Read one file at a time, so that row numbers are correct.
        read_config=tfds.ReadConfig(
          interleave_cycle_length=1, try_autocache=False
        ),
      )
      for example in tfds.as_numpy(dataset):
        where = f'{builder.info.full_name} {part.name} row {row}'
        yield Document(f'{part.name}@{row}', where, readers.plain(example))
        row += 1
    except tf.errors.OpError as error:
      where = f'{builder.info.full_name} {part.name} row {row}'
      where += f' to {part.end - 1}'
      # Remove the names of TensorFlow's nodes.
      note = re.sub(r'\{\{.*?\}\} | \[Op:.*', '', error.message)
      raise readers.Unreadable('cannot be read', where, note) from error


def fields(text: str | Sequence[str]) -> list[str]:
  """Returns `text`, one field name or several, as a list."""
  return list(text) if isinstance(text, (list, tuple)) else [text]


def text_of(document: Document, field: str, faults: Faults) -> str | None:
  """Returns the text in a field; None, and counts a fault, if it has none."""
  value = document.fields.get(field)
  if value is None:
    note = f'fields: {", ".join(map(str, document.fields)) or "none"}'
    return faults.add(f'no field {field!r}', document.where, note)
  if not isinstance(value, (str, bytes)):
    reason = f'field {field!r} is not text'
    return faults.add(reason, document.where, type(value).__name__)
  if reason := text_fault(value):
    note = 'half of a surrogate pair' if isinstance(value, str) else ''
    note = note if reason == 'invalid UTF-8' else ''
    return faults.add(reason, document.where, note)
  if not value or value.isspace():
    return faults.add(f'empty field {field!r}', document.where)
  return value


def text_fault(value: Any) -> str | None:
  """Returns why a value is not valid text; None if it is."""
  if isinstance(value, bytes):
    return 'invalid UTF-8'  # Readers convert bytes that are UTF-8 to str.
  if not isinstance(value, str):
    return 'not text'
  if '\0' in value:
    return 'NUL bytes'
  return None if _is_utf8(value) else 'invalid UTF-8'


def _is_utf8(text: str) -> bool:
  # Escapes in JSON can produce half of a surrogate pair.
  if text.isascii():
    return True
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _counted(
  documents: Iterable[Document],
  text: str | Sequence[str],
  limit: int,
  faults: Faults,
) -> Iterator[Document]:
  """Yields the documents that are not too long; counts the others as faults.

  If the rest of the part cannot be read, counts that as a fault too, and stops.
  """
  names = fields(text)
  try:
    for document in documents:
      values = [document.fields.get(name) for name in names]
      texts = [value for value in values if isinstance(value, str)]
      # A character has at most four bytes, so few texts need to be encoded.
      if sum(map(len, texts)) * 4 > limit and limit < sum(
        len(one.encode(errors='surrogatepass')) for one in texts
      ):
        faults.add(readers.too_long(limit), document.where)
      else:
        yield document
  except readers.Unreadable as error:
    faults.add(*error.args)


def _check(source: Files | Tfds) -> None:
  checks.check_fields(source)
  if not re.fullmatch('[A-Za-z0-9_]+', source.name):
    raise ValueError(
      f'corpus {source.name!r}: expected a name made of letters, digits and _.'
    )
  if not source.text:
    raise checks.setting_error(
      type(source), 'text', source.text, 'the field that holds the text'
    )


def _form(path: str) -> str:
  """Returns 'jsonl', 'txt' or 'parquet', by the file's suffixes."""
  match = re.search(r'\.(?:(jsonl|txt)(?:\.gz|\.zst)?|(parquet))$', path)
  if not match:
    _check_no_directory(path)
    raise ValueError(f'{path}: unknown file type; expected {KNOWN}.')
  return match[1] or match[2]


def _check_no_directory(path: str) -> None:
  if files.is_directory(path):
    raise ValueError(
      f"{path}: is a directory; expected files, like '{path}/*.jsonl'."
    )


def _absolute(glob: str) -> str:
  # Workers may have another working directory.
  return (
    glob if files.is_remote(glob) else os.path.abspath(os.path.expanduser(glob))
  )


def _fixed_directories(glob: str) -> list[str]:
  directories = glob.split('/')[:-1]
  with contextlib.suppress(OSError):  # `_expanded` raises a better error.
    if files.is_file(glob):
      return directories  # An exact file name, even if it looks like a glob.
  return list(
    itertools.takewhile(lambda d: not re.search(r'[*?[\\]', d), directories)
  )


def _expanded(name: str, glob: str) -> list[str]:
  try:
    paths = files.glob(glob)
  except OSError as error:
    raise ValueError(
      f'corpus {name}: {glob} cannot be listed: {error}'
    ) from error
  if not paths:
    raise ValueError(
      f'corpus {name}: no file matches {glob}. Is the path correct, and '
      'mounted on this machine?'
    )
  return paths


def _bounds(sizes: list[int], at_least: int) -> list[int]:
  """Groups consecutive sizes; returns the bounds of the groups, as indices.

  at_least: the total size that ends a group; the last may be smaller.
  """
  bounds, size = [0], 0
  for i, one in enumerate(sizes, 1):
    size += one
    if size >= at_least or i == len(sizes):
      bounds.append(i)
      size = 0
  return bounds


def _checksum(path: str) -> list:
  """Returns [size, hex]; for large files, hashes only evenly spaced blocks."""
  digest, block = hashlib.blake2b(digest_size=8), 64 << 10
  try:
    with files.open_file(path) as file:
      size = file.seek(0, os.SEEK_END)
      if size <= CHECKED_BYTES:
        offsets = range(0, size, block)
      else:
        last = CHECKED_BLOCKS - 1
        offsets = [i * (size - block) // last for i in range(CHECKED_BLOCKS)]
      for offset in offsets:
        file.seek(offset)
        digest.update(file.read(block))
  except OSError:  # The reader will count the fault.
    return [-1, '']
  return [size, digest.hexdigest()]


@functools.cache
def _prepared(builder: str, data_dir: str | None) -> Any:
  """Returns the TFDS builder of a dataset, which must be prepared."""
  quiet_tensorflow.load()
  import tensorflow as tf
  import tensorflow_datasets as tfds

  try:
    if tf.io.gfile.exists(os.path.join(builder, 'dataset_info.json')):
      tfds_builder = tfds.builder_from_directory(builder)
    else:
      tfds_builder = tfds.builder(builder, data_dir=data_dir)
  except (ValueError, OSError, tf.errors.OpError) as error:
    first_line = str(error).partition('\n')[0]
    raise ValueError(
      f'{builder}: no TFDS dataset in {data_dir or "its usual folder"} '
      f'({first_line}). Give its name and data_dir, or the directory with its '
      'dataset_info.json.'
    ) from error
  if not tfds_builder.info.splits:
    raise ValueError(
      f'{builder}: known to TFDS but not prepared in {tfds_builder.data_dir}. '
      f'Run `tfds build {builder}`, or set data_dir to where it is.'
    )
  return tfds_builder
