"""Arrays arrive where they should, from device to device, without waiting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import transfer
from rlpt_jax.core.layout import make_layout


def layout(first, end, **sizes):
  return make_layout(**{'fsdp': 1} | sizes, devices=jax.devices()[first:end])


# Source, destination.
APART = [
  (layout(0, 4, fsdp=4), layout(4, 8, data=2, tensor=2)),
  (layout(0, 4, fsdp=4), layout(4, 8, fsdp=4)),
  (layout(0, 2, fsdp=2), layout(4, 8, fsdp=2, tensor=2)),
  (layout(0, 4, fsdp=2, tensor=2), layout(4, 6, tensor=2)),
  (layout(7, 8), layout(3, 4)),
  (layout(0, 1), layout(1, 8, fsdp=7)),
  # Cells along two dimensions, which are joined, or cut.
  (layout(0, 4, fsdp=2, tensor=2), layout(4, 5)),
  (layout(7, 8), layout(0, 4, fsdp=2, tensor=2)),
  # 3 and 4 shards: cells of a twelfth.
  (layout(0, 3, fsdp=3), layout(4, 8, fsdp=4)),
  (layout(4, 8, tensor=4), layout(0, 3, tensor=3)),
]
TOGETHER = [
  (layout(0, 8, fsdp=8), layout(0, 8, data=4, tensor=2)),
  (layout(0, 8, data=2, fsdp=4), layout(0, 8, fsdp=4, tensor=2)),
  (layout(0, 8, fsdp=8), layout(4, 8, fsdp=4)),
  (layout(0, 4, fsdp=4), layout(0, 8, data=2, tensor=4)),
  (layout(0, 8, fsdp=8), layout(7, 8)),
]
SHAPES = [
  ((168, 24), ('embed', 'mlp')),
  ((5, 12, 2, 6), ('layers', 'embed', 'kv_heads', 'head_dim')),
  ((7,), ('embed',)),
  ((), ()),
]


def arrays(source, destination):
  """Yields (array of the source, its sharding at the destination, numbers)."""
  rng = np.random.default_rng(0)
  for shape, axes in SHAPES:
    numbers = rng.normal(size=shape).astype(np.float32)
    x = jax.device_put(numbers, source.weight_sharding(shape, axes))
    # On a CPU, that may be numpy's own memory.
    yield jnp.copy(x), destination.weight_sharding(shape, axes), numbers


@pytest.fixture
def fetched(monkeypatch):
  """The sizes of arrays that JAX fetches to the host."""
  sizes, kind = [], type(jnp.zeros(1))
  value = kind._value

  def fetching(x):
    sizes.append(x.nbytes)
    return value.fget(x)

  monkeypatch.setattr(kind, '_value', property(fetching))
  return sizes


def without_host():
  """Raises for what comes from the host, also on a CPU."""
  return jax.transfer_guard_host_to_device('disallow_explicit')


@pytest.mark.parametrize(('source', 'destination'), APART + TOGETHER)
def test_nothing_goes_through_the_host(source, destination, fetched):
  for x, sharding, numbers in arrays(source, destination):
    with without_host():
      found = transfer.put(x, sharding)
    assert not fetched
    assert found.sharding == sharding
    np.testing.assert_array_equal(found, numbers)
    fetched.clear()


def test_device_put_goes_through_the_host(fetched):
  """Otherwise, this module would not be needed, or the test above is blind."""
  x, sharding, numbers = next(arrays(*APART[0]))
  jax.block_until_ready(jax.device_put(x, sharding))
  assert fetched == [numbers.nbytes]
  x, *_ = next(arrays(*APART[0]))
  with without_host(), pytest.raises(Exception, match='host-to-device'):
    jax.device_put(x, sharding)


@pytest.mark.parametrize(('source', 'destination'), APART)
def test_what_arrives_has_memory_of_its_own(source, destination):
  for x, sharding, numbers in arrays(source, destination):
    found = transfer.put(x, sharding)
    jax.block_until_ready(jax.jit(lambda x: x * 0, donate_argnums=0)(x))
    assert x.is_deleted()
    np.testing.assert_array_equal(found, numbers)


def test_replicas_take_turns():
  replicas = jax.device_put(np.ones((2, 2)), layout(0, 4, data=4).replicated())
  (copies,) = transfer._copies([replicas], (1, 1)).values()
  device = jax.devices()[5]
  taken = [transfer._nearest(copies, device).devices() for _ in range(4)]
  assert set.union(*taken) == set(jax.devices()[:4])
  here = jax.devices()[2]
  assert transfer._nearest(copies, here).devices() == {here}


@pytest.mark.parametrize('pair', [APART[0], APART[4]])
def test_it_does_not_wait(pair):
  source, destination = pair
  shape, axes = (1024, 1024), ('embed', 'mlp')
  place = source.weight_sharding(shape, axes)

  @jax.jit
  def slow(x):
    x = jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ x), x)
    return jax.lax.with_sharding_constraint(x, place)

  x = jax.device_put(np.eye(1024, dtype=np.float32), place)
  target = destination.weight_sharding(shape, axes)
  expected = np.asarray(transfer.put(slow(x), target))  # It compiles.
  computed = slow(x)
  found = transfer.put(computed, target)
  assert not computed.is_ready()
  np.testing.assert_array_equal(found, expected)
