"""Registers the tasks of a run as SeqIO tasks and mixtures.

  names = seqio_tasks.register(data)
  dataset = seqio.get_mixture_or_task('wiki_asr').get_dataset(use_cached=True)

These tasks give the same examples as our Loader, but in SeqIO's order and
sharding; only the Loader resumes exactly and reports faults. Their cache is the
output of `rlpt prepare`; tasks that read the same records share it.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rlpt_jax.data import quiet_tensorflow

quiet_tensorflow.load()
import seqio
import tensorflow as tf

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.data import cache, config, loader, records
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Document
from rlpt_jax.data.sources import Source


def register(data: config.Data) -> list[str]:
  """Registers all tasks and mixtures; returns their names.

  These are a task `{corpus}_{task}` for each corpus and task, and a mixture
  `{corpus}_rlpt` for each corpus with both ASR and MSR.
  """
  tokenizer = config.load_tokenizer(data.tokenizer)
  components = config.components(data, tokenizer)
  for component in components:
    seqio.TaskRegistry.add_provider(
      component.name, _task(component, data, tokenizer)
    )
  names = [component.name for component in components]
  by_corpus = itertools.groupby(components, lambda c: c.source.name)
  for corpus, group in by_corpus:
    rates = [(c.name, c.task.weight) for c in group if c.task.name in _RLPT]
    if len(rates) == len(_RLPT):
      seqio.MixtureRegistry.add(f'{corpus}_rlpt', rates)
      names.append(f'{corpus}_rlpt')
  return names


_RLPT = ('asr', 'msr')


def examples(data: config.Data, name: str) -> Iterator[dict[str, Any]]:
  """Yields the examples of a registered task or mixture, without shuffling.

  Reads prepared records if `rlpt prepare` has written all that the task or
  mixture needs; otherwise reads the corpus.
  """
  made = seqio.get_mixture_or_task(name)
  is_cached = all(
    _records_dir(component, data) for component in _components_of(data, name)
  )
  dataset = made.get_dataset(
    split=cache.SPLIT, shuffle=False, num_epochs=1, use_cached=is_cached
  )
  for row in dataset.as_numpy_iterator():
    yield {key: _plain(value) for key, value in row.items()}


def _components_of(data: config.Data, name: str) -> list[config.Component]:
  components = config.components(data, config.load_tokenizer(data.tokenizer))
  own = [component for component in components if component.name == name]
  corpus = name.removesuffix('_rlpt')
  return own or [c for c in components if c.source.name == corpus]


def _plain(value: Any) -> Any:
  """Decodes bytes, and arrays of bytes; returns numbers unchanged."""
  if isinstance(value, bytes):
    return value.decode()
  if value.dtype.kind == 'O':
    return tuple(x.decode() for x in value)
  return value


class CorpusSource(seqio.DataSource):
  """A corpus as a SeqIO source of {'id', 'where', 'fields'}, fields as JSON."""

  def __init__(self, source: Source, strict: bool):
    super().__init__(splits=(cache.SPLIT,))
    self._source, self._strict = source, strict

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    del split
    return [str(part) for part in self._source.parts()]

  def get_dataset(
    self,
    split: str = cache.SPLIT,
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **_,
  ) -> tf.data.Dataset:
    """Returns the documents; `shuffle` only shuffles the corpus's parts."""
    del split
    parts = self._source.parts()
    if shuffle:
      parts = np.random.default_rng(seed).permutation(np.array(parts, object))
    if shard_info:
      parts = parts[shard_info.index :: shard_info.num_shards]

    def documents() -> Iterator[dict[str, str]]:
      faults = Faults(strict=self._strict)
      for part in parts:
        for document in self._source.read(part, faults):
          yield {
            'id': document.id,
            'where': str(document.where),
            'fields': json.dumps(document.fields, default=_no_text),
          }

    return _dataset(
      documents, dict.fromkeys(('id', 'where', 'fields'), 'string')
    )


def _no_text(value: Any) -> None:
  """Encodes bytes that are not UTF-8 as null, like a missing field."""
  del value


class _Task(seqio.Task):
  """A task that uses a folder of prepared records as its cache."""

  def __init__(self, *args, records_dir: str | None, **kwargs):
    super().__init__(*args, **kwargs)
    self._records_dir = records_dir

  @property
  def cache_dir(self) -> str | None:
    return self._records_dir


def _task(
  component: config.Component, data: config.Data, tokenizer: Tokenizer
) -> _Task:
  task = component.task
  features = _PACKED if task.packed else _PROMPTS
  vocabulary = seqio.PassThroughVocabulary(tokenizer.vocab_size)
  return _Task(
    component.name,
    source=CorpusSource(component.source, data.strict),
    preprocessors=[
      _records_of(component.stage, data.strict),
      seqio.CacheDatasetPlaceholder(),
      _examples_of(component, tokenizer),
    ],
    output_features={
      name: seqio.Feature(
        vocabulary,
        add_eos=False,
        dtype=tf.as_dtype(dtype),
        rank=int(name in _LISTS),
      )
      for name, dtype in features.items()
    },
    records_dir=_records_dir(component, data),
  )


def _records_dir(component: config.Component, data: config.Data) -> str | None:
  """The folder with the component's records; None if not prepared."""
  folder = os.path.join(data.cache_dir, component.folder)
  done = tf.io.gfile.exists(os.path.join(folder, 'COMPLETED'))
  if not data.cache_dir or not done:
    return None
  manifest = cache.read_json(folder, 'manifest.json')
  loader.check_manifest(folder, manifest, component, data.strict)
  return folder


_PACKED = {'tokens': 'int32', 'loss': 'float32'}
_PROMPTS = {
  'prompt_tokens': 'int32',
  'references': 'string',
  'kind': 'string',
  'corpus': 'string',
  'document': 'string',
  'segment': 'int32',
}
_LISTS = ('tokens', 'loss', 'prompt_tokens', 'references')


def _records_of(stage: records.Stage, strict: bool) -> Callable:
  """Returns a preprocessor from documents to records."""

  def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def made() -> Iterator[records.Record]:
      tally = records.Tally(Faults(strict=strict))
      documents = (
        Document(
          raw['id'].decode(), raw['where'].decode(), json.loads(raw['fields'])
        )
        for raw in dataset.as_numpy_iterator()
      )
      for record in records.records(documents, stage, tally):
        if record is not None:
          yield record

    lists = [
      name for name, dtype in stage.features.items() if dtype != 'string'
    ]
    return _dataset(made, stage.features, lists)

  return preprocess


def _examples_of(component: config.Component, tokenizer: Tokenizer) -> Callable:
  """Returns a preprocessor from records to the task's examples."""
  task, stage = component.task, component.stage

  def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def made() -> Iterator[dict[str, Any]]:
      for raw in dataset.as_numpy_iterator():
        record = {
          name: value.decode() if isinstance(value, bytes) else value
          for name, value in raw.items()
        }
        sizes = np.array([stage.sizes(record)])
        for i in range(int(task.count(sizes, tokenizer)[0])):
          item = task.example(record, component.source.name, i, tokenizer)
          if task.packed:
            yield dict(zip(_PACKED, item, strict=True))
          else:
            yield {name: getattr(item, name) for name in _PROMPTS}

    features = _PACKED if task.packed else _PROMPTS
    return _dataset(made, features, _LISTS)

  return preprocess


def _dataset(
  generator: Callable, features: dict[str, str], lists: Any = ()
) -> tf.data.Dataset:
  return tf.data.Dataset.from_generator(
    generator,
    output_signature={
      name: tf.TensorSpec([None] if name in lists else [], tf.as_dtype(dtype))
      for name, dtype in features.items()
    },
  )
