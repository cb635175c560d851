"""Drops documents that contain questions of benchmarks.

A document is dropped if it shares `n` words in a row (13 by default, as in
GPT-3, 2005.14165, appendix C) with a question. The benchmarks are those of
`rlpt evaluate`, read as it reads them; only their own words count, not the
prompt that asks them. A question of fewer than n words is looked for as a
whole, if it has at least `min_words`. If it has fewer and is followed by
options, it is looked for together with them, in their order, with and without
their letters. Otherwise it is too short: almost any text would contain it.

Words are runs of letters and digits. Case, punctuation, white space, the
Unicode form (NFKC), apostrophes and the commas of 10,000 make no difference.
A word or a number that differs does, and so does another notation of a
formula: '\\frac{1}{2}' is not '1/2'.

These n-grams are no evidence, because texts share them by chance:

  those of more than `max_questions` different questions, such as 'where m and
    n are relatively prime positive integers'. This includes a passage with
    many questions about it
  those with fewer than 4 different words of at least two letters, such as a
    list of numbers
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count
from rlpt_jax.corpus.documents import Document, Dropped, Outcome
from rlpt_jax.data import benchmarks
from rlpt_jax.data.benchmarks import Loaded, Problem

LEAST_DIFFERENT = 4
CHUNK = 2**16  # N-grams that are compared word by word at the same time.
UNKNOWN = 0  # The id of all words that are in no benchmark.
FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)

_JOINED = re.compile(
  # Between letters: an apostrophe. Between digits: a comma before thousands.
  # Anywhere: soft hyphens, joiners and other characters without a width. Each
  # begins with the character itself, which is much faster to look for.
  r"['’ʼ`´](?<=[^\W\d_].)(?=[^\W\d_])|,(?<=\d.)(?=\d{3}(?!\d))|"
  r'[\u00ad\u200b-\u200d\u2060\ufeff]'
)
_WORD = re.compile(r'[^\W_]+')


class Decontaminate:
  """A stage that drops documents with questions of benchmarks.

  The reason is the name of the benchmark; the detail has the question's number
  and the words that match. If several questions match, the first in the text
  is named.

  data: the folder of benchmarks, as in `rlpt evaluate`.
  benchmarks: NAME or NAME=PLACE, as in `rlpt evaluate`; a missing one is an
    error. By default, all whose files are in `data`; see `found`.
  n: the number of words in a row that must be equal.
  min_words: shorter questions are not looked for.
  max_questions: n-grams of more questions than this are no evidence.
  """

  def __init__(
    self,
    *,
    data: str | pathlib.Path | None = None,
    benchmarks: Sequence[str] | None = None,
    n: Count = 13,
    min_words: Count = 8,
    max_questions: Count = 2,
  ):
    checks.check_arguments(type(self), locals())
    if min_words > n:
      raise checks.setting_error(
        type(self), 'min_words', min_words, f'at most n={n}'
      )
    self.data = None if data is None else pathlib.Path(data)
    self.benchmarks = None if benchmarks is None else tuple(benchmarks)
    self.sizes = Sizes(n, min_words, max_questions)

  @property
  def table(self) -> 'Table':
    """The n-grams to look for. Each process reads the benchmarks once."""
    return _table(self.data, self.benchmarks, self.sizes)

  def settings(self) -> dict[str, Any]:
    """Returns the settings that outcomes depend on: see core/settings.py."""
    return {
      **self.sizes._asdict(),
      'benchmarks': {part.name: part.digest for part in self.table.parts},
    }

  def found(self) -> list[str]:
    """Returns a line about each benchmark: its place, and what is left out."""
    return [
      f'{part.name}: {part.questions:,} questions of {part.place}, '
      f'{part.missed:,} of them without enough words to look for'
      for part in self.table.parts
    ]

  def __call__(self, document: Document) -> Outcome:
    match = self.table.find(words(document.text))
    if match is None:
      return document
    name, _, _ = match.question.rpartition('/')
    return Dropped(name, f'{match.question}: {match.words}')


class Sizes(NamedTuple):
  n: int
  min_words: int
  max_questions: int


class Match(NamedTuple):
  question: str  # Its id, such as 'gsm8k/17'.
  words: str


class Part(NamedTuple):
  """A benchmark in the table."""

  name: str
  place: str
  questions: int
  missed: int  # Questions that no document can match.
  digest: str  # The number of questions and a hash of their words.


@dataclasses.dataclass(frozen=True)
class Table:
  """The n-grams of benchmarks.

  It takes about 100 bytes per different word, 4 per word and 12 per n-gram:
  some 15 MB for the 14,042 questions of MMLU.

  known: the ids of all words of benchmarks.
  ids: the words of all texts, one after another.
  starts: where in `ids` each text begins; sorted.
  questions: the id of the question that each text belongs to.
  hashes: the sorted hashes of n-grams, by their size.
  places: where in `ids` the n-gram of each hash begins, by size.
  """

  parts: tuple[Part, ...]
  known: dict[str, int]
  ids: np.ndarray
  starts: np.ndarray
  questions: tuple[str, ...]
  hashes: dict[int, np.ndarray]
  places: dict[int, np.ndarray]

  def find(self, text: Sequence[str]) -> Match | None:
    """Returns the first n-gram of a text, given as words, that is known."""
    ids = np.array([self.known.get(w, UNKNOWN) for w in text], np.uint32)
    found = []
    for size, hashes in hashed(ids, self.hashes):
      rows = np.searchsorted(self.hashes[size], hashes)
      rows = np.minimum(rows, len(self.hashes[size]) - 1)
      for i in np.flatnonzero(self.hashes[size][rows] == hashes):
        place = self.places[size][rows[i]]
        # Different n-grams may have the same hash.
        if (ids[i : i + size] == self.ids[place : place + size]).all():
          found.append((i, size, place))
          break
    if not found:
      return None
    i, size, place = min(found)
    t = np.searchsorted(self.starts, place, side='right') - 1
    return Match(self.questions[t], ' '.join(text[i : i + size]))


def words(text: str) -> list[str]:
  """Returns the words of a text, in the form in which they are compared."""
  text = unicodedata.normalize('NFKC', text).casefold()
  return _WORD.findall(_JOINED.sub('', text))


def hashed(
  ids: np.ndarray, sizes: Iterable[int]
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (size, the hash of ids[i:i + size] for every i) for each size."""
  values = ids.astype(np.uint64) * FACTORS[0]
  values ^= values >> np.uint64(29)
  hashes = np.zeros_like(values)
  sizes = set(sizes)
  for size in range(1, min(max(sizes, default=0), len(ids)) + 1):
    last = len(ids) - size + 1
    hashes = hashes[:last] * FACTORS[1] + values[size - 1 :]
    if size in sizes:
      yield size, hashes


class _Text(NamedTuple):
  question: str
  words: list[str]
  # Texts of equal content count as one question. Options are part of it: there
  # are many questions 'Which of the following is true?'
  content: str


def _texts(
  problem: Problem, has_options: bool, sizes: Sizes
) -> Iterator[_Text]:
  options = problem.references[1:] if has_options else ()
  for text in problem.texts:
    plain = words(text)
    content = json.dumps([plain, options])
    yield _Text(problem.id, plain, content)
    if options and len(plain) < sizes.min_words:
      named = zip(string.ascii_uppercase, options, strict=False)
      lettered = ' '.join(f'{letter} {option}' for letter, option in named)
      for listed in (' '.join(options), lettered):
        yield _Text(problem.id, plain + words(listed), content)


@functools.cache
def _table(
  folder: pathlib.Path | None, names: tuple[str, ...] | None, sizes: Sizes
) -> Table:
  loaded = _load(folder, names)
  by_part = [
    [text for p in one.problems for text in _texts(p, _has_options(one), sizes)]
    for one in loaded
  ]
  texts = [text for part in by_part for text in part]
  known, contents = {}, {}
  for text in texts:
    contents.setdefault(text.content, len(contents))
    for word in text.words:
      known.setdefault(word, len(known) + 1)
  ids = np.array([known[w] for text in texts for w in text.words], np.uint32)
  lengths = np.array([len(text.words) for text in texts])
  starts = np.cumsum(lengths) - lengths
  content_of = np.array([contents[text.content] for text in texts])
  is_lettered = [False, *(len(w) > 1 and w.isalpha() for w in known)]
  lettered = np.where(np.array(is_lettered)[ids], ids, UNKNOWN)

  table_hashes, table_places, usable = {}, {}, set()
  for size, hashes in hashed(ids, range(sizes.min_words, sizes.n + 1)):
    text_of, places = _places(starts, lengths, size, is_whole=size < sizes.n)
    is_varied = _different(lettered, places, size) >= LEAST_DIFFERENT
    text_of, places = text_of[is_varied], places[is_varied]
    found = hashes[places]
    kept = _rare(found, content_of[text_of], sizes.max_questions)
    if kept.size:
      table_hashes[size] = found[kept]
      table_places[size] = places[kept].astype(np.uint32)
    is_kept = np.isin(found, found[kept])
    usable |= {texts[t].question for t in np.unique(text_of[is_kept])}
  parts = [
    Part(
      one.benchmark.name, one.place, len(one.problems),
      sum(problem.id not in usable for problem in one.problems),
      _digest(len(one.problems), part),
    )
    for one, part in zip(loaded, by_part, strict=True)
  ]  # fmt: skip
  questions = tuple(text.question for text in texts)
  return Table(
    tuple(parts), known, ids, starts, questions, table_hashes, table_places
  )


def _load(
  folder: pathlib.Path | None, names: tuple[str, ...] | None
) -> list[Loaded]:
  if names is None:
    names = benchmarks.found(folder) if folder else []
    if not names:
      raise ValueError(
        f'contamination.Decontaminate.data={str(folder) if folder else None!r}:'
        ' there are no benchmarks. Expected a folder with files such as '
        f'gsm8k.jsonl, named as one of {", ".join(benchmarks.NAMES)}; or set '
        "Decontaminate.benchmarks, such as ['gsm8k=PATH']."
      )
  loaded = []
  for one in names:
    name, _, place = one.partition('=')
    loaded.append(benchmarks.load(name, folder, place))
  short = [one.benchmark.name for one in loaded]
  if not short or len(set(short)) < len(short):
    raise checks.setting_error(
      Decontaminate, 'benchmarks', names, 'one or more benchmarks, each once'
    )
  return loaded


def _has_options(loaded: Loaded) -> bool:
  return loaded.benchmark.scorer == 'choice'


def _places(
  starts: np.ndarray, lengths: np.ndarray, size: int, *, is_whole: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the text and the place of each n-gram of a size.

  is_whole: only texts of this size have one.
  """
  counts = np.maximum(lengths - size + 1, 0)
  if is_whole:
    counts = (lengths == size).astype(int)
  text_of = np.repeat(np.arange(len(lengths)), counts)
  first = np.repeat(np.cumsum(counts) - counts, counts)
  return text_of, starts[text_of] + np.arange(len(text_of)) - first


def _different(ids: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
  """Returns the number of different known ids in ids[place:place + size]."""
  windows = np.lib.stride_tricks.sliding_window_view(ids, size)
  counts = np.zeros(len(places), np.uint8)
  for start in range(0, len(places), CHUNK):
    some = slice(start, start + CHUNK)
    in_order = np.sort(windows[places[some]], axis=1)
    is_other = in_order[:, 1:] != in_order[:, :-1]
    counts[some] = is_other.sum(axis=1) + (in_order[:, 0] != UNKNOWN)
  return counts


def _rare(hashes: np.ndarray, contents: np.ndarray, most: int) -> np.ndarray:
  """Returns an index of each hash that has at most `most` contents, sorted."""
  order = np.lexsort((contents, hashes))
  hashes, contents = hashes[order], contents[order]
  is_first = np.ones(len(order), bool)
  is_first[1:] = hashes[1:] != hashes[:-1]
  is_new = is_first.copy()
  is_new[1:] |= contents[1:] != contents[:-1]
  counts = np.bincount(np.cumsum(is_first) - 1, is_new)
  return order[is_first][counts <= most]


def _digest(questions: int, texts: Sequence[_Text]) -> str:
  data = json.dumps([(text.words, text.content) for text in texts])
  digest = hashlib.sha256(data.encode('utf-8', 'surrogatepass')).hexdigest()
  return f'{questions}, sha256 {digest[:16]}'
