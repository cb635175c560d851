r"""What is said without a box, and what is a number in it."""

import functools
import json
import pathlib

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.rewards.final_answer import final_answer
from rlpt_jax.rewards.math_verifier import MathVerifier

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'gsm8k_judged.jsonl'


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    (r'So \boxed{\frac{1}{2}}.', r'\frac{1}{2}'),
    (r'#### 3, or rather \boxed{4}', '4'),
    ('It is 48+24.\n#### 72', '72'),
    ('#### 1\n#### 2\nDone.', '2'),
    ('The answer is 3.50.', '3.50'),
    ('The final answer is $x^2 + 1$. I hope so.', '$x^2 + 1$'),
    ('**Answer:** 72', '72'),
    ('Answer: The answer is 5.', '5'),
    ('The answer is 1. No! The answer is 2.', '2'),
    ('<think>The answer is 3.</think> The answer is 4.', '4'),
    ('The answer is Dr. Smith. He was there.', 'Dr. Smith'),
    ('The answer is **St. Louis**.', 'St. Louis'),
    ('The answer is Mr. and Mrs. Prof. X!', 'Mr. and Mrs. Prof. X'),
    ('The answer is Main St.', 'Main St'),  # Where nothing follows.
    ('The answer is 5 ms. So it is fast.', '5 ms'),
  ],
)
def test_what_is_said(completion, expected):
  assert final_answer(completion).text == expected


@pytest.mark.parametrize(
  ('completion', 'reason'),
  [
    ('', 'format/missing'),
    ('She has 72 clips left.', 'format/missing'),
    (r'The answer is 3: \boxed{3', 'format/open'),
    ('<think>The answer is 3.', 'format/thinking'),
  ],
)
def test_nothing_is_said(completion, reason):
  assert final_answer(completion)[:2] == (None, reason)


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('She has 72 clips left.', '72'),
    ('She sold 48 in April, 24 in May: 72.', '72'),
    ('The answer is 72 clips.', '72'),
    ('The answer is $1,234.00.', '1234'),
    (r'\boxed{\$1,234.50}', '1234.5'),
    (r'\boxed{1{,}234}', '1234'),
    (r'\boxed{18\text{ dollars}}', '18'),
    (r'\boxed{x = 18}', '18'),
    (r'\boxed{6 \times 3 = 18}', '18'),
    (r'\boxed{50\%}', '50'),
    ('The answer is 50%.', '50'),
    (r'\boxed{\frac{5}{2}}', '5/2'),
    (r'\boxed{2\frac{1}{2}}', '5/2'),
    ('The answer is 2 1/2 hours.', '5/2'),
    ('The answer is 5 / 2.', '5/2'),
    ('#### -3', '-3'),
    ('#### -$3', '-3'),
    ('#### $-3', '-3'),
    ('#### .5', '.5'),
    ('The answer is 1.5 million dollars.', '1500000'),
    ('#### 10.00', '10'),
    ('The answer is 5 (five).', '5'),
    ('The answer is 18, that is 18 eggs', '18'),
    ('The answer is 16 hours, since 400 miles at 25 mph take that.', '16'),
    ('The answer is 34 (10 of one and 24 of the other).', '34'),
    ('The answer is 18 or 20.', '18 or 20'),
    ('The answer is 3 hours and 20 minutes.', '3 hours and 20 minutes'),
    ('The answer is about three.', 'about three'),
    ('At 3:45pm he had 7 apples', '7'),
  ],
)
def test_only_the_number_is_kept(completion, expected):
  assert final_answer(completion, number=True).text == expected


def test_there_may_be_no_number():
  assert final_answer('Hm.', number=True)[:2] == (None, 'format/missing')
  assert final_answer(r'\boxed{', number=True).reason == 'format/open'
  # By zero, which no sum is made of.
  assert final_answer('#### 1 1/0', number=True).text == '1 1/0'


def test_it_takes_time_linear_in_the_text():
  final_answer('the answer ' * 20_000 + '1,' * 50_000, number=True)
  nines = '9' * 50_000
  final_answer(f'{nines}{" " * 50_000}1 1', number=True)
  final_answer(f'#### {nines} 1/2 and {nines} million', number=True)


# What a person says and the scorer does not, and why.
DISAGREEMENTS = {
  'forty-two': 'numbers in words are none',
  '1 080 beetles': 'a blank ends a number',
  '$990.00 for 5 days': 'the last number is another',
  '(not $20)': 'the last number is another',
  'of the 175 balls': 'the last number is another',
  'it is $1,600 per month now': 'the last number is another',
  'Question: Tom has 3 apples': 'it runs on, and answers another question',
}


@pytest.mark.slow
def test_it_agrees_with_a_person_on_100_answers():
  """To problems of GSM8K's training split, labelled by hand before any of them
  was scored. There is no answer that only the scorer accepts.
  """
  lines = GOLDEN.read_text().splitlines()
  judged = [json.loads(line) for line in lines]
  assert len(judged) == 100
  examples = [
    Example(np.array([1]), (line['gold'],), 'gsm8k', 'gsm8k', '', 0)
    for line in judged
  ]
  with MathVerifier(
    num_workers=1, find=functools.partial(final_answer, number=True)
  ) as verifier:
    found = verifier(examples, [[line['answer']] for line in judged])
  differ = {
    line['answer']: (line['right'], found.reasons_PG[i, 0])
    for i, line in enumerate(judged)
    if line['right'] != (found.rewards_PG[i, 0] == 1)
  }
  unexplained = {
    answer: why
    for answer, why in differ.items()
    if not any(part in answer for part in DISAGREEMENTS)
  }
  assert not unexplained
  assert len(differ) == len(DISAGREEMENTS)
  assert all(right for right, _ in differ.values())
