"""The order of examples, with positions that are small JSON objects.

A cursor iterates over a sequence that is fixed by its settings: `next` returns
an item, `position` is the place after it, and a cursor made with that position
continues from there. A position does not depend on hosts or batches, so a run
can stop anywhere and resume with a different number of either. Cursors compose:

  Shuffled   the item numbers of a cache, in a new permutation every epoch
  Streamed   the items of a source, in the order they are read
  Blocks     another cursor's items, rearranged some thousands at a time
  Mapped     a function of another cursor's items
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
  """Returns the image of n under a permutation of range(size) drawn by `key`.

  Applies a six-round Feistel network over the next power of four until the
  result is below `size`. It needs no memory, however large the corpus.
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
  """The numbers 0 .. size - 1, in a new random order every epoch.

  The order is a full permutation drawn by key and epoch. The position is the
  number of items taken, so resuming anywhere takes constant time.
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
  """The items of a source, with its parts in a new order every epoch.

  `documents(part)` yields a list of items for each document of a part, in
  order; the list may be empty. The position counts documents within the part,
  so resuming rereads that part from its start, but no earlier part. After
  every epoch but the last, the cursor gives a None, at which `Blocks` ends a
  block. If an epoch has no item, the cursor raises the error that `nothing`
  returns, instead of looping forever.
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
    """Yields (position after the item, item), from the given position on."""
    # If we resume in the middle of an epoch, it has already given items.
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
        # The whole epoch had no item, so the next one would have none either.
        raise self._nothing()
      epoch, part, some = epoch + 1, 0, False
      if epoch != self._epochs:
        yield {'epoch': epoch, 'part': 0, 'document': 0, 'item': 0}, None


class Blocks:
  """Another cursor's items, rearranged in blocks of `size`.

  `arrange(items, key)` returns the results of a block: a permutation of its
  items, or rows packed from them. The position is the other cursor's position
  before the block, and the number of results given out. Two things end a block
  early: a None from the other cursor, so that epochs do not mix, and a total
  `weight` of `most`, so that large items do not exhaust the memory.
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
  """Applies `fn` to another cursor's items."""

  def __init__(self, cursor: Cursor, fn: Callable[[Any], Any]):
    self._cursor, self._fn = cursor, fn

  @property
  def position(self) -> Position:
    return self._cursor.position

  def __next__(self) -> Any:
    return self._fn(next(self._cursor))


def shuffle(items: list[Any], key: str) -> list[Any]:
  """Returns the items in a random order drawn by the key."""
  return [items[permute(i, len(items), key)] for i in range(len(items))]


class Mixed:
  """Interleaves several cursors by weight, as evenly as possible.

  At every step, each cursor gains its share of the weights as credit. The one
  with the most credit gives the item and pays 1. So the number of items from a
  cursor differs from its exact share by at most the number of cursors. When a
  cursor ends, the others keep their relative weights.
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
