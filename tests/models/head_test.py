"""Log-probabilities in chunks are those of the whole, and need less memory."""

import dataclasses
import functools
import math
import re
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout, make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import hlo


def _decoder(layout, *, chunk, model='tiny_qwen3', dtype='float32'):
  return Decoder(zoo.get(model), Compute(dtype=dtype, head_chunk=chunk), layout)


def _inputs(B=3, T=13, D=64, V=259):
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
  return hidden, jnp.asarray(rng.integers(0, V, (B, T)))


def _plain(w_VD, hidden, targets, temperature):
  logprobs = jax.nn.log_softmax(hidden @ w_VD.T / temperature)
  chosen = jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


@pytest.mark.parametrize(
  ('model', 'chunk'),
  [  # A tied head, and one of its own.
    ('tiny_qwen3', 1),
    ('tiny_qwen3', 4),
    ('tiny_qwen3', 128),
    ('tiny_llama', 4),
  ],
)
def test_chunks_are_the_whole(one_device, chunk, model):
  decoder = _decoder(one_device, chunk=chunk, model=model)
  params = weights.init(
    decoder_lib.specs(decoder.config), jax.random.key(0), layout=one_device
  )
  hidden, targets = _inputs()

  def chunked(params, hidden):
    logprobs, entropy = head.score(
      decoder, params, hidden, targets, temperature=0.7
    )
    return jnp.sum(jnp.sin(logprobs) + jnp.cos(entropy)), (logprobs, entropy)

  def plain(params, hidden):
    w_VD = params['embed' if decoder.config.tied_head else 'head']
    logprobs, entropy = _plain(w_VD, hidden, targets, 0.7)
    return jnp.sum(jnp.sin(logprobs) + jnp.cos(entropy)), (logprobs, entropy)

  found, expected = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(params, hidden)
    for f in (chunked, plain)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
  ('dtype', 'platform'), [('float32', 'cpu'), ('bfloat16', 'tpu')]
)
def test_chips_exchange_weights_once_for_all_chunks(
  one_device, dtype, platform
):
  B, T, V, D = 8, 15, 264, 64
  hidden, targets = _inputs(B=B, T=T, D=D, V=V)
  w_VD = jax.random.normal(jax.random.key(0), (V, D)) / 8

  def run(layout):
    layout = dataclasses.replace(layout, platform=platform)
    decoder = _decoder(layout, chunk=2, model='tiny_llama', dtype=dtype)

    def loss(w_VD, hidden, targets):
      found = head.score(decoder, {'head': w_VD}, hidden, targets)
      return jnp.sum(jnp.sin(found[0]) + jnp.cos(found[1])), found

    inputs = (
      jax.device_put(w_VD, layout.weight_sharding((V, D), ('vocab', 'embed'))),
      layout.put(hidden, 'batch', None, None),
      layout.put(targets, 'batch', None),
    )
    step = jax.jit(
      jax.grad(loss, argnums=(0, 1), has_aux=True),
      out_shardings=((inputs[0].sharding, inputs[1].sharding), None),
    )
    text = step.lower(*inputs).compile().as_text()
    return step(*inputs), hlo.parse(text)

  found, program = run(make_layout(fsdp=4, tensor=2))
  expected, _ = run(one_device)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)
  exchanged = [
    (x.opcode, times)
    for x, _, times in program.reached(program.entry)
    if x.opcode in hlo.COLLECTIVES
    # A chip's part of a gradient is a fourth of those of a row of chips.
    and max(a.size for a in x.arrays) >= V / 2 * D / 4
  ]
  # For each of the 8 chunks, only sums over the vocabulary.
  assert exchanged and all(times == 1 for _, times in exchanged), exchanged


def test_the_head_is_float32_whatever_computes_the_layers(one_device):
  decoder = _decoder(one_device, chunk=4, dtype='bfloat16')
  params = weights.init(
    decoder_lib.specs(decoder.config), jax.random.key(0), layout=one_device
  )
  tokens = jnp.arange(8).reshape(1, 8)
  forward = jax.jit(decoder_lib.forward, static_argnums=0)
  out = forward(decoder, params, tokens, jnp.ones_like(tokens))
  assert out.hidden_BTD.dtype == jnp.float32
  assert not np.array_equal(
    out.hidden_BTD, out.hidden_BTD.astype(jnp.bfloat16).astype(jnp.float32)
  ), 'the last norm rounded its result'
  logits = head.logits(decoder, params, out.hidden_BTD)
  expected = np.asarray(out.hidden_BTD, np.float64) @ (
    np.asarray(params['embed'], np.float64).T
  )
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  text = (
    jax.jit(head.logits, static_argnums=0)
    .lower(decoder, params, out.hidden_BTD)
    .as_text()
  )
  assert 'bf16' not in text
  assert 'precision = [HIGHEST, HIGHEST]' in text


@pytest.mark.parametrize(
  ('platform', 'dtype', 'setting', 'products'),
  [
    ('tpu', 'bfloat16', 'bf16_x3', 'num_primitive_operations = 3'),
    ('cuda', 'bfloat16', 'bf16_x3', 'x3x64xbf16>, tensor<259x3x64xbf16>'),
    ('tpu', 'bfloat16', 'bf16_x6', 'num_primitive_operations = 6'),
    ('cuda', 'bfloat16', 'bf16_x6', 'num_primitive_operations = 6'),
    ('tpu', 'bfloat16', 'highest', 'precision = [HIGHEST, HIGHEST]'),
    ('cuda', 'bfloat16', 'highest', 'precision = [HIGHEST, HIGHEST]'),
    ('tpu', 'float32', 'bf16_x3', 'precision = [HIGHEST, HIGHEST]'),
    ('cuda', 'float32', 'bf16_x3', 'precision = [HIGHEST, HIGHEST]'),
  ],
)
def test_one_setting_chooses_the_products(
  one_device, platform, dtype, setting, products
):
  layout = dataclasses.replace(
    one_device, platform='gpu' if platform == 'cuda' else 'tpu'
  )
  compute = Compute(dtype=dtype, head=setting)
  decoder = Decoder(zoo.get('tiny_llama'), compute, layout)
  hidden = jax.ShapeDtypeStruct((2, 4, 64), jnp.float32)
  params = {'head': jax.ShapeDtypeStruct((259, 64), jnp.float32)}
  targets = jax.ShapeDtypeStruct((2, 4), jnp.int32)

  def step(params, hidden, targets):
    logprobs, entropy = head.score(decoder, params, hidden, targets)
    return jnp.sum(logprobs + entropy)

  forward, gradient = (
    jax.export.export(jax.jit(f), platforms=[platform])(
      params, hidden, targets
    ).mlir_module()
    for f in (step, jax.grad(step, argnums=(0, 1)))
  )
  assert products in forward
  # The products of the gradient are bfloat16, unless all is float32.
  rounded = re.findall(
    r'bf16>, tensor<[0-9x]*xbf16>\) -> tensor<.*xf32',
    gradient.replace(products, ''),
  )
  assert len(rounded) == (3 if dtype == 'bfloat16' else 0)


@pytest.mark.parametrize(
  ('capability', 'products'),
  [
    ('7.0', 'highest'), ('7.5', 'highest'), ('8.0', 'bf16_x3'),
    ('10.0', 'bf16_x3'), ('gfx90a', 'bf16_x3'),
  ],
)  # fmt: skip
def test_gpus_without_products_of_parts(capability, products):
  device = types.SimpleNamespace(compute_capability=capability)
  decoder = types.SimpleNamespace(
    compute=Compute(),
    layout=Layout(types.SimpleNamespace(devices=np.array([[device]])), 'gpu'),
  )
  assert head._algorithm(decoder) == products


def test_three_products_of_bfloat16_parts_are_nearly_float32():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(64, 1024)).astype(np.float32)
  w = (rng.normal(size=(512, 1024)) * 0.03).astype(np.float32)

  def parts(x):
    high = x.astype(jnp.bfloat16).astype(np.float32)
    return high, (x - high).astype(jnp.bfloat16).astype(np.float32)

  (high, low), (w_high, w_low) = parts(hidden), parts(w)
  found = high @ w_high.T + (high @ w_low.T + low @ w_high.T)
  exact = hidden.astype(np.float64) @ w.T.astype(np.float64)

  def error(x):
    return np.linalg.norm(x - exact) / np.linalg.norm(exact)

  assert error(found) < 1e-5  # 4.4e-6 on an H200.
  assert error(high @ w_high.T) > 1e-3  # What bfloat16 alone would do.


@pytest.mark.parametrize('chunk', [4, 13])
def test_only_the_gradient_is_rounded(one_device, chunk):
  layout = dataclasses.replace(one_device, platform='gpu')
  rounded, exact = (
    _decoder(layout, chunk=chunk, model='tiny_llama', dtype=dtype)
    for dtype in ('bfloat16', 'float32')
  )
  hidden, targets = _inputs()
  w_VD = jax.random.normal(jax.random.key(0), (259, 64)) / 8
  # The second token is all but certain, the third all but impossible.
  w_VD = w_VD.at[targets[0, 1]].set(hidden[0, 1] / 4)
  w_VD = w_VD.at[targets[0, 2]].set(-hidden[0, 2] / 6)

  def loss(decoder, w_VD, hidden):
    found = head.score(
      decoder, {'head': w_VD}, hidden, targets, temperature=0.7
    )
    return jnp.sum(jnp.sin(found[0]) + jnp.cos(found[1])), found

  def run(decoder, loss=loss):
    gradient = jax.grad(
      functools.partial(loss, decoder), argnums=(0, 1), has_aux=True
    )
    return jax.jit(gradient)(w_VD, hidden)

  (found, found_scores), (expected, exact_scores) = run(rounded), run(exact)
  for a, b in zip(found_scores, exact_scores, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  for a, b in zip(found, expected, strict=True):
    error = jnp.linalg.norm(a - b) / jnp.linalg.norm(b)
    assert a.dtype == jnp.float32 and 1e-5 < error < 1e-2

  def one_logprob(decoder, w_VD, hidden):
    found = head.score(decoder, {'head': w_VD}, hidden, targets)
    return found[0][0, 1], found[0][0, 1]

  # However small it is, the gradient of a nearly certain token is right.
  (found, logprob), (expected, _) = (
    run(decoder, one_logprob) for decoder in (rounded, exact)
  )
  assert -1e-3 < logprob < -1e-6
  error = jnp.linalg.norm(found[1] - expected[1])
  assert error < 0.1 * jnp.linalg.norm(expected[1])


def _peak_bytes(layout, *, T, chunk):
  decoder = _decoder(layout, chunk=chunk, model='tiny_llama')
  shape = jax.ShapeDtypeStruct
  params = {'head': shape((8192, 64), jnp.float32)}
  hidden, targets = shape((2, T, 64), jnp.float32), shape((2, T), jnp.int32)

  def loss(params, hidden, targets):
    logprobs, entropy = head.score(decoder, params, hidden, targets)
    return logprobs.sum() + entropy.sum()

  step = jax.jit(jax.grad(loss, argnums=(0, 1)))
  memory = step.lower(params, hidden, targets).compile().memory_analysis()
  return memory.temp_size_in_bytes


def test_peak_memory_grows_with_the_chunk_and_not_with_the_length(one_device):
  peak = functools.partial(_peak_bytes, one_device)
  logits_of_64 = 2 * 64 * 8192 * 4  # B x chunk x V, float32.
  short, long = peak(T=256, chunk=64), peak(T=2048, chunk=64)
  wide = peak(T=2048, chunk=512)
  print(f'peak bytes: T=256 {short:,}, T=2048 {long:,}, chunk=512 {wide:,}')
  # Eight times the positions: a few [B, T, D] more, but no [B, T, V].
  assert long - short < 4 * 2 * (2048 - 256) * 64 * 4
  assert long < 6 * logits_of_64
  # Eight times the chunk: eight times the logits.
  assert wide > 0.8 * 8 * logits_of_64


@pytest.mark.parametrize('model', ['tiny_llama', 'tiny_qwen3'])
def test_weights_that_are_split_give_nearly_the_same_logits(one_device, model):
  decoder = _decoder(one_device, chunk=4, model=model)
  params = weights.init(
    decoder_lib.specs(decoder.config), jax.random.key(0), layout=one_device
  )
  name = head.name_of_weights(decoder)
  parts_VPD = jax.jit(head.split)(params[name])
  assert parts_VPD.dtype == jnp.bfloat16
  hidden, _ = _inputs()
  logits = jax.jit(head.logits, static_argnums=0)
  expected = logits(decoder, params, hidden)

  def error(parts_VPD):
    found = logits(decoder, params | {name: parts_VPD}, hidden)
    return jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)

  assert error(parts_VPD) < 1e-5
  for part in range(3):  # Each counts.
    assert error(parts_VPD.at[:, part].set(0)) > 1e-4


@pytest.mark.parametrize('sizes', [{}, {'fsdp': 2, 'tensor': 2}])
def test_weights_that_are_split_give_nearly_the_same_scores(sizes):
  """As entropies are computed, with the sampler's parameters."""
  devices = jax.devices()[: math.prod(sizes.values())]
  decoder = _decoder(make_layout(**sizes, devices=devices), chunk=4)
  params = weights.init(
    decoder_lib.specs(decoder.config), jax.random.key(0), layout=decoder.layout
  )
  parts = params | {'embed': jax.jit(head.split)(params['embed'])}
  hidden, targets = _inputs(B=4)
  score = jax.jit(head.score, static_argnums=0)
  expected, found = (
    score(decoder, p, hidden, targets) for p in (params, parts)
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
  ('platform', 'dtype', 'setting', 'expected'),
  [
    ('gpu', 'bfloat16', 'bf16_x3', True),
    ('gpu', 'bfloat16', 'highest', False),
    ('gpu', 'float32', 'bf16_x3', False),
    ('tpu', 'bfloat16', 'bf16_x3', False),
    ('cpu', 'bfloat16', 'bf16_x3', False),
  ],
)
def test_where_weights_are_split(
  one_device, platform, dtype, setting, expected
):
  layout = dataclasses.replace(one_device, platform=platform)
  compute = Compute(dtype=dtype, head=setting)
  decoder = Decoder(zoo.get('tiny_llama'), compute, layout)
  assert head.is_split(decoder) == expected
