"""Sharding: a device mesh, and rules that map logical axes to mesh axes.

A mesh has these axes, which only this module and models/moe.py name:

  data    splits the batch; weights are replicated along it
  fsdp    splits the batch and the weights, which are gathered for use
  tensor  splits heads, hidden units and vocabulary
  expert  splits the experts of a mixture; everywhere else it acts like fsdp

A `Layout` is hashable and is passed to jitted functions as a static argument.
We do not use an ambient mesh, which is not part of jit's cache key: a policy
that learns under one layout and samples under another would silently get the
shardings of the first for both.
"""

import dataclasses
import math
import re
from typing import Literal

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Natural

MESH_AXES = ('data', 'fsdp', 'tensor', 'expert')
BATCH_AXES = ('data', 'fsdp', 'expert')

# Logical axis -> mesh axes. Axes that are not listed are not split. Weights and
# activations need separate tables: the mesh axis fsdp splits `embed` of a
# weight, but `batch` of an activation.
WEIGHT_RULES = (
  ('experts', ('expert',)),
  ('embed', ('fsdp', 'expert')),
  ('heads', ('tensor',)),
  ('kv_heads', ('tensor',)),
  ('mlp', ('tensor',)),
  ('vocab', ('tensor',)),
)
ACTIVATION_RULES = (
  ('batch', BATCH_AXES),
  ('heads', ('tensor',)),
  ('kv_heads', ('tensor',)),
  ('mlp', ('tensor',)),
  ('vocab', ('tensor',)),
)
Rules = tuple[tuple[str, tuple[str, ...]], ...]
# Matches the compute capability of an NVIDIA GPU; AMD's have other names.
VERSION = re.compile(r'\d+\.\d+').fullmatch


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh with its rules; make one with `make_layout`."""

  mesh: Mesh
  platform: str  # 'cpu', 'gpu' or 'tpu'; it decides which kernels are used.
  weight_rules: Rules = WEIGHT_RULES
  activation_rules: Rules = ACTIVATION_RULES

  @property
  def compute_capability(self) -> float | None:
    """The lowest compute capability of the mesh's NVIDIA GPUs.

    None if it has none, or if the mesh is abstract.
    """
    versions = [float(name) for name in self._capabilities if VERSION(name)]
    return min(versions, default=None)

  @property
  def _capabilities(self) -> list[str]:
    """Returns what the devices say; nothing if the mesh is abstract."""
    if isinstance(self.mesh, AbstractMesh):
      return []
    devices = self.mesh.devices.flat
    names = {getattr(device, 'compute_capability', '') for device in devices}
    return sorted(names - {''})

  def is_apart_from(self, other: 'Layout') -> bool:
    """Returns True if the two have no device in common."""
    return {*self.mesh.devices.flat}.isdisjoint(other.mesh.devices.flat)

  @property
  def has_small_kernels(self) -> bool:
    """True on NVIDIA's GPUs that Triton supports, from Ampere on."""
    is_other = not all(map(VERSION, self._capabilities))
    capability = self.compute_capability
    is_new = capability is None or capability >= 8
    return self.platform == 'gpu' and is_new and not is_other

  @property
  def has_large_kernels(self) -> bool:
    """True on GPUs with the shared memory of an A100 (164 KB) or more.

    Those for workstations have 100 KB.
    """
    capability = self.compute_capability
    is_large = capability is None or capability == 8 or 9 <= capability < 12
    return self.has_small_kernels and is_large

  def weight_sharding(self, shape, axes) -> NamedSharding:
    spec = self._partition(shape, axes, self.weight_rules)
    return NamedSharding(self.mesh, spec)

  def gathered_weight_sharding(self, shape, axes) -> NamedSharding:
    """The sharding of a weight where it is used, gathered along `embed`."""
    rules = tuple(rule for rule in self.weight_rules if rule[0] != 'embed')
    return NamedSharding(self.mesh, self._partition(shape, axes, rules))

  def activation_spec(self, shape, axes) -> PartitionSpec:
    return self._partition(shape, axes, self.activation_rules)

  def sharding(self, shape, axes) -> NamedSharding:
    """The sharding of an activation."""
    return NamedSharding(self.mesh, self.activation_spec(shape, axes))

  def batch_axes(self, rows: int) -> tuple[str, ...]:
    """The mesh axes that split a batch of this many rows."""
    return self._dividing(rows, dict(self.activation_rules)['batch'])

  def shares(self, rows: int) -> int:
    """The number of shares that chips have of a batch of this many rows."""
    return math.prod(self.mesh.shape[axis] for axis in self.batch_axes(rows))

  @property
  def batch_size(self) -> int:
    """The smallest batch that splits evenly over all batch axes."""
    axes = dict(self.activation_rules)['batch']
    return math.prod(self.mesh.shape[axis] for axis in axes)

  def whole_batch(self, rows: int) -> int:
    """Rounds `rows` up to a multiple of `batch_size`."""
    return -(-rows // self.batch_size) * self.batch_size

  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of x by the logical axes of its dimensions."""
    if self.mesh.size == 1:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharding(x.shape, axes))

  def put(self, x, *axes: str | None) -> jax.Array:
    """Shards a host array; every process must hold all of it."""
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, self.sharding(x.shape, axes), lambda index: x[index]
    )

  def share(self, rows: int) -> tuple[int, int]:
    """Returns (host, hosts): this process holds share `host` of `hosts` shares.

    The shares are equal, contiguous blocks of the rows. Several processes may
    hold the same share.
    """
    sharding = self.sharding((rows,), ('batch',))
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows) for index in indices]
    first, last = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return first // (last - first), rows // (last - first)

  def put_share(self, x, rows: int, *axes: str | None) -> jax.Array:
    """Makes a global array of `rows` rows; each process gives its share, x."""
    x = np.asarray(x)
    shape = (rows, *x.shape[1:])
    first = self.share(rows)[0] * len(x)

    def part(index):
      start, stop, _ = index[0].indices(rows)
      return x[(slice(start - first, stop - first), *index[1:])]

    return jax.make_array_from_callback(shape, self.sharding(shape, axes), part)

  def _partition(self, shape, axes, rules) -> PartitionSpec:
    rules, taken, parts = dict(rules), set(), []
    for size, axis in zip(shape, axes, strict=True):
      # A mesh axis can split only one dimension of an array: the first that it
      # divides. A dimension that is not divisible is split over fewer mesh
      # axes, or not at all (one kv head on four devices, an odd vocabulary).
      free = [a for a in rules.get(axis, ()) if a not in taken]
      part = self._dividing(size, free)
      taken.update(part)
      parts.append(part or None)
    return PartitionSpec(*parts)

  def _dividing(self, size, mesh_axes) -> tuple[str, ...]:
    while size % math.prod(self.mesh.shape[a] for a in mesh_axes):
      mesh_axes = mesh_axes[:-1]
    return tuple(mesh_axes)


def make_layout(
  *,
  data: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  expert: int = 1,
  devices=None,
) -> Layout:
  """Makes a layout of `devices`, by default of all.

  One size may be -1: that mesh axis gets all devices that the others leave.
  """
  devices = jax.devices() if devices is None else devices
  sizes = {'data': data, 'fsdp': fsdp, 'tensor': tensor, 'expert': expert}
  sizes = _with_free(sizes, len(devices))
  mesh = jax.make_mesh(
    tuple(sizes[axis] for axis in MESH_AXES),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
    devices=devices,
  )
  return Layout(mesh, devices[0].platform)


def _with_free(sizes: dict[str, int], devices: int) -> dict[str, int]:
  """Returns the sizes of a mesh of so many devices, with -1 replaced."""
  free = [name for name, size in sizes.items() if size == -1]
  known = math.prod(size for size in sizes.values() if size != -1)
  if len(free) > 1 or known < 1 or devices % known:
    raise ValueError(
      f'Layout {sizes} does not fit {devices} devices: make the product of the '
      'sizes equal to that number, or set one of them to -1 for the rest.'
    )
  sizes = sizes | dict.fromkeys(free, devices // known)
  if math.prod(sizes.values()) != devices:
    raise ValueError(
      f'Layout {sizes} needs {math.prod(sizes.values())} devices, but there '
      f'are {devices}: raise one size, or set one of them to -1 for the rest.'
    )
  return sizes


@dataclasses.dataclass(frozen=True)
class Axes:
  """The size of each mesh axis in a config; -1 takes all devices left.

  devices: None is all devices, a number the first ones, and (4, 8) those from
    the fifth to the eighth: two layouts with separate ranges work at the same
    time.
  """

  data: Count | Literal[-1] = 1
  fsdp: Count | Literal[-1] = -1
  tensor: Count | Literal[-1] = 1
  expert: Count | Literal[-1] = 1
  devices: Count | tuple[Natural, Count] | None = None

  def __post_init__(self):
    checks.check_fields(self)
    if self.is_range and self.devices[0] >= self.devices[1]:
      raise checks.setting_error(
        Axes, 'devices', self.devices,
        'a range with the smaller number first, like (4, 8) for the last four '
        'of eight',
      )  # fmt: skip

  @property
  def is_range(self) -> bool:
    return isinstance(self.devices, tuple | list)

  def numbers(self, devices: int) -> range:
    """Returns the numbers of the devices that it uses, of so many."""
    if not self.is_range:
      return range(min(devices, self.devices or devices))
    first, end = self.devices
    if end > devices:
      raise ValueError(
        f'layout.Axes.devices={self.devices}: expected a range (first, end) '
        f'with an end of at most {devices}, the number of devices: lower it, '
        'or use more devices.'
      )
    return range(first, end)

  def layout(self, devices=None) -> Layout:
    """Returns a layout of some of `devices`, by default of all."""
    devices = jax.devices() if devices is None else devices
    if self.is_range and jax.process_count() > 1:
      raise ValueError(
        f'layout.Axes.devices={self.devices}: a range needs a run of one '
        f'process, and this one has {jax.process_count()}, each of which must '
        'hold a share of every layout: remove the range.'
      )
    chosen = [devices[i] for i in self.numbers(len(devices))]
    return make_layout(**self._sizes, devices=chosen)

  def abstract(self, devices: int, platform: str) -> Layout:
    """Returns a layout of devices that are not here: enough to trace with."""
    sizes = _with_free(self._sizes, len(self.numbers(devices)))
    mesh = AbstractMesh(
      tuple(sizes[axis] for axis in MESH_AXES),
      MESH_AXES,
      axis_types=(AxisType.Auto,) * len(MESH_AXES),
    )
    return Layout(mesh, platform)

  @property
  def _sizes(self) -> dict[str, int]:
    return {axis: getattr(self, axis) for axis in MESH_AXES}
