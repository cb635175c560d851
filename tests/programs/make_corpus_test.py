"""`rlpt make_corpus`: what it prints and writes."""

import json

import pytest

from rlpt_jax import cli
from tests.corpus import corpora

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


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--workers=0', '--workers=0: expected at least 1'),
    ('cleaning.Corpus.stages=[]', 'cleaning.Corpus.stages=[]'),
    ('duplicates.ExactDuplicates.earlier=["nowhere"]', 'plan.json'),
  ],
)
def test_a_mistake_gets_one_line(gin, capsys, argument, message):
  assert cli.main(['make_corpus', gin, argument]) == cli.USAGE_ERROR
  assert message in capsys.readouterr().err


def test_nothing_left_is_an_error(gin, capsys):
  binding = 'cleaning.Corpus.stages=[@paragraphs.RepeatedParagraphs()]'
  options = 'paragraphs.RepeatedParagraphs.min_words=0'
  assert cli.main(['make_corpus', gin, binding, options]) == 0
  assert 'only repeated paragraphs' in capsys.readouterr().out
