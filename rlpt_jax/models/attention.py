"""Attention of queries to their own row and to a context of earlier tokens.

The context has any number of parts, each one layer of a `Cache`. Several rows
of queries may share a row of a part: those that its `readers` list, or, without
`readers`, B / P consecutive ones if there are B rows of queries and P rows in
the part. A shared row is read, and differentiated, once. (cuDNN on several GPUs
copies it instead.)

  own row  position t sees positions s <= t of the same segment; only padding
           sees padding (segment 0)
  context  every query sees every key whose mask is True

All kernels give the same results, except for queries at padding, where results
are never used. `pick_kernel` chooses a kernel for whole rows, and
`decode_attention` one for the single queries of decoding.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlpt_jax.core.layout import Layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import cudnn, decode_kernel, splash, tpu_decode_kernel
from rlpt_jax.models.cache import Readers

# Finite, so that a row that sees no key gets zero gradients instead of NaN.
MASKED = -0.7 * float(np.finfo(np.float32).max)
# Tiles of rows in XLA's attention to blocks; more of them read less.
MOST_TILES = 8


@struct.dataclass
class Part:
  """Keys and values of one layer, which queries attend to.

  With `blocks_BM`, rows keep their positions in blocks of a pool: `k_PKHS` is
  [N, K, H, b] and `v_PKSH` [N, K, b, H], for N blocks of b positions. The
  positions from m * b on of batch row B are those of block `blocks_BM[B, m]`,
  and `filled_P` counts the positions of each batch row. Entries of columns that
  a row has not reached are the index of any block.
  """

  k_PKHS: jax.Array
  v_PKSH: jax.Array
  mask: jax.Array  # [P, S], or [P, M, S] for M queries that differ.
  k_scale_PKS: jax.Array | None = None
  v_scale_PKS: jax.Array | None = None
  readers: Readers | None = None
  filled_P: jax.Array | None = None  # As `Cache.filled_B`.
  blocks_BM: jax.Array | None = None


def attention(
  q_BTNH, k_BKTH, v_BKTH, segments_BT, context, *, kernel, layout, packed=True
):
  """The attended values, [B, T, N, H].

  packed: False promises that every row is one segment, followed by padding.
    Kernels may then do without a mask, and let padding queries see anything.
  """
  kernel = pick_kernel(kernel, q_BTNH, context, layout)
  return KERNELS[kernel](
    q_BTNH, k_BKTH, v_BKTH, segments_BT, context, layout=layout, packed=packed
  )


def pick_kernel(kernel: str, q_BTNH, context, layout: Layout) -> str:
  """The kernel to use: `kernel` itself, or for 'auto' the best that applies.

  tpu: splash, if its smallest block divides all lengths, and 64 divides the
    head size
  gpu: cudnn, in bfloat16, with even lengths and a head size that is a
    multiple of 8 and at most 128
  xla: otherwise, and for single queries or several parts of context
  """
  if kernel != 'auto':
    if kernel not in KERNELS:
      raise ValueError(
        f'attention={kernel!r}: expected auto or one of {", ".join(KERNELS)}.'
      )
    return kernel
  B, T, _, H = q_BTNH.shape
  if T == 1 or len(context) > 1:
    return 'xla'
  keys = context[0].k_PKHS.shape[3] if context else 0
  if layout.platform == 'tpu':
    queries = (B // context[0].k_PKHS.shape[0]) * T if context else T
    least = splash.BLOCKS[-1]
    fits = queries % least == keys % least == H % 64 == 0
    return 'splash' if fits else 'xla'
  if layout.platform == 'gpu':
    # The backward pass of cuDNN supports masks for even lengths only.
    fits = H % 8 == 0 and H <= 128 and T % 2 == keys % 2 == 0
    return 'cudnn' if q_BTNH.dtype == jnp.bfloat16 and fits else 'xla'
  return 'xla'


def decode_attention(q_B1NH, parts, *, kernel, layout):
  """The attended values of one query per row over all parts, [B, 1, N, H]."""
  kernel = pick_decode_kernel(kernel, q_B1NH, parts, layout)
  if kernel == 'gpu':
    attended_BNH = decode_kernel.attend_to_filled(
      q_B1NH[:, 0], parts, layout=layout
    )
    return attended_BNH[:, None]
  sums = _sums_on_tpu if kernel == 'tpu' else _sums
  return attend_to_parts(q_B1NH, parts, layout=layout, sums=sums)


def pick_decode_kernel(kernel: str, q_B1NH, parts, layout: Layout) -> str:
  """The kernel that decoding uses; shapes are enough to tell.

  tpu: tpu_decode_kernel, for each part that it fits
  gpu: decode_kernel, in half precision, with all parts filled from the left
  xla: otherwise, and for `kernel` 'xla'
  """
  if kernel == 'xla':
    return 'xla'
  if layout.platform == 'tpu':
    fits = any(tpu_decode_kernel.fits(q_B1NH, part, layout) for part in parts)
    return 'tpu' if fits else 'xla'
  B, _, N, H = q_B1NH.shape
  capability = layout.compute_capability
  fits = (
    layout.has_small_kernels
    # The kernel's blocks may exceed the shared memory of GPUs before the H100.
    and (capability is None or capability >= 9)
    and q_B1NH.dtype in (jnp.bfloat16, jnp.float16)
    and all(
      part.filled_P is not None and part.k_scale_PKS is None for part in parts
    )
    and decode_kernel.fits(
      jax.ShapeDtypeStruct((B, N, H), q_B1NH.dtype), parts, layout
    )
  )
  return 'gpu' if fits else 'xla'


# XLA, on every platform: computes softmax sums over each part, relative to the
# largest score of that part. Before they are added, the sums are rescaled to
# the largest score of all parts.


def xla_attention(
  q_BTNH, k_BKTH, v_BKTH, segments_BT, context, *, layout, packed=True
):
  """Attention in plain XLA operations."""
  del packed
  own = Part(jnp.swapaxes(k_BKTH, 2, 3), v_BKTH, own_mask(segments_BT))
  return attend_to_parts(q_BTNH, [own, *context], layout=layout)


def attend_to_parts(q_BTNH, parts, *, layout, sums=None):
  """Attention to the given parts only, not to the queries' own row.

  sums: computes the softmax sums over one part; by default, in plain XLA.
  """
  dtype = q_BTNH.dtype
  sums = sums or _sums
  values, total, _ = _add([sums(q_BTNH, part, layout) for part in parts])
  return (values / total).astype(dtype)


def own_mask(segments_BT):
  """[B, T, T]: True where a query may see a position of its own row."""
  T = segments_BT.shape[1]
  same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
  return same_BTT & jnp.tril(jnp.ones((T, T), bool))


def _sums(q_BTNH, part, layout):
  """Softmax sums over the keys of one part, as `_attend` returns them."""
  if part.blocks_BM is not None:
    return _attend_to_blocks(q_BTNH, part, layout)
  if layout.platform == 'cpu':
    # XLA on CPU cannot multiply in half precision with a float32 result.
    q_BTNH, part = jax.tree.map(
      lambda x: (
        x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
      ),
      (q_BTNH, part),
    )
  return _attend(q_BTNH, part, layout)


def _attend_to_blocks(q_B1NH, part, layout):
  """Softmax sums over rows in blocks, one column of the table at a time.

  A row that has not reached a column reads some block there, but masks it,
  which changes no bit of its sums. Few rows do: on one device, rows are sorted
  by length into tiles, and a tile reads the columns of its longest row only.
  """
  B, T, _, _ = q_B1NH.shape
  assert T == 1, 'blocks need a single query'
  size = part.v_PKSH.shape[2]
  take = functools.partial(cache_lib.take, layout=layout)
  pool = part.k_PKHS, part.v_PKSH, part.k_scale_PKS, part.v_scale_PKS

  def attend(rows):
    q_R1NH, blocks_RM, filled_R = rows
    R, _, N, H = q_R1NH.shape

    def column(m, sums):
      blocks_R = jax.lax.dynamic_index_in_dim(blocks_RM, m, 1, False)
      k, v, k_scale, v_scale = (
        None if x is None else take(x, blocks_R) for x in pool
      )
      mask_RS = m * size + jnp.arange(size) < filled_R[:, None]
      here = Part(k, v, mask_RS, k_scale, v_scale)
      return _add([sums, _sums(q_R1NH, here, layout)])

    nothing = (
      jnp.zeros((R, 1, N, H), jnp.float32),
      jnp.zeros((R, 1, N, 1), jnp.float32),
      jnp.full((R, 1, N, 1), MASKED, jnp.float32),
    )
    columns = (filled_R.max() + size - 1) // size
    return jax.lax.fori_loop(0, columns, column, nothing)

  rows = q_B1NH, part.blocks_BM, part.filled_P
  tiles = 1
  if layout.mesh.size == 1 and part.blocks_BM.shape[1] > 1:
    tiles = math.gcd(B, MOST_TILES)
  if tiles == 1:
    return attend(rows)
  order_B = jnp.argsort(part.filled_P)
  sorted_rows = (x[order_B].reshape(tiles, -1, *x.shape[1:]) for x in rows)
  sums = jax.lax.map(attend, tuple(sorted_rows))
  place_B = jnp.argsort(order_B)
  return tuple(x.reshape(B, *x.shape[2:])[place_B] for x in sums)


def _attend(q_BTNH, part, layout):
  """Softmax sums over the keys of one part, for `_add`.

  Returns the sum of the weighted values, [B, T, N, H], the sum of the weights
  and the largest score, [B, T, N, 1] each. A weight is exp(score - largest).
  The M queries that share a row of keys are multiplied by it in one product.
  """
  H = q_BTNH.shape[-1]
  q_PKMRH = _per_row_of_keys(q_BTNH, part, layout)
  scores_PKMRS = _product('PKMRH,PKHS->PKMRS', q_PKMRH, part.k_PKHS) * H**-0.5
  if part.k_scale_PKS is not None:
    scores_PKMRS *= part.k_scale_PKS[:, :, None, None]
  # Softmax in float32: bfloat16 rounds away the tail of a long context.
  mask = part.mask
  mask_PMS = mask[:, None] if mask.ndim == 2 else mask
  scores_PKMRS = jnp.where(mask_PMS[:, None, :, None], scores_PKMRS, MASKED)
  top_PKMR1 = jax.lax.stop_gradient(scores_PKMRS.max(-1, keepdims=True))
  weights_PKMRS = jnp.exp(scores_PKMRS - top_PKMR1)
  total_PKMR1 = weights_PKMRS.sum(-1, keepdims=True)
  if part.v_scale_PKS is not None:
    weights_PKMRS *= part.v_scale_PKS[:, :, None, None]
  values_PKMRH = _product(
    'PKMRS,PKSH->PKMRH', weights_PKMRS.astype(q_BTNH.dtype), part.v_PKSH
  )
  sums = values_PKMRH, total_PKMR1, top_PKMR1
  return tuple(_per_query(x, q_BTNH, part, layout) for x in sums)


def _sums_on_tpu(q_BTNH, part, layout):
  """As `_sums`, but reads only what is filled, if the kernel can be used."""
  if not tpu_decode_kernel.fits(q_BTNH, part, layout):
    return _sums(q_BTNH, part, layout)
  q_PKMRH = _per_row_of_keys(q_BTNH, part, layout)
  P, K, M, R, H = q_PKMRH.shape
  q_PKQH = q_PKMRH.reshape(P, K, M * R, H)
  sums = tpu_decode_kernel.softmax_sums(q_PKQH, part, layout=layout)
  sums = (x.reshape(P, K, M, R, -1) for x in sums)
  return tuple(_per_query(x, q_BTNH, part, layout) for x in sums)


def _per_row_of_keys(q_BTNH, part, layout):
  """[P, K, M, R, H]: the M queries that attend to each row of keys."""
  B, T, N, H = q_BTNH.shape
  P = B if part.blocks_BM is not None else part.k_PKHS.shape[0]
  K = part.k_PKHS.shape[1]
  assert part.readers is None or T == 1, 'readers need a single query'
  q_QNH = _to_readers(q_BTNH.reshape(B * T, N, H), part.readers, layout)
  return jnp.swapaxes(q_QNH.reshape(P, -1, K, N // K, H), 1, 2)


def _per_query(x_PKMRC, q_BTNH, part, layout):
  """[B, T, N, C]: the inverse of `_per_row_of_keys`, for results."""
  B, T, N, _ = q_BTNH.shape
  x_QNC = jnp.swapaxes(x_PKMRC, 1, 2).reshape(-1, N, x_PKMRC.shape[-1])
  return _from_readers(x_QNC, part.readers, layout).reshape(B, T, N, -1)


def _product(dimensions, left, right):
  """Einsum of `left` with keys or values; the result is float32.

  `left` is converted to the dtype of the keys or values. If these are int8,
  they are converted to the dtype of `left` instead, which can represent every
  int8 value exactly.
  """
  right = right.astype(left.dtype) if right.dtype == jnp.int8 else right
  return jnp.einsum(
    dimensions,
    left.astype(right.dtype),
    right,
    preferred_element_type=jnp.float32,
  )


def _to_readers(x_B, readers, layout):
  if readers is None:
    return x_B
  return _take(x_B, readers.rows_PG.reshape(-1), readers, layout)


def _from_readers(x_Q, readers, layout):
  return (
    x_Q if readers is None else _take(x_Q, readers.place_B, readers, layout)
  )


def _take(x, index, readers, layout):
  """x[index], on each shard alone if the mesh splits all of `readers` alike."""
  sizes = len(readers.place_B), len(readers.rows_PG), readers.rows_PG.size
  if len({layout.batch_axes(size) for size in sizes}) > 1:
    return x[index]
  return cache_lib.take(x, index, layout=layout)


def _add(sums):
  """The softmax sums over all parts, from those over each."""
  largest = functools.reduce(jnp.maximum, (top for _, _, top in sums))
  scales = [jnp.exp(top - largest) for _, _, top in sums]
  values = sum(
    scale * values for scale, (values, _, _) in zip(scales, sums, strict=True)
  )
  total = sum(
    scale * total for scale, (_, total, _) in zip(scales, sums, strict=True)
  )
  return values, total, largest


# cuDNN, on GPU. In general, each row's keys are concatenated with a copy of the
# keys of its prefix, and the kernel reads a mask. Rows that are not packed need
# neither if they have no prefix, or on one GPU. (The keys of a prefix are
# computed once in any case.)


def cudnn_attention(
  q_BTNH, k_BKTH, v_BKTH, segments_BT, context, *, layout, packed=True
):
  """Attention by cuDNN's kernels."""
  # On one GPU only: XLA cannot partition the calls in `cudnn`.
  is_grouped = layout.mesh.size == 1 and q_BTNH.dtype == jnp.bfloat16
  if packed or (context and not is_grouped):
    return dot_product_attention(q_BTNH, k_BKTH, v_BKTH, segments_BT, context)
  k_BTKH, v_BTKH = jnp.swapaxes(k_BKTH, 1, 2), jnp.swapaxes(v_BKTH, 1, 2)
  if not context:
    return jax.nn.dot_product_attention(
      q_BTNH, k_BTKH, v_BTKH, is_causal=True, implementation='cudnn'
    )
  _assert_plain(context)
  (prefix,) = context
  return cudnn.attend_with_prefix(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    jnp.transpose(prefix.k_PKHS, (0, 3, 1, 2)),
    jnp.swapaxes(prefix.v_PKSH, 1, 2),
    prefix.mask.sum(1, dtype=jnp.int32),
  )


def dot_product_attention(q_BTNH, k_BKTH, v_BKTH, segments_BT, context):
  """Attention by `jax.nn.dot_product_attention` over all keys at once."""
  B, T, _, _ = q_BTNH.shape
  keys, values, masks = [k_BKTH], [v_BKTH], [own_mask(segments_BT)]
  _assert_plain(context)
  for part in context:
    G = B // part.k_PKHS.shape[0]
    keys.append(jnp.repeat(jnp.swapaxes(part.k_PKHS, 2, 3), G, axis=0))
    values.append(jnp.repeat(part.v_PKSH, G, axis=0))
    mask_BS = jnp.repeat(part.mask, G, axis=0)
    masks.append(jnp.broadcast_to(mask_BS[:, None], (B, T, mask_BS.shape[1])))
  return jax.nn.dot_product_attention(
    q_BTNH,
    jnp.swapaxes(jnp.concatenate(keys, axis=2), 1, 2),
    jnp.swapaxes(jnp.concatenate(values, axis=2), 1, 2),
    mask=jnp.concatenate(masks, axis=2)[:, None],
    implementation='cudnn',
  )


# Splash, on TPU: see splash.py.


def splash_attention(
  q_BTNH, k_BKTH, v_BKTH, segments_BT, context, *, layout, packed=True,
  interpret=False,
):  # fmt: skip
  """Attention by the Pallas kernel that ships with JAX."""
  del packed
  if len(context) > 1:
    raise ValueError('splash attention takes at most one part of context.')
  _assert_plain(context)
  prefix = ()
  if context:
    k_PKSH = jnp.swapaxes(context[0].k_PKHS, 2, 3)
    prefix = k_PKSH, context[0].v_PKSH, context[0].mask
  return splash.attend_in_groups(
    q_BTNH, k_BKTH, v_BKTH, segments_BT, prefix,
    layout=layout, interpret=interpret,
  )  # fmt: skip


def _assert_plain(context):
  for part in context:
    assert part.readers is None and part.k_scale_PKS is None, (
      'readers and int8 caches are supported by the xla kernel only'
    )


KERNELS = {
  'xla': xla_attention,
  'cudnn': cudnn_attention,
  'splash': splash_attention,
}
