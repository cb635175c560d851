"""MinHash signatures, by which near duplicates find each other.

A text is seen as the set of its shingles: runs of a few words or characters.
The similarity of two texts is the Jaccard index of their sets. If a share c of
the words was changed at random, shingles of three words survive with the
probability s = (1 - c)^3, and the similarity is s / (2 - s):

  changed words      2%    5%   10%   15%   20%   25%
  similarity        0.89  0.75  0.57  0.44  0.34  0.27

Of each set we keep the minimum of many hash functions. The share of equal
minima estimates the similarity. Three minima together are a key. Texts that
share at least one of `BANDS` keys are compared (locality-sensitive hashing), so
a pair of similarity J is found with the probability 1 - (1 - J^3)^42: 1.00 for
J = 0.5, 0.97 for 0.44, 0.82 for 0.34, and 4e-7 for unrelated texts with
J = 0.002.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlpt_jax.core.checks import Count, Natural
from rlpt_jax.data.segment import WORD

MINIMA, ROWS = 128, 3
BANDS = MINIMA // ROWS
# Two different minima agree in their last byte with this probability.
CHANCE = 1 / 256
_SEED = 7  # Any number; signatures with different seeds cannot be compared.
_WORD = re.compile(WORD)
_MOST_WORDS = 1 << 20

# Texts -> the hashes of all their shingles, and where those of each text begin.
Shingles = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def words(
  texts: Sequence[str], *, size: Count = 3, whole_below: Natural = 20
) -> tuple[np.ndarray, np.ndarray]:
  """Makes shingles of consecutive words, without case and punctuation.

  whole_below: a text of fewer words is one shingle, so it is similar only to
    itself. Titles and short answers often differ in one word.
  """
  memory = _hashes()
  if len(memory) > _MOST_WORDS:
    memory.clear()
  units = [
    [memory[word] for word in _WORD.findall(text.lower())] for text in texts
  ]
  return _runs(units, size, whole_below)


def characters(
  texts: Sequence[str], *, size: Count = 9, whole_below: Natural = 100
) -> tuple[np.ndarray, np.ndarray]:
  """Makes shingles of consecutive characters, white space counting as one.

  whole_below: a text of fewer characters is one shingle.
  """
  units = [
    np.array([' '.join(text.lower().split())]).view(np.uint32).astype(np.uint64)
    for text in texts
  ]
  return _runs(units, size, whole_below)


def minima(texts: Sequence[str], shingles: Shingles = words) -> np.ndarray:
  """Returns the minima of each text, [texts, MINIMA] of uint32."""
  import rensa

  if not texts:
    return np.zeros((0, MINIMA), np.uint32)
  hashes, offsets = shingles(texts)
  matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
    hashes, offsets, num_perm=MINIMA, seed=_SEED
  )
  return np.array(matrix.to_rows(), np.uint32)


def keys(minima: np.ndarray) -> np.ndarray:
  """Returns the keys of each text, [texts, BANDS] of uint64."""
  rows = minima[:, : BANDS * ROWS].astype(np.uint64)
  keys = _mixed(rows.reshape(len(minima), BANDS, ROWS))
  # The band is part of the key, since equal minima of two bands say nothing.
  return _mix(keys + np.arange(BANDS, dtype=np.uint64))


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Estimates the similarity of pairs, from the last bytes of their minima."""
  equal = np.mean(one == other, axis=-1)
  return np.clip((equal - CHANCE) / (1 - CHANCE), 0, 1)


def text_hash(text: str) -> int:
  """Returns 63 bits of a hash of a text, which ignores kinds of white space."""
  data = ' '.join(text.split()).encode(errors='surrogatepass')
  digest = hashlib.blake2b(data, digest_size=8).digest()
  return int.from_bytes(digest, 'little') >> 1


def _runs(
  units: list, size: int, whole_below: int
) -> tuple[np.ndarray, np.ndarray]:
  """Hashes each run of `size` units of each list; a short list is one run."""
  for i, unit in enumerate(units):
    if len(unit) < max(size, whole_below):
      whole = _mixed(np.array([unit], np.uint64))[0] if len(unit) else 0
      units[i] = [whole, *[0] * (size - 1)]
  lengths = np.array([len(unit) for unit in units])
  flat = np.fromiter(
    itertools.chain.from_iterable(units), np.uint64, lengths.sum()
  )
  windows = np.lib.stride_tricks.sliding_window_view(flat, size)
  ends = np.cumsum(lengths)
  # Runs must not cross from one list into the next.
  inside = np.ones(len(flat), bool)
  for back in range(1, size):
    inside[ends - back] = False
  hashes = _mixed(windows)[inside[: len(windows)]]
  offsets = np.concatenate([[0], np.cumsum(lengths - size + 1)])
  return hashes, offsets.astype(np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
  """Hashes the last axis."""
  total = np.zeros(values.shape[:-1], np.uint64)
  for i in range(values.shape[-1]):
    total = _mix(total + values[..., i])
  return total


def _mix(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer, after its constant has been added."""
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class _Hashes(dict):
  """The hashes of words, each computed once."""

  def __missing__(self, word: str) -> int:
    data = word.encode(errors='surrogatepass')
    digest = hashlib.blake2b(data, digest_size=8).digest()
    self[word] = value = int.from_bytes(digest, 'little')
    return value


@functools.cache
def _hashes() -> _Hashes:
  return _Hashes()
