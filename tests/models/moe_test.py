"""The mixture of experts: its statistics, its loss, its layouts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import moe, zoo
from rlpt_jax.models.config import Compute, Decoder
from tests.models import references

CONFIG = zoo.get('tiny_qwen3_moe')


def _layer(layout):
  specs = decoder_lib.specs(CONFIG)
  params = weights.init(specs, jax.random.key(0), layout=layout)
  decoder = Decoder(CONFIG, Compute(dtype='float32'), layout)
  return decoder, jax.tree.map(lambda x: x[0], params['layers'])


def _plain(p, x_BTD):
  """Every expert on every token, weighed by what the router gives it."""
  c = CONFIG
  probs = jax.nn.softmax(x_BTD @ p['w_router'])
  threshold = jnp.sort(probs, axis=-1)[..., -c.experts_per_token, None]
  chosen = jnp.where(probs >= threshold, probs, 0)
  chosen /= chosen.sum(-1, keepdims=True)
  hidden = jax.nn.silu(
    jnp.einsum('BTD,EDF->BTEF', x_BTD, p['w_expert_gate'])
  ) * jnp.einsum('BTD,EDF->BTEF', x_BTD, p['w_expert_up'])
  y_BTED = jnp.einsum('BTEF,EFD->BTED', hidden, p['w_expert_down'])
  return jnp.einsum('BTED,BTE->BTD', y_BTED, chosen)


# Two rows: fewer than devices, so that they are whole along `expert`.
@pytest.mark.slow
@pytest.mark.parametrize('rows', [2, 8])
@pytest.mark.parametrize(
  'sizes',
  [{}, {'fsdp': 2, 'expert': 4}, {'fsdp': 1, 'expert': 2, 'tensor': 4}],
  ids=str,
)
def test_values_and_gradients_are_those_of_the_plain_sum(
  sizes, rows, one_device
):
  layout = make_layout(**sizes) if sizes else one_device
  decoder, p = _layer(layout)
  rng = np.random.default_rng(0)
  x_BTD = layout.put(
    rng.normal(size=(rows, 6, 64)).astype(np.float32), 'batch', None, None
  )

  ours = functools.partial(_loss, decoder=decoder)

  def plain(p, x_BTD):
    return jnp.sum(jnp.sin(_plain(p, x_BTD)))

  found, expected = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(p, x_BTD)
    for f in (ours, plain)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, atol=2e-6 * scale, rtol=0)


# On a TPU, XLA's products of ragged arrays; here, XLA can compute these too.
@pytest.mark.parametrize(
  ('sizes', 'rows'),
  [({}, 8), ({'fsdp': 1, 'expert': 2, 'tensor': 4}, 8), ({'expert': 4}, 2)],
  ids=str,
)
def test_all_platforms_give_the_same(sizes, rows, one_device):
  layout = make_layout(**sizes) if sizes else one_device
  rng = np.random.default_rng(0)
  x_BTD = layout.put(
    rng.normal(size=(rows, 1, 64)).astype(np.float32), 'batch', None, None
  )
  decoder, p = _layer(layout)

  def run(platform):
    there = dataclasses.replace(layout, platform=platform)
    loss = functools.partial(
      _loss, decoder=dataclasses.replace(decoder, layout=there)
    )
    program = jax.make_jaxpr(loss)(p, x_BTD)
    assert ('ragged_dot' in str(program)) == (platform == 'tpu')
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(p, x_BTD)

  for a, b in zip(*map(jax.tree.leaves, map(run, ('cpu', 'tpu'))), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)


def _loss(p, x_BTD, *, decoder):
  y, _ = moe.moe(p, x_BTD, jnp.ones(x_BTD.shape[:2]), decoder=decoder)
  return jnp.sum(jnp.sin(y))


def test_what_a_product_leaves_undefined_reaches_nothing(monkeypatch):
  product = moe.grouped_product

  @jax.custom_vjp
  def undefined_beyond(x_JD, sizes_E):
    beyond_J = jnp.arange(len(x_JD)) >= sizes_E.sum()
    return jnp.where(beyond_J[:, None], jnp.nan, x_JD)

  def forward(x_JD, sizes_E):
    return undefined_beyond(x_JD, sizes_E), sizes_E

  def backward(sizes_E, d_JD):
    return undefined_beyond(d_JD, sizes_E), None

  undefined_beyond.defvjp(forward, backward)

  def hostile(x_JD, w_EDF, sizes_E, *, layout):
    x_JD = undefined_beyond(x_JD, sizes_E)  # In the backward pass...
    x_JD = jnp.where(jnp.isnan(x_JD), 0, x_JD)
    # ...and in the forward pass.
    y_JF = product(x_JD, w_EDF, sizes_E, layout=layout)
    return undefined_beyond(y_JF, sizes_E)

  layout = make_layout(fsdp=2, expert=4)
  decoder, p = _layer(layout)
  rng = np.random.default_rng(0)
  x_BTD = layout.put(
    rng.normal(size=(8, 6, 64)).astype(np.float32), 'batch', None, None
  )

  def gradients():
    loss = functools.partial(_loss, decoder=decoder)
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(p, x_BTD)

  expected = gradients()
  monkeypatch.setattr(moe, 'grouped_product', hostile)
  for a, b in zip(*map(jax.tree.leaves, (gradients(), expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
def test_rematerialization_keeps_no_row_of_an_expert(
  platform, one_device, capsys
):
  layout = dataclasses.replace(one_device, platform=platform)
  decoder, p = _layer(layout)
  p = jax.tree.map(lambda x: x.astype(jnp.bfloat16), p)
  x_BTD = jnp.ones((8, 6, 64), jnp.bfloat16)

  def kept(remat):
    """Returns the lines of what is computed and kept for the backward pass."""
    f = decoder_lib._remat(
      functools.partial(_loss, decoder=decoder), Compute(remat=remat)
    )
    jax.ad_checkpoint.print_saved_residuals(f, p, x_BTD)
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if ' output of ' in line]

  # 8 * 6 tokens, with 2 experts of 128 each.
  assert any('bf16[96,128]' in line for line in kept('none'))
  assert kept('layer') == []
  (router,) = kept('dots')
  assert router.startswith('bf16[8,6,4] output of dot_general')


def test_statistics_leave_padding_out(one_device):
  decoder, p = _layer(one_device)
  x_BTD = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 64)), 'f4')
  valid = jnp.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
  statistics = jax.jit(lambda *a: moe.moe(*a, decoder=decoder)[1])
  stats = statistics(p, x_BTD, valid)
  assert stats.tokens_L == 4
  assert stats.assigned_LE.sum() == 4 * CONFIG.experts_per_token
  np.testing.assert_allclose(stats.probability_LE.sum(), 4, rtol=1e-6)


def test_an_even_load_has_loss_one():
  even = moe.RouterStats(
    assigned_LE=jnp.full((3, 4), 5.0),  # 10 tokens to 2 of 4 experts each.
    probability_LE=jnp.full((3, 4), 2.5),
    tokens_L=jnp.full((3,), 10.0),
  )
  assert moe.load_balance_loss(even, experts_per_token=2) == 1.0
  # All to the first two experts, sure of it: 4 * (1/2 * 1/2 + 1/2 * 1/2) = 2.
  one_sided = moe.RouterStats(
    assigned_LE=jnp.tile(jnp.array([10.0, 10, 0, 0]), (3, 1)),
    probability_LE=jnp.tile(jnp.array([5.0, 5, 0, 0]), (3, 1)),
    tokens_L=jnp.full((3,), 10.0),
  )
  assert moe.load_balance_loss(one_sided, experts_per_token=2) == 2.0


def test_the_loss_is_that_of_transformers(one_device):
  import torch
  from transformers.models.qwen3_moe import modeling_qwen3_moe

  rng = np.random.default_rng(0)
  L, E, C = 3, 5, 2
  tokens, mask = references.ragged_batch(vocab=9)
  logits = [
    torch.tensor(rng.normal(size=(tokens.size, E)), dtype=torch.float32)
    for _ in range(L)
  ]
  expected = modeling_qwen3_moe.load_balancing_loss_func(
    tuple(logits), E, C, torch.tensor(mask)
  )
  probs = jnp.stack([jax.nn.softmax(jnp.asarray(x.numpy())) for x in logits])
  chosen = jax.nn.one_hot(jax.lax.top_k(probs, C)[1], E).sum(2)
  valid = mask.reshape(-1, 1)
  stats = moe.RouterStats(
    assigned_LE=jnp.sum(chosen * valid, axis=1),
    probability_LE=jnp.sum(probs * valid, axis=1),
    tokens_L=jnp.full((L,), valid.sum()),
  )
  found = moe.load_balance_loss(stats, experts_per_token=C)
  np.testing.assert_allclose(found * C, expected.item(), rtol=1e-6)


@pytest.mark.slow
def test_a_layout_that_does_not_divide_the_experts_is_an_error():
  layout = make_layout(expert=8, fsdp=1)
  decoder, p = _layer(layout)
  with pytest.raises(ValueError, match='expert=8: expected a divisor of 4'):
    moe.moe(p, jnp.zeros((8, 2, 64)), jnp.ones((8, 2)), decoder=decoder)
