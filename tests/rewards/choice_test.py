"""Letters in what models write, and what is none."""

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.rewards.choice import Choice, letter

CITIES = ['London', 'Paris', 'Rome', 'Paris, Texas']
COUNTS = ['3', '12', 'A dozen apples', '12 apples', r'\frac{1}{2}']


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    # Boxed.
    (r'So \boxed{B}', 'B'),
    (r'\boxed{\text{B}}.', 'B'),
    (r'\boxed{(B)}', 'B'),
    (r'\boxed{\textbf{(B)}}', 'B'),
    (r'\boxed{\mathrm{B}}', 'B'),
    (r'\boxed{B. Paris}', 'B'),
    (r'\boxed{\text{B) Paris}}', 'B'),
    (r'\boxed{b}', 'B'),
    (r'\boxed{Paris}', 'B'),
    (r'\boxed{\text{paris}}', 'B'),
    (r'\boxed{Paris, Texas}', 'D'),
    (r'\boxed{Option C}', 'C'),
    (r'First \boxed{A}, no, \boxed{C}.', 'C'),
    (r'The answer is A. \boxed{C}', 'C'),
    (r'<think>\boxed{A}</think> \boxed{C}', 'C'),
    # Said.
    ('The answer is (B)', 'B'),
    ('The answer is B.', 'B'),
    ('the answer is b', 'B'),
    ('The correct answer is **B**.', 'B'),
    ('**Answer:** B', 'B'),
    ('Answer: **B. Paris**', 'B'),
    ('Answer: The answer is (B).', 'B'),
    ('The correct option is $\\mathbf{B}$', 'B'),
    ('The best choice would be: C', 'C'),
    ('The answer is A because it is the largest.', 'A'),
    ('The answer is A. No: the answer is B.', 'B'),
    ('The answer is Paris.', 'B'),
    ('Therefore, option B is correct.', 'B'),
    ('(C) is the right one. (A) is not.', 'C'),
    ('The answer is not A. The answer is D.', 'D'),
    # Alone, in brackets, at the end.
    ('It was the capital of France.\n\nB', 'B'),
    ('It was the capital of France.\n(B)\n', 'B'),
    ('**C.**', 'C'),
    ('A big city (C) on the Tiber.', 'C'),
    ('I think that it must be D.', 'D'),
    # In words.
    ('Where is the Louvre?\nIt is in Paris', 'B'),
    ('That must be Paris, Texas.', 'D'),
  ],
)
def test_a_letter_is_found(completion, expected):
  assert letter(completion, CITIES).text == expected


@pytest.mark.parametrize(
  ('completion', 'reason'),
  [
    ('', 'format/missing'),
    ('I think A good question needs time.', 'format/missing'),
    ('It is not London and it is not Rome.', 'format/missing'),
    ('The answer is E.', 'format/missing'),  # There are four.
    ('Berlin', 'format/missing'),
    (r'So \boxed{B', 'format/open'),
    (r'So \boxed{ }', 'format/empty'),
    ('<think>The answer is B.', 'format/thinking'),
  ],
)
def test_there_may_be_none(completion, reason):
  assert letter(completion, CITIES)[:2] == (None, reason)


def test_what_is_boxed_and_no_option_is_wrong():
  assert letter(r'The answer is B, or \boxed{Berlin}', CITIES).text == ''


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    (r'\boxed{12}', 'B'),
    (r'\boxed{12 apples}', 'D'),
    ('The answer is A dozen apples.', 'C'),
    (r'\boxed{\frac{1}{2}}', 'E'),
    ('There are 12 apples', 'D'),
  ],
)
def test_options_that_hold_each_other(completion, expected):
  assert letter(completion, COUNTS).text == expected


def test_the_reward():
  example = Example(np.array([1]), ('B', *CITIES), 'mmlu', 'mmlu', '0', 0)
  found = Choice()([example], [['The answer is B.', r'\boxed{A}', 'Hm.']])
  np.testing.assert_array_equal(found.rewards_PG, [[1, 0, 0]])
  assert found.reasons_PG.tolist() == [['right', 'wrong', 'format/missing']]


def test_it_takes_time_linear_in_the_text():
  letter('The answer ' * 20_000 + '(' * 50_000, CITIES)
