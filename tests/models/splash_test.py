"""Where Splash's rows are, and its mask; attention_test.py has the results."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from rlpt_jax.core.layout import MESH_AXES, Layout
from rlpt_jax.models import splash


def _layout(**sizes):
  mesh = AbstractMesh(
    tuple(sizes.get(axis, 1) for axis in MESH_AXES),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * 4,
  )
  return Layout(mesh, 'tpu')


@pytest.mark.parametrize(
  ('sizes', 'B', 'P', 'T', 'rows', 'prompts'),
  [
    ({'fsdp': 8}, 64, 8, 128, ['fsdp'], ['fsdp']),  # A group on each device.
    ({'fsdp': 8}, 8, 1, 128, ['fsdp'], []),  # A row on each.
    ({'fsdp': 8}, 16, 2, 128, ['fsdp'], []),  # Two rows on each.
    ({'data': 2, 'fsdp': 4}, 16, 2, 128, ['data', 'fsdp'], ['data']),
    ({'fsdp': 8}, 8, 1, 64, [], []),  # A row has no block.
    ({'fsdp': 2}, 18, 3, 128, [], []),  # A device would have 1.5 groups.
  ],
)
def test_rows_of_a_group_are_split_over_devices(sizes, B, P, T, rows, prompts):
  found = splash.axes_of(_layout(**sizes), B, P, T)
  assert [[x for x in axes if x in sizes] for axes in found] == [rows, prompts]


@pytest.mark.parametrize('prefix', [0, 16, 24])
def test_the_blocks_of_the_mask_are_those_of_its_definition(prefix):
  length, rows, block = 32, 3, 16
  q = np.arange(length * rows)[:, None]
  k = np.arange(-prefix, length * rows)[None]
  expected = (k < 0) | ((k <= q) & (k // length == q // length))
  mask = splash.group_mask(*expected.shape, length)
  for i in range(0, expected.shape[0], block):
    for j in range(0, expected.shape[1], block):
      index = slice(i, i + block), slice(j, j + block)
      np.testing.assert_array_equal(mask[index], expected[index])
  np.testing.assert_array_equal(mask[:, :], expected)


def test_the_constant_blocks_of_a_large_mask_are_made_once():
  mask = splash.group_mask(65_536, 65_536 + 2048, 8192)

  def block(i, j):
    return mask[slice(512 * i, 512 * i + 512), slice(512 * j, 512 * j + 512)]

  prefix, before, after = block(9, 3), block(15, 18), block(0, 131)
  assert prefix is before and prefix.all()
  assert after is block(127, 115) and not after.any()
  assert 0 < block(9, 13).mean() < 1
  # Splash reads a mask once, if it is the same object.
  assert splash.group_mask(65_536, 65_536 + 2048, 8192) is mask
