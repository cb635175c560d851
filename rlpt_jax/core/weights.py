"""Parameter specs, and everything that is derived from them.

A model describes its parameters as a nested dict of `ParamSpec`. Initial
values, shapes, shardings, counts and the weight-decay mask are functions of it.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.layout import Layout

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ParamSpec:
  """The shape, the logical axes and the initial values of one array.

  Set `fan_in` for a matrix: its values are normal, with a standard deviation of
  1 / sqrt(fan_in). Set `fill` for a scale or a bias: all values are `fill`.
  """

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  fan_in: int | None = None
  fill: float | None = None

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'{self.shape} and {self.axes} differ in length.')
    if (self.fan_in is None) == (self.fill is None):
      raise ValueError(f'{self}: set exactly one of fan_in and fill.')


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """A leaf that is read on demand, so that a tree can be larger than memory."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[tuple[slice, ...]], np.ndarray]  # index -> that part.

  def load(self) -> np.ndarray:
    return self.read((slice(None),) * len(self.shape))


def named(tree: Tree, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields ('layers/w_q', leaf) for every leaf of nested dicts, sorted."""
  for name in sorted(tree):
    value = tree[name]
    if isinstance(value, dict):
      yield from named(value, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', value


def unnamed(leaves: dict[str, Any]) -> Tree:
  """Rebuilds the nested dicts from {path: leaf}; the inverse of `named`."""
  tree = {}
  for path, leaf in leaves.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def map_named(fn: Callable[[str, Any], Any], tree: Tree) -> Tree:
  """Returns the same nested dicts with fn(path, leaf) for every leaf."""
  return unnamed({path: fn(path, leaf) for path, leaf in named(tree)})


def init(specs: Tree, key: jax.Array, *, layout: Layout, dtype='float32'):
  """Initializes sharded parameters; the values do not depend on the layout."""

  def init_one(key, path, spec):
    if spec.fill is not None:
      return jnp.full(spec.shape, spec.fill, dtype)
    # Derive the key from the name, so that adding an array changes no other.
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    x = jax.random.normal(key, spec.shape, jnp.float32)
    return (x / math.sqrt(spec.fan_in)).astype(dtype)

  def init_all(key):
    return map_named(lambda path, spec: init_one(key, path, spec), specs)

  return jax.jit(init_all, out_shardings=shardings(specs, layout))(key)


def shapes(specs: Tree, *, layout: Layout | None = None, dtype='float32'):
  """Returns each array's shape, dtype and, given a layout, its sharding."""

  def shape(path, spec):
    del path
    sharding = layout and layout.weight_sharding(spec.shape, spec.axes)
    return jax.ShapeDtypeStruct(spec.shape, dtype, sharding=sharding)

  return map_named(shape, specs)


def shardings(specs: Tree, layout: Layout):
  """The sharding of each array."""
  return map_named(
    lambda _, spec: layout.weight_sharding(spec.shape, spec.axes), specs
  )


def count(specs: Tree) -> int:
  """The number of parameters."""
  return sum(math.prod(spec.shape) for _, spec in named(specs))
