import numpy as np

from rlpt_jax.corpus import sketches
from rlpt_jax.corpus.sketches import Sketches


def test_a_number_is_a_part_and_a_row():
  numbers = sketches.numbers(70_000, [0, 5, 2**31])
  assert sketches.part_of(numbers).tolist() == [70_000] * 3
  assert sketches.row_of(numbers).tolist() == [0, 5, 2**31]


def test_rows_of_later_pieces_count_on(tmp_path):
  pieces = [
    (3, {'keys': np.array([7]), 'row': np.array([2])}),
    (0, {'keys': np.array([], int), 'row': np.array([], int)}),
    (2, {'keys': np.array([8, 9]), 'row': np.array([0, 1])}),
  ]
  paths = [str(tmp_path / f'{i}.npz') for i in range(3)]
  for path, (_, arrays) in zip(paths, pieces, strict=True):
    sketches.save(path, arrays)
  documents = [documents for documents, _ in pieces]
  both = sketches.joined(zip(documents, paths, strict=True))
  assert both['row'].tolist() == [2, 3, 4]
  assert both['keys'].tolist() == [7, 8, 9]


def test_sketches_are_read_by_name(tmp_path):
  path = sketches.path(str(tmp_path), 3)
  sketches.save(path, {'a': np.array([1]), 'b': np.array([2])})
  assert path.endswith('00003.npz')
  (b,) = Sketches([path], 1).load(0, 'b')
  assert b.tolist() == [2]
