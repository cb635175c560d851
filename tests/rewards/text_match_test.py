"""Matches of words, worked out by hand, and what the words are."""

import functools
import math
import random

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.rewards import extract, text_match
from rlpt_jax.rewards.text_match import tokens
from tests.rewards.scores_test import example

A, B, C = 'the road was wet'.split(), 'so he fell'.split(), ['twice']
REFERENCES = [A, B, C]


@pytest.mark.parametrize(
  'one, other',
  [
    ('The road.', 'the road'),
    ('the\n  road\t', 'the road'),
    ('«The» “road”…', 'the road'),
    ("don't", 'don’t'),
    ('well-known', 'well known'),
    ('ｆｕｌｌ　ｗｉｄｔｈ', 'full width'),
    ('ﬁne', 'fine'),
    ('e\u0301', 'é'),
    ('Straße', 'STRASSE'),
    ('你好，世界。', '你好世界'),
    ('５', '5'),
    ('−5', '-5'),
    ('1–2', '1-2'),
    ('（a）', '(a)'),
  ],
)
def test_the_same_words(one, other):
  assert tokens(one) == tokens(other) != []


@pytest.mark.parametrize(
  'one, other',
  [
    ('the road', 'the roads'),
    ('5', '-5'),
    ('3.14', '314'),
    ('1,000', '1 000'),
    ('x - 5', 'x 5'),
    ('50%', '50'),
    ('1/2', '1 2'),
    ('f(x)', 'fx'),
    ('a < b', 'a b'),
    ('résumé', 'resume'),
    ('the road', 'theroad'),
    ('你好', '好你'),
  ],
)
def test_other_words(one, other):
  assert tokens(one) != tokens(other)


def test_what_is_not_ignored():
  assert tokens('A!', ignore_case=False) == ['A']
  assert tokens('a-b!', ignore_punctuation=False) == ['a', '-', 'b', '!']
  assert tokens('x²', ignore_form=False) == ['x²']
  assert tokens('x²') == ['x2']
  # Not even then are two ways to write one letter two letters.
  assert tokens('e\u0301', ignore_form=False) == ['é']


def test_tokens():
  assert tokens('In 3.14 or v2.0.1, x=1.') == [
    'in', '3.14', 'or', 'v2.0.1', 'x', '=', '1',
  ]  # fmt: skip
  assert tokens('我爱 Python3') == ['我', '爱', 'python3']
  assert tokens('...!?') == []


@pytest.mark.parametrize(
  'prediction, exact, whole, prefix',
  [
    (A, 1, 1, 1),
    (A + B, 0, 1, 1),
    (A + B + C, 0, 1, 1),
    (A + B[:1], 0, 0, 1),
    (A[:3], 0, 0, 0),
    (A[1:], 0, 0, 0),
    ([*A, 'and'], 0, 0, 0),
    (A + B + C + ['and'], 0, 0, 0),
    (B, 0, 0, 0),
    ([], 0, 0, 0),
  ],
)
def test_strict_matches(prediction, exact, whole, prefix):
  assert text_match.exact(prediction, REFERENCES) == exact
  assert text_match.whole_segments(prediction, REFERENCES) == whole
  assert text_match.prefix(prediction, REFERENCES) == prefix


def test_a_prefix_has_its_least_share_of_the_first_segment():
  # Half of four words is two; a third of them is more than one.
  half = functools.partial(text_match.prefix, min_share=0.5)
  third = functools.partial(text_match.prefix, min_share=1 / 3)
  least = functools.partial(text_match.prefix, min_share=1e-9)
  for length, expected in [
    (0, (0, 0, 0)), (1, (0, 0, 1)), (2, (1, 1, 1)), (6, (1, 1, 1)),
  ]:  # fmt: skip
    found = [m((A + B)[:length], REFERENCES) for m in (half, third, least)]
    assert tuple(found) == expected
  with pytest.raises(ValueError, match='min_share'):
    text_match.prefix(A, REFERENCES, min_share=0)


def test_overlap():
  assert text_match.overlap(A, REFERENCES) == 1
  assert text_match.overlap(A + B, REFERENCES) == 1
  assert text_match.overlap(A[::-1], REFERENCES) == 1
  # 2 of 2 and of 4: F1 = 2 * 2 / (2 + 4).
  assert text_match.overlap(A[:2], REFERENCES) == pytest.approx(2 / 3)
  # With A alone 2 * 4 / (6 + 4), with A + B 2 * 6 / (6 + 7).
  found = text_match.overlap(A + B[:2], REFERENCES)
  assert found == pytest.approx(12 / 13)
  # A word said twice counts once: 2 * 1 / (2 + 4).
  assert text_match.overlap(['wet', 'wet'], [A]) == pytest.approx(1 / 3)
  assert text_match.overlap(['dry'], REFERENCES) == 0
  assert text_match.overlap([], REFERENCES) == 0


def test_common_prefix():
  assert text_match.common_prefix(A[:3], REFERENCES) == 3 / 4
  # The road was dry: 3 of 4. Eight words of which 4 are right: 4 / 8.
  assert text_match.common_prefix([*A[:3], 'dry'], REFERENCES) == 3 / 4
  assert text_match.common_prefix([*A, *'dcba'], REFERENCES) == 4 / 8
  assert text_match.common_prefix(['dry', *A], REFERENCES) == 0
  assert text_match.common_prefix([], REFERENCES) == 0


def test_matches_agree_on_what_is_right():
  rng = random.Random(0)
  rights = 0
  for _ in range(3000):
    words = [rng.choice('ab') for _ in range(6)]
    cut = sorted(rng.choices(range(1, 7), k=2))
    references = [words[: cut[0]], words[cut[0] : cut[1]], words[cut[1] :]]
    prediction = [rng.choice('ab') for _ in range(rng.randrange(8))]
    exact, whole, prefix, overlap, common = (
      match(prediction, references)
      for match in (
        text_match.exact, text_match.whole_segments, text_match.prefix,
        text_match.overlap, text_match.common_prefix,
      )
    )  # fmt: skip
    assert exact <= whole <= prefix
    assert whole <= overlap <= 1
    assert (common == 1) == (prefix == 1)
    # As text, with the blank that ends a word.
    text, joined = ' '.join(prediction) + ' ', ' '.join(words) + ' '
    long_enough = len(prediction) >= len(references[0])
    assert prefix == (long_enough and joined.startswith(text))
    rights += whole
  assert rights > 50


def test_the_reward():
  reward = text_match.TextMatch(text_match.common_prefix)
  found = reward(
    [example('The road was wet.', ' So he fell.'), example('...'), example()],
    [
      [f'{extract.START}{text}{extract.END}' for text in group]
      for group in (
        ['the road WAS wet', 'The road was dry.', 'No.'], ['a'] * 3, ['a'] * 3,
      )
    ],
  )  # fmt: skip
  nan = math.nan
  np.testing.assert_array_equal(
    found.rewards_PG, [[1, 0.75, 0], [nan] * 3, [nan] * 3]
  )
  assert found.reasons_PG.tolist()[0] == ['right', 'partly', 'wrong']
  assert set(found.reasons_PG[1:].ravel()) == {'gold/empty'}


def test_a_completion_without_an_answer_is_wrong():
  reward = text_match.TextMatch(text_match.exact, find=extract.boxed)
  found = reward(
    [example('wet')], [['wet', r'\boxed{Wet}', r'\boxed{...}', r'\boxed{wet']]
  )
  assert found.rewards_PG.tolist() == [[0, 1, 0, 0]]
  assert found.reasons_PG.tolist() == [
    ['format/missing', 'right', 'wrong', 'format/open']
  ]


NEXT = example('Paris', ' is', ' a', '-b', 'ig  ', 'é', '.\n\n', 'X')


@pytest.mark.parametrize(
  ('answer', 'first', 'any_number'),
  [
    ('Paris', 1, 1),
    (' Paris ', 1, 1),  # As ' Paris' is the token.
    ('paris', 0, 0),
    ('Par', 0, 0),  # Ends inside of a token.
    ('Paris is', 0, 1),
    ('Paris  is', 0, 0),
    ('Parisis', 0, 0),
    ('Paris is a-b', 0, 1),
    ('Paris is a‐b', 0, 0),
    ('Paris is a b', 0, 0),
    ('Paris is a-big', 0, 0),  # Its token ends with blanks; 'é' follows.
    ('Paris is a-big  é', 0, 1),
    ('Paris is a-big  e\u0301', 0, 0),
    ('Paris is a-big  é.', 0, 0),
    ('Paris is a-big  é.\n\nX', 0, 1),
    ('Paris is a-big  é.\n\nXY', 0, 0),
  ],
)
def test_next_tokens_must_be_exact(answer, first, any_number):
  for match, right in (
    (text_match.exact, first), (text_match.whole_segments, any_number)
  ):  # fmt: skip
    reward = text_match.TextMatch(
      match, find=extract.boxed, split=text_match.characters
    )
    assert reward([NEXT], [[rf'\boxed{{{answer}}}']]).rewards_PG == [[right]]


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.text(max_size=6), st.text(max_size=6), st.data())
def test_bytes_agree_with_characters(one, other, data):
  """What is a prefix, and where it ends, for whole characters."""
  if data.draw(st.booleans()):
    one = other[: data.draw(st.integers(0, len(other)))]
  ours, theirs = (x.encode('utf-8', 'surrogatepass') for x in (one, other))
  is_prefix = text_match.characters(other)[: len(one)] == (
    text_match.characters(one)
  )
  assert is_prefix == theirs.startswith(ours)
