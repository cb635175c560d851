"""One forward pass, many ways to reach the same numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder

FLOAT32 = Compute(dtype='float32', head_chunk=4)
MODELS = ('tiny_qwen3', 'tiny_qwen3_moe', 'tiny_smollm3')
PROMPTS, GROUP, PROMPT_LENGTH, LENGTH = 2, 4, 7, 5


def _decoder(model, layout, **compute):
  return Decoder(
    zoo.get(model), dataclasses.replace(FLOAT32, **compute), layout
  )


@functools.cache
def _params(model, layout):
  specs = lib.specs(zoo.get(model))
  return weights.init(specs, jax.random.key(0), layout=layout)


def _group_batch(prompt_lengths=(7, 4), seed=0):
  """Prompts padded on the right, groups of ragged completions."""
  rng = np.random.default_rng(seed)
  B = PROMPTS * GROUP
  prompts = rng.integers(0, 259, (PROMPTS, PROMPT_LENGTH))
  completions = rng.integers(0, 259, (B, LENGTH))
  completion_lengths = rng.integers(1, LENGTH + 1, B)
  prompt_mask = np.arange(PROMPT_LENGTH) < np.array(prompt_lengths)[:, None]
  mask = np.arange(LENGTH) < completion_lengths[:, None]
  return tuple(
    x.astype(np.int32) for x in (prompts, prompt_mask, completions, mask)
  )


def _logprobs(out, decoder, params, targets, mask):
  """Of each token given those before it in its row, zero where masked."""
  logprobs, _ = head.score(decoder, params, out.hidden_BTD[:, :-1], targets)
  return logprobs * mask


def _grouped(decoder, params, prompts, prompt_mask, completions, mask):
  """Completion log-probabilities with every prompt computed once."""
  prefix = lib.forward(decoder, params, prompts, prompt_mask)
  out = lib.forward(decoder, params, completions, mask, (prefix.cache,))
  # The first token of a completion is predicted by the end of its prompt.
  last_P = prompt_mask.sum(1) - 1
  last_PD = jnp.take_along_axis(prefix.hidden_BTD, last_P[:, None, None], 1)
  hidden = jnp.concatenate([jnp.repeat(last_PD, GROUP, 0), out.hidden_BTD], 1)
  out = dataclasses.replace(out, hidden_BTD=hidden)
  return _logprobs(out, decoder, params, completions, mask)


def _concatenated(decoder, params, prompts, prompt_mask, completions, mask):
  """The same from whole rows, each with a prompt of its own."""
  rows, row_mask = (
    jnp.concatenate([jnp.repeat(a, GROUP, 0), b], axis=1)
    for a, b in ((prompts, completions), (prompt_mask, mask))
  )
  # Padding between prompt and completion would start a segment of its own:
  # move it to the end of the row.
  order = jnp.argsort(1 - row_mask, axis=1, stable=True)
  rows, row_mask = (jnp.take_along_axis(x, order, 1) for x in (rows, row_mask))
  out = lib.forward(decoder, params, rows, row_mask)
  logprobs = _logprobs(out, decoder, params, rows[:, 1:], row_mask[:, 1:])
  start = jnp.repeat(prompt_mask.sum(1), GROUP)[:, None] - 1
  places = start + jnp.arange(LENGTH)
  padded = jnp.pad(logprobs, ((0, 0), (0, LENGTH)))
  return jnp.take_along_axis(padded, places, 1) * mask


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loss_and_gradients(method, decoder, params, batch):
  def loss(params):
    logprobs = method(decoder, params, *batch)
    return jnp.sum(jnp.sin(logprobs)), logprobs

  return jax.value_and_grad(loss, has_aux=True)(params)


def _assert_close(found, expected, tolerance):
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(found),
    jax.tree.leaves(expected),
    strict=True,
  ):
    a, b = np.asarray(a), np.asarray(b)
    scale = max(1.0, np.abs(b).max())
    np.testing.assert_allclose(
      a, b, atol=tolerance * scale, rtol=0,
      err_msg=jax.tree_util.keystr(path),
    )  # fmt: skip


@pytest.mark.parametrize('model', MODELS)
def test_a_group_with_a_shared_prompt_is_its_rows(model, one_device):
  decoder, params = _decoder(model, one_device), _params(model, one_device)
  batch = _group_batch()
  shared = _loss_and_gradients(_grouped, decoder, params, batch)
  plain = _loss_and_gradients(_concatenated, decoder, params, batch)
  _assert_close(shared, plain, 5e-6)


def _stacked(output):
  """An output of a tuple of layers as one of stacked layers."""

  def stack(layers):
    return jax.tree.map(lambda *x: jnp.stack(x), *layers)

  cache = dataclasses.replace(
    output.cache,
    k_LBKHS=stack(output.cache.k_LBKHS),
    v_LBKSH=stack(output.cache.v_LBKSH),
  )
  return dataclasses.replace(output, cache=cache)


@pytest.mark.slow
@pytest.mark.parametrize('model', MODELS)
def test_a_tuple_of_layers_is_the_stacked_layers(model, one_device):
  decoder, params = _decoder(model, one_device), _params(model, one_device)
  forward = jax.jit(lib.forward, static_argnums=0)
  prompts, prompt_mask, completions, mask = _group_batch()
  unstacked = lib.unstack(params)
  assert len(unstacked['layers']) == decoder.config.num_layers
  assert unstacked['embed'] is params['embed']

  prefix = forward(decoder, params, prompts, prompt_mask)
  found = forward(decoder, unstacked, prompts, prompt_mask)
  assert isinstance(found.cache.k_LBKHS, tuple)
  _assert_close(_stacked(found), prefix, 2e-6)

  expected = forward(decoder, params, completions, mask, (prefix.cache,))
  # Of either kind of cache.
  caches = (found.cache, prefix.cache) if model == MODELS[0] else (found.cache,)
  for cache in caches:
    again = forward(decoder, unstacked, completions, mask, (cache,))
    _assert_close(_stacked(again), expected, 2e-6)


@pytest.mark.parametrize(
  ('model', 'is_stacked'), [(MODELS[0], True), *((m, False) for m in MODELS)]
)
def test_tokens_written_into_a_cache_are_one_pass(
  model, is_stacked, one_device
):
  decoder, params = _decoder(model, one_device), _params(model, one_device)
  prompts, prompt_mask, completions, mask = _group_batch()
  forward, decode = (
    jax.jit(function, static_argnums=0)
    for function in (lib.forward, lib.decode)
  )
  prefix = forward(decoder, params, prompts, prompt_mask).cache
  whole = forward(decoder, params, completions, mask, (prefix,))

  params = params if is_stacked else lib.unstack(params)
  own = cache_lib.empty(
    decoder.config, PROMPTS * GROUP, LENGTH, dtype='float32', layout=one_device
  )
  # What is there before may be anything: nothing reads it before it is written.
  k, v = own.k_LBKHS + 100, own.v_LBKSH - 100
  if not is_stacked:
    k, v = tuple(k), tuple(v)
  own = dataclasses.replace(own, k_LBKHS=k, v_LBKSH=v)
  hidden = []
  for t in range(LENGTH):
    out = decode(
      decoder, params, completions[:, t : t + 1], mask[:, t : t + 1],
      (prefix,), own, jnp.int32(t),
    )  # fmt: skip
    own = out.cache
    assert own.mask_BS.tolist() == (mask * (np.arange(LENGTH) <= t)).tolist()
    hidden.append(out.hidden_BTD)
  valid_BT1 = mask[..., None] > 0
  _assert_close(
    jnp.concatenate(hidden, 1) * valid_BT1, whole.hidden_BTD * valid_BT1, 5e-6
  )
  own = own if is_stacked else _stacked(out).cache
  valid_BKTH = valid_BT1[:, None]
  for a, b, valid in (
    (own.k_LBKHS, whole.cache.k_LBKHS, valid_BKTH.swapaxes(2, 3)),
    (own.v_LBKSH, whole.cache.v_LBKSH, valid_BKTH),
  ):
    _assert_close(a * valid, b * valid, 5e-6)


def test_a_token_reads_what_it_has_just_written(one_device):
  # The only key of a row is its own: written too late, it would see nothing.
  decoder = _decoder('tiny_qwen3', one_device)
  params = _params('tiny_qwen3', one_device)
  forward = jax.jit(lib.forward, static_argnums=0)
  decode = jax.jit(lib.decode, static_argnums=0)
  tokens, ones = np.array([[5], [9]]), np.ones((2, 1), np.int32)
  own = cache_lib.empty(
    decoder.config, 2, 4, dtype='float32', layout=one_device
  )
  own = dataclasses.replace(own, v_LBKSH=own.v_LBKSH + 7)
  expected = forward(decoder, params, tokens, ones).hidden_BTD
  for column in (0, 2, 3):
    found = decode(decoder, params, tokens, ones, (), own, jnp.int32(column))
    _assert_close(found.hidden_BTD, expected, 5e-6)
    written = np.arange(4) == column
    assert found.cache.mask_BS.tolist() == [written.tolist()] * 2


def test_rows_read_their_prefix_wherever_they_sit(one_device):
  decoder = _decoder('tiny_smollm3', one_device)
  params = _params('tiny_smollm3', one_device)
  forward = jax.jit(lib.forward, static_argnums=0)
  prompts, prompt_mask, completions, _ = _group_batch()
  prefix = forward(decoder, params, prompts, prompt_mask).cache
  tokens, ones = completions[:, :1], np.ones((len(completions), 1), np.int32)
  expected = forward(decoder, params, tokens, ones, (prefix,)).hidden_BTD
  order = np.random.default_rng(1).permutation(len(tokens))
  # Row i is what was row order[i]: reader order[i] of 2 * 4.
  readers = cache_lib.Readers(
    rows_PG=np.argsort(order).reshape(PROMPTS, GROUP), place_B=order
  )
  read = dataclasses.replace(prefix, readers=readers)
  found = forward(decoder, params, tokens[order], ones, (read,)).hidden_BTD
  _assert_close(found, expected[order], 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize('model', MODELS[:2])
def test_packed_texts_do_not_see_each_other(model, one_device):
  decoder, params = _decoder(model, one_device), _params(model, one_device)
  tokens = np.random.default_rng(1).integers(0, 259, (1, 12))
  segments = np.array([[1, 1, 1, 1, 2, 2, 2, 3, 0, 0, 4, 4]])
  forward = jax.jit(lib.forward, static_argnums=0)
  packed = forward(decoder, params, tokens, segments).hidden_BTD
  for part in (slice(0, 4), slice(4, 7), slice(7, 8), slice(10, 12)):
    alone = forward(
      decoder, params, tokens[:, part], np.ones_like(tokens[:, part])
    ).hidden_BTD
    _assert_close(packed[:, part], alone, 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  'compute', [{'remat': 'layer'}, {'remat': 'dots'}, {'unroll': True}], ids=str
)
def test_remat_and_unroll_change_nothing(compute, one_device):
  model = 'tiny_smollm3'
  params, batch = _params(model, one_device), _group_batch()
  plain = _decoder(model, one_device)
  other = _decoder(model, one_device, **compute)
  _assert_close(
    _loss_and_gradients(_grouped, other, params, batch),
    _loss_and_gradients(_grouped, plain, params, batch),
    2e-6,
  )


@pytest.mark.slow
def test_remat_saves_memory(one_device):
  def peak(remat):
    config = dataclasses.replace(zoo.get('tiny_qwen3'), num_layers=8)
    decoder = Decoder(config, Compute(dtype='float32', remat=remat), one_device)
    params = weights.shapes(lib.specs(config))
    tokens = jax.ShapeDtypeStruct((4, 128), jnp.int32)

    def loss(params, tokens):
      ones = jnp.ones_like(tokens)
      return lib.forward(decoder, params, tokens, ones).hidden_BTD.sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  none, dots, layer = map(peak, ('none', 'dots', 'layer'))
  assert none > 1.5 * dots > 2 * layer, (none, dots, layer)


@pytest.mark.parametrize(
  ('remat', 'unroll', 'has_barriers'),
  [('layer', True, True), ('layer', False, False), ('none', True, False)],
)
def test_xla_may_not_undo_remat(remat, unroll, has_barriers, one_device):
  decoder = _decoder('tiny_qwen3', one_device, remat=remat, unroll=unroll)
  params = weights.shapes(lib.specs(decoder.config))
  tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)

  def loss(params, tokens):
    ones = jnp.ones_like(tokens)
    return lib.forward(decoder, params, tokens, ones).hidden_BTD.sum()

  text = jax.jit(jax.grad(loss)).lower(params, tokens).as_text()
  # XLA merges equal operations, but none across a barrier.
  assert ('optimization_barrier' in text) == has_barriers


@pytest.mark.slow
def test_bfloat16_is_close_and_keeps_parameters_float32(one_device):
  decoder = _decoder('tiny_qwen3', one_device)
  half = _decoder('tiny_qwen3', one_device, dtype='bfloat16')
  params = _params('tiny_qwen3', one_device)
  batch = _group_batch()
  (_, found), gradients = _loss_and_gradients(_grouped, half, params, batch)
  (_, expected), _ = _loss_and_gradients(_grouped, decoder, params, batch)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))
  assert 0 < np.abs(found - expected).max() < 0.15


LAYOUTS = [
  ('tiny_qwen3', {'data': 8, 'fsdp': 1}),
  ('tiny_qwen3', {'fsdp': 2, 'tensor': 4}),
  ('tiny_qwen3_moe', {'data': 2, 'fsdp': 2, 'tensor': 2}),
  ('tiny_qwen3_moe', {'fsdp': 2, 'expert': 4}),
]


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'sizes'), LAYOUTS, ids=str)
def test_eight_devices_are_one(model, sizes, one_device):
  batch = _group_batch()
  expected = _loss_and_gradients(
    _grouped, _decoder(model, one_device), _params(model, one_device), batch
  )
  layout = make_layout(**sizes)
  placed = tuple(layout.put(x, 'batch', None) for x in batch)
  params = _params(model, layout)
  _assert_close(params, _params(model, one_device), 1e-6)
  found = _loss_and_gradients(_grouped, _decoder(model, layout), params, placed)
  _assert_close(found, expected, 5e-6)


def test_two_layouts_in_one_process_keep_to_themselves(one_device):
  # jit's cache must tell them apart, or the second gets the first's places:
  # nothing but the static argument says where these host arrays go.
  forward = jax.jit(lib.forward, static_argnums=0)
  params = jax.tree.map(np.asarray, _params('tiny_qwen3', one_device))
  _, _, tokens, mask = _group_batch()
  for sizes, rows in (({'fsdp': 8}, 1), ({'fsdp': 2, 'tensor': 4}, 4)):
    decoder = _decoder('tiny_qwen3', make_layout(**sizes))
    cache = forward(decoder, params, tokens, mask).cache
    assert cache.k_LBKHS.addressable_shards[0].data.shape[1] == rows, sizes


def test_positions_of_padding_packing_and_context(one_device):
  segments = jnp.array([[0, 0, 5, 5, 5], [1, 1, 2, 2, 0]])
  positions = lib.token_positions(segments)
  assert positions[0, 2:].tolist() == [0, 1, 2]
  assert positions[1, :4].tolist() == [0, 1, 0, 1]
  mask = jnp.array([[True, True, False]])  # Two tokens, shared by both rows.
  part = cache_lib.Cache(None, None, mask)
  again = lib.token_positions(jnp.ones((2, 3), jnp.int32), (part,))
  assert again.tolist() == [[2, 3, 4], [2, 3, 4]]
