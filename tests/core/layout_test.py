"""Logical axes land on mesh axes, once each, where they divide."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlpt_jax.core import settings
from rlpt_jax.core.layout import Axes, Layout, make_layout


def test_layouts_are_apart_if_they_share_no_device():
  first, second, both = (
    Axes(devices=devices).layout() for devices in ((0, 4), (4, 8), (3, 5))
  )
  assert first.is_apart_from(second) and second.is_apart_from(first)
  assert not first.is_apart_from(both) and not first.is_apart_from(first)


def test_weights_and_activations_have_rules_of_their_own():
  layout = make_layout(data=2, fsdp=2, tensor=2)
  weight = layout.weight_sharding((8, 4, 6), ('embed', 'heads', 'head_dim'))
  assert weight.spec == PartitionSpec(('fsdp', 'expert'), ('tensor',), None)
  activation = layout.activation_spec((8, 5, 4), ('batch', None, 'heads'))
  assert activation == PartitionSpec(
    ('data', 'fsdp', 'expert'), None, ('tensor',)
  )


def test_a_mesh_axis_splits_the_first_dimension_that_asks():
  layout = make_layout(fsdp=2, expert=4)
  spec = layout.weight_sharding((4, 16, 8), ('experts', 'embed', 'mlp')).spec
  assert spec == PartitionSpec(('expert',), ('fsdp',), ('tensor',))


@pytest.mark.parametrize(
  ('size', 'expected'),
  [(7, None), (2, ('fsdp',)), (4, ('fsdp',)), (8, ('fsdp', 'expert'))],
)
def test_what_an_axis_does_not_divide_stays_whole(size, expected):
  layout = make_layout(fsdp=2, expert=4)
  spec = layout.weight_sharding((size,), ('embed',)).spec
  assert spec == PartitionSpec(expected)


def test_put_and_constrain():
  layout = make_layout(fsdp=4, tensor=2)
  x = np.arange(32).reshape(8, 4)
  placed = layout.put(x, 'batch', None)
  np.testing.assert_array_equal(placed, x)
  assert placed.addressable_shards[0].data.shape == (2, 4)
  split = jax.jit(lambda x: layout.constrain(x * 2, 'batch', 'heads'))(placed)
  assert split.addressable_shards[0].data.shape == (2, 2)


def test_layouts_are_equal_by_value_and_hashable():
  assert make_layout(fsdp=8) == make_layout(fsdp=8)
  assert hash(make_layout(fsdp=8)) == hash(make_layout())
  assert make_layout(fsdp=8) != make_layout(data=8, fsdp=1)


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'tensor': 3}, "'tensor': 3.*does not fit 8 devices"),
    ({'data': -1, 'fsdp': -1}, 'does not fit'),
    ({'fsdp': 2}, 'needs 2 devices, but there are 8'),
    ({'fsdp': 0}, 'does not fit'),
  ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
  with pytest.raises(ValueError, match=message):
    make_layout(**sizes)


def test_devices_that_are_not_here():
  layout = Axes(tensor=4).abstract(1024, 'tpu')
  assert dict(layout.mesh.shape) == {
    'data': 1, 'fsdp': 256, 'tensor': 4, 'expert': 1,
  }  # fmt: skip
  assert layout.platform == 'tpu'
  sharding = layout.weight_sharding((512, 8), ('embed', 'heads'))
  assert sharding.shard_shape((512, 8)) == (2, 2)
  assert Axes(devices=2).abstract(8, 'gpu').mesh.size == 2
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    Axes(tensor=3).abstract(8, 'gpu')


def test_one_device_states_no_places(one_device):
  x = jnp.ones((2, 2))
  assert one_device.constrain(x, 'batch', None) is x


@pytest.mark.parametrize(
  ('names', 'expected'),
  [(['9.0'], 9.0), (['9.0', '8.9'], 8.9), (['10.0'], 10.0), (['gfx90a'], None)],
)
def test_the_lowest_compute_capability(names, expected):
  devices = [types.SimpleNamespace(compute_capability=name) for name in names]
  mesh = types.SimpleNamespace(devices=np.array(devices))
  assert Layout(mesh, 'gpu').compute_capability == expected


def test_no_compute_capability_without_gpus():
  layout = make_layout(devices=jax.devices()[:1])
  assert layout.compute_capability is None
  mesh = jax.sharding.AbstractMesh((1,), ('data',))
  assert Layout(mesh, 'gpu').compute_capability is None


@pytest.mark.parametrize(
  ('names', 'platform', 'small', 'large'),
  [
    (['9.0'], 'gpu', True, True),
    (['8.0', '9.0'], 'gpu', True, True),
    (['8.9', '9.0'], 'gpu', True, False),
    (['12.0'], 'gpu', True, False),
    (['7.5', '9.0'], 'gpu', False, False),
    (['gfx90a'], 'gpu', False, False),
    ([''], 'cpu', False, False),
  ],
)
def test_gpus_that_kernels_run_on(names, platform, small, large):
  devices = [types.SimpleNamespace(compute_capability=name) for name in names]
  layout = Layout(types.SimpleNamespace(devices=np.array(devices)), platform)
  assert (layout.has_small_kernels, layout.has_large_kernels) == (small, large)


def test_a_layout_of_a_range_of_devices():
  axes = Axes(fsdp=2, tensor=-1, devices=(2, 6))
  mesh = axes.layout().mesh
  assert [*mesh.devices.flat] == jax.devices()[2:6]
  assert dict(mesh.shape) == dict(axes.abstract(8, 'gpu').mesh.shape)
  assert mesh.shape['tensor'] == 2
  # What gin reads as a list.
  assert Axes(devices=[2, 6]).layout() == Axes(devices=(2, 6)).layout()


def test_the_devices_of_a_layout():
  assert Axes().numbers(8) == Axes(devices=8).numbers(8) == range(8)
  assert Axes(devices=3).numbers(8) == range(3)
  assert Axes(devices=9).numbers(8) == range(8)
  assert Axes(devices=(7, 8)).numbers(8) == range(7, 8)


@pytest.mark.parametrize('devices', [(4, 4), (4, 2), [0, 0], (-1, 4), (4,), 0])
def test_devices_that_are_no_range(devices):
  with pytest.raises(ValueError) as raised:
    Axes(devices=devices)
  message = str(raised.value)
  assert f'layout.Axes.devices={devices}: expected' in message
  assert '\n' not in message


def test_a_range_beyond_the_devices():
  for layout in (
    Axes(devices=(4, 9)).layout,
    lambda: Axes(devices=(4, 9)).abstract(8, 'gpu'),
  ):
    with pytest.raises(ValueError, match=r'devices=\(4, 9\).*at most 8'):
      layout()


def test_several_processes_have_no_ranges(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert Axes(devices=4).layout().mesh.size == 4
  with pytest.raises(ValueError, match=r'devices=\(4, 8\).*one process.*2'):
    Axes(devices=(4, 8)).layout()


def test_settings_are_recorded_as_before():
  described = settings.describe(Axes(devices=2))
  assert described['devices'] == 2
  assert settings.describe(Axes())['devices'] is None
  as_range = settings.describe(Axes(devices=(4, 8)))
  assert as_range == described | {'devices': [4, 8]}
