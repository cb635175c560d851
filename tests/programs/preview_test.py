"""`rlpt preview` shows what a model would read, here and as a page."""

import json

import pytest

from rlpt_jax import cli

GIN = """
from __gin__ import dynamic_registration
from rlpt_jax.data import config
from rlpt_jax.data import sources
from rlpt_jax.data import tasks
corpus/sources.Files.name = 'corpus'
corpus/sources.Files.files = '{files}'
config.Data.corpora = [@corpus/sources.Files()]
config.Data.task = @tasks.{task}()
"""
TEXT = (
  'The ship left the harbour at dawn. The wind came from the north. So the '
  'captain turned it to the south. All were content.'
)


@pytest.fixture
def gin_file(tmp_path):
  def write(task, **fields):
    (tmp_path / 'c.jsonl').write_text(json.dumps(fields) + '\n{"text": 3}\n')
    text = GIN.format(files=tmp_path / 'c.jsonl', task=task)
    (tmp_path / 'c.gin').write_text(text)
    return str(tmp_path / 'c.gin')

  return write


def preview(capsys, *arguments):
  assert cli.main(['preview', *arguments]) == 0
  return capsys.readouterr().out


def test_asr_and_msr(gin_file, capsys):
  out = preview(capsys, gin_file('rlpt', text=TEXT), '-n', '4')
  assert 'using bytes as tokens: config.Data.tokenizer is not set' in out
  assert out.count(' asr ') == out.count(' msr ') == 2
  assert 'segment 2 of 4' in out and 'segment 3 of 4' in out
  assert 'The wind came from the north.' in out
  assert "dropped: corpus: 1 x field 'text' is not text" in out
  # No example twice, though the data have no end.
  out = preview(capsys, gin_file('rlpt', text=TEXT), '-n', '9')
  assert '4 examples; then the data end, or begin again' in out
  assert '4/4' in out


def test_msr_shows_the_target_at_the_mask(gin_file, capsys):
  out = preview(capsys, gin_file('Msr', text=TEXT), '-n', '1')
  mask, target = out.index('mask │ <MASK>'), out.index('target ┃')
  assert mask < target < out.index('shown │')


def test_as_a_page(gin_file, tmp_path, capsys):
  html = tmp_path / 'page.html'
  out = preview(capsys, gin_file('Asr', text=TEXT), '--html', str(html))
  assert f'wrote {html}' in out
  page = html.read_text()
  assert page.startswith('<!doctype html>')
  assert 'The wind came from the north.' in page
  preview(capsys, gin_file('Asr', text=TEXT), '--html', str(html))
  html.write_text('mine')
  arguments = ['preview', gin_file('Asr', text=TEXT), '--html', str(html)]
  assert cli.main(arguments) == 2
  assert 'page.html: exists, and this program may' in capsys.readouterr().err
  assert html.read_text() == 'mine'


def test_rows_and_questions(gin_file, capsys):
  out = preview(capsys, gin_file('Ntp', text=TEXT), '-n', '1')
  assert 'loss ┃' in out and '<eos>' in out
  sft = gin_file('Sft', prompt='Two and two?', response='Four.')
  out = preview(capsys, sft, '-n', '1')
  assert 'plain │ <bos>Two and two?' in out and 'loss ┃ Four.<eos>' in out
  rlvr = gin_file('Rlvr', question='Two and two?', answer='4')
  out = preview(capsys, rlvr, '-n', '1')
  assert 'context │ Two and two?' in out and 'target ┃ 4' in out


def test_no_examples_is_a_mistake(gin_file, capsys):
  assert cli.main(['preview', gin_file('Asr', text=TEXT), '-n', '0']) == 2
  assert '-n=0: expected at least 1' in capsys.readouterr().err


@pytest.fixture
def no_registry(tensorflow):
  import seqio

  yield
  seqio.TaskRegistry.reset()
  seqio.MixtureRegistry.reset()


@pytest.mark.parametrize(
  ('task', 'name', 'words'),
  [
    ('rlpt', 'corpus_rlpt', (' msr ', 'target')),
    ('Msr', 'corpus_msr', ('<MASK>',)),
    ('Ntp', 'corpus_ntp', ('loss',)),
  ],
)
def test_a_seqio_mixture(task, name, words, gin_file, capsys, no_registry):
  out = preview(
    capsys, gin_file(task, text=TEXT), '--seqio', name, '-n', '4', '--full'
  )
  assert 'The wind came from' in out
  for word in words:
    assert word in out


def test_a_seqio_mixture_that_is_not_there(gin_file, capsys, no_registry):
  arguments = ['preview', gin_file('Asr', text=TEXT), '--seqio', 'wiki_asr']
  assert cli.main(arguments) == 2
  assert '--seqio=wiki_asr: expected one of corpus_asr.' in (
    capsys.readouterr().err
  )
