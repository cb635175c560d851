"""Questions about documents, by scripted models on a real socket."""

import collections
import json
import re

import pytest

from rlpt_jax.corpus import questions
from rlpt_jax.corpus.documents import Document
from rlpt_jax.corpus.questions import Models, Questions
from rlpt_jax.llm import call_records
from rlpt_jax.llm.budget import Budget, Spent
from rlpt_jax.llm.remote import Endpoint, Patience
from tests.llm import scripted_models

QUICK = Patience(
  timeout=0.5, attempts=4, first_delay=0.002, longest_delay=0.02,
  open_after=1000, wait=20.0, concurrency=16,
)  # fmt: skip


def stage_of(text: str) -> str:
  """Returns the stage of one of our prompts."""
  if '"qualified"' in text:
    return 'filter'
  if '"personas"' in text:
    return 'identify'
  if '"has_context"' in text:
    return 'check'
  return 'reason' if 'model solution' in text else 'generate'


def number_of(text: str) -> int:
  """Returns the number of the document in a prompt: 'Box 7 holds ...'."""
  return int(re.findall(r'Box (\d+) holds', text)[-1])


def say(body) -> str:
  """What a model says about document n.

  Of six documents the first is not qualified, the second gets a question with
  its answer in it, and those of the others are wrong, leaked, without context
  and good.
  """
  text = scripted_models.text_of(body)
  stage = stage_of(text)
  if stage == 'reason':
    answer = re.search(r'only you are told: (.*)', text)[1]
    return rf'Each holds so many. So it is \boxed{{{answer}}}.'
  n = number_of(text)
  kind = n % 6
  if stage == 'filter':
    said = {'thought': 'So.', 'qualified': 'N' if kind == 0 else 'Y'}
  elif stage == 'identify':
    personas = [f'reader {i}' for i in range(1 + n % 3)]
    said = {'thought': 'So.', 'domain': 'math', 'personas': personas}
  elif stage == 'generate':
    question = f'How many balls has box {n}?'
    if kind == 1:
      question += f' It has {n} red balls, for {n} red balls are in it.'
    answer = f'{n} red balls'
    said = {'thought': 'So.', 'question': question, 'answer': answer}
  else:
    said = {
      'thought': 'So.',
      'has_context': 'N' if kind == 4 else 'Y',
      'answer_correctness': 'N' if kind == 2 else 'Y',
      'info_leakage': 'Y' if kind == 3 else 'N',
    }
  return json.dumps(said)


def document(n: int) -> Document:
  return Document(f'd{n}', f'Box {n} holds {n} red balls and nothing else.')


def stage(models, folder, **options) -> Questions:
  fields = {'max_tokens': 200, 'temperature': 1, 'seed': 0}
  endpoint = Endpoint(url=models.url, model='all', fields=fields)
  return Questions(
    models=Models(generate=endpoint),
    folder=str(folder),
    patience=options.pop('patience', QUICK),
    **options,
  )


def asked(models, folder, documents, **options):
  one = stage(models, folder, **options)
  try:
    return one.judge(documents)
  finally:
    questions.close(one)


def test_a_question_passes_only_if_all_verdicts_are_good(tmp_path):
  documents = [document(n) for n in range(12)]
  with scripted_models.running(say) as models:
    outcomes = asked(models, tmp_path, documents)
  for n, outcome in enumerate(outcomes):
    count = 1 + n % 3
    expected = {
      0: {questions.UNFIT: 1},
      1: {questions.HOLDS_ANSWER: count},
      2: {'checker: wrong answer': count},
      3: {'checker: answer given away': count},
      4: {'checker: context missing': count},
      5: {},
    }[n % 6]
    reasons = collections.Counter(each.reason for each in outcome.dropped)
    assert reasons == expected
    assert len(outcome.documents) == (count if n % 6 == 5 else 0)
  question = outcomes[5].documents[1]
  assert question == Document(
    'd5#1',
    'How many balls has box 5?',
    {
      'answer': '5 red balls', 'domain': 'Math', 'persona': 'reader 1',
      'material': documents[5].text, 'source': 'd5',
    },
  )  # fmt: skip
  sample = outcomes[5].sample
  assert len(sample['pairs']) == 3
  assert sample['pairs'][0]['check']['info_leakage'] is False
  # Every call is recorded, without the document.
  records = list(call_records.read(tmp_path / questions.CALLS))
  assert len(records) == sum(models.paid.values())
  assert {record['stage'] for record in records} == {
    'filter', 'identify', 'generate', 'check',
  }  # fmt: skip
  assert not any('Box 5 holds' in str(record) for record in records)


def test_bad_replies_are_asked_for_again_and_counted(tmp_path):
  acts = {
    'good': 6, 'fenced': 2, 'wrong_json': 1, 'cut': 1, 'prose': 1, 'empty': 1,
    'drop': 1, ('status', 500): 1, 'limited': 1,
  }  # fmt: skip
  documents = [document(n) for n in range(60)]
  with scripted_models.running(say, scripted_models.mixed(acts)) as models:
    outcomes = asked(models, tmp_path, documents, attempts=2)
    again = asked(models, tmp_path, documents, attempts=2)
    # Nothing is paid for twice, and the result is the same.
    assert max(models.paid.values()) == 1
  assert again == outcomes
  for outcome in outcomes:
    assert outcome.documents or outcome.dropped
  events = collections.Counter(e for one in outcomes for e in one.events)
  assert {event.partition(': ')[2] for event in events} >= {
    'not JSON', 'cut off', 'no object',
  }  # fmt: skip
  reasons = {one.reason for outcome in outcomes for one in outcome.dropped}
  assert any(reason.startswith('generate failed: ') for reason in reasons)


def test_reasoning_is_written_for_a_share_of_the_questions(tmp_path):
  documents = [document(6 * n + 5) for n in range(30)]
  with scripted_models.running(say) as models:
    outcomes = asked(models, tmp_path, documents, reasoned=0.5)
  made = [one for outcome in outcomes for one in outcome.documents]
  reasoned = [one for one in made if 'reasoning' in one.fields]
  assert 0.3 < len(reasoned) / len(made) < 0.7
  assert questions.boxed(reasoned[0].fields['reasoning']).endswith('red balls')


def test_a_spent_budget_stops_the_run_and_a_larger_one_continues(tmp_path):
  documents = [document(n) for n in range(30)]
  with scripted_models.running(say) as models:
    with pytest.raises(Spent, match='start again with a larger budget'):
      asked(models, tmp_path, documents, budget=Budget(max_tokens=60_000))
    paid = sum(models.paid.values())
    assert paid > 5
    outcomes = asked(models, tmp_path, documents)
    assert len(outcomes) == 30
    assert max(models.paid.values()) == 1 and sum(models.paid.values()) > paid


def test_settings_name_what_questions_depend_on(tmp_path):
  one = Endpoint(url='http://here/v1', model='m', key_env=None)
  other = Endpoint(url='http://there/v1', model='m')
  budget = Budget(max_tokens=7)
  a = Questions(models=Models(generate=one), folder='x', budget=budget)
  b = Questions(models=Models(generate=other), folder='y')
  c = Questions(models=Models(generate=one), folder='x', prompts='paper')
  assert a.settings() == b.settings() != c.settings()


@pytest.mark.parametrize(
  ('question', 'answer', 'expected'),
  [
    ('Who wrote Emma, Jane Austen or another?', 'Jane Austen', True),
    ('Who wrote Emma?', 'Emma', True),
    ('Who wrote Emmanuel?', 'Emma', False),
    ('What is 3 times 4, if 12 is a dozen?', '12', False),
    ('What is it?', '?', False),
    ('Is there no limit?', 'No', False),
  ],
)
def test_a_question_may_not_hold_its_answer(question, answer, expected):
  assert questions.holds(question, answer) is expected


def test_more_examples_than_there_are_is_an_error(tmp_path):
  endpoint = Endpoint(url='http://here/v1', model='m')
  with pytest.raises(ValueError, match='at most 3'):
    Questions(models=Models(generate=endpoint), folder='x', examples=4)


def test_the_last_box_counts():
  assert questions.boxed(r'\boxed{1} or \boxed{\frac{1}{2}}.') == r'\frac{1}{2}'
  assert questions.boxed(r'\boxed{1') == ''
  assert questions.boxed('none') == ''


def test_long_documents_are_cut_at_a_line_or_blank():
  assert questions.shortened('a b', 10) == 'a b'
  assert questions.shortened('one two\nthree four', 12) == 'one two'
  assert questions.shortened('one two three', 9) == 'one two'
  assert questions.shortened('x' * 20, 9) == 'x' * 9


def test_references_to_a_document_are_found():
  refers = questions._REFERS.search
  assert refers('According to the passage, who came?')
  assert refers('What is described in the above text?')
  assert not refers('What does the text editor vi do on Esc?')
