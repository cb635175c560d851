"""Cursors give everything once and go on from any place."""

import collections
import itertools
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.data import order


def rest(cursor):
  while True:
    try:
      yield next(cursor)
    except StopIteration:
      return


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 15, 16, 17, 100, 1025])
def test_a_permutation_is_one(size):
  for key in ('a', 'b'):
    drawn = [order.permute(n, size, key) for n in range(size)]
    assert sorted(drawn) == list(range(size))


def test_permutations_are_shuffled_well():
  size = 1000
  drawn = np.array([
    [order.permute(n, size, str(key)) for n in range(size)] for key in range(50)
  ])  # fmt: skip
  # Where a number goes says nothing of where it, or its neighbour, was. The
  # standard deviation of such a correlation is 1 / sqrt(1000) = 0.03.
  for key in range(50):
    place = np.corrcoef(drawn[key], np.arange(size))[0, 1]
    neighbor = np.corrcoef(drawn[key][1:], drawn[key][:-1])[0, 1]
    other = np.corrcoef(drawn[key], drawn[key - 1])[0, 1]
    assert max(abs(place), abs(neighbor), abs(other)) < 0.15
  # Each tenth of the order has about a tenth of each tenth of the numbers: 10,
  # give or take 3, in each of the 100 cells of each of the 50 permutations.
  tenths = drawn // 100
  cells = np.stack([
    np.bincount(tenths[key].reshape(10, 100)[row], minlength=10)
    for key in range(50)
    for row in range(10)
  ])  # fmt: skip
  chi_squared = ((cells - 10) ** 2 / 9).mean()
  assert 0.8 < chi_squared < 1.2


def test_shuffled_epochs_differ_and_have_everything_once():
  cursor = order.Shuffled(10, 'key', epochs=3)
  epochs = [list(itertools.islice(rest(cursor), 10)) for _ in range(3)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  with pytest.raises(StopIteration):
    next(cursor)
  other = order.Shuffled(10, 'another key')
  assert [next(other) for _ in range(10)] != epochs[0]


# Parts of documents of items; some of them empty.
PARTS = [
  [['a0', 'a1'], [], ['a2']],
  [],
  [['b0'], ['b1', 'b2', 'b3']],
  [[], ['c0'] * 1],
]
ITEMS = sorted(itertools.chain(*itertools.chain(*PARTS)))


def streamed(position=None, epochs=3):
  return order.Streamed(PARTS, iter, 'key', epochs=epochs, position=position)


def blocks(position=None, epochs=3, size=3):
  return order.Blocks(
    lambda place: streamed(place, epochs), size, order.shuffle,
    position=position,
  )  # fmt: skip


def mixed(position=None):
  places = position['cursors'] if position else [None] * 3
  cursors = [
    order.Shuffled(7, 'a', epochs=2, position=places[0]),
    blocks(places[1]),
    order.Mapped(order.Shuffled(4, 'c', epochs=1, position=places[2]), str),
  ]
  return order.Mixed(cursors, [2.0, 1.0, 0.5], position=position)


def test_streamed_gives_every_epoch_whole_and_a_none_between():
  items = list(rest(streamed()))
  epochs = [
    list(group)
    for is_none, group in itertools.groupby(items, lambda x: x is None)
    if not is_none
  ]
  assert [sorted(epoch) for epoch in epochs] == [ITEMS] * 3
  assert len({tuple(epoch) for epoch in epochs}) > 1  # Parts change places.


def test_blocks_do_not_mix_epochs():
  for size in (1, 3, 7, 8, 100):
    items = list(rest(blocks(size=size)))
    assert None not in items
    epochs = [items[i : i + 8] for i in range(0, 24, 8)]
    assert [sorted(epoch) for epoch in epochs] == [ITEMS] * 3


def test_blocks_end_early_where_items_are_large():
  sizes = []

  def arrange(items, key):
    sizes.append(len(items))
    return items

  def cursor(place):
    return order.Shuffled(10, 'key', epochs=1, position=place)

  # Each weighs three, so that a third brings it to seven or more.
  list(rest(order.Blocks(cursor, 100, arrange, weight=lambda _: 3, most=7)))
  assert sizes == [3, 3, 3, 1]


def test_every_block_has_a_key_of_its_own():
  keys = []

  def arrange(items, key):
    keys.append(key)
    return items

  list(rest(order.Blocks(streamed, 3, arrange)))
  assert len(set(keys)) == len(keys) > 3


def test_nothing_in_a_whole_epoch_is_an_error_not_a_long_wait():
  cursor = order.Streamed(
    [[[]], []], iter, 'key', nothing=lambda: ValueError('nothing')
  )
  with pytest.raises(ValueError, match='nothing'):
    next(cursor)


def test_what_vanishes_in_the_middle_of_a_run_is_an_error_too():
  documents = [['a']]
  cursor = order.Streamed(
    ['part'],
    lambda _: iter(documents),
    'key',
    nothing=lambda: ValueError('nothing'),
  )
  assert [next(cursor) for _ in range(3)] == ['a', None, 'a']
  documents.clear()
  with pytest.raises(ValueError, match='nothing'):
    list(itertools.islice(rest(cursor), 9))


@pytest.mark.parametrize('make', [streamed, blocks, mixed])
@hypothesis.given(stops=st.lists(st.integers(0, 12), max_size=6))
def test_going_on_from_any_place(make, stops):
  whole = list(rest(make()))
  found, position = [], None
  for stop in stops:
    cursor = make(position)
    found += itertools.islice(rest(cursor), stop)
    position = json.loads(json.dumps(cursor.position))
  found += rest(make(position))
  assert found == whole


@hypothesis.given(
  weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
  steps=st.integers(1, 200),
)
def test_mixed_keeps_to_the_weights(weights, steps):
  cursors = [
    order.Mapped(order.Shuffled(3, ''), lambda _, i=i: i)
    for i in range(len(weights))
  ]
  cursor = order.Mixed(cursors, weights)
  counts = collections.Counter(next(cursor) for _ in range(steps))
  for i, weight in enumerate(weights):
    share = steps * weight / sum(weights)
    assert abs(counts[i] - share) < len(weights)


def test_mixed_ends_when_all_have_ended():
  counts = collections.Counter(map(str, rest(mixed())))
  # Seven numbers twice, three epochs of eight words, four numbers more (of
  # which 0 to 3 are among the seven).
  assert sum(counts.values()) == 14 + 24 + 4
  assert counts['a0'] == 3 and counts['6'] == 2 and counts['3'] == 3
