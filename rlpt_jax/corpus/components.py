"""Connected components of a graph, as Beam steps on arrays of edges.

Large-star and small-star take turns until nothing changes: Kiveris et al.,
Connected Components in MapReduce and Beyond, 2014. In the end the edges lead
from each vertex to the smallest vertex of its component.

An edge is a pair of int64, and many edges travel as one array. Groups are made
by buckets of vertices, so a worker holds one bucket at a time.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rlpt_jax.corpus.pipelines import BUCKETS, split_by


def by_bucket(edges: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (bucket, edges whose first vertex belongs to it)."""
  return split_by(bucket_of(edges[:, 0]), edges)


def bucket_of(vertices: np.ndarray) -> np.ndarray:
  # Multiplied, because the low bits of a vertex are a row of a file.
  mixed = vertices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
  return (mixed >> np.uint64(40)).astype(np.int64) % BUCKETS


def star_step(edges: Any, name: str) -> Any:
  """Returns the edges after a large-star and a small-star: (bucket, edges).

  The edges of a bucket are sorted, and each comes once.

  name: of the step, since Beam wants different names in a pipeline.
  """
  import apache_beam as beam

  def grouped(edges, by):
    keyed = edges | f'{name}: {by} buckets' >> beam.FlatMap(by_bucket)
    return keyed | f'{name}: {by} groups' >> beam.GroupByKey()

  both = edges | f'{name}: both ways' >> beam.Map(both_ways)
  larger = grouped(both, 'larger')
  larger = larger | f'{name}: large star' >> beam.Map(large_star)
  smaller = grouped(larger, 'smaller')
  smaller = smaller | f'{name}: small star' >> beam.Map(small_star)
  stars = grouped(smaller, 'stars')
  return stars | f'{name}: sort' >> beam.Map(lambda kv: (kv[0], unique(kv[1])))


def both_ways(edges: np.ndarray) -> np.ndarray:
  return np.concatenate([edges, edges[:, ::-1]])


def large_star(group: tuple[int, Iterable[np.ndarray]]) -> np.ndarray:
  """Connects the larger neighbors of each vertex to its smallest neighbor."""
  edges = unique(group[1])
  vertices, neighbors, least = _with_least(edges)
  least = np.minimum(least, vertices)
  larger = neighbors > vertices
  return np.stack([neighbors[larger], least[larger]], axis=1)


def small_star(group: tuple[int, Iterable[np.ndarray]]) -> np.ndarray:
  """Connects each vertex and its smaller neighbors to the smallest of them."""
  edges = unique(group[1])
  vertices, neighbors, least = _with_least(edges)
  others = neighbors != least
  return np.concatenate(
    [
      np.stack([neighbors[others], least[others]], axis=1),
      np.stack([vertices, least], axis=1),
    ]
  )


def unique(arrays: Iterable[np.ndarray]) -> np.ndarray:
  """Returns the edges of all arrays, sorted, each once."""
  edges = np.concatenate([np.zeros((0, 2), np.int64), *arrays])
  edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
  changes = np.any(np.diff(edges, axis=0) != 0, axis=1)
  return edges[np.concatenate([[True], changes])] if len(edges) else edges


def _with_least(
  edges: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns vertices, neighbors, and each vertex's smallest neighbor.

  edges: sorted.
  """
  vertices, neighbors = edges[:, 0], edges[:, 1]
  is_first = np.diff(vertices, prepend=-1) != 0
  group = np.cumsum(is_first) - 1
  return vertices, neighbors, neighbors[is_first][group]
