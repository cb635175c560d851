"""Removes paragraphs that another document, or the same one, already had.

They are menus, notices and footers, which a comparison of whole documents does
not find. Of each paragraph the first is kept, in the order of the sources and
their files. A paragraph is a line that is not blank; two are the same if they
differ only in case and white space.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Natural
from rlpt_jax.corpus import pipelines, sketches
from rlpt_jax.corpus.documents import (
  Document,
  Dropped,
  Edit,
  Outcome,
  edited,
)
from rlpt_jax.corpus.pipelines import BUCKETS, Runner
from rlpt_jax.corpus.sketches import Arrays, Sketches
from rlpt_jax.data import files

KIND = 'repeated paragraph'
NOTHING_LEFT = 'only repeated paragraphs'
# Possessive, so that a long line of blanks takes linear time.
_LINE = re.compile(r'^[^\S\n]*+\S[^\n]*+\n?', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class RepeatedParagraphs:
  """Removes repeated paragraphs.

  min_words: shorter ones are never removed. They are headings, labels and
    answers ('Yes.'), which belong where they are.
  times: a paragraph that occurs fewer times is not removed. Two documents may
    well have a sentence in common; what three have is boilerplate.
  """

  min_words: Natural = 8
  times: Count = 3

  def __post_init__(self):
    checks.check_fields(self)

  def sketch(self, documents: Sequence[Document]) -> Arrays:
    keys, rows, places = [], [], []
    for row, document in enumerate(documents):
      for place, line in enumerate(_lines(document.text)):
        words = line.group().lower().split()
        if len(words) >= self.min_words:
          keys.append(_hash(' '.join(words)))
          rows.append(row)
          places.append(place)
    return {
      'keys': np.array(keys, np.int64),
      'row': np.array(rows, np.int64),
      'places': np.array(places, np.int64),
    }

  def compare(self, sketches: Sketches, folder: str, runner: Runner):
    """Writes, for each part, which paragraphs of which documents to remove."""
    import apache_beam as beam

    size = sum(
      24 * sketches.load(part, 'keys')[0].size for part in range(sketches.parts)
    )
    count = runner.slices(size)
    for i in range(count):
      into = os.path.join(folder, f'{i:05d}-of-{count}')
      if pipelines.is_done(into):
        continue

      def build(pipeline, i=i, into=into):
        parts = pipelines.numbers(pipeline, range(sketches.parts))
        keyed = parts | beam.FlatMap(_keys_of_part, sketches, i, count)
        repeats = keyed | beam.GroupByKey() | beam.FlatMap(_repeats, self.times)
        _ = repeats | 'by part' >> beam.GroupByKey() | beam.Map(_save, into)

      runner.run(build)
      pipelines.mark_done(into)

  def decide(self, folder: str, part: int):
    return Removals(folder, part)


class Removals:
  """Removes the repeated paragraphs of the documents of a part."""

  def __init__(self, folder: str, part: int):
    self._places: dict[int, set[int]] = {}
    for slice_folder in _finished(folder):
      path = sketches.path(os.path.join(folder, slice_folder), part)
      if files.is_file(path):
        rows, places = Sketches([path], 1).load(0, 'row', 'places')
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
          self._places.setdefault(row, set()).add(place)

  def __call__(self, row: int, document: Document) -> Outcome:
    if row not in self._places:
      return document
    lines = list(_lines(document.text))
    edits = [
      Edit(KIND, lines[place].start(), lines[place].group(), '')
      for place in sorted(self._places[row])
    ]
    after = edited(document, edits)
    if not after.text.strip():
      return Dropped(NOTHING_LEFT)
    return after


def _finished(folder: str) -> list[str]:
  """Returns the slices of the attempt that is complete.

  There may be some of an earlier attempt with another number of slices.
  """
  names = [
    name
    for name in files.names(folder)
    if pipelines.is_done(os.path.join(folder, name))
  ]
  counts = {name.rpartition('-')[2] for name in names}
  complete = [
    count
    for count in sorted(counts)
    if sum(name.endswith(f'-of-{count}') for name in names) == int(count)
  ]
  return [name for name in names if name.endswith(f'-of-{complete[0]}')]


def _lines(text: str) -> Iterator[re.Match]:
  return _LINE.finditer(text)


def _hash(text: str) -> int:
  data = text.encode(errors='surrogatepass')
  digest = hashlib.blake2b(data, digest_size=8).digest()
  return int.from_bytes(digest, 'little') >> 1


def _keys_of_part(
  part: int, sketches_: Sketches, slice_: int, slices: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (bucket, [key, number, place] rows) of the keys of a slice."""
  keys, rows, places = sketches_.load(part, 'keys', 'row', 'places')
  mine = keys % slices == slice_
  columns = [keys[mine], sketches.numbers(part, rows[mine]), places[mine]]
  buckets = (columns[0] >> 32) % BUCKETS
  yield from pipelines.split_by(buckets, np.stack(columns, axis=1))


def _repeats(
  group: tuple[int, Iterable[np.ndarray]], times: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (part, [row, place] rows) of all but the first of each key."""
  rows = np.concatenate([*group[1]])
  rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
  is_first = np.diff(rows[:, 0], prepend=-1) != 0
  key = np.cumsum(is_first) - 1
  is_common = np.bincount(key)[key] >= times
  repeated = rows[~is_first & is_common]
  parts = sketches.part_of(repeated[:, 1])
  places = np.stack([sketches.row_of(repeated[:, 1]), repeated[:, 2]], axis=1)
  yield from pipelines.split_by(parts, places)


def _save(group: tuple[int, Iterable[np.ndarray]], folder: str):
  part, arrays = group
  rows = np.concatenate([*arrays])
  rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
  columns = {'row': rows[:, 0], 'places': rows[:, 1]}
  sketches.save(sketches.path(folder, part), columns)
