"""`rlpt make_corpus`: what it prints and writes."""

import json
import shutil

import pytest

from rlpt_jax import cli
from tests.corpus import corpora
from tests.rewards import judges

GIN = """
here/sources.Files.name = 'here'
here/sources.Files.files = '{path}'
cleaning.Corpus.sources = [@here/sources.Files()]
cleaning.Corpus.stages = [@duplicates.ExactDuplicates()]
cleaning.Corpus.folder = '{folder}'
"""


@pytest.fixture
def gin(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a <b> [c]', 'two', 'a <b> [c]'])
  file = tmp_path / 'corpus.gin'
  file.write_text(GIN.format(path=path, folder=tmp_path / 'out'))
  return str(file)


def test_it_prints_counts_and_writes_a_page(gin, tmp_path, capsys):
  for _ in range(2):  # The second time, all is there.
    assert cli.main(['make_corpus', gin]) == 0
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'exact duplicates 3' in shown
    assert '1 dropped the same text as another document' in shown
    assert 'documents/*.jsonl.zst' in shown
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert 'a &lt;b&gt; [c]' in page
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  assert manifest['written'] == 2
  assert [one['n'] for one in corpora.documents(tmp_path / 'out')] == [0, 1]


def answer(prompt, _):
  """Says that texts about a mill are good."""
  return 'say', f'It tells something.\nScore: {4 if "mill" in prompt else 1}'


def test_a_model_filters_and_its_cost_is_counted_before(tmp_path, capsys):
  texts = ['The mill was built by the river.', 'Buy now!', 'A mill, too.']
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  with judges.running(answer) as model:
    file = tmp_path / 'corpus.gin'
    text = GIN.format(path=path, folder=tmp_path / 'out')
    text = text.replace('duplicates.ExactDuplicates', 'documents.InBatches')
    file.write_text(f"""{text}
documents.InBatches.judge = @quality.ByModel()
quality.ByModel.complete = @quality.Server()
quality.Server.endpoint = @remote.Endpoint()
quality.Server.cache = '{tmp_path}/answers.jsonl'
remote.Endpoint.url = '{model.url}'
remote.Endpoint.model = 'all'
""")
    command = ['make_corpus', str(file)]
    assert cli.main([*command, '--estimate', '--prompt_price=2']) == 0
    assert '3 questions' in capsys.readouterr().out
    assert not model.tries
    assert cli.main(command) == 0
    kept = [one['quality_score'] for one in corpora.documents(tmp_path / 'out')]
    assert kept == [4, 4]
    asked = sum(model.tries.values())
    shutil.rmtree(tmp_path / 'out')
    assert cli.main(command) == 0
    # Only the trial is asked again; all answers were kept.
    assert sum(model.tries.values()) == asked + 2


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--workers=0', '--workers=0: expected at least 1'),
    ('--estimate', 'no stage asks a model'),
    ('cleaning.Corpus.stages=[]', 'cleaning.Corpus.stages=[]'),
    ('duplicates.ExactDuplicates.earlier=["nowhere"]', 'manifest.json'),
  ],
)
def test_a_mistake_gets_one_line(gin, capsys, argument, message):
  assert cli.main(['make_corpus', gin, argument]) == cli.USAGE_ERROR
  assert message in capsys.readouterr().err


def test_reasons_are_printed(gin, capsys):
  binding = 'cleaning.Corpus.stages=[@paragraphs.RepeatedParagraphs()]'
  options = [
    'paragraphs.RepeatedParagraphs.min_words=0',
    'paragraphs.RepeatedParagraphs.times=2',
  ]
  assert cli.main(['make_corpus', gin, binding, *options]) == 0
  assert 'only repeated paragraphs' in capsys.readouterr().out
