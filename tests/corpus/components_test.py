"""Connected components against union-find."""

import numpy as np
import pytest

from rlpt_jax.corpus import components
from rlpt_jax.corpus.pipelines import Runner


def union_find(edges: np.ndarray) -> dict[int, int]:
  """Returns {vertex: the smallest vertex of its component}."""
  parent = {}

  def root(x):
    while parent.setdefault(x, x) != x:
      x = parent[x]
    return x

  for a, b in edges.tolist():
    a, b = sorted([root(a), root(b)])
    parent[b] = a
  return {x: root(x) for x in parent}


def step(edges: np.ndarray) -> np.ndarray:
  """Both stars, with the groups made here instead of by Beam."""
  both = components.both_ways(edges)
  larger = [
    components.large_star((key, [rows]))
    for key, rows in components.by_bucket(both)
  ]
  smaller = [
    components.small_star((key, [rows]))
    for key, rows in components.by_bucket(components.unique(larger))
  ]
  return components.unique(smaller)


def stars(edges: np.ndarray) -> tuple[dict[int, int], int]:
  steps = 0
  while True:
    after = step(edges)
    steps += 1
    if np.array_equal(after, edges):
      return dict(after.tolist()), steps
    edges = after


@pytest.mark.parametrize('seed', range(5))
def test_stars_are_the_components_of_random_graphs(seed):
  rng = np.random.default_rng(seed)
  names = rng.choice(2**40, 300, replace=False)
  edges = names[rng.integers(300, size=(200, 2))]
  edges = edges[edges[:, 0] != edges[:, 1]]
  found, _ = stars(edges)
  expected = union_find(edges)
  assert found == {a: b for a, b in expected.items() if a != b}


def test_a_long_chain_takes_few_steps():
  rng = np.random.default_rng(0)
  chain = rng.permutation(1000)
  found, steps = stars(np.stack([chain[:-1], chain[1:]], axis=1))
  assert found == dict.fromkeys(range(1, 1000), 0)
  assert steps < 15


def test_beam_takes_the_same_step(tmp_path):
  import apache_beam as beam

  rng = np.random.default_rng(3)
  edges = rng.integers(50, size=(60, 2))
  found = tmp_path / 'found.npy'

  def build(pipeline):
    arrays = pipeline | beam.Create(np.array_split(edges, 3))
    buckets = components.star_step(arrays, 'one')
    whole = buckets | beam.Values() | beam.combiners.ToList()
    _ = whole | beam.Map(lambda each: np.save(found, components.unique(each)))

  Runner().run(build)
  np.testing.assert_array_equal(np.load(found), step(edges))


def test_unique_sorts_edges_and_keeps_each_once():
  arrays = [np.array([[3, 1], [1, 2]]), np.array([[3, 1]])]
  assert components.unique(arrays).tolist() == [[1, 2], [3, 1]]
  assert components.unique([]).shape == (0, 2)
