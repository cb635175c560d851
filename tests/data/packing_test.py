"""Packed rows hold every text once, in order, with little room left."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from rlpt_jax.data import packing


@hypothesis.given(st.lists(st.integers(1, 16), max_size=60))
def test_every_text_is_in_one_row_that_it_fits(lengths):
  rows = packing.pack(lengths, 16)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  assert all(sum(lengths[i] for i in row) <= 16 for row in rows)
  assert all(row == sorted(row) for row in rows)
  assert rows == sorted(rows)


def test_rows_are_nearly_full():
  rng = np.random.default_rng(0)
  lengths = np.minimum(rng.geometric(1 / 200, 1024), 1024).tolist()
  rows = packing.pack(lengths, 1024)
  assert sum(lengths) / (len(rows) * 1024) > 0.98


def test_best_fit_by_hand():
  # 9 and 6 leave 1 and 4; 4 fills the second row, 3 needs a third.
  assert packing.pack([3, 9, 4, 6], 10) == [[0], [1], [2, 3]]


def test_rows_of_arrays():
  texts = [
    [(np.array([1, 2, 3]), np.ones(3)), (np.array([4, 5]), np.ones(2))],
    [(np.array([6, 7]), np.array([0, 1]))],
  ]
  rows = packing.rows(texts, 6, pad_id=9)
  assert rows.tokens_BT.tolist() == [[1, 2, 3, 4, 5, 9], [6, 7, 9, 9, 9, 9]]
  assert rows.segments_BT.tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]
  # The first token of a text follows from nothing.
  assert rows.loss_BT.tolist() == [[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
