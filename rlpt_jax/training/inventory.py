"""Inventories of a checkpoint's arrays: shapes, dtypes and fingerprints."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core.weights import LazyArray
from rlpt_jax.training import fingerprints


def describe(tree) -> dict[str, list]:
  """Returns {path: [shape, dtype, fingerprint]} of every array of a tree."""
  leaves, prints = dict(_paths(tree)), {}
  for path, x in leaves.items():
    if isinstance(x, LazyArray):
      # Waits for each array, so that only one is in memory at a time.
      prints[path] = fingerprints.of_host(x.load())
    elif isinstance(x, np.ndarray):
      prints[path] = fingerprints.of_host(x)
    else:
      prints[path] = fingerprints.of_array(x)
  prints = jax.device_get(prints)
  return {
    path: [list(x.shape), jnp.dtype(x.dtype).name, int(prints[path])]
    for path, x in leaves.items()
  }


def check_leaves(name: str, tree):
  """Raises for a leaf that a checkpoint could not restore unchanged."""
  for path, leaf in _paths(tree):
    dtype = getattr(leaf, 'dtype', None)
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
      raise ValueError(
        f'{name}/{path} is {type(leaf).__name__} {leaf}: expected an array; '
        'save a random key as jax.random.key_data(key), a number as '
        'jnp.asarray(x).'
      )
    if dtype.itemsize > 4 or 0 in leaf.shape:
      raise ValueError(
        f'{name}/{path} is {dtype}{list(leaf.shape)}: expected at most 32 bits '
        'an element and at least one element.'
      )


def check_fingerprints(loaded: dict[str, list], saved: dict[str, list]):
  changed = [path for path in loaded if loaded[path] != saved.get(path)]
  if changed:
    raise ValueError(
      f'{len(changed)} arrays differ from what was saved, the first is '
      f'{changed[0]}'
    )


def check_shapes(path: pathlib.Path, trees, saved: dict[str, dict[str, list]]):
  """Raises unless the trees have the names and shapes that were saved.

  This finds mistakes of the caller; the fingerprints find damage.
  """
  for name, tree in trees.items():
    if name not in saved:
      raise ValueError(
        f'{path}: holds {sorted(saved)}, expected {name!r} among them.'
      )
    expected = {leaf: list(x.shape) for leaf, x in _paths(tree)}
    if odd := sorted(set(expected) ^ set(saved[name])):
      where = 'checkpoint' if odd[0] in saved[name] else 'model'
      raise ValueError(
        f'{path}: {name}/{odd[0]} is only in the {where} ({len(odd)} such '
        'arrays). Is this the model it was trained with?'
      )
    for leaf, shape in expected.items():
      if saved[name][leaf][0] != shape:
        raise ValueError(
          f'{path}: checkpoint has {name}/{leaf} with shape '
          f'{saved[name][leaf][0]}, the model expects {shape}. Is this the '
          'model it was trained with?'
        )


def with_saved_dtypes(tree, saved: dict[str, list]):
  def like(path, x):
    dtype = jnp.dtype(saved[_join(path)][1])
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

  return jax.tree_util.tree_map_with_path(like, tree)


def _paths(tree) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield _join(path), leaf


def _join(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
