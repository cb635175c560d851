"""Blocks: never two owners, always the lowest, all of them back."""

import random

import numpy as np
import pytest

from rlpt_jax.sampling.blocks import Blocks


@pytest.mark.parametrize('shards', [1, 2])
def test_blocks_have_one_owner_of_their_shard(shards):
  rows, columns, count, size = 6, 4, 16, 8
  blocks = Blocks(rows, columns, count, size=size, shards=shards)
  mine = {row: [] for row in range(rows)}
  most = {}
  rng = random.Random(0)
  for _ in range(2000):
    row = rng.randrange(rows)
    shard = row * shards // rows
    lowest = shard * count // shards
    free = set(range(lowest, lowest + count // shards))
    free -= {block for owned in mine.values() for block in owned}
    assert blocks.free(row) == len(free)
    if row not in most:
      most[row] = rng.randint(1, columns * size)
      blocks.enter(row, most[row])
    elif rng.random() < 0.2:
      blocks.leave(row)
      del most[row]
      mine[row] = []
    elif free and len(mine[row]) * size < most[row]:
      blocks.grow(row)
      mine[row].append(min(free))
    table_BM = blocks.table()
    for row, owned in mine.items():
      assert table_BM[row, : len(owned)].tolist() == owned
      # The rest is valid, and of the same shard.
      assert (table_BM[row] * shards // count == row * shards // rows).all()


def test_a_row_lacks_what_it_does_not_have():
  blocks = Blocks(2, 4, 8, size=8, shards=1)
  blocks.enter(1, 32)
  blocks.grow(1)
  assert blocks.missing(np.array([0, 8])).tolist() == [0, 0]
  assert blocks.missing(np.array([1, 9])).tolist() == [1, 1]
  table = blocks.table()
  blocks.grow(1)
  assert table[1].tolist() == [0, 0, 0, 0]  # It was a copy.
  assert blocks.table()[1].tolist() == [0, 1, 0, 0]


def test_a_tenth_is_kept_for_those_who_run():
  blocks = Blocks(4, 20, 40, size=8, shards=1)
  # Nobody runs: all 40 blocks may be promised.
  assert blocks.admits(0, 320) and not blocks.admits(0, 321)
  blocks.enter(0, 160)
  blocks.grow(0)
  # It may need 19 more, of which 4, a tenth of the pool, stay free.
  assert blocks.admits(1, 35 * 8) and not blocks.admits(1, 36 * 8)
  for _ in range(17):
    blocks.grow(0)
  # It may need 2 more, and no more stay free.
  assert blocks.admits(1, 20 * 8) and not blocks.admits(1, 21 * 8)
  blocks.leave(0)
  assert blocks.admits(0, 320)


def test_a_pool_for_all_admits_whoever_has_a_row():
  rows, columns = 5, 7
  blocks = Blocks(rows, columns, rows * columns, size=8, shards=1)
  for row in range(rows):
    assert blocks.admits(row, 1)
    blocks.enter(row, columns * 8)
    for _ in range(columns):
      blocks.grow(row)
  assert blocks.free(0) == 0
