"""The sampler's weights: the learner's numbers, and nothing of its memory."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout, make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling.publish import publish


def _decoder(layout, *, model='tiny_llama', dtype='bfloat16'):
  return Decoder(zoo.get(model), Compute(dtype=dtype), layout)


@functools.cache
def _host(model='tiny_llama'):
  """Numbers for every parameter, scales and biases too."""
  specs = decoder_lib.specs(zoo.get(model))
  rng = np.random.default_rng(0)
  return weights.map_named(
    lambda _, spec: rng.normal(size=spec.shape).astype(np.float32), specs
  )


def _learner(layout, *, model='tiny_llama'):
  specs = decoder_lib.specs(zoo.get(model))
  params = jax.device_put(_host(model), weights.shardings(specs, layout))
  # On a CPU these may be numpy's own memory, which nothing would overwrite.
  return jax.tree.map(jnp.copy, params)


def _layout(devices=None, **sizes):
  picked = None if devices is None else jax.devices()[devices]
  return make_layout(**sizes, devices=picked)


def _check(published, host, decoder):
  """Values, types and places, given the learner's params on the host."""
  c, layout = decoder.config, decoder.layout
  specs = decoder_lib.specs(c)
  assert set(published) == set(host)
  assert len(published['layers']) == c.num_layers
  for name in set(host) - {'layers'}:
    x, spec = published[name], specs[name]
    is_rounded = name == 'embed' and not c.tied_head
    dtype = decoder.compute.dtype if is_rounded else 'float32'
    assert x.dtype == dtype, name
    rounded = host[name].astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(x, rounded, err_msg=name)
    expected = layout.weight_sharding(spec.shape, spec.axes)
    assert x.sharding.is_equivalent_to(expected, x.ndim), name
  for i, layer in enumerate(published['layers']):
    assert set(layer) == set(host['layers'])
    for name, x in layer.items():
      spec, rounded = specs['layers'][name], host['layers'][name][i]
      assert x.dtype == decoder.compute.dtype, name
      rounded = rounded.astype(jnp.dtype(decoder.compute.dtype))
      np.testing.assert_array_equal(x, rounded, err_msg=name)
      expected = layout.weight_sharding(spec.shape[1:], spec.axes[1:])
      assert x.sharding.is_equivalent_to(expected, x.ndim), name
      assert x.devices() == set(layout.mesh.devices.flat), name


ONE = {'devices': slice(0, 1)}
PLACES = [
  # Learner, sampler.
  (ONE, ONE),
  ({'fsdp': 8}, {'fsdp': 8}),
  ({'fsdp': 2, 'tensor': 4}, {'fsdp': 2, 'tensor': 4}),
  ({'fsdp': 8}, {'data': 4, 'fsdp': 1, 'tensor': 2}),
  # Part of the devices, others than the learner's, and one of many.
  ({'fsdp': 8}, {'fsdp': 1, 'tensor': 2, 'devices': slice(2, 4)}),
  (
    {'fsdp': 4, 'devices': slice(0, 4)},
    {'data': 2, 'fsdp': 1, 'tensor': 2, 'devices': slice(4, 8)},
  ),
  ({'fsdp': 2, 'tensor': 4}, {'devices': slice(7, 8)}),
  (ONE, {'fsdp': 2, 'tensor': 4}),
]


def _buffers(tree):
  return {
    shard.data.unsafe_buffer_pointer()
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
  }


def _check_copies(learner, sampler, dtype):
  params = _learner(_layout(**learner))
  decoder = _decoder(_layout(**sampler), dtype=dtype)
  published = publish(decoder, params)
  assert not _buffers(params) & _buffers(published)
  # The learner's next update takes its memory.
  update = jax.jit(lambda x: x * 0 - 5.0, donate_argnums=0)
  jax.block_until_ready(jax.tree.map(update, params))
  assert all(x.is_deleted() for x in jax.tree.leaves(params))
  _check(published, _host(), decoder)


@pytest.mark.parametrize(('learner', 'sampler'), PLACES, ids=str)
def test_copies_in_the_right_place(learner, sampler):
  _check_copies(learner, sampler, 'bfloat16')


@pytest.mark.parametrize(('learner', 'sampler'), PLACES, ids=str)
def test_no_weight_goes_through_the_host(learner, sampler, monkeypatch):
  params, decoder = _learner(_layout(**learner)), _decoder(_layout(**sampler))
  kind, fetched = type(jnp.zeros(1)), []

  def fetching(x):
    fetched.append(x.nbytes)
    return value.fget(x)

  value = kind._value
  monkeypatch.setattr(kind, '_value', property(fetching))
  published = publish(decoder, params)
  assert not fetched
  _ = np.asarray(published['embed'])  # It does count.
  assert fetched


@pytest.mark.parametrize('place', [ONE, {'fsdp': 2, 'tensor': 4}], ids=str)
def test_copies_where_nothing_has_to_change(place):
  _check_copies(place, place, 'float32')


@pytest.mark.parametrize('model', ['tiny_qwen3_moe', 'tiny_qwen2'])
def test_experts_biases_and_tied_heads(model):
  params = _learner(_layout(fsdp=8), model=model)
  decoder = _decoder(_layout(fsdp=2, tensor=2, expert=2), model=model)
  _check(publish(decoder, params), _host(model), decoder)
  assert ('head' in params) == (model == 'tiny_qwen3_moe')


def test_the_forward_pass_is_that_of_the_learner():
  learner = _decoder(_layout(fsdp=8), dtype='float32')
  sampler = _decoder(_layout(data=4, fsdp=1, tensor=2), dtype='float32')
  params = _learner(learner.layout)
  tokens_BT = np.arange(40, dtype=np.int32).reshape(8, 5)
  segments_BT = np.ones_like(tokens_BT)
  forward = jax.jit(decoder_lib.forward, static_argnums=0)
  expected = forward(learner, params, tokens_BT, segments_BT).hidden_BTD
  published = publish(sampler, params)
  found = forward(sampler, published, tokens_BT, segments_BT).hidden_BTD
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('learner', 'sampler'),
  [({'fsdp': 2, 'tensor': 4}, {'fsdp': 2, 'tensor': 4}), *PLACES[3:6]],
  ids=str,
)
def test_a_second_publication_compiles_nothing(learner, sampler):
  decoder, params = _decoder(_layout(**sampler)), _learner(_layout(**learner))
  publish(decoder, params)
  with jax.log_compiles(), _Compilations() as compilations:
    published = publish(decoder, params)
  assert not compilations.messages
  _check(published, _host(), decoder)


class _Compilations:
  """What jax says that it compiles."""

  def __enter__(self):
    self.messages = []
    self._handler = logging.Handler()
    self._handler.emit = lambda record: self.messages.append(
      record.getMessage()
    )
    self._logger = logging.getLogger('jax')
    self._logger.addHandler(self._handler)
    return self

  def __exit__(self, *_):
    self._logger.removeHandler(self._handler)
    self.messages = [m for m in self.messages if 'ompil' in m]


@pytest.mark.parametrize('sizes', [{'fsdp': 8}, {'fsdp': 2, 'tensor': 4}])
def test_what_is_consumed_is_given_back(sizes):
  decoder, params = _decoder(_layout(**sizes)), _learner(_layout(**sizes))
  _check(publish(decoder, params, consume=True), _host(), decoder)
  assert all(x.is_deleted() for x in jax.tree.leaves(params))


@pytest.mark.parametrize('model', ['tiny_llama', 'tiny_qwen3'])
def test_a_split_head_is_the_head(monkeypatch, model):
  layout = _layout(**ONE)
  params, decoder = _learner(layout, model=model), _decoder(layout, model=model)
  whole = publish(decoder, params)
  monkeypatch.setattr(head, 'is_split', lambda _: True)
  parts = publish(decoder, params)
  name = head.name_of_weights(decoder)
  assert parts[name].shape == (whole[name].shape[0], 3, whole[name].shape[1])
  tokens_BT = np.arange(12, dtype=np.int32).reshape(2, 6)
  forward = jax.jit(decoder_lib.forward, static_argnums=0)
  logits = jax.jit(head.logits, static_argnums=0)
  found, expected = (
    logits(
      decoder, p,
      forward(decoder, p, tokens_BT, np.ones_like(tokens_BT)).hidden_BTD,
    )
    for p in (parts, whole)
  )  # fmt: skip
  error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
  assert error < 1e-5


@pytest.mark.parametrize('consume', [False, True])
@pytest.mark.parametrize(
  ('sizes', 'change'),
  [
    (ONE, {}),
    (ONE, {'qkv_bias': True}),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, {'qkv_bias': True}),
  ],
)
def test_on_gpus_weights_are_joined(sizes, change, consume, monkeypatch):
  layout = _layout(**sizes)
  config = dataclasses.replace(zoo.get('tiny_llama'), **change)
  decoder = Decoder(config, Compute(dtype='float32'), layout)
  specs = decoder_lib.specs(config)
  rng = np.random.default_rng(0)
  host = weights.map_named(
    lambda _, spec: rng.normal(size=spec.shape).astype(np.float32), specs
  )
  params = jax.tree.map(
    jnp.copy, jax.device_put(host, weights.shardings(specs, layout))
  )
  monkeypatch.setattr(Layout, 'has_small_kernels', True)
  published = publish(decoder, params, consume=consume)
  for i, layer in enumerate(published['layers']):
    rest = dict(host['layers'])
    for name, (join, parts, axes) in decoder_lib.JOINED.items():
      if parts[0] in rest:
        expected = join(*(rest.pop(part)[i] for part in parts))
        np.testing.assert_array_equal(layer[name], expected, err_msg=name)
        sharding = layout.weight_sharding(expected.shape, axes)
        assert layer[name].sharding.is_equivalent_to(sharding, expected.ndim)
    assert set(rest) < set(layer)
    for name, w in rest.items():
      np.testing.assert_array_equal(layer[name], w[i], err_msg=name)
  assert ('b_qkv' in published['layers'][0]) == bool(change)
  left = {x.is_deleted() for x in jax.tree.leaves(params)}
  assert left == {consume}


def test_heads_that_chips_cannot_split_are_not_joined(monkeypatch):
  layout = _layout(fsdp=2, tensor=4)
  decoder = _decoder(layout)
  assert decoder.config.num_kv_heads % 4
  monkeypatch.setattr(Layout, 'has_small_kernels', True)
  published = publish(decoder, _learner(layout))
  expected = set(_host()['layers']) - {'w_gate', 'w_up'} | {'w_gate_up'}
  assert set(published['layers'][0]) == expected
