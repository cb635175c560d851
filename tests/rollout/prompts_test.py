"""Examples in the order of the data, each with a name of its own."""

import itertools
from types import SimpleNamespace

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.prompts import Prompts


def example(number):
  tokens = np.zeros(1, np.int32)
  return Example(tokens, ('next',), 'rlvr', 'corpus', f'd{number}', 0)


def epochs(size, first=0):
  """Batches of one, epoch after epoch, each in an order of its own."""
  for i in itertools.count(first):
    epoch, place = divmod(i, size)
    order = np.random.default_rng(epoch).permutation(size)
    yield SimpleNamespace(examples=[example(order[place])], position=i + 1)


def numbers(examples):
  return [int(e.document[1:]) for e in examples]


class Data:
  """A loader of some examples, in many epochs or in so many batches."""

  tokenizer, closed = None, False

  def __init__(self, size, position=0, batches=None):
    self.size, self.position, self.batches = size, position, batches

  def __iter__(self):
    return itertools.islice(epochs(self.size, self.position), self.batches)

  def close(self):
    self.closed = True


def test_examples_are_drawn_in_order_each_with_a_name():
  prompts = Prompts(Data(1, batches=5), Curriculum(None), 7)
  examples, names = prompts.take(3)
  assert numbers(examples) == [0, 0, 0]
  # The same example again is another one to sample.
  assert names == [f'{i}/corpus/d0/0/rlvr' for i in (7, 8, 9)]
  assert prompts.resume() == {'position': 3, 'drawn': 10, 'solved': ''}
  examples, names = prompts.take(9)
  assert len(examples) == len(names) == 2
  assert prompts.take(1) == ([], [])
  assert prompts.resume() == {'position': 5, 'drawn': 12, 'solved': ''}


def test_the_data_are_closed_with_the_prompts():
  class Batches:
    closed = False

    def __next__(self):
      raise StopIteration

    def close(self):
      self.closed = True

  data, batches = Data(1), Batches()
  data.__class__ = type('Opened', (Data,), {'__iter__': lambda _: batches})
  Prompts(data, Curriculum(None)).close()
  assert data.closed and batches.closed
