"""Attention on TPU by Splash, the Pallas kernel that ships with JAX.

The rows of a device that share a prefix form one sequence of queries; the
prefix and these rows form one sequence of keys. The mask is known at compile
time, so the kernel skips the blocks between different rows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rlpt_jax.core.layout import Layout

# Block sizes, best first. The last must divide all lengths.
BLOCKS = (512, 256, 128)


def attend_in_groups(
  q_BTNH, k_BKTH, v_BKTH, segments_BT, prefix, *, layout, interpret=False
):
  """The attended values, [B, T, N, H].

  prefix: () or the keys, [P, K, S, H], values and mask, [P, S], of the prefixes
    of P groups of consecutive rows.
  """
  B, T, N, H = q_BTNH.shape
  q_BNTH = jnp.swapaxes(q_BTNH, 1, 2) * H**-0.5
  arrays = q_BNTH, k_BKTH, v_BKTH, segments_BT, *prefix
  if layout.mesh.size == 1:
    attended_BNTH = _attend(*arrays, interpret=interpret)
    return jnp.swapaxes(attended_BNTH, 1, 2)
  # XLA cannot partition a kernel, so each device runs it on its own rows and
  # heads.
  P = len(prefix[0]) if prefix else B
  rows, prompts = axes_of(layout, B, P, T)
  (heads,) = layout.activation_spec((N,), ('heads',))
  (kv_heads,) = layout.activation_spec((k_BKTH.shape[1],), ('kv_heads',))
  if heads != kv_heads:  # Query heads must be split like their keys.
    heads = kv_heads = None
  kv, prefix_kv = (
    PartitionSpec(axes, kv_heads, None, None) for axes in (rows, prompts)
  )
  specs = PartitionSpec(rows, heads, None, None), kv, kv, PartitionSpec(rows)
  if prefix:
    specs += prefix_kv, prefix_kv, PartitionSpec(prompts)
  attended_BNTH = jax.shard_map(
    functools.partial(
      _attend, group=B // P, axes=rows[len(prompts) :], interpret=interpret
    ),
    mesh=layout.mesh,
    in_specs=specs,
    out_specs=specs[0],
    check_vma=False,  # The kernel declares no varying axes.
  )(*arrays)
  return jnp.swapaxes(attended_BNTH, 1, 2)


def axes_of(layout: Layout, B: int, P: int, T: int):
  """Returns the mesh axes that split the rows, and those that split prefixes.

  The rows of a group may be on several devices, each with a copy of the prefix.
  """
  rows, prompts = layout.batch_axes(B), layout.batch_axes(P)
  group, of_a_device = B // P, B
  for axis in rows:
    of_a_device //= layout.mesh.shape[axis]
  # Each device needs rows of a single group, and enough of them for a block.
  fits = group % of_a_device == of_a_device * T % BLOCKS[-1] == 0
  return (rows if fits else prompts), prompts


def _attend(
  q_BNTH, k_BKTH, v_BKTH, segments_BT, *prefix, group=1, axes=(), interpret
):
  """The attended values of the rows of one device, [B, N, T, H].

  axes: mesh axes that split the rows of each prefix. All rows of a device then
    belong to one group of `group` rows, but it has the prefixes of several.
  """
  B, _, T, _ = q_BNTH.shape
  if prefix and axes:
    p = jax.lax.axis_index(axes) * B // group
    prefix = [jax.lax.dynamic_slice_in_dim(x, p, 1) for x in prefix]
  P = len(prefix[0]) if prefix else B
  q_PNMH, k_PKSH, v_PKSH = (_group(x, P) for x in (q_BNTH, k_BKTH, v_BKTH))
  q_ids = k_ids = segments_BT.reshape(P, -1)
  if prefix:
    # With a prefix, a row is one segment: ids only mark padding.
    q_ids = k_ids = (q_ids > 0).astype(jnp.int32)
    k, v, mask = prefix
    k_PKSH = jnp.concatenate([k, k_PKSH], axis=2)
    v_PKSH = jnp.concatenate([v, v_PKSH], axis=2)
    k_ids = jnp.concatenate([mask.astype(jnp.int32), k_ids], axis=1)
  values_PNMH = _splash(
    q_PNMH, k_PKSH, v_PKSH, q_ids, k_ids, length=T, interpret=interpret
  )
  values_PNGTH = values_PNMH.reshape(P, -1, B // P, *q_BNTH.shape[2:])
  return jnp.swapaxes(values_PNGTH, 1, 2).reshape(q_BNTH.shape)


def _group(x_BKTH, P):
  """[P, K, B / P * T, H]: groups of B / P rows, each joined to one row."""
  B, K, T, H = x_BKTH.shape
  x_PGKTH = x_BKTH.reshape(P, B // P, K, T, H)
  return jnp.swapaxes(x_PGKTH, 1, 2).reshape(P, K, B // P * T, H)


def _splash(q_PNMH, k_PKSH, v_PKSH, q_ids, k_ids, *, length, interpret):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  shape = q_PNMH.shape[2], k_PKSH.shape[2]
  q_block, kv_block = map(_largest_block, shape)
  blocks = dict.fromkeys(('block_q', 'block_q_dkv', 'block_q_dq'), q_block)
  for name in ('block_kv', 'block_kv_compute', 'block_kv_dkv',
               'block_kv_dkv_compute', 'block_kv_dq'):  # fmt: skip
    blocks[name] = kv_block
  kernel = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([group_mask(*shape, length)] * q_PNMH.shape[1]),
    block_sizes=splash.BlockSizes(**blocks),
    interpret=interpret,
  )

  def one_sequence(q, k, v, q_ids, k_ids):
    return kernel(q, k, v, segment_ids=splash.SegmentIds(q_ids, k_ids))

  return jax.vmap(one_sequence)(q_PNMH, k_PKSH, v_PKSH, q_ids, k_ids)


# Cached, because Splash keeps what it found out about a mask: for an equal but
# new one, it would look at all blocks again.
@functools.cache
def group_mask(num_queries: int, num_keys: int, length: int):
  """Splash's mask: True for the prefix and for the query's row up to the query.

  Queries are [row 0 | row 1 ...], keys are [prefix | row 0 | row 1 ...], with
  rows of `length` positions.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  prefix = num_keys - num_queries
  constant = functools.cache(lambda value, *shape: np.full(shape, value))

  def start_of_row(position):
    return position // length * length

  class GroupMask(splash.Mask):
    shape = (num_queries, num_keys)

    def __getitem__(self, index):
      q, q_end, _ = index[0].indices(num_queries)
      k, k_end, _ = (i - prefix for i in index[1].indices(num_keys))
      q_last, k_last, shape = q_end - 1, k_end - 1, (q_end - q, k_end - k)
      # Splash asks for every block several times, and for 65,536 positions
      # there are 17,000. Almost all are constant; it would take a minute to
      # compare the positions of each.
      if k_last < 0 or (start_of_row(q_last) <= k and k_last <= q):
        return constant(True, *shape)
      if k >= 0 and (k_last < start_of_row(q) or q_last < k):
        return constant(False, *shape)
      q_M1, k_1S = np.arange(q, q_end)[:, None], np.arange(k, k_end)[None]
      return (k_1S < 0) | ((start_of_row(q_M1) <= k_1S) & (k_1S <= q_M1))

  return GroupMask()


def _largest_block(length):
  fitting = [block for block in BLOCKS if length % block == 0]
  if not fitting:
    raise ValueError(
      f'splash attention over {length} positions: expected a multiple of '
      f'{BLOCKS[-1]}; pad the rows, or choose attention=xla.'
    )
  return fitting[0]
