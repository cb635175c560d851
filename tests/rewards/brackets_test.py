"""[[ ]] as KOR-Bench's questions ask for it."""

import math

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.rewards.brackets import Brackets


def _score(gold, completion):
  example = Example(np.array([1]), (gold,), 'kor', 'kor', '0', 0)
  found = Brackets()([example], [[completion]])
  return found.rewards_PG[0, 0], found.reasons_PG[0, 0]


@pytest.mark.parametrize(
  ('gold', 'completion', 'reason'),
  [
    ('[[N]]', 'So it is [[N]].', 'right'),
    ('[[N]]', 'So it is [[ n ]].', 'right'),
    ('[[N]]', '[[N]], no: [[M]]', 'wrong'),
    ('[[N]]', 'N', 'format/missing'),
    ('[[N]]', '[[N]', 'format/missing'),
    ('[[N]]', '[[ ]]', 'format/empty'),
    ('[[N]]', '<think>[[N]]', 'format/thinking'),
    ('[[N]]', '<think>[[M]]</think>[[N]]', 'right'),
    ('[[24]]', r'$[[24.0]]$', 'right'),
    ('[[13/3]]', '[[26/6]]', 'right'),
    ('[[650or5or125]]', '[[5 or 125 or 650]]', 'right'),
    ('[[650or5or125]]', '[[5or125]]', 'wrong'),
    ('[[4or-12]]', '[[-12or4]]', 'right'),
    (r'[[-6+\sqrt{22}or-6-\sqrt{22}]]', r'[[-6-\sqrt{22} or -6+\sqrt{22}]]',
     'right'),
    ('[[4^3]]', '[[64]]', 'wrong'),  # A cipher, no power.
    ('[[nine ten]]', '[[Nine  Ten]]', 'right'),
    ('[[word for horse]]', '[[word f horse]]', 'wrong'),
    ('[[x=2,y=3]]', '[[x = 2, y = 3]]', 'right'),
    ('[[$1~%34!*:2@]]', '[[$1~%34!*:2@]]', 'right'),
    ('[[1/0]]', '[[1/0]]', 'right'),  # As text.
    ('N', '[[N]]', 'right'),
  ],
)  # fmt: skip
def test_brackets(gold, completion, reason):
  assert _score(gold, completion) == (float(reason == 'right'), reason)


def test_a_gold_that_is_empty_says_nothing():
  reward, reason = _score('[[]]', '[[1]]')
  assert math.isnan(reward) and reason == 'gold/empty'
