"""A fingerprint changes with any bit and any move, and with nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.layout import make_layout
from rlpt_jax.training import fingerprints


def test_every_flipped_bit_changes_a_fingerprint():
  rng = np.random.default_rng(0)
  for dtype in ('float32', 'bfloat16', 'int8', 'uint32'):
    x = jnp.asarray(rng.integers(0, 100, (5, 7)), dtype)
    before = int(fingerprints.of_array(x))
    raw = np.asarray(x).view(f'uint{8 * x.dtype.itemsize}')
    for place in [(0, 0), (2, 3), (4, 6)]:
      for bit in range(8 * x.dtype.itemsize):
        flipped = raw.copy()
        flipped[place] ^= raw.dtype.type(1 << bit)
        after = flipped.view(np.asarray(x).dtype)
        after = int(fingerprints.of_array(after))
        assert after != before, (dtype, place, bit)


def test_in_pieces_is_that_of_the_whole(monkeypatch):
  x = np.random.default_rng(0).normal(size=(11, 6, 5)).astype(np.float32)
  whole = int(fingerprints.of_array(x))
  for piece in (1, 30, 70, 10_000):
    monkeypatch.setattr(fingerprints, 'HOST_PIECE', piece)
    assert fingerprints.of_host(x) == whole


def test_notices_what_moved():
  # The low bits of float32 numbers that were bfloat16 are all zero.
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 2**12, 2**8)), jnp.bfloat16)
  x = x.astype(jnp.float32)
  first, second = (int(fingerprints.of_array(y)) for y in (x, x[::-1]))
  assert first != second


def test_the_same_on_every_mesh():
  x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  found = {
    int(
      fingerprints.of_array(jax.device_put(x, layout.sharding(x.shape, axes)))
    )
    for layout in (make_layout(fsdp=8), make_layout(fsdp=2, tensor=4))
    for axes in (('batch', 'mlp'), ('mlp', None), (None, None))
  }
  assert found == {fingerprints.of_host(x)}


def test_a_tree_is_its_names_and_arrays():
  x, y = np.arange(3.0), np.arange(4)
  tree = {'a': x, 'b': {'c': y}}
  assert fingerprints.of_tree(tree) == fingerprints.of_tree(
    {'b': {'c': y.copy()}, 'a': x.copy()}
  )
  others = (
    {'a': x, 'b': {'d': y}}, {'a': x + 1, 'b': {'c': y}}, {'a': x}
  )  # fmt: skip
  found = {fingerprints.of_tree(other) for other in (tree, *others)}
  assert len(found) == 4
