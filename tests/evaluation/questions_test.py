"""What is asked of a model, and what scores its answers."""

import json
import math

import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.evaluation import next_segment, questions
from rlpt_jax.evaluation.questions import Scorers
from rlpt_jax.rewards import scores

OPTIONS = {'source': 'bytes', 'chat': False, 'n': None, 'limit': None}


@pytest.fixture
def folder(tmp_path):
  rows = {
    'gsm8k': [{'question': f'{i}?', 'answer': f'#### {i}'} for i in range(3)],
    'mmlu': [{'question': '?', 'choices': ['a', 'b'], 'answer': 1}],
    'kor_bench': [
      {'rule_content': 'No.', 'question': '?', 'answer': '[[x]]',
       'category': 'logic'},
    ],
    'aime24': [{'problem': '?', 'answer': '204'}],
  }  # fmt: skip
  for name, some in rows.items():
    (tmp_path / f'{name}.json').write_text(json.dumps(some))
  (tmp_path / 'ships.txt').write_text(
    'The ship left at dawn. The wind came from the north. So it turned round. '
    'All of them were content.\n'
  )
  return tmp_path


def _ask(name, folder, **options):
  (loaded,) = questions.load([name], folder, chat=False)
  with_defaults = OPTIONS | options
  return questions.ask(loaded, Scorers(), ByteTokenizer(), **with_defaults)


def test_a_benchmark_in_tokens(folder):
  asked = _ask('gsm8k', folder)
  assert asked.ids == ['gsm8k/0', 'gsm8k/1', 'gsm8k/2']
  assert asked.samples == 64
  tokens = asked.examples[1].prompt_tokens
  assert ByteTokenizer().decode(tokens.tolist()) == asked.prompts[1]
  fewer = _ask('gsm8k', folder, limit=2, n=3)
  assert (len(fewer.ids), fewer.samples) == (2, 3)
  assert fewer.digest.startswith('2, sha256 ') and fewer.digest != asked.digest
  assert _ask('gsm8k', folder).digest == asked.digest


def test_held_out_text_in_tokens(folder):
  asked = _ask(f'next_segment={folder}/ships.txt', folder)
  assert sorted(asked.groups) == ['asr', 'asr', 'msr', 'msr']
  assert len(set(asked.ids)) == 4 and asked.together == 64
  assert all('The ship left at dawn.' in prompt for prompt in asked.prompts)


@pytest.mark.parametrize(
  ('name', 'right', 'wrong'),
  [
    ('gsm8k', 'So 0 apples.', 'So 10 apples.'),
    ('aime24', r'\boxed{204}', 'So 204 apples.'),  # Where it may be a formula.
    ('mmlu', 'The answer is B.', 'The answer is A.'),
    ('kor_bench', '[[X]]', '[[Y]]'),
  ],
)
def test_each_is_scored_by_its_own(name, right, wrong, folder):
  (loaded,) = questions.load([name], folder, chat=False)
  scorers = Scorers()
  asked = questions.ask(loaded, scorers, ByteTokenizer(), **OPTIONS)
  found = asked.reward(asked.examples[:1], [[right, wrong]])
  scorers.close()
  assert found.rewards_PG.tolist() == [[1, 0]]


def test_a_verifier_that_did_not_finish_says_nothing():
  found = questions.without_unfinished(
    scores.Scores(
      np.array([[0, 0, 1, 0, np.nan]], np.float32),
      np.array([['timeout', 'wrong', 'right', 'memory', 'killed']]),
    )
  )
  expected = [[math.nan, 0, 1, math.nan, math.nan]]
  np.testing.assert_array_equal(found.rewards_PG, expected)


def test_mistakes(folder):
  with pytest.raises(
    ValueError, match='--benchmarks: expected one or more of mmlu'
  ):
    questions.load([], folder, chat=False)
  with pytest.raises(ValueError, match='gsm8k is given twice'):
    questions.load(['gsm8k', f'gsm8k={folder}/gsm8k.json'], folder, chat=False)
  with pytest.raises(ValueError, match=r'next_segment: no text is given\. Exp'):
    questions.load([next_segment.NAME], folder, chat=False)
