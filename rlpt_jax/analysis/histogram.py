"""A histogram of lengths; those that several workers fill can be merged.

Each length below 256 has its own bin. From 256 on, there are 128 bins per
doubling of the length, so no bin is wider than 1/128 of its smallest length.
"""

from collections.abc import Iterable

import numpy as np

_BITS = 7  # 2^7 bins per doubling.
_LARGEST = 1 << 40
_NUM_BINS = (40 - _BITS + 1 << _BITS) + 1


class Histogram:
  """Counts of lengths; from 256 on, several lengths share a bin."""

  def __init__(self):
    self._counts = np.zeros(_NUM_BINS, np.int64)
    self.total = 0  # The sum of all lengths.
    self.smallest: int | None = None
    self.largest: int | None = None

  @property
  def count(self) -> int:
    """The number of lengths that were added."""
    return int(self._counts.sum())

  def add(self, values: Iterable[int], *, times: Iterable[int] | None = None):
    """Adds lengths, each once or the given number of times."""
    if not isinstance(values, np.ndarray):
      values = np.array(list(values))
    if not values.size:
      return
    smallest, largest = values.min(), values.max()
    if values.dtype.kind not in 'iu' or smallest < 0 or largest > _LARGEST:
      raise ValueError(
        f'a histogram of lengths got {values.dtype} values from {smallest} to '
        f'{largest}; expected whole numbers from 0 to {_LARGEST:,}.'
      )
    values = values.astype(np.int64)
    times = np.ones_like(values) if times is None else np.array(list(times))
    np.add.at(self._counts, _bins(values), times)
    self.total += int((values * times).sum())
    self._widen(int(smallest), int(largest))

  def _widen(self, smallest: int, largest: int):
    if self.smallest is None:
      self.smallest, self.largest = smallest, largest
    self.smallest = min(self.smallest, smallest)
    self.largest = max(self.largest, largest)

  @classmethod
  def merge(cls, histograms: Iterable['Histogram']) -> 'Histogram':
    """Returns the sum of several histograms."""
    merged = cls()
    for each in histograms:
      merged._counts += each._counts
      merged.total += each.total
      if each.count:
        merged._widen(each.smallest, each.largest)
    return merged

  def to_json(self) -> dict:
    """Returns fields from which `from_json` restores this histogram."""
    bins = np.flatnonzero(self._counts)
    return {
      'starts': _starts(bins).tolist(),
      'counts': self._counts[bins].tolist(),
      'total': self.total,
      'smallest': self.smallest,
      'largest': self.largest,
    }

  @classmethod
  def from_json(cls, fields: dict) -> 'Histogram':
    """Restores a histogram from the fields of `to_json`."""
    histogram = cls()
    starts = np.array(fields['starts'], np.int64)
    histogram._counts[_bins(starts)] = fields['counts']
    histogram.total = fields['total']
    histogram.smallest = fields['smallest']
    histogram.largest = fields['largest']
    return histogram

  def bins(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (counts, edges) without the empty bins at both ends.

    Bin i counts lengths with edges[i] <= length < edges[i + 1]. The first edge
    is the smallest length, and the last edge is the largest length plus 1.
    """
    used = np.flatnonzero(self._counts)
    if not used.size:
      return np.zeros(0, np.int64), np.zeros(1, np.int64)
    first, last = used[0], used[-1]
    edges = _starts(np.arange(first, last + 2))
    edges[0], edges[-1] = self.smallest, self.largest + 1
    return self._counts[first : last + 1], edges

  def quantile(self, q: float) -> int:
    """Returns the q-quantile of the lengths, rounded to the middle of its bin.

    The quantile is that of numpy.quantile(..., method='inverted_cdf'): the
    smallest length that is not exceeded by at least a share q of all lengths.
    """
    if not 0 <= q <= 1 or not self.count:
      raise ValueError(
        f'quantile {q} of {self.count} lengths: expected a share from 0 to 1, '
        'and at least one length.'
      )
    counts, edges = self.bins()
    # Slightly less, so that rounding errors do not increase the rank by one.
    rank = max(int(np.ceil(q * self.count * (1 - 1e-12))), 1)
    i = int(np.searchsorted(np.cumsum(counts), rank))
    return (int(edges[i]) + int(edges[i + 1]) - 1) // 2


def _bins(values: np.ndarray) -> np.ndarray:
  """Returns the bin of each length, from its leading bits and its bit count."""
  # frexp is exact, since float64 holds all integers up to 2^53.
  num_bits = np.frexp(values.astype(np.float64))[1]
  shift = np.maximum(num_bits - _BITS - 1, 0)
  return (shift << _BITS) + (values >> shift)


def _starts(bins: np.ndarray) -> np.ndarray:
  """Returns the smallest length of each bin."""
  shift = np.maximum((bins >> _BITS) - 1, 0)
  return (bins - (shift << _BITS)) << shift
