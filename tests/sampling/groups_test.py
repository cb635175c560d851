"""Who of a group enters a slot next, and with which tokens."""

import numpy as np

from rlpt_jax.sampling.groups import make_group
from rlpt_jax.sampling.requests import Request

REQUEST = Request(prompt_tokens=(1,), id='x', samples=6, max_new_tokens=9)


def test_samples_with_tokens_come_first():
  tokens = {i: np.full(4, i) for i in (1, 3, 5)}
  group = make_group(0, REQUEST, range(1, 5), tokens)  # 5 is in another part.
  order = []
  while group.waiting:
    sample = group.next()
    order.append((sample, group.tokens(sample).tolist()))
    group.drop([sample])
  assert order == [(1, [1] * 4), (3, [3] * 4), (2, []), (4, [])]


def test_what_is_dropped_does_not_wait():
  group = make_group(0, REQUEST, range(6), {2: np.zeros(4)})
  group.put_back[0] = np.zeros(2)
  group.drop([0, 2, 4, 99])
  assert (group.waiting, group.next()) == (3, 1)
