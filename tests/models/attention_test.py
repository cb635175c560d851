"""Every kernel, with and without context, against attention written plainly."""

import dataclasses
import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import attention as lib
from rlpt_jax.models.cache import Readers

B, T, N, K, H = 6, 5, 4, 2, 8
RAGGED = {
  'packed': [[1, 1, 2, 2, 0], [1] * 5, [3, 3, 3, 3, 5]] * 2,
  'right': [[1, 1, 1, 0, 0], [1] * 5, [1, 0, 0, 0, 0]] * 2,
  'left': [[0, 0, 1, 1, 1], [1] * 5, [0, 0, 0, 0, 1]] * 2,
}
XLA = lib.KERNELS['xla']


def _dot_product(*arrays, layout):
  """What cuDNN is asked to compute, by the same function's own reference."""
  del layout
  real = jax.nn.dot_product_attention
  with mock.patch.object(
    jax.nn,
    'dot_product_attention',
    lambda *arrays, **options: real(
      *arrays, **options | {'implementation': 'xla'}
    ),
  ):
    return lib.dot_product_attention(*arrays)


def _arrays(seed, *, rows=B, length=T, num_heads=N, kv_heads=K, size=H):
  rng = np.random.default_rng(seed)
  return (
    jnp.asarray(rng.normal(size=(rows, length, num_heads, size)), jnp.float32),
    jnp.asarray(rng.normal(size=(rows, kv_heads, length, size)), jnp.float32),
    jnp.asarray(rng.normal(size=(rows, kv_heads, length, size)), jnp.float32),
  )


def _context(seed, *, rows, lengths, length, kv_heads=K, size=H):
  _, k, v = _arrays(
    seed, rows=rows, length=length, kv_heads=kv_heads, size=size
  )
  mask = np.arange(length) < np.asarray(lengths)[:, None]
  return lib.Part(jnp.swapaxes(k, 2, 3), v, mask)


def plain_attention(q, k, v, segments, context):
  """One row at a time, over the concatenation of all keys there are for it."""
  rows, length, heads, size = q.shape
  out = []
  for b in range(rows):
    keys, values, visible = [k[b]], [v[b]], np.zeros((length, length), bool)
    for t in range(length):
      for s in range(t + 1):
        visible[t, s] = segments[b, s] == segments[b, t]
    visible = [visible]
    for part in context:
      p = b // (rows // part.k_PKHS.shape[0])
      keys.append(jnp.swapaxes(part.k_PKHS[p], 1, 2))
      values.append(part.v_PKSH[p])
      visible.append(np.tile(part.mask[p], (length, 1)))
    keys, values = (
      jnp.repeat(jnp.concatenate(x, axis=1), heads // k.shape[1], axis=0)
      for x in (keys, values)
    )
    scores = jnp.einsum('TNH,NSH->NTS', q[b], keys) / size**0.5
    scores = jnp.where(np.concatenate(visible, axis=1), scores, -jnp.inf)
    out.append(jnp.einsum('NTS,NSH->TNH', jax.nn.softmax(scores), values))
  return jnp.stack(out)


def _values_and_gradients(attend, q, k, v, segments, context):
  valid = (segments > 0)[..., None, None]
  weights = jnp.cos(jnp.arange(q.size).reshape(q.shape))

  def loss(q, k, v, context_kv):
    parts = [
      lib.Part(*kv, part.mask)
      for kv, part in zip(context_kv, context, strict=True)
    ]
    out = jnp.where(valid, attend(q, k, v, segments, parts), 0)
    return jnp.sum(out * weights), out

  context_kv = [(part.k_PKHS, part.v_PKSH) for part in context]
  (_, out), gradients = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
  )(q, k, v, context_kv)
  return out, gradients


def _check(attend, q, k, v, segments, context, tolerance=2e-6):
  segments = np.asarray(segments)
  found = _values_and_gradients(attend, q, k, v, segments, context)
  expected = _values_and_gradients(plain_attention, q, k, v, segments, context)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize('padding', RAGGED)
@pytest.mark.parametrize('kernel', [XLA, _dot_product], ids=['xla', 'dot'])
def test_own_row(kernel, padding, one_device):
  attend = functools.partial(kernel, layout=one_device)
  _check(attend, *_arrays(0), RAGGED[padding], [])


@pytest.mark.parametrize('padding', ['right', 'left'])
@pytest.mark.parametrize('kernel', [XLA, _dot_product], ids=['xla', 'dot'])
def test_shared_prefix_and_own_cache(kernel, padding, one_device):
  # Two prompts for six rows: groups of three; then a cache of each row's own,
  # still empty for two of them.
  prefix = _context(1, rows=2, lengths=[7, 3], length=7)
  own = _context(2, rows=B, lengths=[2, 0, 4, 1, 4, 0], length=4)
  attend = functools.partial(kernel, layout=one_device)
  _check(attend, *_arrays(0), RAGGED[padding], [prefix, own])


def test_a_shared_prefix_is_the_same_prefix_repeated(one_device):
  prefix = _context(1, rows=2, lengths=[7, 3], length=7)
  repeated = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), prefix)
  segments = jnp.asarray(RAGGED['right'])
  q, k, v = _arrays(0)
  shared, again = (
    XLA(q, k, v, segments, [part], layout=one_device)
    for part in (prefix, repeated)
  )
  np.testing.assert_allclose(shared, again, atol=1e-6)


def test_a_row_that_sees_nothing_has_finite_gradients(one_device):
  # Its prefix is empty and its own tokens are padding.
  prefix = _context(1, rows=2, lengths=[0, 0], length=3)
  attend = functools.partial(XLA, layout=one_device)
  segments = jnp.zeros((B, T), jnp.int32)
  q, k, v = _arrays(0)

  def loss(q, k, v):
    return jnp.sum(attend(q, k, v, segments, [prefix]) ** 2)

  for gradient in jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v):
    assert np.isfinite(gradient).all()


def test_scores_too_large_for_a_plain_exponential(one_device):
  q, k, v = _arrays(0)
  prefix = _context(1, rows=2, lengths=[7, 3], length=7)
  attend = functools.partial(XLA, layout=one_device)
  _check(attend, q * 100, k, v, RAGGED['right'], [prefix], tolerance=1e-4)


# Rows of a prefix wherever they are in the batch, and keys of a byte. The
# single queries of decoding.

# Row 0 has two readers, row 1 four, row 2 none; rows 4 and 6 read nothing.
PREFIX_OF_B = np.array([1, 0, 1, 1, -1, 0, -1, 1])
READERS = Readers(
  rows_PG=np.array([[5, 1, 0, 0], [3, 0, 7, 2], [0, 0, 0, 0]]),
  # Row 0 is the second reader of prefix 1, row 1 the second of prefix 0, ...
  place_B=np.array([5, 1, 7, 4, 0, 0, 0, 6]),
)
READS = PREFIX_OF_B >= 0


def _of_each_row(part):
  """The same with a row of keys for each row of the batch."""
  return jax.tree.map(lambda x: x[np.maximum(PREFIX_OF_B, 0)], part)


def _decode(layout, q, k, v, parts):
  segments = np.ones((len(q), 1), np.int32)
  attend = functools.partial(XLA, layout=layout)
  return np.asarray(jax.jit(attend)(q, k, v, segments, parts))[READS]


@pytest.mark.slow
def test_scattered_readers_are_the_same_prefix_repeated(one_device):
  q, k, v = _arrays(0, rows=8, length=1)
  prefix = _context(1, rows=3, lengths=[7, 3, 5], length=7)
  own = _context(2, rows=8, lengths=[2, 0, 4, 1, 4, 0, 3, 4], length=4)
  read = dataclasses.replace(prefix, readers=READERS)
  found = _decode(one_device, q, k, v, [read, own])
  again = _decode(one_device, q, k, v, [_of_each_row(prefix), own])
  np.testing.assert_allclose(found, again, atol=1e-6)
  segments = np.ones((8, 1), np.int32)
  plain = plain_attention(q, k, v, segments, [_of_each_row(prefix), own])
  np.testing.assert_allclose(found, plain[READS], atol=2e-6)


def test_who_reads_beside_a_row_changes_no_bit_of_it(one_device):
  q, k, v = _arrays(0, rows=8, length=1)
  prefix = _context(1, rows=3, lengths=[7, 3, 5], length=7)
  read = dataclasses.replace(prefix, readers=READERS)
  found = _decode(one_device, q, k, v, [read])
  # The readers of a prefix in another order, at other places.
  moved = Readers(
    rows_PG=np.array([[0, 1, 4, 5], [2, 7, 0, 3], [6, 6, 6, 6]]),
    place_B=np.array([6, 1, 4, 7, 2, 3, 8, 5]),
  )
  read = dataclasses.replace(prefix, readers=moved)
  np.testing.assert_array_equal(_decode(one_device, q, k, v, [read]), found)
  # Other queries in the other rows.
  others = np.array(q)
  others[[2, 5]] += 3
  changed = _decode(one_device, others, k, v, [read])
  same = np.isin(np.flatnonzero(READS), [2, 5], invert=True)
  np.testing.assert_array_equal(changed[same], found[same])
  assert (np.abs(changed[~same] - found[~same]).max((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize('sizes', [{'data': 2}, {'data': 8}], ids=str)
def test_readers_on_several_devices(sizes, one_device):
  """On two, each has a row of the prefix and its readers; on eight, neither."""
  devices = jax.devices()[: sizes['data']]
  layout = make_layout(**sizes, devices=devices)
  q, k, v = _arrays(0, rows=8, length=1)
  prefix = _context(1, rows=2, lengths=[7, 3], length=7)
  # Rows 4 and 6 read nothing; unused entries name row 0, of the other shard.
  readers = Readers(
    rows_PG=np.array([[2, 0, 3, 1], [0, 7, 5, 0]]),
    place_B=np.array([1, 3, 0, 2, 0, 6, 0, 5]),
  )
  read = dataclasses.replace(prefix, readers=readers)
  found = _decode(layout, q, k, v, [read])
  expected = _decode(one_device, q, k, v, [read])
  np.testing.assert_allclose(found, expected, atol=1e-6)


def _int8(seed, rows, lengths, length):
  """(a part of bytes with scales, the same part as float32)."""
  rng = np.random.default_rng(seed)
  k = rng.integers(-127, 128, (rows, K, H, length)).astype(np.int8)
  v = rng.integers(-127, 128, (rows, K, length, H)).astype(np.int8)
  # Scales that differ by head and by position, or their places do not matter.
  k_scale, v_scale = rng.uniform(0.001, 0.03, (2, rows, K, length)).astype('f4')
  mask = np.arange(length) < np.asarray(lengths)[:, None]
  wide = lib.Part(k * k_scale[:, :, None], v * v_scale[..., None], mask)
  return lib.Part(k, v, mask, k_scale, v_scale), wide


@pytest.mark.parametrize('readers', [None, READERS], ids=['groups', 'readers'])
def test_int8_with_scales_is_what_it_stands_for(readers, one_device):
  q, k, v = _arrays(0, rows=8, length=1)
  rows, lengths = (3, [7, 3, 5]) if readers else (2, [7, 3])
  parts = _int8(1, rows, lengths, 7), _int8(2, 8, [2, 0, 4, 1, 4, 0, 3, 4], 4)
  (narrow, wide), (own, own_wide) = parts
  narrow, wide = (
    dataclasses.replace(part, readers=readers) for part in (narrow, wide)
  )
  found = _decode(one_device, q, k, v, [narrow, own])
  expected = _decode(one_device, q, k, v, [wide, own_wide])
  np.testing.assert_allclose(found, expected, atol=3e-6)
  # Half precision loses no digit of the bytes, and nothing of the scales.
  rounded = q.astype(jnp.bfloat16)
  half = _decode(one_device, rounded, k, v, [narrow, own])
  expected = _decode(
    one_device, rounded.astype(jnp.float32), k, v, [wide, own_wide]
  )
  np.testing.assert_allclose(half.astype(np.float32), expected, rtol=2**-8)


def _in_blocks(part, size, rng, extra=3):
  """The same rows in blocks of a pool, whose other blocks are all NaN."""
  rows, length = part.mask.shape
  filled = np.asarray(part.mask).sum(1).astype(np.int32)
  columns = -(-length // size)
  place = rng.permutation(rows * columns + extra)[: rows * columns]
  table_BM = place.reshape(rows, columns).astype(np.int32)

  def pool(x, axis):
    x = np.asarray(x, np.float32)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, columns * size - length)
    x = np.pad(x, padding, constant_values=np.nan)
    blocks = np.full((rows * columns + extra, *x.shape[1:]), np.nan, np.float32)
    blocks = np.take(blocks, np.arange(size), axis=axis)
    for b in range(rows):
      for m, block in enumerate(np.split(x[b], columns, axis=axis - 1)):
        # Columns that a row has not reached, and only those, must not be read.
        is_read = m * size < filled[b]
        blocks[table_BM[b, m]] = np.nan_to_num(block) if is_read else np.nan
    return jnp.asarray(blocks)

  scales = (
    None if x is None else pool(x, 2)
    for x in (part.k_scale_PKS, part.v_scale_PKS)
  )  # fmt: skip
  k, v = pool(part.k_PKHS, 3), pool(part.v_PKSH, 2)
  if part.k_scale_PKS is not None:
    k, v = (jnp.nan_to_num(x).astype(jnp.int8) for x in (k, v))
  return lib.Part(k, v, part.mask, *scales, None, filled, table_BM)


@pytest.mark.parametrize('kind', ['float32', 'int8', 'nothing is filled'])
@pytest.mark.parametrize('size', [2, 4])
def test_blocks_are_the_rows_that_they_hold(kind, size, one_device):
  q, _, _ = _arrays(0, rows=8, length=1)
  lengths = [2, 0, 4, 1, 4, 0, 3, 4]
  if kind == 'nothing is filled':
    lengths = [0] * 8
  # Room for nine, of which no row has more than four.
  rows = _context(2, rows=8, lengths=lengths, length=9)
  if kind == 'int8':
    rows, _ = _int8(2, 8, lengths, 9)
  recent = _context(1, rows=8, lengths=[2] * 8, length=3)
  blocks = _in_blocks(rows, size, np.random.default_rng(0))
  attend = jax.jit(functools.partial(lib.attend_to_parts, layout=one_device))
  found = attend(q, [blocks, recent])
  np.testing.assert_allclose(found, attend(q, [rows, recent]), atol=2e-6)


def test_tiles_of_rows_change_no_bit(one_device, monkeypatch):
  lengths = np.random.default_rng(3).integers(0, 33, 24)
  q, _, _ = _arrays(0, rows=24, length=1)
  rows = _context(2, rows=24, lengths=lengths, length=32)
  blocks = _in_blocks(rows, 4, np.random.default_rng(0))
  # One tile reads columns that a row has not reached.
  blocks = jax.tree.map(jnp.nan_to_num, blocks)

  def attend(most_tiles):
    monkeypatch.setattr(lib, 'MOST_TILES', most_tiles)
    attend = functools.partial(lib.attend_to_parts, layout=one_device)
    return jax.jit(attend)(q, [blocks])

  whole, tiled = attend(1), attend(8)
  np.testing.assert_array_equal(whole, tiled)


# Splash runs in the interpreter here: blocks of 128, so larger arrays.


@pytest.mark.slow
@pytest.mark.parametrize(
  ('case', 'fsdp', 'tensor'),
  [
    ('own', 2, 2),
    ('packed', 2, 2),
    ('prefix', 2, 2),  # A group on each device.
    ('prefix', 4, 1),  # A group on two devices, each with both prefixes.
  ],
)
def test_splash(case, fsdp, tensor):
  layout = make_layout(fsdp=fsdp, tensor=tensor, devices=jax.devices()[:4])
  rows, length, size = 4, 128, 64
  arrays = _arrays(0, rows=rows, length=length, size=size)
  ends = np.array([128, 77, 1, 128])
  segments = (np.arange(length) < ends[:, None]).astype(np.int32)
  context = []
  if case == 'packed':
    segments[0] = np.repeat([1, 2, 3, 0], 32)
  if case == 'prefix':
    context = [_context(1, rows=2, lengths=[256, 40], length=256, size=size)]
  splash = functools.partial(
    lib.splash_attention, layout=layout, interpret=True
  )
  reference = functools.partial(XLA, layout=layout)
  segments = np.asarray(segments)
  found = _values_and_gradients(splash, *arrays, segments, context)
  expected = _values_and_gradients(reference, *arrays, segments, context)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=0)


def test_splash_refuses_lengths_that_are_no_blocks(one_device):
  with pytest.raises(ValueError, match='over 5 positions: expected a multiple'):
    lib.splash_attention(
      *_arrays(0), jnp.ones((B, T), jnp.int32), [], layout=one_device
    )


class _Platform:
  """A layout as far as the choice of a kernel goes."""

  def __init__(self, platform):
    self.platform = platform


@pytest.mark.parametrize(
  ('platform', 'dtype', 'length', 'size', 'expected'),
  [
    ('cpu', 'float32', 128, 64, 'xla'),
    ('tpu', 'bfloat16', 128, 128, 'splash'),
    ('tpu', 'bfloat16', 100, 128, 'xla'),
    ('tpu', 'bfloat16', 1, 128, 'xla'),
    ('gpu', 'bfloat16', 100, 128, 'cudnn'),
    ('gpu', 'float32', 100, 128, 'xla'),
    ('gpu', 'bfloat16', 101, 128, 'xla'),
    ('gpu', 'bfloat16', 100, 256, 'xla'),
    ('gpu', 'bfloat16', 1, 128, 'xla'),
  ],
)
def test_the_kernel_that_auto_picks(platform, dtype, length, size, expected):
  q = jax.ShapeDtypeStruct((2, length, 4, size), jnp.dtype(dtype))
  assert lib.pick_kernel('auto', q, [], _Platform(platform)) == expected
  assert lib.pick_kernel('xla', q, [], _Platform(platform)) == 'xla'


def test_an_unknown_kernel_is_named():
  q = jax.ShapeDtypeStruct((2, 3, 4, 8), jnp.float32)
  with pytest.raises(ValueError, match=re.escape("attention='flash'")):
    lib.pick_kernel('flash', q, [], _Platform('cpu'))
