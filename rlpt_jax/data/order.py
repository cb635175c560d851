"""The order of examples, and places in it that fit into a line of JSON.

A cursor walks through a sequence that is fixed by its settings: `next` gives an
item, `position` says where it stands, and a cursor made with that position goes
on from there. A position knows nothing of hosts or batches, so a run may be
stopped anywhere and go on with other numbers of both. Cursors stand on cursors:

  Shuffled   the items of a cache, by number; every epoch a new permutation
  Streamed   the items of a source, read as they come
  Blocks     another cursor's items, rearranged some thousands at a time
  Mapped     another cursor's items, each turned into something else
  Mixed      several cursors, by weight
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

Position = dict[str, Any]


class Cursor(Protocol):
  position: Position

  def __next__(self) -> Any: ...


def permute(n: int, size: int, key: str) -> int:
  """Where `key`'s permutation of range(size) puts n, without making the rest.

  A Feistel network of six rounds over the next power of four, walked until it
  comes back below `size`: every key gives another permutation of all of it, and
  nothing is kept in memory, however large the corpus.
  """
  assert 0 <= n < size, (n, size)
  half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
  mask = (1 << half_bits) - 1
  keys = _round_keys(key)
  while True:
    left, right = n >> half_bits, n & mask
    for round_key in keys:
      left, right = right, left ^ (_mix(right + round_key) & mask)
    n = left << half_bits | right
    if n < size:
      return n


def _round_keys(key: str, rounds: int = 6) -> list[int]:
  digest = hashlib.blake2b(key.encode(), digest_size=8 * rounds).digest()
  return [
    int.from_bytes(digest[i : i + 8], 'little') for i in range(0, 8 * rounds, 8)
  ]


def _mix(x: int) -> int:
  """A 64-bit hash of a 64-bit number (the finalizer of splitmix64)."""
  x &= 0xFFFFFFFFFFFFFFFF
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
  return x ^ (x >> 31)


class Shuffled:
  """The numbers 0 .. size - 1, in another order every epoch.

  The order is a permutation of the whole, drawn by seed and epoch. The position
  is a count: any place is as near as the next.
  """

  def __init__(
    self,
    size: int,
    key: str,
    *,
    epochs: int | None = None,
    position: Position | None = None,
  ):
    assert size > 0
    self._size, self._key, self._epochs = size, key, epochs
    self._taken = position['taken'] if position else 0

  @property
  def position(self) -> Position:
    return {'taken': self._taken}

  def __next__(self) -> int:
    epoch, n = divmod(self._taken, self._size)
    if self._epochs is not None and epoch >= self._epochs:
      raise StopIteration
    self._taken += 1
    return permute(n, self._size, f'{self._key}/{epoch}')


class Streamed:
  """The items of a source as they are read: its parts in another order every
  epoch, the documents of a part one after the other.

  `documents(part)` yields a list of items for each document, an empty one where
  there are none. The position counts documents of the part, so going on reads
  that part again from its start, and nothing before it. After every epoch but
  the last comes a None, for `Blocks`. An epoch without any item would be
  repeated for ever: `nothing` makes the error to raise instead.
  """

  def __init__(
    self,
    parts: Sequence[Any],
    documents: Callable[[Any], Iterable[Sequence[Any]]],
    key: str,
    *,
    epochs: int | None = None,
    position: Position | None = None,
    nothing: Callable[[], Exception] = ValueError,
  ):
    self._parts, self._documents = parts, documents
    self._nothing = nothing
    self._key, self._epochs = key, epochs
    self.position = position or {
      'epoch': 0, 'part': 0, 'document': 0, 'item': 0
    }  # fmt: skip
    self._items = self._walk(**self.position)

  def __next__(self) -> Any:
    self.position, item = next(self._items)
    return item

  def _walk(self, epoch: int, part: int, document: int, item: int):
    """Yields (the position after it, item) from a position on."""
    # An epoch that is entered in its middle gave something before.
    some = part > 0 or document > 0 or item > 0
    while self._epochs is None or epoch < self._epochs:
      for p in range(part, len(self._parts)):
        number = permute(p, len(self._parts), f'{self._key}/{epoch}')
        documents = enumerate(self._documents(self._parts[number]))
        for d, items in itertools.islice(documents, document, None):
          for i in range(item, len(items)):
            some = True
            after = {'epoch': epoch, 'part': p, 'document': d, 'item': i + 1}
            yield after, items[i]
          item = 0
        document = 0
      if not some:
        # A whole epoch without an item; the next would be no better.
        raise self._nothing()
      epoch, part, some = epoch + 1, 0, False
      if epoch != self._epochs:
        yield {'epoch': epoch, 'part': 0, 'document': 0, 'item': 0}, None


class Blocks:
  """Another cursor's items, taken `size` at a time and rearranged.

  `arrange(items, key)` returns what to give out, a permutation of the items or
  rows packed of them. The position is that before the block was taken, and how
  much of it was given out. A None ends a block, so that all items of an epoch
  come before those of the next; so does a total `weight` of `most`, so that few
  large items are not too much for the memory.
  """

  def __init__(
    self,
    make_cursor: Callable[[Position | None], Cursor],
    size: int,
    arrange: Callable[[list[Any], str], Sequence[Any]],
    *,
    weight: Callable[[Any], int] = lambda _: 0,
    most: int = 1,
    position: Position | None = None,
  ):
    position = position or {'before': None, 'block': 0, 'taken': 0}
    self._cursor = make_cursor(position['before'])
    self._size, self._arrange = size, arrange
    self._weight, self._most = weight, most
    self._before, self._block = position['before'], position['block']
    self._taken = position['taken']
    self._arranged: Sequence[Any] | None = None

  @property
  def position(self) -> Position:
    return {
      'before': self._before, 'block': self._block, 'taken': self._taken
    }  # fmt: skip

  def __next__(self) -> Any:
    while True:
      if self._arranged is None:
        self._arranged = self._arrange(self._take(), str(self._block))
      if self._taken < len(self._arranged):
        self._taken += 1
        return self._arranged[self._taken - 1]
      self._before, self._arranged = self._cursor.position, None
      self._block, self._taken = self._block + 1, 0

  def _take(self) -> list[Any]:
    items, total = [], 0
    while len(items) < self._size and total < self._most:
      try:
        item = next(self._cursor)
      except StopIteration:
        if items:
          return items
        raise
      if item is not None:
        items.append(item)
        total += self._weight(item)
      elif items:
        return items
    return items


class Mapped:
  """Another cursor's items, each turned into something else."""

  def __init__(self, cursor: Cursor, fn: Callable[[Any], Any]):
    self._cursor, self._fn = cursor, fn

  @property
  def position(self) -> Position:
    return self._cursor.position

  def __next__(self) -> Any:
    return self._fn(next(self._cursor))


def shuffle(items: list[Any], key: str) -> list[Any]:
  """The items in an order drawn by the key."""
  return [items[permute(i, len(items), key)] for i in range(len(items))]


class Mixed:
  """Several cursors by weight, as evenly as can be.

  Each gains its share of credit at every step, and the one with the most gives
  the item: after n steps no cursor is further than an item from its share per
  cursor in the mix. One that ends leaves the others their shares.
  """

  def __init__(
    self,
    cursors: Sequence[Cursor],
    weights: Sequence[float],
    *,
    position: Position | None = None,
  ):
    assert len(cursors) == len(weights)
    self._cursors, self._weights = cursors, weights
    start = {'credits': [0.0] * len(cursors), 'ended': []}
    position = position or start
    self._credits = list(position['credits'])
    self._ended = set(position['ended'])

  @property
  def position(self) -> Position:
    return {
      'credits': list(self._credits),
      'ended': sorted(self._ended),
      'cursors': [cursor.position for cursor in self._cursors],
    }

  def __next__(self) -> Any:
    while True:
      open_ = [i for i in range(len(self._cursors)) if i not in self._ended]
      if not open_:
        raise StopIteration
      total = sum(self._weights[i] for i in open_)
      credits_ = list(self._credits)
      for i in open_:
        credits_[i] += self._weights[i] / total
      chosen = max(open_, key=lambda i: (credits_[i], -i))
      try:
        item = next(self._cursors[chosen])
      except StopIteration:
        self._ended.add(chosen)
        continue
      credits_[chosen] -= 1
      self._credits = credits_
      return item
