"""Checks that a save is complete on disk, and makes any path safe for saves."""

import collections
import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator

import jax.numpy as jnp
import tensorstore as ts

# Paths of these characters are safe with Orbax and TensorStore.
PLAIN = re.compile(r'[\w/. -]+')
# Characters that they misinterpret, and bytes that are not UTF-8.
MISREAD = re.compile(r'[*?\[\]\\\ud800-\udfff]')
LOCK = '.__lock'  # TensorStore reserves this anywhere in a path.
OWN_DESCRIPTORS = pathlib.Path('/proc/self/fd')
META = b'/.zarray'


@contextlib.contextmanager
def plain_path(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path to the directory that any library can read and write under.

  Orbax finds its files with a glob of the whole path, which matches nothing
  under `run[1]`, and TensorStore reads a backslash as a slash. Such a directory
  is reached through an open file descriptor instead.
  """
  name = str(directory)
  if PLAIN.fullmatch(name) and LOCK not in name:
    yield directory
    return
  if not OWN_DESCRIPTORS.is_dir():
    if not MISREAD.search(name) and LOCK not in name:
      yield directory
      return
    raise ValueError(
      f'{name!a}: on this system checkpoints need a path of UTF-8 without '
      f'* ? [ ] \\ and {LOCK}. Choose another folder.'
    )
  descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
  try:
    yield OWN_DESCRIPTORS / str(descriptor)
  finally:
    os.close(descriptor)


def check(directory: pathlib.Path, arrays: dict[str, list]):
  """Raises unless a tree of arrays can be read back from disk.

  All arrays must be in its index, with all their chunks, in files that are long
  enough. This reads the index and the sizes of files, but no array.

  arrays: path -> [shape, dtype, ...].
  """
  base = {'driver': 'file', 'path': f'{directory}/'}
  files = ts.KvStore.open(base).result()
  index = ts.KvStore.open({'driver': 'ocdbt', 'base': base}).result()
  root = ts.ocdbt.dump(files).result()['versions'][-1]['root']['location']
  chunks, ends = collections.Counter(), {}
  for key, value in _entries(files, root):
    chunks[key.rpartition(b'/')[0]] += not key.endswith(META)
    if value is not None:
      file, end = _place(value)
      ends[file] = max(end, ends.get(file, 0))
  actual = collections.Counter()
  for name, count in chunks.items():
    meta = json.loads(index.read(name + META).result().value)
    shape, sizes = meta['shape'], meta['chunks']
    actual[*shape, jnp.dtype(meta['dtype']).name] += 1
    grid = [math.ceil(n / size) for n, size in zip(shape, sizes, strict=True)]
    if count != math.prod(grid):
      raise ValueError(
        f'{directory.name}/{name.decode()} has {count} of its '
        f'{math.prod(grid)} chunks'
      )
  expected = collections.Counter((*x[0], x[1]) for x in arrays.values())
  if actual != expected:
    raise ValueError(
      f'{directory.name} has {actual.total()} arrays, expected '
      f'{expected.total()}: the number, a shape or a dtype differs'
    )
  for file, end in ends.items():
    path = directory / file
    size = path.stat().st_size if path.exists() else 0
    if size < end:
      raise ValueError(
        f'{directory.name}/{file} has {size} of at least {end} bytes'
      )


def _entries(
  files: ts.KvStore, node: str, prefix: bytes = b''
) -> Iterator[tuple[bytes, str | None]]:
  """Yields (key, location of its value); None if that is in the index."""
  content = ts.ocdbt.dump(files, node=node).result()
  for entry in content['entries']:
    if content['height']:
      below = prefix + entry['subtree_common_prefix']
      yield from _entries(files, entry['location'], below)
    else:
      yield prefix + entry['key'], entry.get('indirect_value')


def _place(value: str) -> tuple[str, int]:
  """Returns (file, end offset in it) of 'value:FOLDER/:FILE:OFFSET:LENGTH'."""
  _, folder, file, offset, length = value.split(':')
  return folder + file, int(offset) + int(length)
