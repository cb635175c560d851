"""Packs texts of different lengths into rows of equal length."""

from collections.abc import Sequence

import numpy as np

from rlpt_jax.core.types import Rows


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
  """Packs by best fit, longest first; returns the indices of each row's texts.

  Packing longest first must not sort the result by length. So the texts of a
  row keep their order, and rows are ordered by their first text, so that a
  shuffled order stays shuffled.
  """
  rows: list[list[int]] = []
  # with_room[r] lists the rows with r tokens of room left.
  with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]
  for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    length = lengths[i]
    assert 0 < length <= row_tokens, (length, row_tokens)
    room = next(
      (r for r in range(length, row_tokens) if with_room[r]), row_tokens
    )
    if room == row_tokens:
      row = len(rows)
      rows.append([])
    else:
      row = with_room[room].pop()
    rows[row].append(i)
    with_room[room - length].append(row)
  return sorted(sorted(row) for row in rows)


def rows(
  texts: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
  row_tokens: int,
  pad_id: int,
) -> Rows:
  """Builds padded rows from lists of (tokens, loss), one segment per text."""
  shape = len(texts), row_tokens
  tokens_BT = np.full(shape, pad_id, np.int32)
  segments_BT = np.zeros(shape, np.int32)
  loss_BT = np.zeros(shape, np.float32)
  for b, row in enumerate(texts):
    end = 0
    for number, (tokens, loss) in enumerate(row, start=1):
      start, end = end, end + len(tokens)
      tokens_BT[b, start:end] = tokens
      segments_BT[b, start:end] = number
      loss_BT[b, start:end] = loss
      # The first token of a text has no context.
      loss_BT[b, start] = 0
  return Rows(tokens_BT, segments_BT, loss_BT)
