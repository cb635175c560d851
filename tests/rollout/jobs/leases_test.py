"""Leases with the clock of a test: who has a group, which result counts."""

import random

from rlpt_jax.rollout.jobs.leases import Leases

SECONDS = 10.0


def leases(count=4, oldest=0):
  book = Leases(SECONDS)
  for i in range(count):
    book.offer(f'{i}', f'task {i}', oldest)
  return book


def lend(book, sampler, count=1, *, now=0.0, version=0):
  tasks = book.lend(sampler, version=version, count=count, now=now)
  return [task.removeprefix('task ') for task in tasks]


def test_the_oldest_groups_go_first_and_each_to_one_sampler():
  book = leases()
  assert lend(book, 'a', 2) == ['0', '1']
  assert lend(book, 'b', 9) == ['2', '3']
  assert lend(book, 'c', 9) == []


def test_a_lease_ends_unless_it_is_extended():
  book = leases(2)
  assert lend(book, 'a', 2) == ['0', '1']
  assert book.hold('a', ['0', '1'], now=9) == []
  assert lend(book, 'b', 2, now=19) == []  # 9 + 10: not later.
  assert lend(book, 'b', 1, now=19.1) == ['0']
  # 'a' hung, and is too late for one of them; the other nobody has taken.
  assert book.hold('a', ['0', '1'], now=20) == ['0']
  assert lend(book, 'c', 2, now=21) == []


def test_what_a_sampler_does_not_name_it_does_not_have():
  book = leases(2)
  lend(book, 'a', 2)
  assert book.hold('a', ['1'], now=1) == []
  assert lend(book, 'b', 2, now=1) == ['0']
  book.release('a')  # It died.
  assert lend(book, 'b', 2, now=1) == ['1']


def test_the_first_result_counts_whoever_brings_it():
  book = leases(2)
  lend(book, 'a')
  lend(book, 'b', now=11)  # 'a' hangs.
  assert book.are_open(['0', '1']) and book.are_open(['0'])
  assert book.finish('0', 'of a')
  assert not book.finish('0', 'of b') and not book.finish('unknown', '')
  assert not book.are_open(['0']) and book.are_open(['0', '1'])
  assert book.hold('b', ['0', '7'], now=12) == ['0', '7']
  assert book.take_results() == {'0': 'of a'} and book.take_results() == {}


def test_a_sampler_takes_up_groups_that_an_earlier_learner_lent_it():
  book = leases(2)
  assert book.hold('a', ['1'], now=0) == []
  assert lend(book, 'b', 2) == ['0']


def test_weights_that_are_too_old_for_a_group_do_not_get_it():
  book = leases(1, oldest=3)
  book.offer('late', 'task late', 5)
  assert lend(book, 'a', 2, version=2) == []
  assert lend(book, 'a', 2, version=4) == ['0']
  assert lend(book, 'b', 2, version=5) == ['late']


def test_whatever_happens_each_group_gets_one_result():
  for seed in range(50):
    rng, book, now = random.Random(seed), leases(40), 0.0
    have = {name: set() for name in 'abc'}
    accepted = []
    while book.open:
      now += rng.expovariate(0.3)
      name = rng.choice('abc')
      event = rng.choice(['sync', 'sync', 'finish', 'finish', 'die'])
      if event == 'sync':
        have[name] -= {*book.hold(name, have[name], now)}
        have[name] |= {*lend(book, name, rng.randrange(4), now=now)}
        # Nobody else's lease of these is running.
        owners = {book.open[group].sampler for group in have[name]}
        assert owners <= {name}
      elif event == 'finish' and have[name]:
        group = have[name].pop()
        accepted += [group] * book.finish(group, name)
      elif event == 'die':
        book.release(name)
        have[name].clear()
    assert sorted(map(int, accepted)) == [*range(40)]
    assert {*book.take_results()} == {*accepted}
