"""What is asked, what counts as a verdict, what is settled without asking."""

import hashlib
import math
import re

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.llm import remote
from rlpt_jax.rewards import extract
from rlpt_jax.rewards import judge as lib
from rlpt_jax.rewards.scores import Verdict
from tests.rewards import judges

REFERENCES = ('The cat sat on the mat. ', 'It was warm.', ' It slept.')


def _example(*references, kind='asr') -> Example:
  prompt = np.array([1], np.int32)
  return Example(prompt, references or REFERENCES, kind, 'corpus', 'doc', 0)


def _said(text: str) -> str:
  return f'I think so. {extract.START} {text} {extract.END}'


def _predicted(question: str) -> str:
  return re.search('Predicted: (.*)', question)[1]


class Judge:
  """Answers as told, and keeps what it was asked."""

  def __init__(self, answer=lambda question: 'Score: 1'):
    self.answer, self.asked = answer, []

  def __call__(self, questions):
    self.asked.append(list(questions))
    return [self.answer(question) for question in questions]


# The question.


def test_the_prompt_is_the_papers():
  # Not by looking at the constant: by what a reader of the paper expects.
  question = lib._filled(lib.PROMPT, 'R.', 'P.')
  lines = question.split('\n')
  assert lines[0] == '## Task'
  assert lines[3:6] == ['Reference: R.', '', 'Predicted: P.']
  assert lines[7] == '## Scoring Rules'
  assert lines[-2:] == ['- Score: 0 or', '- Score: 1']
  assert 'determine whether the Predicted text is a prefix (initial' in lines[1]


def test_the_prompt_is_the_papers_to_the_letter():
  # Of the text in the paper's section 4.4. Renew it only with the paper.
  assert hashlib.sha256(lib.PROMPT.encode()).hexdigest() == (
    '89bdd3d7f4a78db085c4fe14378b2153d4862d7cb8b64ec675f482cc71466513'
  )


def test_the_prefix_reward_is_shown_all_that_follows():
  judge = Judge()
  lib.ByAnswer(judge)([_example()], [[_said('The cat sat on it.')]])
  [[question]] = judge.asked
  assert question == lib._filled(
    lib.PROMPT, 'The cat sat on the mat. It was warm. It slept.',
    'The cat sat on it.',
  )  # fmt: skip


def test_the_strict_reward_is_shown_the_one():
  judge = Judge()
  reward = lib.ByAnswer(judge, reference=lib.asked)
  reward([_example()], [[_said('The cat sat on it.')]])
  [[question]] = judge.asked
  assert 'Reference: The cat sat on the mat.\n\nPredicted' in question
  assert 'warm' not in question


def test_what_is_filled_in_is_not_filled_in_again():
  question = lib._filled(
    '{reference}|{predicted}', '{predicted} {x}', '\\1 {0}'
  )
  assert question == '{predicted} {x}|\\1 {0}'


# What is asked at all.


def test_rewards_and_reasons():
  right = 'The cat sat on the mat'
  judge = Judge(lambda question: f'Score: {int(right in _predicted(question))}')
  # 'The cat sat on the mat.' has six words: at least three are wanted.
  found = lib.ByAnswer(judge)(
    [_example(), _example('A b.')],
    [
      [_said(right), _said('The dog ran away'), 'no tags', _said('The cat')],
      [_said('A'), _said(' '), f'{extract.START} A', _said('Y z.')],
    ],
  )
  np.testing.assert_array_equal(found.rewards_PG, [[1, 0, 0, 0], [0, 0, 0, 0]])
  assert found.reasons_PG.tolist() == [
    ['right', 'wrong', 'format/missing', 'short'],
    ['wrong', 'format/empty', 'format/open', 'wrong'],
  ]
  assert found.counts()['short'] == 1
  # Neither what is missing nor what is short costs a question.
  assert [len(asked) for asked in judge.asked] == [4]


@pytest.mark.parametrize(
  ('min_share', 'words', 'is_short'),
  [
    (0.5, 2, True), (0.5, 3, False), (0.51, 3, True), (1.0, 5, True),
    (1.0, 6, False), (0.0, 1, False),
  ],
)  # fmt: skip
def test_a_prefix_must_have_a_share_of_the_first_segment(
  min_share, words, is_short
):
  text = ' '.join('The cat sat on the mat'.split()[:words])
  for reward in (
    lib.ByAnswer(Judge(), min_share=min_share),
    lib.ByProbability(Judge(lambda _: (-5.0, -0.1)), min_share=min_share),
  ):
    found = reward([_example()], [[_said(text)]])
    assert found.reasons_PG == 'short' if is_short else 'right'
    assert found.rewards_PG == 1 - is_short


def test_a_share_of_chinese_is_of_its_characters():
  example = _example('今天天气很好。')
  reward = lib.ByAnswer(Judge())
  found = reward(
    [example], [[_said('今天'), _said('今天天'), _said('今天。。')]]
  )
  assert found.reasons_PG.tolist() == [['short', 'right', 'short']]


def test_equal_questions_are_asked_once_and_in_order():
  judge = Judge(lambda asked: f'Score: {int("one" in _predicted(asked))}')
  one, two = _said('one two three'), _said('two three four')
  found = lib.ByAnswer(judge)(
    [_example(), _example('Other words.'), _example()],
    [[one, two, one], [one, two, two], [two, one, 'x']],
  )
  assert found.rewards_PG.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
  [asked] = judge.asked
  assert len(asked) == 4
  assert [_predicted(question) for question in asked] == [
    'one two three',
    'two three four',
  ] * 2


def test_nothing_to_ask_is_not_asked():
  judge = Judge()
  found = lib.ByAnswer(judge)([_example()], [['no', 'tags']])
  assert found.rewards_PG.tolist() == [[0, 0]]
  assert lib.ByAnswer(judge)([], []).rewards_PG.shape == (0, 0)
  assert judge.asked == []


@pytest.mark.parametrize('references', [('',), (' \n',), ('', '')])
def test_without_a_reference_there_is_no_verdict(references):
  judge = Judge()
  found = lib.ByAnswer(judge)([_example(*references)], [[_said('a b')]])
  assert np.isnan(found.rewards_PG).all()
  assert found.reasons_PG == 'gold/empty'
  assert judge.asked == []


def test_how_a_prediction_is_found_is_an_option():
  found = lib.ByAnswer(Judge(), find=extract.boxed)(
    [_example('42')], [[r'so \boxed{42}', _said('42')]]
  )
  assert found.reasons_PG.tolist() == [['right', 'format/missing']]


def test_answers_that_are_lost_are_noticed():
  reward = lib.ByAnswer(lambda questions: ['Score: 1'] * (len(questions) - 1))
  with pytest.raises(ValueError, match='0 answers to 1 questions'):
    reward([_example()], [[_said('The cat sat')]])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'min_share': 1.5}, r'min_share=1.5: expected a number from 0'),
    ({'prompt': 'Is {predicted} right?'}, r'expected {reference} in it'),
    ({'threshold': 0.0}, r'threshold=0.0: expected a number above 0'),
  ],
)
def test_options_that_cannot_be(options, message):
  make = lib.ByProbability if 'threshold' in options else lib.ByAnswer
  with pytest.raises(ValueError, match=message):
    make(Judge(), **options)


# (a) What the judge says.


@pytest.mark.parametrize(
  ('answer', 'score'),
  [
    ('Score: 1', 1), ('Score: 0', 0), ('score:1', 1), ('SCORE : 0\n', 0),
    ('- Score: 1', 1), ('**Score:** 1', 1), ('**Score: 0**', 0),
    ('`Score: 1`', 1), ('Score = 0', 0), ('Score：1', 1), ('"score": 1}', 1),
    ('Score:\n\n1', 1), ('Score: 1.', 1), ('Score: [1]', 1), ('Score: (0)', 0),
    ('The Score: 1, since it says the same.', 1), ('1', 1), (' 0\n', 0),
    ('**1**', 1), ('1.', 1), ('Score: 1\nScore: 1', 1), ('1, so Score: 1', 1),
    ('<think>Score: 0? No.</think>\nScore: 1', 1), ('is</think>0', 0),
    ('Score: 1' + ' ' * 10, 1), ('Score: 1 <eos>', 1),
    ('Score: 0<|im_end|>', 0), ('<score>1</score>', 1), ('Score -> 1', 1),
    ('Score => 0', 0), ('Score - 1', 1), ('Score:\n- 1', 1), ('Score 1', 1),
    ('- 1', 1), ('* 0', 0), ('"0"', 0), ('(1)', 1), ('[[0]]', 0),
    ('{"score": 1, "why": "2 of 3 facts"}', 1), ('{"score": "0"}', 0),
    ('```json\n{"score": 1}\n```', 1), ('| Score | 1 |', 1),
    ('**Score: 0** – it differs', 0), ('Score: 0 (it differs)', 0),
    ('Score: 1 because both are 5', 1), ('Score: 1\r\nReason: 5 of 5.', 1),
    ('Score: 1; the same', 1), ('Score: 1!', 1), ('Score: 1...', 1),
    ('Score: 1。', 1), ('Score：0，因为不同', 0), ('Score: 1 Score: 1', 1),
    ('The sentences score well: 5 of 5.\nScore: 1', 1),
  ],
)  # fmt: skip
def test_what_parses(answer, score):
  assert lib.read(answer) == Verdict(score, ['wrong', 'right'][score])


@pytest.mark.parametrize(
  ('answer', 'reason'),
  [
    ('', 'unparsable'), ('yes', 'unparsable'), ('Score: 10', 'unparsable'),
    ('Score: 0.5', 'unparsable'), ('Score: 1/2', 'unparsable'),
    ('Score: 1,5', 'unparsable'), ('Score: 2', 'unparsable'),
    ('Score: 01', 'unparsable'), ('Score: -', 'unparsable'),
    ('Score: 1%', 'unparsable'), ('Score: 1st', 'unparsable'),
    ('underscore: 1', 'unparsable'), ('1 of 2', 'unparsable'),
    ('a score of 1', 'unparsable'), ('10', 'unparsable'), ('0 1', 'unparsable'),
    ('<think>Score: 1', 'unparsable'), ('Score: one', 'unparsable'),
    ('Score: 1</think>', 'unparsable'),
    # Another number, or a part of one.
    ('Score: 1 / 10', 'unparsable'), ('Score: 1/10', 'unparsable'),
    ('Score: 1 out of 10', 'unparsable'), ('1 out of 10', 'unparsable'),
    ('Score: 1 Out of ten', 'unparsable'), ('Score: 1 of 1', 'unparsable'),
    ('Score: 1 (out of 10)', 'unparsable'), ('Score: 1, of 10', 'unparsable'),
    ('-1', 'unparsable'), ('−1', 'unparsable'), ('+1', 'unparsable'),
    ('Score: -1', 'unparsable'), ('Score -1', 'unparsable'),
    ('Score: −1', 'unparsable'), ('Score: –1', 'unparsable'),
    ('Score: ~1', 'unparsable'), ('Score: >0', 'unparsable'),
    ('Score > 0', 'unparsable'), ('Score: ≥1', 'unparsable'),
    ('Score: 1 %', 'unparsable'), ('Score: 1 percent', 'unparsable'),
    ('Score: 1,000', 'unparsable'), ('Score: 1 000', 'unparsable'),
    ('Score: 1. 5', 'unparsable'), ('Score: 1²', 'unparsable'),
    ('Score: 1½', 'unparsable'), ('Score: ١', 'unparsable'),
    ('Score: 1e3', 'unparsable'), ('Score: 1*2', 'unparsable'),
    ('Score: 1_000', 'unparsable'), ('Score: 1?', 'unparsable'),
    # Several, or a range.
    ('Score: 0-1', 'unparsable'), ('Score: 0 - 1', 'unparsable'),
    ('Score: 0–1', 'unparsable'), ('Score: 0..1', 'unparsable'),
    ('Score: 0 to 1', 'unparsable'), ('Score: 0 or 1', 'unparsable'),
    ('Score: 0, 1', 'unparsable'), ('Score: 0|1', 'unparsable'),
    ('Score: 0/1', 'unparsable'), ('Score #1: 0', 'unparsable'),
    ('Score 1: 0', 'unparsable'), ('Score: 1\nScore: 2', 'unparsable'),
    ('Score: 1\nScore: -1', 'unparsable'),
    ('- Score: 0 or\n- Score: 1', 'both'), ('Score: 1 Score: 0', 'both'),
    ('Score: 0\nScore: 1', 'both'), ('Score: 0/5\nScore: 1', 'both'),
    ('Score: 0-1\nScore: 1', 'both'),
    (None, 'failed'),
  ],
)  # fmt: skip
def test_what_is_no_verdict(answer, reason):
  found = lib.read(answer)
  assert math.isnan(found.reward)
  assert found.reason == f'judge/{reason}'


def test_what_the_judge_answered_is_kept():
  judge = Judge(lambda question: f'Well... {_predicted(question)}')
  texts = [_said('the cat sat'), 'no tags', _said('the cat sat')]
  found = lib.ByAnswer(judge)([_example()], [texts])
  assert found.answers_PG.tolist() == [
    ['Well... the cat sat', None, 'Well... the cat sat']
  ]
  # Nothing is kept of what nobody answered, or was not asked.
  assert lib.ByAnswer(Judge())([_example()], [['x', 'y']]).answers_PG is None
  silent = lib.ByAnswer(Judge(lambda _: None))([_example()], [texts])
  assert silent.answers_PG is None


def test_no_verdict_is_not_a_zero():
  answers = iter(['Score: 1', None, 'perhaps', 'Score: 0'])
  texts = [_said(f'the cat sat {word}') for word in 'abcd']
  found = lib.ByAnswer(Judge(lambda _: next(answers)))([_example()], [texts])
  np.testing.assert_array_equal(found.rewards_PG, [[1, np.nan, np.nan, 0]])
  assert found.counts() == {
    'right': 1, 'judge/failed': 1, 'judge/unparsable': 1, 'wrong': 1
  }  # fmt: skip


# (b) How probable it finds both.


@pytest.mark.parametrize(
  ('p0', 'p1', 'threshold', 'reward', 'reason'),
  [
    (0.2, 0.6, None, 0.75, 'graded'),  # 0.6 / 0.8
    (0.6, 0.2, None, 0.25, 'graded'),
    (0.2, 0.6, 0.5, 1, 'right'),
    (0.2, 0.6, 0.76, 0, 'wrong'),
    (0.3, 0.3, 0.5, 1, 'right'),
    (0.0, 0.9, None, 1.0, 'graded'),
    (0.9, 0.0, 0.5, 0, 'wrong'),
  ],
)
def test_weighing(p0, p1, threshold, reward, reason):
  logs = [math.log(p) if p else -math.inf for p in (p0, p1)]
  judge = Judge(lambda _: tuple(logs))
  found = lib.ByProbability(judge, threshold=threshold)(
    [_example()], [[_said('The cat sat')]]
  )
  np.testing.assert_allclose(found.rewards_PG, [[reward]], rtol=1e-6)
  assert found.reasons_PG == reason


@pytest.mark.parametrize(
  ('pair', 'reason'),
  [
    ((math.nan, math.nan), 'failed'),
    ((math.nan, 0.0), 'failed'),
    ((-math.inf, -math.inf), 'neither'),
    ((-800.0, -801.0), 'neither'),
    ((math.log(0.004), math.log(0.005)), 'neither'),
  ],
)
def test_what_cannot_be_weighed(pair, reason):
  found = lib.weigh(*pair)
  assert math.isnan(found.reward) and found.reason == f'judge/{reason}'


# Over HTTP, to the end.


def test_a_remote_judge_that_fails_now_and_then():
  """Rewards are those of a judge that never fails, or NaN, and never a 0."""

  def act(prompt, nth):
    if 'broken' in prompt:
      return ('status', 500)
    if nth == 1 and 'often' in prompt:
      return 'drop'
    score = int('right' in _predicted(prompt))
    return ('say', f'Score: {score}')

  words = ['is right often', 'is false often', 'right or broken', 'is it right']
  patience = remote.Patience(attempts=2, first_delay=0.001, timeout=5)
  with judges.running(act) as served:
    endpoint = remote.Endpoint(url=served.url, model='m')
    with remote.Remote(endpoint, patience) as complete:
      found = lib.ByAnswer(complete)(
        [_example('It is right.')], [[_said(text) for text in words]]
      )
      assert complete.counts['failed/http/500'] == 1
  np.testing.assert_array_equal(found.rewards_PG, [[1, 0, np.nan, 1]])
  assert found.reasons_PG.tolist() == [
    ['right', 'wrong', 'judge/failed', 'right']
  ]
