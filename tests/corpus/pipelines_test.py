import numpy as np
import pytest

from rlpt_jax.corpus import pipelines
from rlpt_jax.corpus.pipelines import Runner


def test_rows_are_split_by_their_keys():
  keys, rows = np.array([2, 0, 2, 1]), np.array([[1], [2], [3], [4]])
  split = {key: some.tolist() for key, some in pipelines.split_by(keys, rows)}
  assert split == {0: [[2]], 1: [[4]], 2: [[1], [3]]}
  assert list(pipelines.split_by(keys[:0], rows[:0])) == []


def test_chunks_do_not_exceed_the_limit():
  assert pipelines.chunks([3, 3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3], [4, 5]]
  assert pipelines.chunks([], 6) == []


def test_only_the_direct_runner_needs_slices():
  assert Runner(held_bytes=100).slices(250) == 3
  assert Runner(held_bytes=100).slices(0) == 1
  assert Runner('DataflowRunner', held_bytes=100).slices(250) == 1


def test_errors_of_a_worker_are_raised():
  import apache_beam as beam

  def build(pipeline):
    _ = pipeline | beam.Create([0]) | beam.Map(lambda x: 1 / x)

  with pytest.raises(Exception, match='division by zero'):
    Runner().run(build)


def test_arrays_and_marks_survive(tmp_path):
  folder = str(tmp_path / 'new')
  assert not pipelines.is_done(folder)
  pipelines.save(f'{folder}/a.npy', np.arange(3))
  pipelines.mark_done(folder)
  assert pipelines.is_done(folder)
  assert pipelines.load(f'{folder}/a.npy').tolist() == [0, 1, 2]
