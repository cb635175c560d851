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
import sys
from collections.abc import Callable, Sequence

import numpy as np

from rlpt_jax.core.checks import Count, Natural

MINIMA, ROWS = 128, 3
BANDS = MINIMA // ROWS
# Two different minima agree in their last byte with this probability.
CHANCE = 1 / 256
_SEED = 7  # Any number; signatures with different seeds cannot be compared.
_LETTER, _IDEOGRAPH = 1, 2
_IDEOGRAPHS = (
  ('\u3040', '\u30ff'),
  ('\u3400', '\u4dbf'),
  ('\u4e00', '\u9fff'),
  ('\uf900', '\ufaff'),
  ('\U00020000', '\U0003ffff'),
)

# Texts -> the hashes of all their shingles, and where those of each text begin.
Shingles = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def words(
  texts: Sequence[str], *, size: Count = 3, whole_below: Natural = 20
) -> tuple[np.ndarray, np.ndarray]:
  """Makes shingles of consecutive words, without case and punctuation.

  A word is a run of letters and digits, or one ideograph.

  whole_below: a text of fewer words is one shingle, with its signs, so it is
    similar only to itself. Titles and short questions often differ in one word
    or one sign.
  """
  lowered = [text.lower() for text in texts]
  codes = _codes('\n'.join(lowered))
  kinds = _kinds()[codes]
  before = np.concatenate([[0], kinds[:-1]])
  # An ideograph is a word by itself, whatever stands beside it.
  starts = np.flatnonzero(
    (kinds > 0) & ((before != _LETTER) | (kinds != _LETTER))
  )
  inside = np.flatnonzero(kinds > 0)
  first = np.searchsorted(inside, starts)
  lengths = np.diff(first, append=len(inside))
  hashes = _hashed(codes[inside].astype(np.uint64), first, lengths)
  ends = np.cumsum([len(text) + 1 for text in lowered], dtype=np.int64)
  counts = np.diff(np.searchsorted(starts, ends), prepend=0)
  return _runs(hashes, counts, size, whole_below, lowered)


def characters(
  texts: Sequence[str], *, size: Count = 9, whole_below: Natural = 100
) -> tuple[np.ndarray, np.ndarray]:
  """Makes shingles of consecutive characters, white space counting as one.

  whole_below: a text of fewer characters is one shingle.
  """
  plain = [' '.join(text.lower().split()) for text in texts]
  codes = _codes(''.join(plain)).astype(np.uint64)
  lengths = np.array([*map(len, plain)], int)
  return _runs(codes, lengths, size, whole_below, plain)


def minima(texts: Sequence[str], shingles: Shingles = words) -> np.ndarray:
  """Returns the minima of each text, [texts, MINIMA] of uint32."""
  try:
    import rensa
  except ImportError as error:
    raise ValueError(
      "near duplicates need rensa: pip install 'rlpt_jax[corpus]'."
    ) from error
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
  units: np.ndarray,
  lengths: np.ndarray,
  size: int,
  whole_below: int,
  texts: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
  """Hashes each run of `size` units of each text, and each short text whole.

  units: of all texts. lengths: the number of units of each text.
  """
  is_short = lengths < max(size, whole_below)
  counts = np.where(is_short, 1, lengths - size + 1)
  offsets = np.concatenate([[0], np.cumsum(counts)])
  firsts = np.cumsum(lengths) - lengths
  hashes = np.zeros(offsets[-1], np.uint64)
  whole = np.zeros(offsets[-1], bool)
  whole[offsets[:-1][is_short]] = True
  for i in np.flatnonzero(is_short):
    hashes[offsets[i]] = text_hash(texts[i])
  # Runs must not cross from one text into the next.
  place = np.arange(len(units)) - np.repeat(firsts, lengths)
  is_start = place <= np.repeat(lengths, lengths) - size
  is_start &= ~np.repeat(is_short, lengths)
  if len(units) >= size:
    windows = np.lib.stride_tricks.sliding_window_view(units, size)
    hashes[~whole] = _mixed(windows[is_start[: len(windows)]])
  return hashes, offsets.astype(np.uint64)


def _hashed(
  units: np.ndarray, firsts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Hashes consecutive sequences of units, which begin at `firsts`."""
  place = np.arange(len(units)) - np.repeat(firsts, lengths)
  # In very long sequences the factors repeat.
  values = _mix(units) * _factors()[place % len(_factors())]
  sums = np.cumsum(np.concatenate([[0], values]), dtype=np.uint64)
  return _mix(sums[firsts + lengths] - sums[firsts])


def _codes(text: str) -> np.ndarray:
  data = text.encode('utf-32-le', errors='surrogatepass')
  return np.frombuffer(data, np.uint32)


@functools.cache
def _kinds() -> np.ndarray:
  """Returns what each character is: 0, _LETTER or _IDEOGRAPH."""
  characters = map(chr, range(sys.maxunicode + 1))
  kinds = np.array([one.isalnum() for one in characters], np.uint8)
  for first, last in _IDEOGRAPHS:
    kinds[ord(first) : ord(last) + 1] = _IDEOGRAPH
  return kinds


@functools.cache
def _factors() -> np.ndarray:
  return _mix(np.arange(1, 4097, dtype=np.uint64)) | np.uint64(1)


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
