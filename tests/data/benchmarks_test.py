r"""A row of every public schema, with all of its fields, as a problem.

The rows are made up; the fields are those of the data sets' cards.
"""

import json

import pytest

from rlpt_jax.data import benchmarks, tables

GPQA = {
  'Pre-Revision Question': 'x', 'Question': 'Which metal is liquid?',
  'Correct Answer': 'mercury\n', 'Incorrect Answer 1': 'iron',
  'Incorrect Answer 2': 'gold', 'Incorrect Answer 3': 'lead',
  'Explanation': 'x', 'Subdomain': 'x', 'Record ID': 'rec1',
  'High-level domain': 'Chemistry',
}  # fmt: skip
OLYMPIAD = {
  'id': 1606, 'question': 'Find $x$.', 'solution': ['x'],
  'final_answer': ['$2$', '$-2$'], 'context': None, 'image_1': None,
  'modality': 'Text-only', 'difficulty': 'Competition',
  'is_multiple_answer': True, 'unit': None, 'answer_type': 'Numerical',
  'error': None, 'question_type': 'Open-ended', 'subfield': 'Algebra',
  'subject': 'Math', 'language': 'English',
}  # fmt: skip
ROWS = {
  'mmlu': {
    'question': 'Which is even?', 'subject': 'arithmetic',
    'choices': ['1', '2', '3', '5'], 'answer': 1,
  },
  'mmlu_pro': {
    'question_id': 70, 'question': 'Which is even?',
    'options': [str(i) for i in (1, 3, 5, 7, 9, 11, 13, 15, 17, 2)],
    'answer': 'J', 'answer_index': 9, 'cot_content': '', 'category': 'maths',
    'src': 'x',
  },
  'gpqa_diamond': GPQA,
  'supergpqa': {
    'uuid': 'x', 'question': 'Which is even?', 'options': ['3', '2', '5'],
    'answer': '2', 'answer_letter': 'B', 'discipline': 'Science',
    'field': 'Mathematics', 'subfield': 'x', 'difficulty': 'easy',
    'is_calculation': False,
  },
  'kor_bench': {
    'rule_content': 'a#b is a + 2b.', 'question': 'Compute 1#2. [[answer]]',
    'answer': '[[5]]', 'category': 'operation', 'rule_id': '1',
  },
  'olympiad_bench': OLYMPIAD,
  'gsm8k': {
    'question': 'How many?', 'answer': 'A <<1000*2=2000>>2,000.\n#### 2,000',
  },
  'math500': {
    'problem': 'What is $1+1$?', 'solution': r'\boxed{2}', 'answer': '2',
    'subject': 'Algebra', 'level': 1, 'unique_id': 'test/algebra/1.json',
  },
  'amc23': {'id': 0, 'question': 'How far?', 'answer': '27.0', 'url': 'x'},
  'minerva': {'question': 'How far?', 'answer': '4.5e33'},
  'aime24': {
    'id': 60, 'problem': 'How far?', 'solution': 'x', 'answer': '204',
    'url': 'x', 'year': '2024',
  },
  'aime25': {'problem': 'How far?', 'answer': '70', 'id': '0'},
}  # fmt: skip
BOXED = '\n\nPlease reason step by step, and put your final answer within \\box'
EXPECTED = {
  'mmlu': (('B', '1', '2', '3', '5'), 'arithmetic'),
  'supergpqa': (('B', '3', '2', '5'), 'Science'),
  'kor_bench': (('[[5]]',), 'operation'),
  'olympiad_bench': (('2, -2',), 'Algebra'),
  'gsm8k': (('2000',), ''),
  'math500': (('2',), 'Algebra'),
  'amc23': (('27.0',), ''),
  'minerva': (('4.5e33',), ''),
  'aime24': (('204',), ''),
  'aime25': (('70',), ''),
}


def _load(name, rows, tmp_path):
  path = tmp_path / f'{name}.json'
  path.write_text(json.dumps(rows))
  return benchmarks.load(name, tmp_path)


def test_there_is_a_row_for_every_benchmark():
  assert set(ROWS) == set(benchmarks.NAMES)


@pytest.mark.parametrize('name', ROWS)
def test_a_row_of_the_public_schema(name, tmp_path):
  loaded = _load(name, [ROWS[name]], tmp_path)
  (problem,) = loaded.problems
  assert problem.id == f'{name}/0'
  assert loaded.place == str(tmp_path / f'{name}.json')
  if name in EXPECTED:
    assert (problem.references, problem.group) == EXPECTED[name]
  scorer = loaded.benchmark.scorer
  if scorer in ('math', 'number'):
    assert problem.prompt.endswith(f'?{BOXED}ed{{}}.') or name.startswith('oly')
    assert loaded.benchmark.samples == (1 if name.startswith('oly') else 64)
  else:
    assert loaded.benchmark.samples == 1


def test_options_have_letters(tmp_path):
  loaded = _load('mmlu', [ROWS['mmlu']], tmp_path)
  assert loaded.problems[0].prompt == (
    'Which is even?\n\nA. 1\nB. 2\nC. 3\nD. 5\n\nPlease reason step by step, '
    'and put the letter of the right option within \\boxed{}.'
  )
  loaded = _load('mmlu_pro', [ROWS['mmlu_pro']], tmp_path)
  assert loaded.problems[0].references[0] == 'J'
  assert '\nJ. 2\n' in loaded.problems[0].prompt


@pytest.mark.parametrize('name', ROWS)
def test_texts_are_the_words_of_the_benchmark_alone(name, tmp_path):
  (problem,) = _load(name, [ROWS[name]], tmp_path).problems
  if name == 'kor_bench':
    assert problem.texts == ('a#b is a + 2b.', 'Compute 1#2. [[answer]]')
  else:
    fields = {key.lower(): value for key, value in ROWS[name].items()}
    assert problem.texts == (fields.get('question') or fields['problem'],)
  assert all(text in problem.prompt for text in problem.texts)


def test_benchmarks_with_files_in_a_folder_are_found(tmp_path):
  (tmp_path / 'gsm8k.jsonl').write_text('{}')
  (tmp_path / 'mmlu' / 'all').mkdir(parents=True)
  assert benchmarks.found(tmp_path) == ['gsm8k']
  (tmp_path / 'mmlu' / 'all' / 'test.csv').write_text('')
  assert benchmarks.found(tmp_path) == ['mmlu', 'gsm8k']


def test_options_of_gpqa_come_in_an_order_of_their_question(tmp_path):
  rows = [GPQA | {'Question': f'Question {i}?'} for i in range(200)]
  problems = _load('gpqa_diamond', rows, tmp_path).problems
  letters = [problem.references[0] for problem in problems]
  for problem in problems:
    gold, *options = problem.references
    assert options['ABCD'.index(gold)] == 'mercury'
    assert sorted(options) == ['gold', 'iron', 'lead', 'mercury']
  assert min(map(letters.count, 'ABCD')) > 30
  # The same for the same question, wherever it stands.
  again = _load('gpqa_diamond', rows[::-1], tmp_path).problems
  assert [p.references for p in again][::-1] == [p.references for p in problems]


def test_kor_bench_as_its_repository_has_it(tmp_path):
  for category, rule in (('cipher', 'Shift by 1.'), ('logic', 'Not.')):
    folder = tmp_path / 'kor_bench' / 'data' / category
    folder.mkdir(parents=True)
    (folder / 'rule.jsonl').write_text(
      json.dumps({'idx': '1', 'title': 'x', 'rule_content': rule, 'tag': 'x'})
    )
    sample = {
      'idx': '1', 'question': f'{category}?', 'answer': '[[B]]',
      'category': 'Encryption', 'rule_id': '1', 'needle': ['x'],
    }  # fmt: skip
    (folder / 'sample.jsonl').write_text(json.dumps(sample))
    (folder / 'three-shot.jsonl').write_text(json.dumps(sample))
  problems = benchmarks.load('kor_bench', tmp_path).problems
  assert [(p.group, p.references) for p in problems] == [
    ('cipher', ('[[B]]',)), ('logic', ('[[B]]',)),
  ]  # fmt: skip
  assert 'Shift by 1.\n\n### Question\n\ncipher?' in problems[0].prompt
  (folder / 'rule.jsonl').unlink()
  with pytest.raises(
    ValueError, match=r'no rule 1 in rule\.jsonl in the same folder'
  ):
    benchmarks.load('kor_bench', tmp_path)


def test_what_words_alone_do_not_ask_is_left_out(tmp_path):
  rows = [
    OLYMPIAD,
    OLYMPIAD | {'final_answer': None},  # A proof.
    OLYMPIAD | {'image_1': {'bytes': 'x'}},
    OLYMPIAD | {'context': 'A ball falls.', 'unit': 'm', 'final_answer': ['3']},
  ]
  loaded = _load('olympiad_bench', rows, tmp_path)
  assert loaded.left_out == 2
  assert [p.id for p in loaded.problems] == [
    'olympiad_bench/0', 'olympiad_bench/3',
  ]  # fmt: skip
  assert loaded.problems[1].prompt.startswith(
    'A ball falls.\n\nFind $x$.\n\nGive the answer in m, without the unit.'
  )
  assert loaded.problems[1].texts == ('A ball falls.\n\nFind $x$.',)
  with pytest.raises(ValueError, match='no problems in'):
    _load('olympiad_bench', rows[1:3], tmp_path)


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('gsm8k', {'answer': 'It is 3.'}, "ends in 'It is 3.', not in #### RESULT"),
    ('gsm8k', {'question': None}, r'no question among its fields \(question, '),
    ('mmlu', {'answer': 4}, 'the answer is 4, but there are 4 options'),
    ('mmlu', {'answer': -1}, 'the answer is -1, but there are 4 options'),
    ('mmlu', {'choices': 'a, b'}, "choices is 'a, b', not a list of options"),
    ('math500', {'answer': ['2']}, 'answer is a list, not text'),
    ('math500', {'problem': ''}, 'no problem or question or Problem'),
  ],
)
def test_a_row_of_another_schema_is_named(name, change, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    _load(name, [ROWS[name], ROWS[name] | change], tmp_path)
  assert f'{name}.json row 2: ' in str(error.value)
  assert f'; {name} expects ' in str(error.value)


def test_numbers_of_a_table_are_answers(tmp_path):
  rows = [ROWS['aime25'] | {'answer': 70.0}, ROWS['aime25'] | {'answer': 7}]
  problems = _load('aime25', rows, tmp_path).problems
  assert [p.references for p in problems] == [('70',), ('7',)]


def test_data_that_is_not_there(tmp_path, monkeypatch):
  monkeypatch.setattr(benchmarks.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='gsm8k: no data') as error:
    benchmarks.load('gsm8k', tmp_path)
  assert str(error.value) == (
    "gsm8k: no data. Put the test split of 'main' in "
    'https://huggingface.co/datasets/openai/gsm8k (fields: question, answer '
    f'(ends in #### RESULT)) at {tmp_path}/gsm8k.jsonl, or .json, .parquet, '
    f'.csv, or a clone of it at {tmp_path}/gsm8k/, and pass --data={tmp_path}; '
    'or say where it is: gsm8k=PATH, gsm8k=tfds:NAME; or pip install datasets.'
  )
  with pytest.raises(ValueError, match=r'no data at .*/x\. Put'):
    benchmarks.load('gsm8k', None, f'{tmp_path}/x')
  with pytest.raises(ValueError, match=r'Put https://hugg.*m-a-p/KOR-Bench'):
    benchmarks.load('kor_bench', tmp_path)
  with pytest.raises(
    ValueError, match="'gsm9k' is not a benchmark: expected one"
  ):
    benchmarks.load('gsm9k', tmp_path)


def test_where_there_is_a_library_it_is_asked(tmp_path, monkeypatch):
  monkeypatch.setattr(
    benchmarks.importlib.util, 'find_spec', lambda name: name == 'datasets'
  )
  asked = []

  def read_named(name):
    asked.append(name)
    return [tables.Row(f'{name} row 1', name, ROWS['gsm8k'])]

  monkeypatch.setattr(tables, 'read_named', read_named)
  assert benchmarks.load('gsm8k', tmp_path).place == 'hf:openai/gsm8k:main:test'
  assert benchmarks.load('gsm8k', None, 'tfds:x').place == 'tfds:x'
  assert asked == ['hf:openai/gsm8k:main:test', 'tfds:x']
