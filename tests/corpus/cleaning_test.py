"""The whole of make_corpus: order, restarts, settings."""

import os
import pathlib
import random
import subprocess
import sys

import pytest

from rlpt_jax.corpus import cleaning
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.duplicates import NearDuplicates
from rlpt_jax.corpus.paragraphs import RepeatedParagraphs
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.data import files
from tests.corpus import corpora
from tests.corpus.duplicates_test import family

STAGES = [NearDuplicates(), corpora.without_odd, RepeatedParagraphs()]


def written_input(folder):
  rng = random.Random(0)
  line = corpora.text(rng, 12)
  texts = [f'{text}\n{line}' if i % 4 else text
           for i, text in enumerate(family())]  # fmt: skip
  return corpora.write(folder / 'in.jsonl', texts)


def test_stages_run_in_the_order_given(tmp_path):
  manifest = corpora.make(written_input(tmp_path), STAGES, tmp_path / 'out')
  names = [stage['name'] for stage in manifest['stages']]
  assert names == ['near_duplicates', 'without_odd', 'repeated_paragraphs']
  ins = [stage['documents'] for stage in manifest['stages']]
  outs = [
    stage['documents'] - sum(stage['dropped'].values())
    for stage in manifest['stages']
  ]
  assert ins == [manifest['documents'], *outs[:-1]]
  assert (
    outs[-1] == manifest['written'] == len(corpora.documents(tmp_path / 'out'))
  )
  assert {path.name for path in (tmp_path / 'out').iterdir()} == {
    '.lock', 'documents', 'manifest.json', 'plan.json', 'samples.json',
    'seconds.json', 'signatures',
  }  # fmt: skip


class Killed(BaseException):
  pass


@pytest.mark.slow
def test_a_killed_run_continues_with_what_is_missing(tmp_path, monkeypatch):
  path = written_input(tmp_path)
  corpora.make(path, STAGES, tmp_path / 'whole', held=40_000)
  rng, write, made = random.Random(0), files.write, []
  kills = 0
  while True:
    left = rng.randrange(20, 60)

    def dying(where, data):
      nonlocal left
      left -= 1
      if left < 0:
        raise Killed
      made.append(where)
      write(where, data)

    monkeypatch.setattr(files, 'write', dying)
    try:
      corpora.make(path, STAGES, tmp_path / 'killed', held=40_000)
      break
    except BaseException as error:
      # Beam may wrap what a worker raises.
      assert 'Killed' in repr(error) or 'Killed' in str(error)
      kills += 1
  assert kills >= 2
  whole, killed = (
    corpora.contents(tmp_path / name) for name in ('whole', 'killed')
  )
  assert killed == whole
  # No part of a pass was written twice after its facts were.
  facts = [name for name in made if 'facts' in name and name.endswith('.json')]
  assert len(facts) == len(set(facts))


@pytest.mark.slow
def test_two_workers_write_the_same_files(tmp_path):
  path = written_input(tmp_path)
  corpora.make(path, STAGES, tmp_path / 'one')
  script = (
    'import sys, pathlib\n'
    'from rlpt_jax.corpus import cleaning\n'
    'from rlpt_jax.corpus.pipelines import Runner\n'
    'from tests.corpus import corpora, cleaning_test\n'
    'source = corpora.source(pathlib.Path(sys.argv[1]), part_bytes=2000)\n'
    'corpus = cleaning.Corpus([source], cleaning_test.STAGES, sys.argv[2])\n'
    'cleaning.make(corpus, Runner(workers=2), lambda *_: None)\n'
  )
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  subprocess.run(
    [sys.executable, '-c', script, str(path), str(tmp_path / 'two')],
    check=True, cwd=root, env={**os.environ, 'PYTHONPATH': root},
  )  # fmt: skip
  one, two = (corpora.contents(tmp_path / name) for name in ('one', 'two'))
  assert one == two


def test_a_finished_corpus_is_not_made_again(tmp_path, monkeypatch):
  path = corpora.write(tmp_path / 'in.jsonl', ['one', 'two'])
  stages = [corpora.without_odd]
  manifest = corpora.make(path, stages, tmp_path / 'out')
  monkeypatch.setattr(files, 'write', None)
  assert corpora.make(path, stages, tmp_path / 'out') == manifest


def test_other_settings_and_other_input_are_refused(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['one', 'two'])
  corpora.make(path, [RepeatedParagraphs()], tmp_path / 'out')
  with pytest.raises(ValueError, match='min_words was 8, now 9'):
    corpora.make(path, [RepeatedParagraphs(min_words=9)], tmp_path / 'out')
  with path.open('a') as file:
    file.write('{"text": "one more"}\n')
  with pytest.raises(ValueError, match='was made with other settings'):
    corpora.make(path, [RepeatedParagraphs()], tmp_path / 'out')


def test_a_stage_that_cannot_run_is_found_before_the_run(tmp_path):
  def needs_a_file(document):
    raise ValueError('no such file: x')

  path = corpora.write(tmp_path / 'in.jsonl', ['a'])
  with pytest.raises(ValueError, match='needs_a_file: no such file: x'):
    corpora.make(path, [needs_a_file], tmp_path / 'out')
  assert not (tmp_path / 'out' / 'documents').exists()


def test_names_of_stages():
  stage = corpora.without_odd
  source = corpora.source(pathlib.Path('x.jsonl'))
  corpus = Corpus([source], [stage, NearDuplicates(), stage], 'x')
  assert [name for name, _ in corpus.named_stages()] == [
    'without_odd', 'near_duplicates', 'without_odd_2',
  ]  # fmt: skip


def test_an_empty_corpus_is_refused(tmp_path):
  with pytest.raises(ValueError, match='at least one'):
    Corpus([], [NearDuplicates()], str(tmp_path))
  with pytest.raises(ValueError, match='at least one'):
    Corpus([corpora.source(tmp_path / 'x.jsonl')], [], str(tmp_path))


def test_a_folder_that_is_no_corpus_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'plan\.json: missing or damaged'):
    cleaning.read_json(str(tmp_path), 'plan.json')
  assert Runner().workers == 1


def test_folders_that_cannot_be_used_are_refused(tmp_path):
  path = corpora.write(tmp_path / 'out' / 'in.jsonl', ['a'])
  with pytest.raises(ValueError, match='in the folder of the corpus itself'):
    corpora.make(path, [RepeatedParagraphs()], tmp_path / 'out')
  path = corpora.write(tmp_path / 'in.jsonl', ['a'])
  stage = NearDuplicates(earlier=[str(tmp_path / 'new')])
  with pytest.raises(ValueError, match='is the folder of the corpus itself'):
    corpora.make(path, [stage], tmp_path / 'new')
  (tmp_path / 'old' / 'documents').mkdir(parents=True)
  with pytest.raises(ValueError, match=r'plan\.json is missing'):
    corpora.make(path, [corpora.without_odd], tmp_path / 'old')
  path.write_text('')
  with pytest.raises(ValueError, match='the files are empty'):
    corpora.make(path, [corpora.without_odd], tmp_path / 'empty')


def test_two_runs_cannot_share_a_folder(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a'])
  with (
    files.locked(str(tmp_path / 'out')),
    pytest.raises(ValueError, match='another process is writing there'),
  ):
    corpora.make(path, [corpora.without_odd], tmp_path / 'out')


def test_a_finished_corpus_is_cleaned_up(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a'])
  corpora.make(path, [corpora.without_odd], tmp_path / 'out')
  (tmp_path / 'out' / 'pass-1-facts').mkdir()
  corpora.make(path, [corpora.without_odd], tmp_path / 'out')
  assert not (tmp_path / 'out' / 'pass-1-facts').exists()
