"""The kernel, in Pallas's interpreter, is the attention that XLA computes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import attention as lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import tpu_decode_kernel, zoo
from rlpt_jax.models.attention import Part
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler

STEP = 128  # Positions of a step in these tests.


def _part(rng, filled, heads, size, positions, readers=None):
  """Rows filled to the given lengths; what is not filled is NaN."""
  rows = len(filled)
  k = rng.normal(size=(rows, heads, size, positions)).astype(np.float32)
  v = rng.normal(size=(rows, heads, positions, size)).astype(np.float32)
  mask = np.arange(positions) < np.asarray(filled)[:, None]
  filled = np.asarray(filled, np.int32)
  return Part(*map(jnp.asarray, (k, v, mask)), None, None, readers, filled)


def _poisoned(part):
  return dataclasses.replace(
    part,
    k_PKHS=jnp.where(part.mask[:, None, None], part.k_PKHS, jnp.nan),
    v_PKSH=jnp.where(part.mask[:, None, :, None], part.v_PKSH, jnp.nan),
  )


def _in_blocks(rng, part, size, shards=1):
  """The part with its rows cut into the blocks of a pool, in any order.

  The pool has more blocks than are used. Rows of a shard use its blocks only.
  """
  rows, _, _, positions = part.k_PKHS.shape
  columns, count = positions // size, rows * positions // size + 2 * shards
  per_shard = count // shards
  block_BM = np.stack([
    shard * per_shard + rng.permutation(per_shard)[: rows // shards * columns]
    for shard in range(shards)
  ]).reshape(rows, columns)  # fmt: skip

  def pool(x, axis):
    parts = np.stack(np.split(np.asarray(x), columns, axis=axis), axis=1)
    out = np.full((count, *parts.shape[2:]), np.nan, np.float32)
    out[block_BM] = parts
    return jnp.asarray(out)

  # Entries of columns that are not reached may be any block.
  reached = np.arange(columns) * size < part.filled_P[:, None]
  return dataclasses.replace(
    part,
    k_PKHS=pool(part.k_PKHS, 3),
    v_PKSH=pool(part.v_PKSH, 2),
    blocks_BM=jnp.asarray(np.where(reached, block_BM, block_BM[:, :1])),
  )


@pytest.fixture
def on_tpu(monkeypatch):
  """Lets a layout of CPUs take the kernel, with short steps."""
  calls = []
  kernel = tpu_decode_kernel.softmax_sums

  def interpreted(*arguments, **options):
    calls.append(arguments)
    return kernel(*arguments, **options, interpret=True)

  monkeypatch.setattr(tpu_decode_kernel, 'softmax_sums', interpreted)
  monkeypatch.setattr(tpu_decode_kernel, 'LONGEST_STEP', STEP)
  return calls


def _attend(q, parts, layout, kernel='auto'):
  layout = dataclasses.replace(layout, platform='tpu')
  run = functools.partial(lib.decode_attention, kernel=kernel, layout=layout)
  return jax.jit(run)(q, parts)


def _expected(q, parts, layout):
  run = functools.partial(lib.attend_to_parts, layout=layout)
  return jax.jit(run)(q, parts)


def _queries(rng, rows, heads, size):
  return jnp.asarray(rng.normal(size=(rows, 1, heads, size)), jnp.float32)


EDGES = [0, 1, STEP, STEP + 1, 2 * STEP, 3 * STEP]


@pytest.mark.parametrize(
  ('kv_heads', 'queries', 'size', 'positions'),
  [(1, 4, 128, 384), (2, 3, 80, 400)],
)
def test_it_is_attention(
  on_tpu, kv_heads, queries, size, positions, one_device
):
  rng = np.random.default_rng(0)
  own = _part(rng, EDGES, kv_heads, size, positions)
  recent = _part(rng, [3] * 6, kv_heads, size, 16)
  prefix = _part(rng, [130, 256], kv_heads, size, 256)
  q = _queries(rng, 6, kv_heads * queries, size)
  parts = [prefix, own, recent]
  expected = _expected(q, parts, one_device)
  found = _attend(q, [*map(_poisoned, parts[:2]), recent], one_device)
  np.testing.assert_allclose(found, expected, atol=2e-6)
  assert len(on_tpu) == 2  # All parts but the short one.


@pytest.mark.parametrize('size', [128, 256])
def test_rows_may_be_in_blocks(on_tpu, size, monkeypatch, one_device):
  monkeypatch.setattr(tpu_decode_kernel, 'LONGEST_STEP', 256)
  rng = np.random.default_rng(1)
  filled = [0, 1, 127, 128, 129, 256, 257, 511, 512, 0]
  own = _part(rng, filled, 2, 64, 512)
  recent = _part(rng, [3] * 10, 2, 64, 16)
  q = _queries(rng, 10, 4, 64)
  expected = _expected(q, [own, recent], one_device)
  blocks = _in_blocks(rng, _poisoned(own), size)
  found = _attend(q, [blocks, recent], one_device)
  np.testing.assert_allclose(found, expected, atol=2e-6)
  assert len(on_tpu) == 1


def test_each_device_reads_its_own_rows(on_tpu, one_device):
  layout = make_layout(fsdp=4, tensor=2)
  rng = np.random.default_rng(2)
  # Each shard has two rows, and a prefix with room for three.
  place_B = np.array([0, 2, 4, 5, 8, 6, 10, 9], np.int32)
  rows_PG = rng.integers(0, 8, (4, 3)).astype(np.int32)
  rows_PG.reshape(-1)[place_B] = np.arange(8)
  readers = Readers(jnp.asarray(rows_PG), jnp.asarray(place_B))
  prefix = _part(rng, [256, 1, 130, 255], 2, 64, 256, readers)
  own = _part(rng, [0, 1, 128, 129, 255, 256, 257, 384], 2, 64, 384)
  recent = _part(rng, [3] * 8, 2, 64, 16)
  q = _queries(rng, 8, 4, 64)
  expected = _expected(q, [prefix, own, recent], one_device)
  blocks = _in_blocks(rng, _poisoned(own), 128, shards=4)
  found = _attend(q, [_poisoned(prefix), blocks, recent], layout)
  np.testing.assert_allclose(found, expected, atol=2e-6)
  assert len(on_tpu) == 2


def test_steps_and_reads_are_those_of_filled_blocks():
  filled = jnp.array([300, 0, 128, 129])
  blocks = np.arange(16).reshape(4, 4)
  steps = functools.partial(tpu_decode_kernel._steps, filled, blocks, 128)

  row, place, block, _, count = steps(1)
  assert count == 7  # Three, one without keys, one, two.
  np.testing.assert_array_equal(row[:7], [0, 0, 0, 1, 2, 3, 3])
  np.testing.assert_array_equal(place[:7], [0, 1, 2, 0, 0, 0, 1])
  # The row without keys repeats a block, which is not fetched again.
  np.testing.assert_array_equal(block[:7], [0, 1, 2, 2, 8, 12, 13])

  row, place, block, _, count = steps(2)
  assert count == 5
  np.testing.assert_array_equal(row[:5], [0, 0, 1, 2, 3])
  np.testing.assert_array_equal(
    block.reshape(-1, 2)[:5], [[0, 1], [2, 1], [2, 1], [8, 1], [12, 13]]
  )


def _shaped(layout, change):
  dtype = change.get('dtype', jnp.bfloat16)
  positions = change.get('positions', 4096)
  shape = jax.ShapeDtypeStruct((8, 2, 128, positions), dtype)
  filled = jax.ShapeDtypeStruct((8,), jnp.int32)
  part = Part(
    shape,
    jax.ShapeDtypeStruct((8, 2, positions, 128), dtype),
    None,
    change.get('scale'),
    readers=None,
    filled_P=change.get('filled', filled),
    blocks_BM=change.get('blocks'),
  )
  q = jax.ShapeDtypeStruct((8, 1, 4, 128), change.get('q', jnp.bfloat16))
  return tpu_decode_kernel.fits(q, part, layout)


TABLE = jax.ShapeDtypeStruct((8, 8), jnp.int32)
LARGE_TABLE = jax.ShapeDtypeStruct((8, 2**13), jnp.int32)


@pytest.mark.parametrize(
  ('change', 'fits'),
  [
    ({}, True),
    ({'positions': 2048}, True),
    ({'positions': 1024}, False),  # One step.
    ({'positions': 128, 'blocks': TABLE}, True),
    ({'positions': 64, 'blocks': TABLE}, False),
    ({'positions': 128, 'blocks': LARGE_TABLE}, False),
    ({'dtype': jnp.int8, 'scale': 0}, False),
    ({'q': jnp.float32}, False),
    ({'filled': None}, False),
  ],
)
def test_what_is_left_to_xla(change, fits, one_device):
  # 2 heads of 128 in bfloat16: a step of 1 MiB has 1,024 positions.
  assert tpu_decode_kernel.step_positions(jnp.bfloat16, 2, 128) == 1024
  assert _shaped(one_device, change) == fits


@pytest.mark.parametrize('sizes', [{}, {'fsdp': 4, 'tensor': 2}], ids=str)
def test_it_lowers_for_a_tpu(sizes, one_device):
  layout = make_layout(**sizes) if sizes else one_device
  layout = dataclasses.replace(layout, platform='tpu')

  def shaped(*shape, dtype=jnp.bfloat16):
    axes = ('batch', *[None] * (len(shape) - 1))
    sharding = layout.sharding(shape, axes)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  k, v = shaped(8, 2, 128, 4096), shaped(8, 2, 4096, 128)
  own = Part(k, v, None, filled_P=shaped(8, dtype=jnp.int32))
  run = functools.partial(lib.decode_attention, kernel='auto', layout=layout)
  lowered = (
    jax.jit(run)
    .trace(shaped(8, 1, 4, 128), [own])
    .lower(lowering_platforms=('tpu',))
  )
  assert 'tpu_custom_call' in lowered.as_text()


@pytest.mark.slow
def test_an_engine_with_it_samples_the_same(monkeypatch, one_device):
  plan = Plan(
    slots=3, group=2, prompts=2, max_prompt_tokens=60, max_new_tokens=32,
    chunk=4, block=8,
  )  # fmt: skip
  config = dataclasses.replace(zoo.get('tiny_qwen3'), num_layers=1)
  decoder = Decoder(config, Compute(dtype='float32'), one_device)
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(0), layout=one_device)
  asked = [
    Request(
      prompt_tokens=tuple(range(1, 1 + length)), id=str(length), samples=2,
      max_new_tokens=(30, 9),
    )
    for length in (60, 1)
  ]  # fmt: skip

  def sampled(head_chunk):
    # Another static argument, so that it is compiled again.
    compute = Compute(dtype='float32', head_chunk=head_chunk)
    changed = dataclasses.replace(decoder, compute=compute)
    with Engine(changed, params, plan) as engine:
      return [list(group) for group in Sampler(engine).run(asked)]

  expected = sampled(128)
  kernel, calls = tpu_decode_kernel.softmax_sums, []
  plain_sums = lib._sums

  def sums(q_BTNH, part, layout):
    # The prefixes and the blocks; neither whole rows nor the running chunk.
    if part.filled_P is None or part.k_PKHS.shape[3] == plan.chunk:
      return plain_sums(q_BTNH, part, layout)
    calls.append(part.blocks_BM is not None)
    return lib._sums_on_tpu(q_BTNH, part, layout)

  monkeypatch.setattr(
    tpu_decode_kernel,
    'softmax_sums',
    functools.partial(kernel, interpret=True),
  )
  monkeypatch.setattr(tpu_decode_kernel, 'fits', lambda *_: True)
  monkeypatch.setattr(tpu_decode_kernel, 'LONGEST_STEP', 16)
  monkeypatch.setattr(lib, '_sums', sums)
  found = sampled(64)
  assert sorted(calls) == [False, True]
  rows = (itertools.chain.from_iterable(x) for x in (found, expected))
  for a, b in zip(*rows, strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.policy_logprobs, b.policy_logprobs, atol=1e-5)
