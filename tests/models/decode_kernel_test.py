"""The kernel, in Pallas's interpreter, is the attention that XLA computes."""

import collections
import dataclasses
import functools
import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import MESH_AXES, Layout, make_layout
from rlpt_jax.models import attention as lib
from rlpt_jax.models import decode_kernel, write_kernel, zoo
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.attention import Part
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode, logits_kernel
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request

H = 32


@dataclasses.dataclass(frozen=True)
class Case:
  prompts: int
  group: int
  kv_heads: int
  queries: int  # Of each key-value head.
  prompt_length: int
  length: int
  readers: bool = False


CASES = {
  'a group of whole blocks': Case(1, 8, 1, 2, 256, 256),
  'blocks that are cut': Case(2, 4, 2, 2, 40, 200),
  'one block': Case(2, 4, 2, 2, 64, 24),
  'queries that are no power of two': Case(3, 3, 2, 3, 130, 96),
  'rows in any order, some in no group': Case(3, 4, 2, 3, 130, 200, True),
  'as many prompts as rows': Case(6, 2, 2, 2, 64, 128, True),
  'rows that share nothing': Case(6, 1, 2, 2, 64, 128),
  'four prompts': Case(4, 4, 2, 2, 64, 24),
}


def _part(rng, rows, heads, length, readers=None, dtype=np.float32):
  """Rows filled to different lengths; what is not filled is not zero."""
  k = rng.normal(size=(rows, heads, H, length)).astype(dtype)
  v = rng.normal(size=(rows, heads, length, H)).astype(dtype)
  filled = rng.integers(0, length + 1, rows).astype(np.int32)
  mask = np.arange(length) < filled[:, None]
  return Part(*map(jnp.asarray, (k, v, mask)), None, None, readers, filled)


def _readers(rng, case, rows):
  """A random place in a random group for each row."""
  place_B = rng.permutation(case.prompts * case.group)[:rows].astype(np.int32)
  rows_PG = rng.integers(0, rows, (case.prompts, case.group)).astype(np.int32)
  rows_PG.reshape(-1)[place_B] = np.arange(rows)
  return Readers(jnp.asarray(rows_PG), jnp.asarray(place_B))


def _inputs(case, dtype=np.float32):
  rng = np.random.default_rng(0)
  rows = case.prompts * case.group
  readers = None
  if case.readers:
    rows = case.prompts if case.prompts == 6 else rows - 2
    readers = _readers(rng, case, rows)
  recent = _part(rng, rows, case.kv_heads, 32, dtype=dtype)
  seven = np.full(rows, 7, np.int32)  # Every row sees something of its own.
  recent = dataclasses.replace(
    recent, mask=jnp.arange(32) < seven[:, None], filled_P=seven
  )
  parts = [
    _part(rng, case.prompts, case.kv_heads, case.prompt_length, readers, dtype),
    _part(rng, rows, case.kv_heads, case.length, dtype=dtype),
    recent,
  ]
  shape = rows, case.kv_heads * case.queries, H
  return jnp.asarray(rng.normal(size=shape).astype(dtype)), parts


ONE = make_layout(devices=jax.devices()[:1])


def _run(q, parts, layout=ONE, **options):
  run = functools.partial(
    decode_kernel.attend_to_filled, layout=layout, interpret=True
  )
  return jax.jit(functools.partial(run, **options))(q, parts)


def _expected(q, parts, layout):
  return lib.attend_to_parts(q[:, None], parts, layout=layout)[:, 0]


@pytest.mark.parametrize('name', CASES)
def test_it_is_attention(name, one_device):
  q, parts = _inputs(CASES[name])
  expected = _expected(q, parts, one_device)
  np.testing.assert_allclose(_run(q, parts), expected, atol=2e-6)


def _in_blocks(part, size, shards=1):
  """The rows of a part in blocks; NaN in all blocks that no row has reached.

  Each shard of rows has its share of the blocks, three more than it needs.
  """
  rng = np.random.default_rng(0)
  rows, length = part.mask.shape
  columns = -(-length // size)
  count = rows * columns + 3 * shards
  used = rows * columns // shards
  table_BM = np.concatenate([
    first + rng.permutation(count // shards)[:used]
    for first in range(0, count, count // shards)
  ]).reshape(rows, columns)  # fmt: skip
  pools = []
  for x, axis in ((part.k_PKHS, 3), (part.v_PKSH, 2)):
    x = np.asarray(x)
    shape = list(x.shape)
    shape[0], shape[axis] = count, size
    pool = np.full(shape, np.nan, x.dtype)
    for b in range(rows):
      for m in range(-(-int(part.filled_P[b]) // size)):
        block = x[b].take(
          range(m * size, min(length, (m + 1) * size)), axis - 1
        )
        place = [table_BM[b, m], *(slice(n) for n in block.shape)]
        pool[tuple(place)] = block
    # Entries of columns that a row has not reached lead to any block.
    pools.append(jnp.asarray(pool))
  return Part(
    *pools, part.mask, None, None, None, part.filled_P,
    table_BM.astype(np.int32),
  )  # fmt: skip


# As much as the kernel reads at a time, more, and less.
@pytest.mark.parametrize(('size', 'splits'), [(64, 1), (128, 2), (24, 1)])
@pytest.mark.parametrize(
  'name',
  [
    'a group of whole blocks',
    'rows in any order, some in no group',
    'rows that share nothing',
  ],
)
def test_rows_in_blocks(name, size, splits, one_device):
  q, (prefix, own, recent) = _inputs(CASES[name])
  expected = _expected(q, [prefix, own, recent], one_device)
  found = _run(q, [prefix, _in_blocks(own, size), recent], splits=splits)
  np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize('splits', [1, 2, 3, 4])
def test_splits_change_nothing(splits, one_device):
  q, parts = _inputs(CASES['rows in any order, some in no group'])
  expected = _expected(q, parts, one_device)
  found = _run(q, parts, splits=splits)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_bfloat16_is_close(one_device):
  q, parts = _inputs(CASES['a group of whole blocks'], jnp.bfloat16)
  exact = _expected(
    *jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x,
      (q, parts),
    ),
    one_device,
  )
  found = _run(q, parts)
  assert found.dtype == jnp.bfloat16
  error = jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)
  assert error < 4e-3


def test_blocks_that_are_not_filled_are_not_read(one_device):
  q, parts = _inputs(CASES['a group of whole blocks'])
  expected = _expected(q, parts, one_device)

  def poison(part, size=64):
    """NaN in all blocks after the last that has a filled position."""
    used = -(-np.asarray(part.filled_P) // size) * size
    unread = np.arange(part.mask.shape[1]) >= used[:, None]
    assert unread.any()
    return dataclasses.replace(
      part,
      k_PKHS=jnp.where(unread[:, None, None], jnp.nan, part.k_PKHS),
      v_PKSH=jnp.where(unread[:, None, :, None], jnp.nan, part.v_PKSH),
    )

  prefix, own, recent = parts
  found = _run(q, [poison(prefix), poison(own), recent])
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_what_idle_rows_hold_stays_there(one_device):
  """Rows in no group come out as 0, and NaN in their caches goes nowhere."""
  rng = np.random.default_rng(0)
  rows, idle = 6, np.array([0, 3])
  # Two groups of up to four: idle row 0 is also what unused entries name.
  rows_PG = np.array([[1, 2, 0, 0], [4, 5, 0, 0]], np.int32)
  place_B = np.array([0, 0, 1, 0, 4, 5], np.int32)
  readers = Readers(jnp.asarray(rows_PG), jnp.asarray(place_B))
  parts = [
    _part(rng, 2, 2, 130, readers), _part(rng, rows, 2, 96),
    _part(rng, rows, 2, 32),
  ]  # fmt: skip
  q = jnp.asarray(rng.normal(size=(rows, 4, H)), jnp.float32)
  expected = _expected(q, parts, one_device)

  def poison(part):
    unfilled = ~np.asarray(part.mask)
    unfilled[idle] = True
    return dataclasses.replace(
      part,
      k_PKHS=jnp.where(unfilled[:, None, None], jnp.nan, part.k_PKHS),
      v_PKSH=jnp.where(unfilled[:, None, :, None], jnp.nan, part.v_PKSH),
    )

  for splits in (1, 2):
    found = _run(
      q, [parts[0], poison(parts[1]), poison(parts[2])], splits=splits
    )
    assert not found[idle].any()
    running = np.delete(np.arange(rows), idle)
    np.testing.assert_allclose(found[running], expected[running], atol=2e-6)


LAYOUTS = (
  {'data': 8}, {'fsdp': 4, 'tensor': 2}, {'data': 2, 'expert': 2, 'tensor': 2},
  {'fsdp': 1, 'tensor': 8},
)  # fmt: skip


def _aligned(rng, shards, rows, prompts, group):
  """(readers, idle rows): groups of uneven sizes on each of the shards.

  Rows read prefixes of their shard only, and one row of each shard is idle.
  Unused entries may name rows of other shards.
  """
  entries = prompts * group
  rows_Q = rng.integers(0, shards * rows, shards * entries)
  place_B, idle = np.zeros(shards * rows, int), []
  for shard in range(shards):
    row, *running = shard * rows + rng.permutation(rows)
    places = shard * entries + rng.permutation(entries)[: rows - 1]
    rows_Q[places], place_B[running] = running, places
    # The idle row's is an entry of another.
    place_B[row] = places[0]
    idle.append(row)
  rows_PG = rows_Q.reshape(-1, group)
  readers = Readers(*(jnp.asarray(x, jnp.int32) for x in (rows_PG, place_B)))
  return readers, np.array(idle)


@pytest.mark.parametrize('splits', [1, 2])
@pytest.mark.parametrize('sizes', LAYOUTS, ids=str)
def test_each_device_reads_its_own_rows_and_heads(sizes, splits, one_device):
  layout = make_layout(**sizes)
  rng = np.random.default_rng(3)
  shards, heads = layout.batch_size, layout.mesh.shape['tensor']
  rows = 24 // min(shards, 4)
  readers, idle = _aligned(rng, shards, rows, 2, rows - 1)
  B = shards * rows
  parts = [
    _part(rng, 2 * shards, heads, 130, readers), _part(rng, B, heads, 96),
    _part(rng, B, heads, 32),
  ]  # fmt: skip
  q = jnp.asarray(rng.normal(size=(B, 3 * heads, H)), jnp.float32)
  running = np.delete(np.arange(B), idle)
  expected = _expected(q, parts, one_device)[running]
  blocks = _in_blocks(parts[1], 24, shards=shards)
  for own in (parts[1], blocks):
    found = _run(q, [parts[0], own, parts[2]], layout, splits=splits)
    np.testing.assert_allclose(found[running], expected, atol=2e-6)
    assert not found[idle].any()


@pytest.mark.parametrize('sizes', LAYOUTS[:3], ids=str)
def test_consecutive_rows_are_on_the_shard_of_their_prompt(sizes, one_device):
  rng = np.random.default_rng(4)
  parts = [_part(rng, rows, 2, length) for rows, length in ((8, 64), (24, 40))]
  q = jnp.asarray(rng.normal(size=(24, 4, H)), jnp.float32)
  expected = _expected(q, parts, one_device)
  found = _run(q, parts, make_layout(**sizes))
  np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
  ('group', 'head_size', 'expected'),
  [(8, 128, True), (32, 128, True), (33, 128, False), (8, 256, False),
   (8, 96, False), (64, 64, True)],
)  # fmt: skip
def test_large_groups_and_heads_are_left_to_xla(
  group, head_size, expected, one_device
):
  def part(rows):
    shape = jax.ShapeDtypeStruct((rows, 2, 64, head_size), jnp.bfloat16)
    return Part(None, shape, None)

  q = jax.ShapeDtypeStruct((2 * group, 4, head_size), jnp.bfloat16)
  parts = [part(2), part(2 * group)]
  assert decode_kernel.fits(q, parts, one_device) == expected


def _fits(layout, *, rows=16, prompts=8, kv_heads=4, blocks=24):
  def part(rows, **options):
    shape = jax.ShapeDtypeStruct((rows, kv_heads, 64, 64), jnp.bfloat16)
    return Part(None, shape, None, **options)

  q = jax.ShapeDtypeStruct((rows, 8, 64), jnp.bfloat16)
  table = jax.ShapeDtypeStruct((rows, 3), jnp.int32)
  parts = [part(prompts), part(blocks, blocks_BM=table), part(rows)]
  return decode_kernel.fits(q, parts, layout)


def test_what_devices_do_not_share_alike_is_left_to_xla(one_device):
  by_rows, by_both = make_layout(data=8), make_layout(data=2, fsdp=2, tensor=2)
  by_heads = make_layout(fsdp=1, tensor=8)
  for layout, changes, expected in (
    (by_rows, {}, True),
    (by_both, {}, True),
    (by_both, {'prompts': 6}, False),  # Split in two, rows in four.
    (by_rows, {'prompts': 4}, False),
    (by_rows, {'blocks': 25}, False),
    (by_rows, {'rows': 3, 'prompts': 3, 'blocks': 5}, True),  # Nothing is.
    (by_heads, {}, False),  # Eight heads of queries, four of keys.
    (by_heads, {'kv_heads': 8}, True),
  ):
    assert _fits(layout, **changes) == expected, (layout.mesh.shape, changes)
    assert _fits(one_device, **changes)


def _gpus(capability='9.0', **sizes):
  if sizes:
    return dataclasses.replace(make_layout(**sizes), platform='gpu')
  device = types.SimpleNamespace(compute_capability=capability)
  mesh = types.SimpleNamespace(
    size=1, shape=dict.fromkeys(MESH_AXES, 1), devices=np.array([device])
  )
  return Layout(mesh, 'gpu')


@pytest.mark.parametrize(
  ('change', 'picked'),
  [
    ({}, True),
    ({'kernel': 'xla'}, False),
    ({'layout': _gpus(data=2, fsdp=2, tensor=2)}, True),
    ({'layout': _gpus(fsdp=8)}, False),  # Two prompts.
    ({'layout': _gpus(capability='8.9')}, False),
    ({'layout': _gpus(capability='10.0')}, True),
    ({'dtype': jnp.float32}, False),
    ({'scale': True}, False),
    ({'filled': False}, False),
  ],
  ids=[
    'gpu',
    'xla',
    'eight gpus',
    'uneven',
    'older',
    'newer',
    'float32',
    'int8',
    'any mask',
  ],
)
def test_where_it_is_picked(change, picked, monkeypatch):
  dtype = change.get('dtype', jnp.bfloat16)
  q, parts = _inputs(CASES['four prompts'], dtype)
  if 'scale' in change:
    parts[0] = dataclasses.replace(parts[0], k_scale_PKS=jnp.ones(()))
  if 'filled' in change:
    parts[0] = dataclasses.replace(parts[0], filled_P=None)
  monkeypatch.setattr(
    decode_kernel, 'attend_to_filled', lambda q_BNH, _, layout: q_BNH
  )
  monkeypatch.setattr(lib, 'attend_to_parts', lambda *_, **__: None)
  found = lib.decode_attention(
    q[:, None], parts, kernel=change.get('kernel', 'auto'),
    layout=change.get('layout', _gpus()),
  )  # fmt: skip
  assert (found is not None) == picked


def _samples(decoder):
  specs = decoder_lib.specs(decoder.config)
  params = weights.init(specs, jax.random.key(0), layout=decoder.layout)
  requests = [
    Request(
      prompt_tokens=tuple(range(1, 2 + length)), id=str(length), samples=2,
      max_new_tokens=40,
    )
    for length in (3, 17, 9, 11)
  ]  # fmt: skip
  return decode.sample(decoder, publish(decoder, params), requests)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sizes', 'samples', 'change'),  # `sample` cannot be used with `tensor`.
  [
    ({'fsdp': 1}, True, {}),
    ({'fsdp': 1}, True, {'qkv_bias': True, 'qk_norm': False}),
    ({'fsdp': 1}, True, {'rope_layers': (True, False)}),
    ({'fsdp': 4}, True, {}),
    ({'fsdp': 2, 'tensor': 2}, False, {}),
  ],
)
def test_a_sampler_with_all_kernels_samples_the_same(
  sizes, samples, change, monkeypatch, one_device
):
  config = dataclasses.replace(zoo.get('tiny_qwen3'), num_layers=2, **change)
  expected = _samples(Decoder(config, Compute(dtype='float32'), one_device))
  uses = collections.Counter()

  def interpret(module, name):
    kernel = functools.partial(getattr(module, name), interpret=True)

    def counted(*arguments, **options):
      uses[name] += 1
      return kernel(*arguments, **options)

    monkeypatch.setattr(module, name, counted)

  interpret(decode_kernel, 'attend_to_filled')
  interpret(write_kernel, 'rotate_and_write')
  interpret(logits_kernel, 'sample')
  monkeypatch.setattr(lib, 'pick_decode_kernel', lambda *_: 'gpu')
  monkeypatch.setattr(write_kernel, 'fits', lambda *_: True)
  monkeypatch.setattr(Layout, 'has_small_kernels', True)
  # Another static argument, so that it is compiled again.
  compute = Compute(dtype='float32', head_chunk=64)
  layout = make_layout(
    **sizes, devices=jax.devices()[: math.prod(sizes.values())]
  )
  found = _samples(Decoder(config, compute, layout))
  L = config.num_layers
  expected_uses = {'attend_to_filled': L, 'rotate_and_write': L}
  assert uses == expected_uses | ({'sample': 1} if samples else {})
  rows = (itertools.chain.from_iterable(x) for x in (found, expected))
  for a, b in zip(*rows, strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.policy_logprobs, b.policy_logprobs, atol=1e-5)
