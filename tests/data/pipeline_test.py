"""A cache is the same after any stops, and is never made of two inputs."""

import dataclasses
import json
import pathlib

import pytest

from rlpt_jax.data import pipeline, sources, tasks
from rlpt_jax.data.cache import Cache
from rlpt_jax.data.config import Data


@pytest.fixture
def data(corpus, tmp_path):
  files = sources.Files('corpus', corpus(20), part_bytes=700)
  cache_dir = str(tmp_path / 'cache')
  return Data([files], tasks.rlpt(), cache_dir=cache_dir, min_words=1)


def run(plan, **options):
  return pipeline.run(
    plan, runner='DirectRunner', beam_options=[],
    on_progress=options.get('on_progress', lambda *_: None),
  )  # fmt: skip


def contents(folder):
  """What Loader and SeqIO read of a folder."""
  return {
    path.name: path.read_bytes()
    for path in pathlib.Path(folder).iterdir()
    if not path.name.startswith(('plan', 'part'))
  }


@pytest.mark.slow
def test_beam_prepares_every_part_once(data):
  (plan,) = pipeline.plans(data)
  assert len(plan.parts) > 5
  progress = []
  manifest = run(plan, on_progress=lambda *numbers: progress.append(numbers))
  assert progress[0] == (0, len(plan.parts))
  assert progress[-1] == (len(plan.parts), len(plan.parts))
  assert manifest['documents'] == manifest['records'] == 20
  assert len(Cache(plan.folder)) == 20
  lengths = manifest['lengths']['segments of a document']
  assert sum(lengths.values()) == 20
  items = sum(max(0, n - 2) * count for n, count in lengths.items())
  used = sum(count for n, count in lengths.items() if n > 2)
  assert pipeline.counts(data)['corpus_asr'] == (items, used, 20)
  # Again: nothing is missing, and nothing changes.
  before = contents(plan.folder)
  assert pipeline.plans(data)[0].missing() == []
  run(plan)
  assert contents(plan.folder) == before


def test_stopped_anywhere_it_goes_on_to_the_same_cache(data, tmp_path):
  (whole,) = pipeline.plans(data)
  for number in whole.missing():
    pipeline.prepare_part(number, whole)
  pipeline.write_manifest(whole)

  other = dataclasses.replace(data, cache_dir=str(tmp_path / 'other'))
  (plan,) = pipeline.plans(other)
  pipeline.prepare_part(3, plan)
  # Killed while it wrote a shard, and between a shard and its json.
  shard = pathlib.Path(plan.folder) / 'train.tfrecord-00001-of-00099.tmp'
  shard.write_bytes(b'half a rec')
  pipeline.prepare_part(1, plan)
  (pathlib.Path(plan.folder) / 'part-00001.json').unlink()
  assert not {3} & set(plan.missing()) and 1 in plan.missing()
  run(pipeline.plans(other)[0])
  shard.unlink()
  assert contents(plan.folder) == contents(whole.folder)


@pytest.mark.parametrize(
  ('name', 'change'),
  [
    ('train.tfrecord-00001-of-*', lambda path: path.unlink()),
    ('train.tfrecord-00001-of-*', lambda path: path.write_bytes(b'')),
    ('index-00001.npz', lambda path: path.unlink()),
    ('index-00001.npz', lambda path: path.write_bytes(b'no zip')),
    ('part-00001.json', lambda path: path.write_text('')),
  ],
)
def test_a_damaged_part_is_made_again(data, name, change):
  (plan,) = pipeline.plans(data)
  for number in plan.missing():
    pipeline.prepare_part(number, plan)
  pipeline.write_manifest(plan)
  before = contents(plan.folder)
  (path,) = pathlib.Path(plan.folder).glob(name)
  change(path)
  if not name.startswith('part'):
    with pytest.raises(ValueError, match='`rlpt prepare` again'):
      Cache(plan.folder)
  (plan,) = pipeline.plans(data)
  plan.drop_damaged()
  assert plan.missing() == [1]
  run(plan)
  assert contents(plan.folder) == before


def test_another_part_of_a_dataset_is_refused(data):
  pipeline.plans(data)
  (first,) = data.corpora
  corpora = [dataclasses.replace(first, max_document_bytes=77)]
  with pytest.raises(ValueError, match=r'read.max_document_bytes was \d+, is'):
    pipeline.plans(dataclasses.replace(data, corpora=corpora))


def test_a_cache_dir_that_is_a_file(data, tmp_path):
  (tmp_path / 'file').write_text('')
  data = dataclasses.replace(data, cache_dir=str(tmp_path / 'file'))
  with pytest.raises(ValueError, match='cannot be created'):
    pipeline.plans(data)


def test_other_input_is_refused(data):
  pipeline.plans(data)
  other = dataclasses.replace(data, min_words=3)
  with pytest.raises(ValueError, match=r'settings.min_words was 1, is 3'):
    pipeline.plans(other)
  path = pathlib.Path(data.corpora[0].files[0].replace('*', '2'))
  path.write_text('{"text": "More."}\n')
  with pytest.raises(ValueError, match=r'source.each.2.jsonl is new'):
    pipeline.plans(data)


def test_strict_says_where_in_one_line_and_can_be_mended(data):
  path = pathlib.Path(data.corpora[0].files[0].replace('*', '2'))
  path.write_text('{"text": "A. B. C."}\n{"text": 7}\n')
  strict = dataclasses.replace(data, strict=True)
  (plan,) = pipeline.plans(strict)
  with pytest.raises(ValueError, match=r'2.jsonl line 2.*strict is on') as e:
    run(plan)
  assert '\n' not in str(e.value)
  # Not strict, the same folder goes on, and counts it.
  manifest = run(pipeline.plans(data)[0])
  assert list(manifest['faults']['counts'].values()) == [1]
  assert manifest['documents'] == 22 and manifest['records'] == 21


def test_nothing_usable_is_an_error(tmp_path):
  (tmp_path / 'x.jsonl').write_text('{"text": ""}\n' * 5)
  files = sources.Files('x', str(tmp_path / 'x.jsonl'))
  data = Data([files], tasks.Asr(), cache_dir=str(tmp_path / 'cache'))
  (plan,) = pipeline.plans(data)
  with pytest.raises(ValueError, match='the corpus x gives no example'):
    run(plan)
  assert not (pathlib.Path(plan.folder) / 'COMPLETED').exists()


def test_without_a_cache_dir(data):
  with pytest.raises(ValueError, match='expected the folder to prepare into'):
    pipeline.plans(dataclasses.replace(data, cache_dir=''))


def test_tasks_that_read_the_same_records_share_them(data):
  corpora = [dataclasses.replace(data.corpora[0], task=None)]
  task = (*tasks.rlpt(), tasks.Ntp())
  plans = pipeline.plans(dataclasses.replace(data, corpora=corpora, task=task))
  assert [plan.component.folder for plan in plans] == ['corpus.text']
  assert json.loads((pathlib.Path(plans[0].folder) / 'plan.json').read_text())
