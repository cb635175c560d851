"""Preparing a corpus: each of its parts becomes a shard, by Apache Beam.

Beam's part is to spread the parts over workers. What a part's shard holds
depends on nothing but the part, so the cache is the same with any runner, any
number of workers, and after any stops.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rlpt_jax.data import cache, config, loader, quiet_tensorflow, records
from rlpt_jax.data.faults import Faults

DONE = 'COMPLETED'


@dataclasses.dataclass(frozen=True)
class Plan:
  """One folder of records that is to be prepared."""

  data: config.Data
  component: config.Component  # The first of those that read the folder.
  folder: str
  parts: list[Any]

  def missing(self) -> list[int]:
    """The parts that have no json yet."""
    import tensorflow as tf

    there = set(tf.io.gfile.listdir(self.folder))
    return [i for i in range(len(self.parts)) if _part_name(i) not in there]

  def drop_damaged(self):
    """Takes the json from parts that lost something else: they are missing."""
    import tensorflow as tf

    for i in set(range(len(self.parts))) - set(self.missing()):
      try:
        shard = cache.read_json(self.folder, _part_name(i))['shard']
        cache.check_shard(self.folder, i, shard)
      except ValueError:
        tf.io.gfile.remove(os.path.join(self.folder, _part_name(i)))


def plans(data: config.Data) -> list[Plan]:
  """A plan for each folder, written down; refuses one made of other input."""
  if not data.cache_dir:
    raise ValueError(
      "Data.cache_dir is '': expected the folder to prepare into. Set it in "
      'the gin file, or after it: "config.Data.cache_dir=\'cache\'".'
    )
  quiet_tensorflow.load()
  # Now, and not while a thread draws how far it is: libraries that both load
  # replace Python's import for a while by one that other threads fail in.
  import seqio  # noqa: F401
  import tensorflow as tf

  tokenizer = config.load_tokenizer(data.tokenizer)
  made = {}
  for component in config.components(data, tokenizer):
    if component.folder in made:
      continue
    folder = os.path.join(data.cache_dir, component.folder)
    plan = Plan(data, component, folder, component.source.parts())
    try:
      tf.io.gfile.makedirs(folder)
    except tf.errors.OpError as error:
      raise ValueError(
        f'{folder}: cannot be made ({error.message}). Set Data.cache_dir to a '
        'folder that can be written.'
      ) from error
    wanted = {
      'settings': config.settings(component.stage),
      'source': loader.summary(component.source.fingerprint()),
      'read': component.source.settings(),
      'place': component.source.place(),
      'parts': len(plan.parts),
    }
    if tf.io.gfile.exists(os.path.join(folder, 'plan.json')):
      there = cache.read_json(folder, 'plan.json')
      loader.check_prepared(folder, there, wanted)
    else:
      cache.write_json(folder, 'plan.json', wanted)
    made[component.folder] = plan
  return list(made.values())


def run(
  plan: Plan,
  *,
  runner: str,
  beam_options: list[str],
  on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
  """Prepares what is missing of a plan; returns the manifest."""
  # What it says of itself while it loads is of no use here.
  logging.disable(logging.WARNING)
  import apache_beam as beam
  import tensorflow as tf
  from apache_beam.options.pipeline_options import PipelineOptions

  logging.disable(logging.NOTSET)
  # What a worker raises comes home; it need not be logged as well.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  plan.drop_damaged()
  missing, total = plan.missing(), len(plan.parts)
  on_progress(total - len(missing), total)
  if missing:
    # A failure of an earlier attempt may have been mended since.
    for name in tf.io.gfile.glob(os.path.join(plan.folder, 'failed-*.json')):
      tf.io.gfile.remove(name)
    options = PipelineOptions(beam_options)
    pipeline = beam.Pipeline(runner=runner, options=options)
    parts = pipeline | beam.Create(missing) | beam.Reshuffle()
    _ = parts | beam.Map(prepare_part, plan)

    def show():
      on_progress(total - len(plan.missing()), total)

    try:
      with _every_second(show):
        pipeline.run().wait_until_finish()
    except RuntimeError as error:
      if 'KeyboardInterrupt' in str(error):  # Beam's word for a part's Ctrl-C.
        raise KeyboardInterrupt from error
      raise
  for name in sorted(tf.io.gfile.glob(f'{plan.folder}/failed-*.json')):
    raise ValueError(cache.read_json(*os.path.split(name))['error'])
  on_progress(total - len(plan.missing()), total)
  return finish(plan)


def prepare_part(number: int, plan: Plan):
  """Writes one part's shard, then its json: what has one is done."""
  quiet_tensorflow.load()
  tally = records.Tally(Faults(strict=plan.data.strict))
  component = plan.component
  documents = component.source.read(plan.parts[number], tally.faults)
  made = records.records(documents, component.stage, tally)
  usable = (record for record in made if record is not None)
  try:
    shard = cache.write_part(
      plan.folder, number, len(plan.parts), usable, component.stage
    )
  except ValueError as error:
    # For whoever started the pipeline: a runner would wrap it in its own words.
    cache.write_json(
      plan.folder, f'failed-{number:05d}.json', {'error': str(error)}
    )
    return
  facts = {
    'shard': shard,
    'documents': tally.documents,
    'faults': tally.faults.to_json(),
    'left_out': dict(tally.left_out),
    'lengths': tally.lengths,
  }
  cache.write_json(plan.folder, _part_name(number), facts)


def finish(plan: Plan) -> dict[str, Any]:
  """Sums up the parts in the manifest, and lets SeqIO know."""
  import seqio
  import tensorflow as tf

  faults, left_out = Faults(), collections.Counter()
  lengths = collections.defaultdict(collections.Counter)
  shards, documents = [], 0
  for facts in _facts(plan):
    shards.append(facts['shard'])
    documents += facts['documents']
    faults.merge(facts['faults'])
    left_out.update(facts['left_out'])
    for name, counts in facts['lengths'].items():
      lengths[name].update({int(n): count for n, count in counts.items()})
  stage = plan.component.stage
  written = cache.read_json(plan.folder, 'plan.json')
  manifest = {
    'settings': config.settings(stage),
    **{key: written[key] for key in ('source', 'read', 'place')},
    'documents': documents,
    'records': sum(shard['records'] for shard in shards),
    'faults': {'counts': faults.counts, 'first': faults.first},
    'left_out': dict(left_out),
    'lengths': lengths,
    'shards': shards,
    'checksum': cache.digest([shard['checksum'] for shard in shards]),
  }
  if not manifest['records']:
    tally = records.Tally(faults, documents, left_out=left_out)
    raise loader.nothing_usable(plan.component, tally)
  cache.write_json(plan.folder, 'manifest.json', manifest)
  cache.write_json(
    plan.folder, f'stats.{cache.SPLIT}.json', {'examples': manifest['records']}
  )
  cache.write_json(
    plan.folder,
    f'info.{cache.SPLIT}.json',
    {
      'num_shards': len(shards),
      'seqio_version': seqio.__version__,
      'features': {
        name: {'dtype': dtype, 'shape': [] if dtype == 'string' else [None]}
        for name, dtype in stage.features.items()
      },
    },
  )
  with tf.io.gfile.GFile(os.path.join(plan.folder, DONE), 'w') as file:
    file.write('')
  return manifest


def counts(data: config.Data) -> dict[str, tuple[int, int, int]]:
  """(items, records that give some, records) of each task, as prepared."""
  tokenizer = config.load_tokenizer(data.tokenizer)
  found = {}
  for component in config.components(data, tokenizer):
    prepared = cache.Cache(os.path.join(data.cache_dir, component.folder))
    items = component.task.count(prepared.sizes, tokenizer)
    found[component.name] = int(items.sum()), int((items > 0).sum()), len(items)
  return found


@contextlib.contextmanager
def _every_second(fn: Callable[[], None]) -> Iterator[None]:
  """Calls fn every second, in a thread of its own, until it is left."""
  over = threading.Event()

  def repeat():
    while not over.wait(1):
      fn()

  thread = threading.Thread(target=repeat)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _facts(plan: Plan) -> Iterator[dict[str, Any]]:
  for i in range(len(plan.parts)):
    yield cache.read_json(plan.folder, _part_name(i))


def _part_name(number: int) -> str:
  return f'part-{number:05d}.json'
