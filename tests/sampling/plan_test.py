"""What an engine would take is what it takes."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import zoo
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling import plan as lib
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.table import Sizes, Table


def _layout(**sizes):
  if not sizes:
    return make_layout(devices=jax.devices()[:1])
  return make_layout(**sizes)


def _decoder(model='tiny_qwen3', dtype='float32', **sizes):
  return Decoder(zoo.get(model), Compute(dtype=dtype), _layout(**sizes))


def _on_each_device(tree):
  """Bytes, by device."""
  found = {}
  for x in jax.tree.leaves(tree):
    for shard in x.addressable_shards:
      found[shard.device] = found.get(shard.device, 0) + shard.data.nbytes
  return found


# Three prompts: a number that no layout here divides.
PLAN = Plan(
  slots=16, group=4, prompts=3, max_prompt_tokens=33, max_new_tokens=40,
  chunk=16,
)  # fmt: skip


@pytest.mark.parametrize(
  ('model', 'dtype', 'cache_dtype', 'sizes'),
  [
    ('tiny_qwen3', 'float32', None, {}),
    ('tiny_llama', 'bfloat16', 'int8', {'fsdp': 8}),
    ('tiny_llama', 'float32', 'bfloat16', {'fsdp': 2, 'tensor': 4}),
    ('tiny_qwen3', 'bfloat16', None, {'data': 4, 'fsdp': 1, 'tensor': 2}),
    ('tiny_qwen3_moe', 'bfloat16', 'int8', {'fsdp': 2, 'expert': 4}),
  ],
  ids=str,
)
def test_memory_is_the_bytes_of_the_arrays(model, dtype, cache_dtype, sizes):
  decoder = _decoder(model, dtype, **sizes)
  plan = dataclasses.replace(PLAN, cache_dtype=cache_dtype)
  params = weights.map_named(
    lambda _, spec: np.zeros(spec.shape, np.float32),
    decoder_lib.specs(decoder.config),
  )
  stored = cache_dtype or dtype
  # 32 tokens of a prompt that are not its last; 40 new ones in blocks of 32.
  arrays = {
    'weights': publish(decoder, params),
    'prefixes': caches.empty(decoder, 3, 32, stored),
    'own': caches.empty(decoder, 32, 32, stored),
    'recent': caches.empty(decoder, 16, 16, dtype),
  }
  found = lib.memory(plan, decoder)
  for name, tree in arrays.items():
    devices = _on_each_device(tree)
    assert set(devices) == set(decoder.layout.mesh.devices.flat), name
    assert set(devices.values()) == {getattr(found, name)}, name
  assert found.total == sum(dataclasses.astuple(found))


def test_memory_in_plain_arithmetic():
  found = lib.memory(PLAN, _decoder())
  # Layers 2, heads 2 of size 32, keys and values, 4 bytes: 1 KiB a token.
  assert found.prefixes == 3 * 32 * 1024
  assert found.own == 16 * 64 * 1024
  assert found.recent == 16 * 16 * 1024
  assert found.column == 16 * 32 * 1024 // 2  # Of one layer.
  less = dataclasses.replace(PLAN, own_tokens=320)
  assert lib.memory(less, _decoder()).own == 320 * 1024
  small = dataclasses.replace(PLAN, cache_dtype='int8')
  # 32 bytes and a scale of 4 for what took 128.
  assert lib.memory(small, _decoder()).own == found.own * 36 // 128


@pytest.mark.slow
def test_on_a_cpu_small_caches_are_widened_and_that_is_planned(one_device):
  plan = Plan(
    slots=16, group=4, prompts=4, max_prompt_tokens=1025, max_new_tokens=1024,
    chunk=16,
  )  # fmt: skip
  decoder = Decoder(zoo.get('tiny_qwen3'), Compute(dtype='float32'), one_device)
  params = weights.init(
    decoder_lib.specs(decoder.config), jax.random.key(0), layout=one_device
  )
  params, table = publish(decoder, params), Table(plan.slots, plan.sizes)
  readers = Readers(np.arange(16).reshape(4, 4), np.arange(16))
  slots = table.slots(
    np.zeros(4, np.int32), readers, blocks_BM=np.zeros((16, 8), np.int32)
  )
  for cache_dtype in ('float32', 'bfloat16', 'int8'):
    found = lib.memory(
      dataclasses.replace(plan, cache_dtype=cache_dtype), decoder
    )
    stored = [
      caches.empty(decoder, 4, 1024, cache_dtype),
      caches.empty(decoder, 128, 128, cache_dtype),
    ]
    compiled = (
      chunks.compiled_for('cpu', 'float32')
      .lower(decoder, params, *stored, slots, steps=plan.chunk)
      .compile()
    )
    used = compiled.memory_analysis().temp_size_in_bytes
    planned = found.recent + found.logits + found.float32_copies
    # Small arrays of a step are not planned.
    assert 0.6 * planned < used < planned + 2e6, cache_dtype


def test_a_plan_that_does_not_fit_says_what_to_lower():
  decoder = _decoder()
  needed = lib.memory(PLAN, decoder)
  fits = dataclasses.replace(PLAN, memory=needed.total)
  assert lib.check(fits, decoder) == needed
  with pytest.raises(ValueError) as error:
    lib.check(dataclasses.replace(PLAN, memory=needed.total - 1), decoder)
  assert str(error.value) == (
    'The sampler needs 0.00 GiB on each device (weights 0.00 GiB, prompts 0.00 '
    'GiB, completions 0.00 GiB, logits 0.00 GiB), but only 0.00 GiB is '
    'available: lower slots or max_new_tokens, set own_tokens, choose a '
    'smaller cache_dtype, or split the model over more devices.'
  )


def test_the_figures_of_a_refusal():
  # 2^20 prompts of 64 tokens at 1 KiB a token are 64 GiB, and so on.
  plan = Plan(
    slots=1024, prompts=2**20, max_prompt_tokens=65, max_new_tokens=1024,
    chunk=256, memory=2**30,
  )  # fmt: skip
  with pytest.raises(ValueError) as error:
    lib.check(plan, _decoder())
  for part in (
    'needs 65.38 GiB on each device',
    'prompts 64.00 GiB, completions 1.38 GiB, logits 0.00 GiB)',
    'but only 1.00 GiB is available: lower prompts or max_prompt_tokens,',
  ):
    assert part in str(error.value), part
  # A device has its share only.
  spread = _decoder(fsdp=8)
  assert lib.memory(plan, spread).prefixes == 8 * 2**30


@pytest.mark.parametrize(
  ('sizes', 'share'),
  [
    ({}, 0),
    ({'data': 8, 'fsdp': 1}, 0),
    # Split eight times, and whole again where they are used.
    ({'fsdp': 8}, 1),
    ({'data': 2, 'fsdp': 4}, 1),
  ],
  ids=str,
)
def test_weights_that_the_batch_splits_are_counted_where_they_are_used(
  sizes, share
):
  whole = lib.memory(PLAN, _decoder()).weights
  found = lib.memory(PLAN, _decoder(**sizes)).gathered
  # Scales and an odd vocabulary stay whole everywhere.
  assert found == pytest.approx(whole * share, rel=0.25)
  # 16 rows of 259 logits, four times: with noise, filters and a sum.
  logits = lib.memory(PLAN, _decoder()).logits
  assert logits == 16 * 259 * 4 * 4


def test_what_a_batch_cannot_be_split_into_is_refused():
  plan = dataclasses.replace(PLAN, slots=12, prompts=8)
  with pytest.raises(ValueError, match=r'slots=12: .* of 8, .* next is 16'):
    lib.check(plan, _decoder(fsdp=8))
  # By default there are as many more as it takes.
  default = dataclasses.replace(plan, slots=16, prompts=None, group=2)
  assert lib.fitted(default, _layout(fsdp=8)).prompts == 16
  default = dataclasses.replace(default, slots=8, group=1)
  assert lib.fitted(default, _layout(fsdp=8)).prompts == 16
  # A group of 8 takes the two slots, and a prefix, of each of four devices.
  default = dataclasses.replace(default, slots=16, group=8)
  assert lib.fitted(default, _layout(fsdp=8)).prompts == 16
  lib.check(default, _decoder(fsdp=8))
  with pytest.raises(ValueError, match=r'prompts=3: .* of 8, .* next is 8'):
    lib.check(PLAN, _decoder(fsdp=8))


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
  monkeypatch.setattr(lib, 'CONTAINER', tmp_path / 'memory.max')
  whole = lib.capacity(_layout())
  (tmp_path / 'memory.max').write_text('max\n')
  assert lib.capacity(_layout()) == whole
  (tmp_path / 'memory.max').write_text(f'{2**20}\n')
  assert lib.capacity(_layout()) == 2**20


def test_what_the_machine_has_is_the_default():
  decoder = _decoder()
  lib.check(PLAN, decoder)
  with pytest.raises(ValueError, match=r'but only .* is available'):
    lib.check(dataclasses.replace(PLAN, slots=2**24), decoder)


def test_blocks_fit_the_layout():
  plan = Plan(slots=16, max_new_tokens=64, own_tokens=500)
  for decoder, own_tokens in ((_decoder(), 512), (_decoder(fsdp=8), 512)):
    fitted = lib.fitted(plan, decoder.layout)
    assert fitted.block == 32 and fitted.own_tokens == own_tokens
    assert lib.fitted(fitted, decoder.layout) == fitted
  few = dataclasses.replace(plan, own_tokens=300)
  assert lib.fitted(few, _decoder(fsdp=8).layout).own_tokens == 512
  # No TPU has room for less than 128.
  tpu = dataclasses.replace(_layout(), platform='tpu')
  assert lib.fitted(plan, tpu).block == 128
  own = dataclasses.replace(plan, block=64)
  assert lib.fitted(own, tpu).block == 64


def test_no_more_is_reserved_than_all_slots_can_use():
  plan = Plan(slots=16, max_new_tokens=64, own_tokens=2**20)
  assert plan.num_blocks == 16 * 2


def test_one_completion_fits_on_each_device_that_splits_a_batch():
  plan = Plan(slots=16, max_new_tokens=64, own_tokens=200)
  lib.check(plan, _decoder())
  with pytest.raises(ValueError) as error:
    lib.check(plan, _decoder(fsdp=8))
  assert str(error.value) == (
    'own_tokens=200: expected at least 512, room for a completion of '
    'max_new_tokens=64, in blocks of 32, on each of the 8 devices that split a '
    'batch: raise own_tokens, or lower max_new_tokens.'
  )
  with pytest.raises(ValueError, match='own_tokens=32: expected at least 64'):
    lib.check(dataclasses.replace(plan, own_tokens=32), _decoder())
  large = dataclasses.replace(
    plan, slots=2**20, prompts=1, own_tokens=2**26, memory=2**28
  )
  with pytest.raises(ValueError, match='lower own_tokens, choose a smaller'):
    lib.check(large, _decoder())


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'block': 24}, 'block=24: expected a multiple of chunk=16.'),
    ({'own_tokens': 0}, 'own_tokens=0: expected at least 1.'),
    ({'slots': 0}, 'slots=0: expected at least 1.'),
    ({'group': -1}, 'group=-1: expected at least 1.'),
    ({'prompts': 0}, 'prompts=0: expected at least 1.'),
    ({'max_prompt_tokens': 0}, 'max_prompt_tokens=0: expected at least 1.'),
    ({'max_new_tokens': 0}, 'max_new_tokens=0: expected at least 1.'),
    ({'chunk': 0}, 'chunk=0: expected at least 1.'),
    ({'memory': 0}, 'memory=0: expected at least 1.'),
    (
      {'cache_dtype': 'float16'},
      "cache_dtype='float16': expected float32, bfloat16 or int8.",
    ),
  ],
  ids=str,
)
def test_a_plan_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    Plan(**{'slots': 4} | changes)


def test_what_follows_from_a_plan():
  # Two for each full group.
  assert Plan(slots=64, group=8).num_prompts == 16
  assert Plan(slots=4, group=8).num_prompts == 2
  assert Plan(slots=64, group=8, prompts=5).num_prompts == 5
  assert Plan(slots=1, max_prompt_tokens=1).prefix_length == 16
  assert Plan(slots=1, max_prompt_tokens=1024).prefix_length == 1024
  for new, chunk, size, columns in (
    (40, 16, 32, 2), (64, 16, 32, 2), (1, 16, 32, 1), (512, 16, 64, 8),
    (8192, 16, 128, 64), (8192, 48, 96, 86), (8192, 256, 256, 32),
  ):  # fmt: skip
    plan = Plan(slots=3, max_new_tokens=new, chunk=chunk)
    assert (plan.block_size, plan.columns) == (size, columns)
    assert plan.num_blocks == 3 * columns
  plan = Plan(slots=3, max_new_tokens=64, own_tokens=129)
  assert plan.num_blocks == 5
  assert Plan(slots=1).dtype(_decoder(dtype='bfloat16')) == 'bfloat16'
  assert Plan(slots=1, cache_dtype='int8').dtype(_decoder()) == 'int8'


def _request(**changes):
  defaults = {'prompt_tokens': (1,) * 33, 'id': 'a', 'max_new_tokens': 40}
  return Request(**defaults | changes)


def test_a_request_that_fits_no_slot_is_refused():
  PLAN.check(_request())
  PLAN.check(_request(samples=2, max_new_tokens=(1, 40)))
  for changes, message in (
    (
      {'prompt_tokens': (1,) * 34},
      'request a: 34 prompt tokens, but at most 33 fit: shorten it or '
      'raise max_prompt_tokens.',
    ),
    (
      {'samples': 2, 'max_new_tokens': (1, 41)},
      'request a: 41 new tokens, but at most 40 fit: shorten it or raise '
      'max_new_tokens.',
    ),
    ({'stops': ((1,) * 9,)}, 'but at most 8 fit: raise Sizes.stop_tokens.'),
  ):
    with pytest.raises(ValueError, match=re.escape(message)):
      PLAN.check(_request(**changes))
  roomy = dataclasses.replace(PLAN, sizes=Sizes(stop_tokens=9))
  roomy.check(_request(stops=((1,) * 9,)))


def test_the_room_is_that_of_the_samplers_own_devices():
  def device(in_use):
    stats = {'bytes_limit': 1_000_000, 'bytes_in_use': in_use}
    return types.SimpleNamespace(memory_stats=lambda: stats)

  def room(device, loaded=()):
    mesh = types.SimpleNamespace(local_devices=[device])
    layout = types.SimpleNamespace(mesh=mesh, platform='gpu')
    return lib._room(layout, loaded)

  learner, sampler = device(600_000), device(0)
  assert room(learner) == 360_000
  assert room(sampler) == 900_000
  # 4,000 bytes that will be freed on the learner's device only.
  loaded = types.SimpleNamespace(
    shape=(1000,), dtype=np.dtype('float32'), devices=lambda: [learner],
    sharding=types.SimpleNamespace(shard_shape=lambda shape: shape),
  )  # fmt: skip
  assert room(learner, [loaded]) == int(0.9 * 404_000)
  assert room(sampler, [loaded]) == 900_000
