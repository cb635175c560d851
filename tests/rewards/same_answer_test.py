import numpy as np

from rlpt_jax.rewards import judge
from rlpt_jax.rewards.same_answer import PROMPT, SameAnswer
from tests.rewards.scores_test import example


def test_final_answers_are_compared_with_the_reference():
  questions = []

  def complete(asked):
    questions.extend(asked)
    return [f'Score: {int("Predicted: red" in one)}' for one in asked]

  reward = SameAnswer(complete)
  found = reward(
    [example('the red one')],
    [[r'It is \boxed{red}.', 'So the answer is blue.', 'Nobody knows']],
  )
  np.testing.assert_array_equal(found.rewards_PG, [[1, 0, 0]])
  assert found.reasons_PG.tolist() == [['right', 'wrong', 'format/missing']]
  assert len(questions) == 2
  assert 'Reference: the red one\n' in questions[0]
  # A judge that repeats the format has given no verdict.
  assert judge.read(PROMPT).reason == 'judge/both'
