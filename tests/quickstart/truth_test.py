"""The truth as a reward, as a measure of answers and of judges."""

import json
import math

import numpy as np
import pytest

from rlpt_jax.core import settings
from rlpt_jax.core.types import Example
from rlpt_jax.quickstart import truth
from rlpt_jax.rewards import scores

RIGHT = (
  '<|startofprediction|> So he has come to the red door.<|endofprediction|>'
)
WRONG = '<|startofprediction|> Tom stands at the blue door.<|endofprediction|>'
FOLLOWING = ('Tom is at the red door.', ' It rained a little.')


def test_a_reward_of_what_is_true():
  example = Example(
    prompt_tokens=np.array([1]), references=FOLLOWING, kind='asr', corpus='',
    document='0', segment=1,
  )  # fmt: skip
  found = truth.truth([example], [[RIGHT, WRONG, 'Tom is at the red door.']])
  assert found.rewards_PG.tolist() == [[1, 0, 0]]
  assert found.reasons_PG.tolist() == [['right', 'wrong', 'format/missing']]


def test_beside_a_reward_the_truth_is_only_looked_at():
  example = Example(
    prompt_tokens=np.array([1]), references=FOLLOWING, kind='asr', corpus='',
    document='0', segment=1,
  )  # fmt: skip
  easy = scores.Each(lambda example, text: scores.Verdict(1.0, 'easy'))
  found = truth.WithTruth(easy)([example], [[RIGHT, WRONG]])
  assert found.rewards_PG.tolist() == [[1, 1]]
  assert found.reasons_PG.tolist() == [['easy', 'easy']]
  assert found.parts['truth'].rewards_PG.tolist() == [[1, 0]]
  assert easy in settings.parts(truth.WithTruth(easy))  # What is to be closed.
  numbers = truth.WithTruth(lambda examples, completions: [[0.5, None]])
  found = numbers([example], [[RIGHT, WRONG]])
  assert found.reasons_PG.tolist() == [['scored', 'none']]


def write(path, lines):
  path.write_text(
    ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  )
  return path


def test_accuracy_of_answers_by_task_and_kind(tmp_path):
  shared = {'references': FOLLOWING, 'kind': 'doors'}
  questions = [
    {'prompt': 'a', 'task': 'asr', **shared},
    {'prompt': 'b', 'task': 'msr', **shared},
  ]
  answers = [
    {'prompt': 'a', 'completion': RIGHT},
    {'prompt': 'a', 'completion': RIGHT},
    {'prompt': 'b', 'completion': RIGHT},
    {'prompt': 'b', 'completion': 'x\u2028\x85'},
  ]
  found = truth.accuracy(
    write(tmp_path / 'questions.jsonl', questions),
    write(tmp_path / 'answers.jsonl', answers),
  )
  assert found == {'all': 0.75, 'asr': 1.0, 'msr': 0.5, 'doors': 0.75}


def test_whether_it_pays_to_think(tmp_path):
  question = {
    'prompt': 'a', 'task': 'asr', 'kind': 'doors', 'references': FOLLOWING
  }  # fmt: skip
  said = [
    f'It is so and so. {RIGHT}', f'It is so and so. {WRONG}', RIGHT, WRONG,
    # Tags and no prediction; no thought either.
    '<|endofprediction|>', '<|startofprediction|>', WRONG, WRONG,
  ]  # fmt: skip
  found = truth.thinking_stats(
    write(tmp_path / 'questions.jsonl', [question]),
    write(
      tmp_path / 'answers.jsonl',
      [{'prompt': 'a', 'completion': completion} for completion in said],
    ),
  )
  assert found == truth.ThinkingStats(
    predict=6 / 8, think=2 / 8, right_thinking=1 / 2, right_guessing=1 / 6
  )
  assert (
    '25% think first, of which 50% are right, and of the others 17%'
  ) in str(found)


def test_equal_prompts_have_answers_of_their_own(tmp_path):
  one = {'prompt': 'a', 'task': 'asr', 'kind': 'doors'}
  other = one | {'references': ['Tom is at the blue door.']}
  questions = write(
    tmp_path / 'questions.jsonl', [one | {'references': FOLLOWING}, other]
  )
  answers = [{'prompt': 'a', 'completion': text} for text in (RIGHT, WRONG)]
  path = tmp_path / 'answers.jsonl'
  assert truth.accuracy(questions, write(path, answers))['all'] == 1.0
  assert truth.accuracy(questions, write(path, answers[::-1]))['all'] == 0.0
  for wrong in ([], answers[:1], [*answers, answers[0]]):
    with pytest.raises(ValueError, match='does not match'):
      truth.accuracy(questions, write(path, wrong))


def test_agreement_counts_what_passes_wrongly_and_what_is_turned_down(tmp_path):
  # Four pairs that are right, two that are wrong; the judge says yes to all but
  # one of the first: five yes, of which two are false.
  pairs = [
    {'prompt': f'{i}\n\n', 'response': f'Score: {int(i < 4)}'} for i in range(6)
  ]
  yes, no = (math.log(0.1), math.log(0.9)), (math.log(0.9), math.log(0.1))

  def score(prompts):
    assert prompts[0] == '0'  # A judge adds what follows a prompt itself.
    return [no if prompt == '0' else yes for prompt in prompts]

  found = truth.agreement(score, write(tmp_path / 'pairs.jsonl', pairs))
  assert (found.count, found.accuracy) == (6, 0.5)
  assert (found.false_accepts, found.false_rejects) == (1.0, 0.25)
  assert '50.0% of 6 verdicts' in str(found)
