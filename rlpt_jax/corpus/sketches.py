"""Sketches: the arrays by which a stage compares documents.

A stage that compares documents makes a sketch of each: a few arrays with a row
for each document, or for each of its paragraphs. The sketches of a part are one
file. The text of the documents stays where it is.

A document's number is its part and its row in the part.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rlpt_jax.corpus.documents import Document, Outcome
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.data import files

_ROW_BITS = 32

Arrays = Mapping[str, np.ndarray]
# The outcome of a document, given its row in its part.
Decide = Callable[[int, Document], Outcome]


class AcrossDocuments(Protocol):
  """A stage that compares documents with each other."""

  def sketch(self, documents: Sequence[Document]) -> Arrays:
    """Returns the sketches of consecutive documents of a part.

    The arrays of several calls are concatenated. An array named 'row' has the
    rows of the documents, counted from the first of the call.
    """

  def compare(self, sketches: 'Sketches', folder: str, runner: Runner):
    """Compares all documents, and writes what `decide` reads to a folder."""

  def decide(self, folder: str, part: int) -> Decide:
    """Returns the function that decides about the documents of a part."""


@dataclasses.dataclass(frozen=True)
class Sketches:
  """The sketches of a corpus, followed by those of earlier corpora.

  parts: the number of parts of the corpus; parts from this number on belong to
    earlier corpora, whose documents are compared but not judged.
  """

  paths: Sequence[str]
  parts: int

  def load(self, part: int, *names: str) -> list[np.ndarray]:
    """Returns the named arrays of a part."""
    arrays = np.load(io.BytesIO(files.read(self.paths[part])))
    return [arrays[name] for name in names]


def path(folder: str, part: int) -> str:
  return os.path.join(folder, f'{part:05d}.npz')


def save(path: str, arrays: Arrays):
  data = io.BytesIO()
  np.savez(data, **arrays)
  files.write(path, data.getvalue())


def joined(pieces: Iterable[tuple[int, str]]) -> dict[str, np.ndarray]:
  """Joins the sketches of the pieces of a part, in order.

  pieces: the number of documents of each, and the file of its sketches.
  """
  columns: dict[str, list[np.ndarray]] = {}
  first = 0
  for documents, path in pieces:
    for name, array in np.load(io.BytesIO(files.read(path))).items():
      array = array + first if name == 'row' else array
      columns.setdefault(name, []).append(array)
    first += documents
  return {name: np.concatenate(arrays) for name, arrays in columns.items()}


def numbers(part: int, rows: Any) -> np.ndarray:
  return (np.int64(part) << _ROW_BITS) + np.asarray(rows, np.int64)


def part_of(numbers: np.ndarray) -> np.ndarray:
  return numbers >> _ROW_BITS


def row_of(numbers: np.ndarray) -> np.ndarray:
  return numbers & ((1 << _ROW_BITS) - 1)
