"""Runs Apache Beam pipelines, in slices that fit in memory.

Beam's DirectRunner keeps what it groups in memory. So on this machine a large
step runs as several pipelines, one after another; each writes files and is not
run again after a restart. Other runners spill to disk, and get one pipeline.
"""

import dataclasses
import io
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Bytes, Count
from rlpt_jax.data import files

DIRECT = 'DirectRunner'
# Elements travel as arrays with a number that says which worker groups them.
BUCKETS = 64


@dataclasses.dataclass(frozen=True)
class Runner:
  """A runner of Beam and its options.

  workers: processes on this machine, for the DirectRunner.
  held_bytes: how much a comparison may group in memory at a time, on the
    DirectRunner. Its processes take several times as much.
  """

  name: str = DIRECT
  options: Sequence[str] = ()
  workers: Count = 1
  held_bytes: Bytes = 64 << 20

  def __post_init__(self):
    checks.check_fields(self)

  def slices(self, size: int) -> int:
    """Returns the number of pipelines that group this many bytes in all."""
    return math.ceil(size / self.held_bytes) or 1 if self.is_direct else 1

  @property
  def is_direct(self) -> bool:
    return self.name == DIRECT

  def run(self, build: Callable[[Any], Any]):
    """Runs the pipeline that `build` adds its steps to."""
    load_beam()
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = ['--default_sdk_harness_log_level=ERROR', *self.options]
    if self.workers > 1 and self.is_direct:
      options += [
        f'--direct_num_workers={self.workers}',
        '--direct_running_mode=multi_processing',
      ]
    pipeline = beam.Pipeline(runner=self.name, options=PipelineOptions(options))
    build(pipeline)
    try:
      pipeline.run().wait_until_finish()
    except RuntimeError as error:
      if 'KeyboardInterrupt' in str(error):  # Beam wraps a worker's Ctrl-C.
        raise KeyboardInterrupt from error
      raise


def load_beam():
  """Imports Beam without what it logs while it loads."""
  logging.disable(logging.WARNING)
  import apache_beam  # noqa: F401

  logging.disable(logging.NOTSET)
  # Errors of workers are raised here, so Beam need not log them too.
  logging.getLogger('apache_beam').setLevel(logging.CRITICAL)


def numbers(pipeline: Any, values: Sequence[int]) -> Any:
  """Returns a collection of numbers, spread over the workers."""
  import apache_beam as beam

  return pipeline | beam.Create([*values]) | beam.Reshuffle()


def split_by(
  keys: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (key, the rows that have it) of each key, in order."""
  order = np.argsort(keys, kind='stable')
  keys, rows = keys[order], rows[order]
  bounds = np.flatnonzero(np.diff(keys)) + 1
  for some in np.split(np.arange(len(keys)), bounds):
    if len(some):  # There are no rows at all otherwise.
      yield int(keys[some[0]]), rows[some]


def load(path: str) -> np.ndarray:
  """Reads an array that `save` wrote."""
  return np.load(io.BytesIO(files.read(path)))


def save(path: str, array: np.ndarray):
  data = io.BytesIO()
  np.save(data, array)
  files.write(path, data.getvalue())


def chunks(sizes: Sequence[int], limit: float) -> list[list[int]]:
  """Splits range(len(sizes)) into runs whose sizes add up to at most limit.

  A single size above the limit is a run of its own.
  """
  runs, total = [], math.inf
  for i, size in enumerate(sizes):
    if total + size > limit:
      runs.append([])
      total = 0
    runs[-1].append(i)
    total += size
  return runs


def is_done(folder: str) -> bool:
  return 'COMPLETED' in files.names(folder)


def mark_done(folder: str):
  files.write(os.path.join(folder, 'COMPLETED'), b'')
