"""Prepares a corpus with Apache Beam: each of its parts becomes a shard.

Beam only distributes the parts over workers. A shard depends only on its part,
so the cache is the same with any runner, any number of workers, and after any
interruption.
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
  """A folder of records to prepare."""

  data: config.Data
  component: config.Component  # The first component that reads the folder.
  folder: str
  parts: list[Any]

  def missing(self) -> list[int]:
    """Returns the numbers of the parts whose part-*.json is not written yet."""
    import tensorflow as tf

    there = set(tf.io.gfile.listdir(self.folder))
    return [i for i in range(len(self.parts)) if _part_name(i) not in there]

  def drop_damaged(self):
    """Deletes the json of damaged parts, so that they count as missing."""
    import tensorflow as tf

    for i in set(range(len(self.parts))) - set(self.missing()):
      try:
        shard = cache.read_json(self.folder, _part_name(i))['shard']
        cache.check_shard(self.folder, i, shard)
      except ValueError:
        tf.io.gfile.remove(os.path.join(self.folder, _part_name(i)))


def plans(data: config.Data) -> list[Plan]:
  """Returns a plan for each folder of the cache, and writes new ones there.

  Raises a ValueError if a folder was prepared from other input.
  """
  if not data.cache_dir:
    raise ValueError(
      "Data.cache_dir is '': expected the folder to prepare into. Set it in "
      'the gin file, or after it: "config.Data.cache_dir=\'cache\'".'
    )
  quiet_tensorflow.load()
  # Import these before the progress thread starts: they load libraries that
  # temporarily replace Python's import function, which breaks other threads.
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
        f'{folder}: cannot be created ({error.message}). Set Data.cache_dir '
        'to a writable folder.'
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
  """Prepares the missing parts of a plan; returns the manifest."""
  # Hide what Beam logs while it loads.
  logging.disable(logging.WARNING)
  import apache_beam as beam
  import tensorflow as tf
  from apache_beam.options.pipeline_options import PipelineOptions

  logging.disable(logging.NOTSET)
  # Errors of workers are raised here, so Beam need not log them too.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
  plan.drop_damaged()
  missing, total = plan.missing(), len(plan.parts)
  on_progress(total - len(missing), total)
  if missing:
    # Failures of an earlier attempt may be fixed by now.
    for name in tf.io.gfile.glob(os.path.join(plan.folder, 'failed-*.json')):
      tf.io.gfile.remove(name)
    options = PipelineOptions(beam_options)
    pipeline = beam.Pipeline(runner=runner, options=options)
    parts = pipeline | beam.Create(missing) | beam.Reshuffle()
    _ = parts | beam.Map(prepare_part, plan)

    def show():
      on_progress(total - len(plan.missing()), total)

    try:
      with every_second(show):
        pipeline.run().wait_until_finish()
    except RuntimeError as error:
      if 'KeyboardInterrupt' in str(error):  # Beam wraps a worker's Ctrl-C.
        raise KeyboardInterrupt from error
      raise
  for name in sorted(tf.io.gfile.glob(f'{plan.folder}/failed-*.json')):
    raise ValueError(cache.read_json(*os.path.split(name))['error'])
  on_progress(total - len(plan.missing()), total)
  return write_manifest(plan)


def prepare_part(number: int, plan: Plan):
  """Writes a part's shard, then its json, which marks it as complete."""
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
    # Pass the error to `run` in a file: a runner would change its message.
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


def write_manifest(plan: Plan) -> dict[str, Any]:
  """Writes and returns the manifest, which has the totals of all parts.

  Also writes the files that SeqIO expects.
  """
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
  """Returns {'corpus_task': (items, records with items, records), ...}.

  Every task must be prepared.
  """
  tokenizer = config.load_tokenizer(data.tokenizer)
  tasks = {}
  for component in config.components(data, tokenizer):
    prepared = cache.Cache(os.path.join(data.cache_dir, component.folder))
    items = component.task.count(prepared.sizes, tokenizer)
    tasks[component.name] = int(items.sum()), int((items > 0).sum()), len(items)
  return tasks


@contextlib.contextmanager
def every_second(fn: Callable[[], None]) -> Iterator[None]:
  """Calls fn every second in a thread, while the context is active."""
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
