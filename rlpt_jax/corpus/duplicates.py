"""Drops documents that repeat others: exactly, or nearly.

Documents that share a key are candidates: for exact duplicates the key is a
hash of the text, for near ones there are several (see signatures.py).
Candidates are compared, and those similar enough are connected. Of each
connected component one document is kept. So a document may be dropped that is
similar to the kept one only through others.

  sketches    keys, minima, a rank for each document     by the pass before
  candidates  pairs of documents that share a key        grouped by key
  similar     pairs of documents with similar minima     grouped by part, twice
  stars       each document -> the first of its component
  removed     each document that is not kept -> the kept one

Every step is a Beam pipeline, or several where one would need too much memory.
Its files are complete once its folder has a file COMPLETED.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Name, PositiveShare
from rlpt_jax.corpus import components, pipelines, signatures, sketches
from rlpt_jax.corpus.documents import Document, Dropped, Outcome
from rlpt_jax.corpus.pipelines import BUCKETS, Runner
from rlpt_jax.corpus.sketches import Arrays, Sketches
from rlpt_jax.data import files

EXACT = 'the same text as another document'
NEAR = 'nearly the text of another document'
EARLIER_EXACT = 'the same text as a document of an earlier corpus'
EARLIER_NEAR = 'nearly the text of a document of an earlier corpus'
# The steps of components.star_step in a pipeline.
STEPS = 2

# A document -> its rank. The highest of a component is kept, and of equal ranks
# the first in the order of the corpora and their files.
Keep = Callable[[Document], float]


def longest(document: Document) -> float:
  return float(len(document.text))


def first(document: Document) -> float:
  del document
  return 0.0


@dataclasses.dataclass(frozen=True)
class ExactDuplicates:
  """Drops documents with the same text, apart from the kinds of white space.

  earlier: folders of corpora made before, with this stage. A document that one
    of them had is dropped.
  """

  keep: Keep = first
  earlier: Sequence[Name] = ()

  threshold = 1.0

  def __post_init__(self):
    checks.check_fields(self)

  def sketch(self, documents: Sequence[Document]) -> Arrays:
    texts = _text_hashes(documents)
    return {
      'keys': texts.astype(np.uint64)[:, None],
      'minima': np.zeros((len(texts), 0), np.uint8),
      'texts': texts,
      'ranks': np.array([self.keep(one) for one in documents], np.float64),
    }

  def compare(self, sketches: Sketches, folder: str, runner: Runner):
    _compare(sketches, folder, runner, self.threshold)

  def decide(self, folder: str, part: int):
    return Decisions(folder, part)


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
  """Drops documents that share most of their shingles with another one.

  threshold: the least similarity of a duplicate; signatures.py says which
    share of the words may differ. 0.3 finds nearly all copies of which up to
    15% of the words were changed, and two thirds of those with 20%. Raise it
    where texts differ in little on purpose: 0.6 keeps problems that differ only
    in their numbers.
  earlier: folders of corpora made before, with this stage and the same
    shingles. A document that is similar to one of theirs is dropped.
  """

  shingles: signatures.Shingles = signatures.words
  threshold: PositiveShare = 0.3
  keep: Keep = longest
  earlier: Sequence[Name] = ()

  def __post_init__(self):
    checks.check_fields(self)

  def sketch(self, documents: Sequence[Document]) -> Arrays:
    texts = [document.text for document in documents]
    minima = signatures.minima(texts, self.shingles)
    return {
      'keys': signatures.keys(minima),
      'minima': minima.astype(np.uint8),
      'texts': _text_hashes(documents),
      'ranks': np.array([self.keep(one) for one in documents], np.float64),
    }

  def compare(self, sketches: Sketches, folder: str, runner: Runner):
    _compare(sketches, folder, runner, self.threshold)

  def decide(self, folder: str, part: int):
    return Decisions(folder, part)


class Decisions:
  """Decides about the documents of a part."""

  def __init__(self, folder: str, part: int):
    path = sketches.path(os.path.join(folder, 'removed'), part)
    self._removed = {}
    if files.is_file(path):
      rows, kept, exact = Sketches([path], 1).load(0, 'row', 'kept', 'exact')
      columns = rows.tolist(), kept.tolist(), exact.tolist()
      self._removed = {row: why for row, *why in zip(*columns, strict=True)}

  def __call__(self, row: int, document: Document) -> Outcome:
    if row not in self._removed:
      return document
    kept, exact = self._removed[row]
    if kept < 0:
      return Dropped(EARLIER_EXACT if exact else EARLIER_NEAR)
    detail = f'{sketches.part_of(kept)}:{sketches.row_of(kept)}'
    return Dropped(EXACT if exact else NEAR, detail)


def _text_hashes(documents: Sequence[Document]) -> np.ndarray:
  hashes = [signatures.text_hash(document.text) for document in documents]
  return np.array(hashes, np.int64)


def _compare(sketches: Sketches, folder: str, runner: Runner, threshold: float):
  """Writes, for each part, which documents are removed and why."""
  removed = os.path.join(folder, 'removed')
  if not pipelines.is_done(removed):
    candidates = os.path.join(folder, 'candidates')
    similar = os.path.join(folder, 'similar')
    pairs = _write_candidates(sketches, candidates, runner)
    found = _write_similar(sketches, pairs, similar, threshold, runner)
    stars = _write_stars(found, os.path.join(folder, 'stars'), runner)
    _write_removed(sketches, stars, removed, runner)
  for step in ('candidates', 'similar', 'stars'):
    files.remove_folder(os.path.join(folder, step))


def _write_candidates(
  sketches: Sketches, folder: str, runner: Runner
) -> list[str]:
  """Writes pairs that share a key, by the part of the first document."""
  import apache_beam as beam

  size = sum(16 * keys for keys in _num_keys(sketches))
  count = runner.slices(size)
  # The number of slices may change with the options of a restart.
  done = [os.path.join(folder, f'{i:05d}-of-{count}') for i in range(count)]
  for i, slice_folder in enumerate(done):
    if pipelines.is_done(slice_folder):
      continue

    def build(pipeline, i=i, slice_folder=slice_folder):
      parts = pipelines.numbers(pipeline, range(len(sketches.paths)))
      keyed = parts | beam.FlatMap(_keys_of_part, sketches, i, count)
      pairs = keyed | beam.GroupByKey() | beam.FlatMap(_pairs, sketches.parts)
      grouped = pairs | 'by part' >> beam.GroupByKey()
      _ = grouped | beam.Map(_save_pairs, slice_folder)

    runner.run(build)
    pipelines.mark_done(slice_folder)
  return done


def _num_keys(sketches: Sketches) -> list[int]:
  return [sketches.load(i, 'keys')[0].size for i in range(len(sketches.paths))]


def _keys_of_part(
  part: int, sketches_: Sketches, slice_: int, slices: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (bucket, [key, number] rows) of the keys that belong to a slice."""
  (keys,) = sketches_.load(part, 'keys')
  numbers = sketches.numbers(part, np.arange(len(keys)))
  numbers = np.repeat(numbers, keys.shape[1])
  keys = keys.reshape(-1)
  # Keys are hashes, so any of their bits will do.
  mine = keys % np.uint64(slices) == slice_
  keys, numbers = keys[mine], numbers[mine]
  buckets = (keys >> np.uint64(32)) % np.uint64(BUCKETS)
  rows = np.stack([keys.view(np.int64), numbers], axis=1)
  yield from pipelines.split_by(buckets.astype(np.int64), rows)


def _pairs(
  group: tuple[int, Iterable[np.ndarray]], parts: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (part, pairs of documents that share a key).

  A document is paired with the first that has the key and with the one before
  it: not with all, since a key may be common. Most pairs of similar documents
  share several keys, and what one leaves out another finds.
  """
  rows = components.unique(group[1])
  keys, numbers = rows[:, 0], rows[:, 1]
  same = np.flatnonzero(np.diff(keys) == 0) + 1
  is_first = np.concatenate([[True], np.diff(keys) != 0])
  firsts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
  before = np.concatenate([numbers[firsts[same]], numbers[same - 1]])
  pairs = np.stack([before, np.concatenate([numbers[same]] * 2)], axis=1)
  # Two documents of earlier corpora need not be compared.
  pairs = pairs[sketches.part_of(pairs[:, 0]) < parts]
  pairs = components.unique([pairs])
  yield from pipelines.split_by(sketches.part_of(pairs[:, 0]), pairs)


def _save_pairs(group: tuple[int, Iterable[np.ndarray]], folder: str):
  part, pairs = group
  path = os.path.join(folder, f'{part:05d}.npy')
  pipelines.save(path, components.unique(pairs))


def _write_similar(
  sketches: Sketches,
  candidates: Sequence[str],
  folder: str,
  threshold: float,
  runner: Runner,
) -> list[str]:
  """Writes the pairs of candidates that are similar; returns the files."""
  import apache_beam as beam

  by_part: dict[int, list[str]] = {}
  for slice_folder in candidates:
    for name in files.names(slice_folder):
      if name.endswith('.npy'):
        path = os.path.join(slice_folder, name)
        part = int(name.removesuffix('.npy'))
        by_part.setdefault(part, []).append(path)
  parts = sorted(by_part)
  # What is grouped: a pair and the minima of its first document.
  row = 16 + signatures.MINIMA
  sizes = [sum(map(files.size, by_part[p])) * row / 16 for p in parts]
  limit = runner.held_bytes if runner.is_direct else float('inf')
  chunks = pipelines.chunks(sizes, limit)
  found = []
  for i, chosen in enumerate(chunks):
    chunk_folder = os.path.join(folder, f'{i:05d}-of-{len(chunks)}')
    if not pipelines.is_done(chunk_folder):

      def build(pipeline, chosen=chosen, chunk_folder=chunk_folder):
        numbers = pipelines.numbers(pipeline, [parts[j] for j in chosen])
        keyed = numbers | beam.FlatMap(_with_minima, sketches, by_part)
        grouped = keyed | beam.GroupByKey()
        _ = grouped | beam.Map(_save_similar, sketches, threshold, chunk_folder)

      runner.run(build)
      pipelines.mark_done(chunk_folder)
    found += [
      os.path.join(chunk_folder, name)
      for name in files.names(chunk_folder)
      if name.endswith('.npy')
    ]
  return found


def _with_minima(
  part: int, sketches_: Sketches, by_part: dict[int, list[str]]
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
  """Yields (part of the second, (pairs, minima of the first))."""
  pairs = components.unique(map(pipelines.load, by_part[part]))
  (minima,) = sketches_.load(part, 'minima')
  for other, some in pipelines.split_by(sketches.part_of(pairs[:, 1]), pairs):
    yield other, (some, minima[sketches.row_of(some[:, 0])])


def _save_similar(
  group: tuple[int, Iterable[tuple[np.ndarray, np.ndarray]]],
  sketches_: Sketches,
  threshold: float,
  folder: str,
):
  part, groups = group
  (minima,) = sketches_.load(part, 'minima')
  similar = []
  for pairs, of_first in groups:
    of_second = minima[sketches.row_of(pairs[:, 1])]
    # Without minima, equal keys are proof enough.
    if minima.shape[1]:
      close = signatures.similarity(of_first, of_second) >= threshold
      pairs = pairs[close]
    similar.append(pairs)
  pairs = components.unique(similar)
  if len(pairs):
    pipelines.save(os.path.join(folder, f'{part:05d}.npy'), pairs)


def _write_stars(found: list[str], folder: str, runner: Runner) -> list[str]:
  """Writes edges from each vertex to the first of its component.

  Returns the files: one for each bucket of vertices.
  """
  import apache_beam as beam

  step = 0
  while found:
    into = os.path.join(folder, f'{step:05d}')
    if not pipelines.is_done(into):

      def build(pipeline, found=found, into=into):
        paths = pipeline | beam.Create(found) | beam.Reshuffle()
        edges = paths | beam.Map(pipelines.load)
        for i in range(STEPS):
          stars = components.star_step(edges, f'step {i}')
          edges = stars | f'edges {i}' >> beam.Values()
        _ = stars | beam.Map(_save_stars, into)

      runner.run(build)
      pipelines.mark_done(into)
    before = found
    found = [
      os.path.join(into, name)
      for name in files.names(into)
      if name.endswith('.npy')
    ]
    if _are_equal(before, found):
      break
    step += 1
  return found


def _save_stars(group: tuple[int, np.ndarray], folder: str):
  bucket, pairs = group
  pipelines.save(os.path.join(folder, f'{bucket:05d}.npy'), pairs)


def _are_equal(paths: list[str], others: list[str]) -> bool:
  return len(paths) == len(others) and all(
    np.array_equal(pipelines.load(one), pipelines.load(other))
    for one, other in zip(paths, others, strict=True)
  )


def _write_removed(
  sketches: Sketches, stars: list[str], folder: str, runner: Runner
):
  """Writes which documents of each part are removed, and which one is kept."""
  import apache_beam as beam

  def build(pipeline):
    paths = pipeline | beam.Create(stars) | beam.Reshuffle()
    members = paths | beam.FlatMap(_members) | 'by part' >> beam.GroupByKey()
    ranked = members | beam.FlatMap(_ranked, sketches)
    groups = ranked | 'by component' >> beam.GroupByKey()
    removed = groups | beam.FlatMap(_removed, sketches.parts)
    _ = (
      removed
      | 'by part again' >> beam.GroupByKey()
      | beam.Map(_save_removed, folder)
    )

  if stars:
    runner.run(build)
  pipelines.mark_done(folder)


def _members(path: str) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (part, [document, component] rows)."""
  edges = pipelines.load(path)
  # The first document of a component belongs to it, too.
  firsts = np.unique(edges[:, 1])
  rows = np.concatenate([edges, np.stack([firsts, firsts], axis=1)])
  yield from pipelines.split_by(sketches.part_of(rows[:, 0]), rows)


def _ranked(
  group: tuple[int, Iterable[np.ndarray]], sketches_: Sketches
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (bucket, [component, document, rank, hash of the text] rows)."""
  part, arrays = group
  rows = components.unique(arrays)
  texts, ranks = sketches_.load(part, 'texts', 'ranks')
  if part >= sketches_.parts:  # Documents of earlier corpora are kept.
    ranks = np.full_like(ranks, np.inf)
  at = sketches.row_of(rows[:, 0])
  # Ranks travel as integers of the same order.
  columns = [rows[:, 1], rows[:, 0], _ordered(ranks[at]), texts[at]]
  rows = np.stack(columns, axis=1)
  yield from pipelines.split_by(components.bucket_of(rows[:, 0]), rows)


def _ordered(ranks: np.ndarray) -> np.ndarray:
  """Returns integers with the order of the floats, which are not NaN."""
  bits = (ranks + 0.0).view(np.int64)  # -0.0 becomes 0.0.
  return np.where(bits < 0, np.int64(-(2**63)) - bits - 1, bits)


def _removed(
  group: tuple[int, Iterable[np.ndarray]], parts: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (part, [document, kept document or -1, same text?] rows)."""
  rows = np.concatenate([*group[1]])
  component, document, rank = rows[:, 0], rows[:, 1], rows[:, 2]
  # A first document has an edge to itself in each bucket that names it.
  order = np.lexsort((document, ~rank, component))
  rows = rows[order]
  is_new = np.any(np.diff(rows[:, :2], axis=0) != 0, axis=1)
  rows = rows[np.concatenate([[True], is_new])]
  is_best = np.diff(rows[:, 0], prepend=-1) != 0
  best = rows[np.flatnonzero(is_best)[np.cumsum(is_best) - 1]]
  owners = sketches.part_of(rows[:, 1])
  mine = ~is_best & (owners < parts)
  kept = np.where(sketches.part_of(best[:, 1]) < parts, best[:, 1], -1)
  same = (best[:, 3] == rows[:, 3]).astype(np.int64)
  removed = np.stack([rows[:, 1], kept, same], axis=1)[mine]
  yield from pipelines.split_by(owners[mine], removed)


def _save_removed(group: tuple[int, Iterable[np.ndarray]], folder: str):
  part, arrays = group
  rows = np.concatenate([*arrays])
  rows = rows[np.argsort(rows[:, 0])]
  columns = {
    'row': sketches.row_of(rows[:, 0]),
    'kept': rows[:, 1],
    'exact': rows[:, 2].astype(bool),
  }
  sketches.save(sketches.path(folder, part), columns)
