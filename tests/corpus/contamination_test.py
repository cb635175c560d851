"""Planted questions are found however they are set; other text is not.

The questions are made up.
"""

import dataclasses
import json
import pathlib
import pickle

import pytest

from rlpt_jax.core import settings
from rlpt_jax.corpus import contamination
from rlpt_jax.corpus.contamination import Decontaminate
from rlpt_jax.corpus.documents import Document, Dropped
from rlpt_jax.data import benchmarks

LONG = (
  "Anna's café sells 12 loaves of bread each morning and twice as many rolls "
  'in the afternoon, for 10,000 crowns a month. How much does one roll cost if '
  'a loaf costs 40 crowns?'
)
WHOLE = 'Which river flows past the castle of Karlstein?'  # 8 words.
SHORT = 'Which metal is liquid?'
OPTIONS = ['iron ore', 'red copper', 'mercury', 'lead']
RULE = (
  'Replace every vowel by the next vowel and write all of the words backwards.'
)
PAGE = (
  'It was a bright cold day in April, and the clocks were striking thirteen. '
)


def _gsm8k(folder, *questions):
  rows = [{'question': q, 'answer': '#### 1'} for q in questions]
  _write(folder / 'gsm8k.jsonl', rows)


def _mmlu(folder, *questions, options=OPTIONS):
  rows = [{'question': q, 'choices': options, 'answer': 2} for q in questions]
  _write(folder / 'mmlu.jsonl', rows)


def _write(path: pathlib.Path, rows):
  path.parent.mkdir(exist_ok=True)
  path.write_text('\n'.join(map(json.dumps, rows)))


def _find(stage, text) -> Dropped | None:
  outcome = stage(Document('x', text))
  if isinstance(outcome, Dropped):
    return outcome
  assert outcome == Document('x', text)
  return None


@pytest.mark.parametrize(
  'text',
  [
    LONG,
    LONG.upper().replace(' ', '\n\n'),
    LONG.replace('.', ' -- ').replace(',', '').replace("'", '’'),
    LONG.replace('é', 'e\u0301').replace('roll', 'ro\u00adll'),
    f'{PAGE * 9}\n<li><b>{LONG}</b></li>\n{PAGE}',
    LONG.replace('afternoon', 'evening'),  # 16 words before it.
  ],
)
def test_a_planted_question_is_found(text, tmp_path):
  _gsm8k(tmp_path, 'How many eggs are in a dozen of these boxes?', LONG)
  found = _find(Decontaminate(data=tmp_path), text)
  assert found.reason == 'gsm8k'
  assert found.detail.startswith('gsm8k/1: ')


def test_words_in_many_forms_are_the_same():
  forms = (
    'It’s a CAFÉ_bar: ten oﬃces, 1,234,567 m² of 1,5 kg',
    "its  a cafe\u0301-BAR ten of\u00adfi\u200bces (1234567 m2) of '1.5' kg",
  )
  expected = 'its a café bar ten offices 1234567 m2 of 1 5 kg'.split()
  for form in forms:
    assert contamination.words(form) == expected


def test_the_words_that_match_are_shown(tmp_path):
  _gsm8k(tmp_path, LONG)
  stage = Decontaminate(data=tmp_path)
  assert _find(stage, PAGE + LONG) == Dropped(
    'gsm8k',
    'gsm8k/0: annas café sells 12 loaves of bread each morning and twice as '
    'many',
  )
  text = (
    'for 10000 crowns a month how much does one roll cost if a'  # 13 words.
  )
  assert _find(stage, text).detail == f'gsm8k/0: {text}'
  assert _find(stage, text.replace('10000', '20000')) is None
  assert _find(stage, text.removesuffix(' a')) is None
  assert _find(Decontaminate(data=tmp_path, n=12), text.removesuffix(' a'))


def test_a_short_question_is_looked_for_as_a_whole(tmp_path):
  _gsm8k(tmp_path, WHOLE, SHORT)
  stage = Decontaminate(data=tmp_path)
  assert _find(stage, f'{PAGE}{WHOLE} {PAGE}').detail == (
    'gsm8k/0: which river flows past the castle of karlstein'
  )
  assert _find(stage, f'{PAGE}{WHOLE.replace("past", "by")} {PAGE}') is None
  assert _find(stage, f'{PAGE}{SHORT} {PAGE}') is None
  assert stage.found() == [
    f'gsm8k: 2 questions of {tmp_path}/gsm8k.jsonl, 1 of them without enough '
    'words to look for'
  ]
  assert _find(Decontaminate(data=tmp_path, min_words=4), SHORT)


def test_a_shorter_one_is_looked_for_with_its_options(tmp_path):
  _mmlu(tmp_path, SHORT)
  stage = Decontaminate(data=tmp_path)
  assert _find(stage, f'{SHORT} It is none of the metals that we know.') is None
  plain = f'{SHORT}\n - iron ore\n - red copper\n - mercury\n - lead'
  assert _find(stage, f'{PAGE}\n{plain}\n{PAGE}').reason == 'mmlu'
  lettered = f'{SHORT} (a) iron ore; (b) red copper; (c) mercury; (d) lead'
  assert _find(stage, lettered).detail == (
    'mmlu/0: which metal is liquid a iron ore b red copper c mercury d'
  )
  assert _find(stage, plain.replace('red copper', 'tin')) is None


def test_our_prompts_are_no_words_of_a_benchmark(tmp_path):
  _gsm8k(tmp_path, 'Why?', LONG)
  _mmlu(tmp_path, 'Why?', LONG, options=['1', '2', '3'])
  stage = Decontaminate(data=tmp_path, n=8, min_words=8)
  for row in benchmarks.load('gsm8k', tmp_path).problems[:1]:
    assert _find(stage, row.prompt) is None
  for row in benchmarks.load('mmlu', tmp_path).problems[:1]:
    assert _find(stage, row.prompt) is None


def test_words_of_many_questions_are_no_evidence(tmp_path):
  phrase = (
    'can be written as m/n where m and n are relatively prime positive '
    'integers. Find m + n.'
  )
  questions = [f'{part} {phrase}' for part in ('It', 'The sum', 'This area')]
  _gsm8k(tmp_path, *questions)
  stage = Decontaminate(data=tmp_path)
  assert _find(stage, f'The root {phrase}') is None
  # Only by its own words.
  assert _find(stage, questions[1]).detail.startswith('gsm8k/1: the sum can be')
  assert _find(Decontaminate(data=tmp_path, max_questions=3), phrase)
  # Equal questions are one question.
  _gsm8k(tmp_path / 'b', *[questions[0]] * 5)
  assert _find(Decontaminate(data=tmp_path / 'b'), phrase)


def test_one_question_with_other_options_is_another_question(tmp_path):
  question = 'Which of the following statements about it is true?'
  rows = [
    {'question': question, 'choices': [f'{i}', 'b'], 'answer': 0}
    for i in range(3)
  ]
  _write(tmp_path / 'mmlu.jsonl', rows[:2])
  _write(tmp_path / 'b' / 'mmlu.jsonl', rows)
  assert _find(Decontaminate(data=tmp_path), question)
  stage = Decontaminate(data=tmp_path / 'b')
  assert _find(stage, question) is None
  assert '3 of them without' in stage.found()[0]


def test_a_list_of_numbers_is_no_evidence(tmp_path):
  numbers = ' '.join(map(str, range(1, 20)))
  _gsm8k(tmp_path, f'What is the mean value of the numbers {numbers}?')
  stage = Decontaminate(data=tmp_path)
  assert _find(stage, f'One two: {numbers}') is None
  assert _find(stage, f'the mean value of the numbers {numbers}')


def test_a_rule_of_many_questions_is_looked_for(tmp_path):
  rows = [
    {'rule_content': RULE, 'question': f'Write {word}.', 'answer': '[[x]]'}
    for word in ('dog', 'cat', 'cow', 'pig')
  ]
  _write(tmp_path / 'kor_bench.jsonl', rows)
  assert _find(Decontaminate(data=tmp_path), RULE).reason == 'kor_bench'


def test_which_benchmarks_there_are(tmp_path, monkeypatch):
  monkeypatch.setattr(benchmarks.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'data=None: there are no benchmarks\.'):
    Decontaminate().found()
  with pytest.raises(ValueError, match=r'no benchmarks\. Expected a folder'):
    Decontaminate(data=tmp_path).found()
  _gsm8k(tmp_path, LONG)
  _mmlu(tmp_path, WHOLE)
  both = Decontaminate(data=tmp_path)
  assert [line.split(':')[0] for line in both.found()] == ['mmlu', 'gsm8k']
  # The first in the text is named.
  assert _find(both, f'{LONG} {WHOLE}').reason == 'gsm8k'
  assert _find(both, f'{WHOLE} {LONG}').reason == 'mmlu'
  place = f'gsm8k={tmp_path}/gsm8k.jsonl'
  one = Decontaminate(benchmarks=[place])
  assert _find(one, LONG) and _find(one, WHOLE) is None
  with pytest.raises(ValueError, match='aime24: no data'):
    Decontaminate(data=tmp_path, benchmarks=['gsm8k', 'aime24']).found()
  with pytest.raises(ValueError, match='one or more benchmarks, each once'):
    Decontaminate(data=tmp_path, benchmarks=['gsm8k', place]).found()
  with pytest.raises(ValueError, match='min_words=8: expected at most n=5'):
    Decontaminate(data=tmp_path, n=5)


def test_settings_follow_from_the_questions_and_not_from_their_place(tmp_path):
  folders = [tmp_path / name for name in 'abc']
  for folder in folders:
    _gsm8k(folder, LONG, *[WHOLE] * (folder.name == 'c'))
  a, b, c = [settings.describe(Decontaminate(data=x)) for x in folders]
  assert a == b != c
  assert a['is'] == 'contamination.Decontaminate'
  assert a['benchmarks']['gsm8k'].startswith('1, sha256 ')
  assert (a['n'], a['min_words'], a['max_questions']) == (13, 8, 2)


def test_it_is_pickled_without_its_table(tmp_path):
  _gsm8k(tmp_path, LONG)
  stage = Decontaminate(data=tmp_path)
  stage.found()
  data = pickle.dumps(stage)
  assert len(data) < 1000
  assert _find(pickle.loads(data), LONG)
  assert pickle.loads(data).table is stage.table


def test_equal_hashes_are_not_enough(tmp_path):
  _gsm8k(tmp_path, LONG)
  table = Decontaminate(data=tmp_path).table
  words = contamination.words(LONG)
  assert table.find(words)
  assert dataclasses.replace(table, ids=table.ids[::-1]).find(words) is None


def test_texts_without_words(tmp_path):
  _gsm8k(tmp_path, LONG, '$!$')
  for text in ('', '...', 'one'):
    assert _find(Decontaminate(data=tmp_path), text) is None
