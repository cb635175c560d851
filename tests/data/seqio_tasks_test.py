"""SeqIO gives the examples of the Loader, with a cache and without."""

import dataclasses

import pytest

from rlpt_jax.data import pipeline, sources, tasks
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from tests import lazy

seqio = lazy.Module('seqio')
seqio_tasks = lazy.Module('rlpt_jax.data.seqio_tasks')


@pytest.fixture
def data(corpus, tmp_path):
  files = sources.Files('corpus', corpus(20), part_bytes=700)
  cache_dir = str(tmp_path / 'cache')
  data = Data(
    [files], tasks.rlpt(), cache_dir=cache_dir, min_words=1, epochs=1
  )  # fmt: skip
  (plan,) = pipeline.plans(data)
  for number in plan.missing():
    pipeline.prepare_part(number, plan)
  pipeline.write_manifest(plan)
  yield data
  seqio.TaskRegistry.reset()
  seqio.MixtureRegistry.reset()


def as_example(row):
  text = {name: row[name].decode() for name in ('kind', 'corpus', 'document')}
  return (
    *text.values(),
    int(row['segment']),
    tuple(row['prompt_tokens'].tolist()),
    tuple(reference.decode() for reference in row['references']),
  )


def of_loader(data):
  return sorted(
    (
      e.kind, e.corpus, e.document, e.segment,
      tuple(e.prompt_tokens.tolist()), e.references,
    )
    for loaded in Loader(data, 8)
    for e in loaded.examples
  )  # fmt: skip


@pytest.mark.parametrize('use_cached', [False, True])
def test_a_task_has_the_examples_of_the_loader(data, use_cached):
  names = seqio_tasks.register(data)
  assert names == ['corpus_asr', 'corpus_msr', 'corpus_rlpt']
  found = []
  for name in names[:2]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(
      use_cached=use_cached, shuffle=use_cached
    )
    found += map(as_example, dataset.as_numpy_iterator())
  assert sorted(found) == of_loader(data)


def test_a_cache_of_other_settings_is_refused(data):
  with pytest.raises(ValueError, match='min_words was 1, is 3'):
    seqio_tasks.register(dataclasses.replace(data, min_words=3))


def test_shards_are_parts(data):
  seqio_tasks.register(data)
  task = seqio.TaskRegistry.get('corpus_asr')
  assert len(task.source.list_shards('train')) > 5
  shards = [
    list(
      task.get_dataset(
        shuffle=False, shard_info=seqio.ShardInfo(i, 3)
      ).as_numpy_iterator()
    )
    for i in range(3)
  ]
  found = sorted(as_example(row) for shard in shards for row in shard)
  assert found == [e for e in of_loader(data) if e[0] == 'asr']


def test_the_mixture_interleaves(data):
  seqio_tasks.register(data)
  mixture = seqio.get_mixture_or_task('corpus_rlpt')
  rows = mixture.get_dataset(use_cached=True, num_epochs=1, seed=0)
  kinds = {row['kind'] for row in rows.as_numpy_iterator()}
  assert kinds == {b'asr', b'msr'}


def test_packed_tasks_give_their_texts(data):
  data = dataclasses.replace(data, task=tasks.Ntp(row_tokens=50))
  (name,) = seqio_tasks.register(data)
  rows = list(seqio.get_mixture_or_task(name).get_dataset().as_numpy_iterator())
  assert {'tokens', 'loss'} == set(rows[0])
  # The Loader's first token of each text is never predicted.
  loss = sum(loaded.examples.loss_BT.sum() for loaded in Loader(data, 4))
  assert sum(len(row['tokens']) - 1 for row in rows) == loss


def test_examples_are_plain_and_read_what_is_prepared(data):
  seqio_tasks.register(data)
  found = [
    (
      x['kind'], x['corpus'], x['document'], int(x['segment']),
      tuple(x['prompt_tokens'].tolist()), x['references'],
    )
    for name in ('corpus_asr', 'corpus_msr')
    for x in seqio_tasks.examples(data, name)
  ]  # fmt: skip
  assert sorted(found) == of_loader(data)
  # A mixture has both, as often as their weights say.
  kinds = {x['kind'] for x in seqio_tasks.examples(data, 'corpus_rlpt')}
  assert kinds == {'asr', 'msr'}
