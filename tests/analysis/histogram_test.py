import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpt_jax.analysis.histogram import Histogram

# Small ones, and some of every size.
LENGTHS = st.lists(
  st.integers(0, 40).flatmap(lambda bits: st.integers(0, 1 << bits))
)


def histogram(values) -> Histogram:
  made = Histogram()
  made.add(values)
  return made


@given(LENGTHS.filter(bool), st.floats(0, 1))
def test_quantiles_are_numpys_within_a_bin(values, q):
  exact = int(np.quantile(values, q, method='inverted_cdf'))
  found = histogram(values).quantile(q)
  assert abs(found - exact) <= exact / 128
  if exact < 256:
    assert found == exact


@given(LENGTHS)
def test_counts_and_sums_are_exact(values):
  h = histogram(values)
  assert (h.count, h.total) == (len(values), sum(values))
  assert h.smallest == min(values, default=None)
  assert h.largest == max(values, default=None)


@given(LENGTHS)
def test_bins_are_numpys(values):
  counts, edges = histogram(values).bins()
  assert (np.diff(edges) > 0).all()
  # The last edge of numpy's belongs to its last bin; ours to none.
  if values:
    expected, _ = np.histogram(values, edges)
    np.testing.assert_array_equal(counts, expected)
  assert counts.sum() == len(values)


@given(st.lists(LENGTHS))
def test_merged_is_all_at_once(parts):
  merged = Histogram.merge(map(histogram, parts))
  at_once = histogram([value for part in parts for value in part])
  assert merged.to_json() == at_once.to_json()


@given(LENGTHS, LENGTHS)
def test_json_round_trip(values, more):
  restored = Histogram.from_json(
    json.loads(json.dumps(histogram(values).to_json()))
  )
  assert restored.to_json() == histogram(values).to_json()
  restored.add(more)
  assert restored.to_json() == histogram(values + more).to_json()


def test_json_says_where_bins_start():
  # 300 shares its bin with 301: from 256 they are two wide.
  assert histogram([3, 3, 300, 301]).to_json() == {
    'starts': [3, 300],
    'counts': [2, 2],
    'total': 607,
    'smallest': 3,
    'largest': 301,
  }


def test_add_takes_any_integers():
  h = Histogram()
  for values in (
    [1, 2],
    (3,),
    range(4, 6),
    iter([6]),
    np.array([7], np.uint8),
    [],
  ):
    h.add(values)
  assert (h.count, h.total) == (7, 28)


@pytest.mark.parametrize('values', [[-1], [1.5], [1 << 41]])
def test_other_values_are_refused(values):
  with pytest.raises(ValueError, match='expected whole numbers from 0'):
    histogram(values)


def test_quantile_needs_lengths_and_a_share():
  with pytest.raises(ValueError, match='of 0 lengths'):
    Histogram().quantile(0.5)
  with pytest.raises(ValueError, match=r'quantile 95 '):
    histogram([1]).quantile(95)


def test_quantile_of_a_round_share():
  # In floating point 0.07 * 100 is a little more than 7.
  assert histogram(range(1, 101)).quantile(0.07) == 7
