"""The host's record of blocks: which rows have which blocks of the pool.

The pool is split into as many equal shards as the batch; a row takes blocks of
its own shard only. The free block with the lowest index is taken first, so that
all hosts of a pod take the same.
"""

import heapq

import numpy as np


class Blocks:
  """Gives blocks to rows as they grow, and takes them back when they leave."""

  def __init__(
    self, rows: int, columns: int, count: int, *, size: int, shards: int
  ):
    """count: blocks in the pool; size: positions in a block.

    columns: the most blocks that a row can have.
    """
    self.size, self.shards = size, shards
    self.columns, self.total = columns, count
    self._rows_per_shard, self._per_shard = rows // shards, count // shards
    # An unused entry is the index of some block of the row's shard.
    self._first_B = np.arange(rows) // self._rows_per_shard * self._per_shard
    self._table_BM = np.empty((rows, columns), np.int32)
    self._table_BM[:] = self._first_B[:, None]
    self._count_B = np.zeros(rows, np.int32)
    self._most_B = np.zeros(rows, np.int32)
    # Heaps of free blocks, by shard; sorted lists are heaps.
    self._free = [
      list(range(first, first + self._per_shard))
      for first in range(0, count, self._per_shard)
    ]
    # Blocks that the rows of a shard may still ask for.
    self._wanted = [0] * shards

  def table(self) -> np.ndarray:
    """[rows, columns]: a copy of the table, for the devices."""
    return self._table_BM.copy()

  def shard(self, row: int) -> int:
    return row // self._rows_per_shard

  def free(self, row: int) -> int:
    """The number of free blocks that the row can take."""
    return len(self._free[self.shard(row)])

  def count(self, positions: int) -> int:
    """The number of blocks that hold this many positions."""
    return -(-positions // self.size)

  def missing(self, positions_B) -> np.ndarray:
    """The number of blocks that each row lacks for this many positions."""
    return np.maximum(0, -(-positions_B // self.size) - self._count_B)

  def admits(self, row: int, positions: int) -> bool:
    """Returns True if a text that needs `positions` soon may enter the row.

    A tenth of the shard's blocks stay free for the rows that are running there,
    or as many as these can still need. With less, rows that have just entered
    would have to leave again at once; with more, fewer rows would run.
    """
    shard = self.shard(row)
    reserve = min(self._per_shard // 10, self._wanted[shard])
    return self.count(positions) + reserve <= self.free(row)

  def enter(self, row: int, most: int):
    """A text enters the row, which will need at most this many positions."""
    self._most_B[row] = self.count(most)
    self._wanted[self.shard(row)] += int(self._most_B[row])

  def grow(self, row: int):
    """Gives the row one more block, which must be free."""
    shard = self.shard(row)
    block = heapq.heappop(self._free[shard])
    self._table_BM[row, self._count_B[row]] = block
    self._count_B[row] += 1
    self._wanted[shard] -= 1

  def leave(self, row: int):
    """Takes back all blocks of the row."""
    shard, count = self.shard(row), self._count_B[row]
    for block in self._table_BM[row, :count].tolist():
      heapq.heappush(self._free[shard], block)
    self._wanted[shard] -= int(self._most_B[row] - count)
    self._table_BM[row] = self._first_B[row]
    self._count_B[row] = self._most_B[row] = 0
