"""`rlpt make_questions` against scripted models on a real socket."""

import json
import re

import pytest

from rlpt_jax import cli
from tests.corpus import corpora
from tests.corpus.questions_test import document, say
from tests.llm import scripted_models

GIN = """
here/sources.Files.name = 'here'
here/sources.Files.files = '{folder}/in.jsonl'

cleaning.Corpus.sources = [@here/sources.Files()]
cleaning.Corpus.folder = '{folder}/out'
cleaning.Corpus.stages = [
  @questions.Questions(),
  @duplicates.ExactDuplicates(),
]
questions.Questions.folder = '{folder}/out'
questions.Questions.models = @questions.Models()
questions.Questions.budget = @budget.Budget()
questions.Models.generate = @remote.Endpoint()
remote.Endpoint.url = '{url}'
remote.Endpoint.model = 'all'
remote.Endpoint.fields = {{'max_tokens': 200, 'temperature': 1, 'seed': 0}}
budget.Budget.max_money = 5.0
budget.Budget.prices = {{'all': @budget.Price()}}
budget.Price.prompt = 2.0
budget.Price.completion = 8.0
"""


@pytest.fixture
def models():
  with scripted_models.running(say) as models:
    yield models


@pytest.fixture
def gin(models, tmp_path):
  corpora.write(tmp_path / 'in.jsonl', [document(n).text for n in range(60)])
  file = tmp_path / 'questions.gin'
  file.write_text(GIN.format(folder=tmp_path, url=models.url))
  return str(file)


def shown(capsys) -> str:
  return ' '.join(capsys.readouterr().out.split())


def money(text: str, row: str) -> float:
  return float(re.search(rf'{row}(?: [\d,]+){{3}} ([\d.]+)', text)[1])


def test_a_sample_a_run_and_another(gin, models, tmp_path, capsys):
  assert cli.main(['make_questions', gin, '--sample=20']) == 0
  estimated = shown(capsys)
  page = (tmp_path / 'out' / 'sample.html').read_text()
  assert page.count('<article') == 20
  assert '✓ <bdi>accepted</bdi>' in page and '✗ <bdi>answer wrong' in page
  paid = sum(models.paid.values())

  assert cli.main(['make_questions', gin]) == 0
  text = shown(capsys)
  # One in six documents gives one to three questions.
  assert 'questions 60 30' in text
  assert '10 dropped, document not qualified' in text
  assert '30 dropped, checker: wrong answer' in text
  assert max(models.paid.values()) == 1
  assert sum(models.paid.values()) > paid
  used, guessed = money(text, 'total'), money(estimated, 'total')
  assert guessed == pytest.approx(used, rel=0.3)
  found = corpora.documents(tmp_path / 'out')
  # Personas ask the same question here, and duplicates are dropped.
  assert [one['answer'] for one in found] == [
    f'{n} red balls' for n in range(5, 60, 6)
  ]
  assert found[0]['text'] == 'How many balls has box 5?'
  assert found[0]['material'] == document(5).text

  paid = sum(models.paid.values())
  assert cli.main(['make_questions', gin]) == 0
  assert sum(models.paid.values()) == paid


def test_a_spent_budget_ends_in_one_line(gin, models, tmp_path, capsys):
  little = 'budget.Budget.max_money=0.2'
  assert cli.main(['make_questions', gin, little]) == cli.USAGE_ERROR
  error = capsys.readouterr().err
  assert 'max_money=0.2' in error and 'larger budget' in error
  assert 'Traceback' not in error
  assert cli.main(['make_questions', gin]) == 0
  assert max(models.paid.values()) == 1
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  assert manifest['documents'] == 60


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--sample=-1', '--sample=-1'),
    ('cleaning.Corpus.stages=[@duplicates.ExactDuplicates()]', 'found 0'),
    (
      'cleaning.Corpus.stages='
      '[@duplicates.ExactDuplicates(), @questions.Questions()]',
      'exact_duplicates compares documents before',
    ),
    ("remote.Endpoint.key_env='NO_SUCH_KEY'", 'NO_SUCH_KEY'),
    ('budget.Budget.prices={}', 'prices'),
  ],
)
def test_a_mistake_gets_one_line(gin, models, capsys, argument, message):
  assert cli.main(['make_questions', gin, argument]) == cli.USAGE_ERROR
  assert message in capsys.readouterr().err
  assert not models.paid
