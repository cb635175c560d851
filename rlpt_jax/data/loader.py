"""Loads batches in an order independent of hosts and restarts.

Batches are global: host h of H takes the h-th share of each. So the position
after a batch is the same on every host, and a run can resume with a different
number of hosts or a different batch size.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core.types import Example, Rows
from rlpt_jax.data import config, order, packing, records
from rlpt_jax.data.cache import Cache, digest
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.order import Position

PACKING_WINDOW = 1024  # The number of texts that are packed at a time.
WINDOW_TOKENS = 32 << 20  # The most tokens in a window, about 300 MB.
NAMED_FILES = 64  # A position lists the files of a corpus up to this number.


class Item(NamedTuple):
  """What an example is made from: item number `index` of a record.

  `component` is an index into `Loader.components`. `record` is the record's
  number in the cache or, without a cache, the record itself.
  """

  component: int
  record: records.Record | int
  index: int


@dataclasses.dataclass(frozen=True)
class Loaded:
  """This host's share of a batch, and the position after the whole batch."""

  examples: Sequence[Example] | Rows
  position: Position


class Loader:
  """Iterates over Loaded batches, which a thread makes ahead of use.

  Ends after `data.epochs`; the last batch may be smaller. Continues from
  `position`, which an earlier Loader returned, and raises a ValueError if the
  data has changed since.
  """

  def __init__(
    self,
    data: config.Data,
    batch_size: int,
    *,
    host: int = 0,
    hosts: int = 1,
    position: Position | None = None,
  ):
    if hosts < 1 or not 0 <= host < hosts:
      raise ValueError(
        f'host={host} with hosts={hosts}: expected 0 to hosts - 1.'
      )
    if batch_size < 1 or batch_size % hosts:
      raise ValueError(
        f'batch_size={batch_size}: expected a multiple of {hosts}, the number '
        'of hosts.'
      )
    self._batch_size, self._host, self._hosts = batch_size, host, hosts
    self._data = data
    self.tokenizer = config.load_tokenizer(data.tokenizer)
    self.components = config.components(data, self.tokenizer)
    # If several tasks read a corpus, only the first counts its faults.
    self._tallies: dict[str, records.Tally] = {}
    packed = {c.task.packed for c in self.components}
    if len(packed) > 1:
      raise ValueError(
        'Data: tasks that are packed into rows (ntp, sft) cannot be mixed '
        'with tasks that have prompts (asr, msr, rlvr): expected only one '
        'kind.'
      )
    self._packed = packed == {True}
    self._caches: dict[str, Cache] = {}
    if data.cache_dir:
      for folder in {c.folder for c in self.components}:
        self._caches[folder] = Cache(os.path.join(data.cache_dir, folder))
    self.description = self._describe()
    if position is not None:
      if not isinstance(position, dict) or {'data', 'order'} - position.keys():
        raise ValueError(
          f'position is {str(position)[:60]!r}: expected a position that a '
          'Loader returned.'
        )
      check_same(position['data'], self.description)
    self._cursor = self._rows(position['order'] if position else None)

  @property
  def position(self) -> Position:
    """The position after all batches made so far, given out or not."""
    return {'order': self._cursor.position, 'data': self.description}

  def __iter__(self) -> Iterator[Loaded]:
    # One batch ahead is enough: it is made while the previous one is used.
    executor = concurrent.futures.ThreadPoolExecutor(1)
    given = self._cursor.position
    try:
      ahead = executor.submit(self._next)
      while (loaded := ahead.result()) is not None:
        ahead = executor.submit(self._next)
        given = loaded.position['order']
        yield loaded
    finally:
      executor.shutdown(cancel_futures=True)
      # A new iteration continues after the last batch that was yielded.
      self._cursor = self._rows(given)

  def faults(self) -> list[str]:
    """Lists the faults found in the corpora so far, one line per reason."""
    return [
      f'{folder.split(".")[0]}: {line}'
      for folder, tally in self._tallies.items()
      for line in tally.faults.report()
    ]

  def items(self) -> Iterator[tuple[config.Component, records.Record, int]]:
    """Yields (component, record, index) of every item, before packing.

    Begins with the first item, and leaves `position` as it is.
    """
    cursor = self._mixed(None)
    while True:
      try:
        item = next(cursor)
      except StopIteration:
        return
      yield self.components[item.component], self._record(item), item.index

  def close(self):
    for cache in self._caches.values():
      cache.close()

  def _next(self) -> Loaded | None:
    rows = []
    while len(rows) < self._batch_size:
      try:
        rows.append(next(self._cursor))
      except StopIteration:
        break
    if not rows:
      return None
    share = self._batch_size // self._hosts
    mine = rows[self._host * share : (self._host + 1) * share]
    position = self.position
    if not self._packed:
      return Loaded([self._example(item) for item in mine], position)
    texts = [[self._example(item) for item in row] for row in mine]
    row_tokens = max(c.task.row_tokens for c in self.components)
    pad_id = self.tokenizer.pad_id
    return Loaded(packing.rows(texts, row_tokens, pad_id), position)

  def _example(self, item: Item) -> Any:
    component = self.components[item.component]
    return component.task.example(
      self._record(item), component.source.name, item.index, self.tokenizer
    )

  def _record(self, item: Item) -> records.Record:
    if not isinstance(item.record, int):
      return item.record
    folder = self.components[item.component].folder
    return self._caches[folder].read(item.record)

  def _rows(self, position: Position | None) -> order.Cursor:
    """Returns a cursor over the elements of batches: packed rows, or items."""
    if not self._packed:
      return self._mixed(position)
    return order.Blocks(
      self._mixed, PACKING_WINDOW, self._pack, position=position
    )

  def _pack(self, items: list[Item], key: str) -> list[list[Item]]:
    del key
    row_tokens = max(c.task.row_tokens for c in self.components)
    packed = packing.pack([self._length(item) for item in items], row_tokens)
    return [[items[i] for i in row] for row in packed]

  def _length(self, item: Item) -> int:
    component = self.components[item.component]
    if isinstance(item.record, int):
      sizes = self._caches[component.folder].sizes[item.record]
    else:
      sizes = component.stage.sizes(item.record)
    return component.task.length(sizes, item.index, self.tokenizer)

  def _mixed(self, position: Position | None) -> order.Cursor:
    """Returns a cursor over the items of all components, mixed by weight."""
    make = self._shuffled if self._data.cache_dir else self._streamed
    places = position['cursors'] if position else [None] * len(self.components)
    return order.Mixed(
      [make(i, place) for i, place in enumerate(places)],
      [component.weight for component in self.components],
      position=position,
    )

  def _key(self, component: config.Component) -> str:
    return f'{self._data.seed}/{component.name}'

  def _shuffled(self, number: int, position: Position | None) -> order.Cursor:
    component = self.components[number]
    cache = self._caches[component.folder]
    ends = np.cumsum(component.task.count(cache.sizes, self.tokenizer))
    if not len(ends) or not ends[-1]:
      raise ValueError(
        f'{component.name}: none of the {len(cache):,} records of '
        f'{cache.folder} gives an example: {_limits(component)}. `rlpt '
        'prepare` reports what was left out, and why.'
      )

    def item(n: int) -> Item:
      record = int(np.searchsorted(ends, n, side='right'))
      before = int(ends[record - 1]) if record else 0
      return Item(number, record, n - before)

    shuffled = order.Shuffled(
      int(ends[-1]),
      self._key(component),
      epochs=self._data.epochs,
      position=position,
    )
    return order.Mapped(shuffled, item)

  def _streamed(self, number: int, position: Position | None) -> order.Cursor:
    component, data = self.components[number], self._data
    tally = records.Tally(Faults(strict=data.strict))
    if number == self._first_to_read(component.folder):
      tally = self._tallies.setdefault(component.folder, tally)

    def items(part) -> Iterator[list[Item]]:
      documents = component.source.read(part, tally.faults)
      for record in records.records(documents, component.stage, tally):
        count = 0
        if record is not None:
          sizes = np.array([component.stage.sizes(record)])
          count = int(component.task.count(sizes, self.tokenizer)[0])
        yield [Item(number, record, i) for i in range(count)]

    def streamed(place: Position | None) -> order.Cursor:
      return order.Streamed(
        component.source.parts(),
        items,
        self._key(component),
        epochs=data.epochs,
        position=place,
        nothing=lambda: nothing_usable(component, tally),
      )

    def shuffle(items: list[Item], block: str) -> list[Item]:
      return order.shuffle(items, f'{self._key(component)}/{block}')

    def weight(item: Item) -> int:
      # The items of a document share its record: count it only once.
      return len(item.record['tokens']) if item.index == 0 else 0

    return order.Blocks(
      streamed,
      data.window,
      shuffle,
      weight=weight,
      most=WINDOW_TOKENS,
      position=position,
    )

  def _first_to_read(self, folder: str) -> int:
    folders = [component.folder for component in self.components]
    return folders.index(folder)

  def _describe(self) -> dict[str, Any]:
    """Describes everything that the order depends on, as JSON data."""
    tasks, corpora = {}, {}
    for component in self.components:
      options = {
        name: getattr(component.task, name) for name in component.task.selection
      }
      tasks[component.name] = {'weight': component.weight, **options}
      if component.folder in corpora:
        continue
      stage = config.settings(component.stage)
      if cache := self._caches.get(component.folder):
        manifest = cache.manifest
        check_manifest(cache.folder, manifest, component, self._data.strict)
        content = {
          'documents': manifest['documents'],
          'records': manifest['records'],
          'checksum': manifest['checksum'],
        }
      else:
        content = {
          'read': component.source.settings(),
          **summary(component.source.fingerprint()),
        }
      corpora[component.folder] = {'settings': stage, **content}
    way = 'cache' if self._data.cache_dir else f'window {self._data.window}'
    return {
      'seed': self._data.seed,
      'shuffled by': way,
      'epochs': self._data.epochs,
      'tasks': tasks,
      'corpora': corpora,
    }


def summary(files: dict[str, list]) -> dict[str, Any]:
  """Summarizes the files of a corpus; lists each of them if they are few."""
  few = len(files) <= NAMED_FILES
  return {
    'files': len(files),
    'bytes': sum(size for size, _ in files.values()),
    'checksum': digest(files),
    **({'each': files} if few else {}),
  }


def check_same(then: dict[str, Any], now: dict[str, Any]):
  """Raises a ValueError that lists the changes since the saved position."""
  changes = list(differences(then, now))
  if changes:
    shown = '; '.join(changes[:5]) + ('; ...' if len(changes) > 5 else '')
    raise ValueError(
      f'the data differ from those of the saved position: {shown}. Undo these '
      'changes, or start a new run.'
    )


def check_prepared(folder: str, then: dict[str, Any], now: dict[str, Any]):
  if changes := '; '.join(differences(then, now)):
    raise ValueError(
      f'{folder}: was prepared with other settings: {changes}. Restore them, '
      'or prepare into another cache_dir.'
    )


def check_manifest(
  folder: str,
  manifest: dict[str, Any],
  component: config.Component,
  strict: bool,
):
  """Raises a ValueError if the cache was prepared with other settings.

  If `strict`, also raises one if documents were dropped in preparation.
  """
  keys = ('settings', 'read', 'place')
  now = (
    config.settings(component.stage),
    component.source.settings(),
    component.source.place(),
  )
  then = {key: manifest.get(key) for key in keys}
  check_prepared(folder, then, dict(zip(keys, now, strict=True)))
  if strict and (counts := manifest['faults']['counts']):
    raise ValueError(
      f'{folder}: strict is on, and {sum(counts.values()):,} documents were '
      f'dropped when it was prepared: {", ".join(counts)}. Fix them and '
      'prepare again, or set strict=False.'
    )


def differences(then: Any, now: Any, path: str = '') -> Iterator[str]:
  """Yields a description of every difference between two JSON trees."""
  if isinstance(then, dict) and isinstance(now, dict):
    for key in sorted(then.keys() | now.keys()):
      inner = f'{path}.{key}' if path else str(key)
      if key not in now:
        yield f'{inner} was removed (it was {then[key]!r})'
      elif key not in then:
        yield f'{inner} is new ({now[key]!r})'
      else:
        yield from differences(then[key], now[key], inner)
  elif then != now:
    yield f'{path} was {then!r}, is {now!r}'


def nothing_usable(
  component: config.Component, tally: records.Tally
) -> ValueError:
  """Returns an error for a corpus that has no usable example for a task."""
  reasons = [*tally.faults.report()]
  reasons += [f'{n:,} {what}' for what, n in tally.left_out.items() if n]
  return ValueError(
    f'{component.name}: the corpus {component.source.name} gives no example. '
    f'{tally.documents:,} documents were read, of which {tally.records:,} are '
    f'intact, but: {"; ".join(reasons) or "no more"}. {_limits(component)}.'
  )


def _limits(component: config.Component) -> str:
  """Describes the options that decide which items a task has."""
  task = component.task
  options = [f'{name}={getattr(task, name)!r}' for name in task.selection]
  return f'{task.name} with {", ".join(options)}'
