"""Copies an array to other devices, or to another sharding, without the host.

`jax.device_put` does that only if each shard of the result is a shard of the
array already. Otherwise, even between two shardings of the same devices, it
waits for the array, fetches all of it to the host, and sends the parts back.
"""

import collections
import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Shape = tuple[int, ...]


def put(x: jax.Array, sharding: NamedSharding) -> jax.Array:
  """Returns x with this sharding; it may share memory with x.

  It only dispatches: x need not be computed yet. Each device of x cuts its
  shard into cells, such that every shard of the result consists of whole cells.
  The cells are copied from device to device, and joined where they arrive.

  A copy is one call of PJRT, CopyToDevice. Between the GPUs of a host, this is
  a peer-to-peer copy over NVLink or PCIe; between TPUs, one over their links.
  """
  # Numbers of the host, or an array that planning/compilers.py only traces.
  if isinstance(x, np.ndarray | jax.core.Tracer):
    return jax.device_put(x, sharding)
  is_here = x.is_fully_addressable and sharding.is_fully_addressable
  if not is_here or x.sharding.is_equivalent_to(sharding, x.ndim):
    return jax.device_put(x, sharding)  # Among several hosts, JAX reshards.
  held, wanted = (s.shard_shape(x.shape) for s in (x.sharding, sharding))
  cell = tuple(map(math.gcd, held, wanted))
  copies = _copies(_cut(x, _ways(held, cell)), _ways(held, cell))
  ways = _ways(wanted, cell)
  shape = tuple(n // way for n, way in zip(x.shape, ways, strict=True))
  starts = {
    device: _place(index, cell)
    for device, index in sharding.devices_indices_map(x.shape).items()
  }
  parts = []
  for offset in itertools.product(*map(range, ways)):
    moved = jax.device_put(
      [
        _nearest(copies[tuple(map(operator.add, start, offset))], device)
        for device, start in starts.items()
      ],
      list(starts),
    )
    parts.append(
      jax.make_array_from_single_device_arrays(shape, sharding, moved)
    )
  return _join(parts, sharding, ways)


def _ways(shape: Shape, cell: Shape) -> Shape:
  """Returns how many cells a shard has along each dimension."""
  return tuple(n // max(1, part) for n, part in zip(shape, cell, strict=True))


def _place(index, shape: Shape) -> Shape:
  """Returns the place in a grid of such shapes where an index starts."""
  return tuple(
    (part.start or 0) // max(1, n) for part, n in zip(index, shape, strict=True)
  )


def _cut(x: jax.Array, ways: Shape) -> list[jax.Array]:
  """Returns arrays with the first cell of each shard, the second, and so on."""
  if math.prod(ways) == 1:
    return [x]
  sharding = x.sharding
  if not isinstance(sharding, NamedSharding):  # Of one device.
    sharding = NamedSharding(Mesh([*x.devices()], 'device'), PartitionSpec())
  return _split_shards(x, sharding, ways)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _split_shards(x, sharding, ways):
  def split(shard):
    cells = [shard]
    for axis, way in enumerate(ways):
      cells = [cell for x in cells for cell in jnp.split(x, way, axis)]
    return cells

  spec = sharding.spec
  return jax.shard_map(
    split, mesh=sharding.mesh, in_specs=spec, out_specs=spec
  )(x)


def _copies(parts, ways: Shape) -> dict[Shape, collections.deque[jax.Array]]:
  """Returns the arrays of single devices that hold each cell."""
  found = collections.defaultdict(collections.deque)
  offsets = itertools.product(*map(range, ways))
  for offset, part in zip(offsets, parts, strict=True):
    for shard in part.addressable_shards:
      first = _place(shard.index, shard.data.shape)
      cell = tuple(
        n * way + i for n, way, i in zip(first, ways, offset, strict=True)
      )
      found[cell].append(shard.data)
  return found


def _nearest(copies: collections.deque[jax.Array], device) -> jax.Array:
  """Returns the copy on this device, or else they take turns."""
  copies.rotate()
  return next((x for x in copies if device in x.devices()), copies[0])


def _join(parts, sharding: NamedSharding, ways: Shape) -> jax.Array:
  return parts[0] if len(parts) == 1 else _join_shards(parts, sharding, ways)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _join_shards(parts, sharding, ways):
  def join(cells):
    for axis, way in reversed([*enumerate(ways)]):
      cells = [
        jnp.concatenate(cells[i : i + way], axis)
        for i in range(0, len(cells), way)
      ]
    return cells[0]

  spec = sharding.spec
  return jax.shard_map(
    join, mesh=sharding.mesh, in_specs=([spec] * len(parts),), out_specs=spec
  )(parts)
