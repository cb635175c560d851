"""Weights by hand; and the loss is the same however the batch is laid out."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import advantages, losses
from rlpt_jax.algorithms import reductions as lib

P, G, T = 2, 3, 4
REDUCTIONS = {
  'token_mean': lib.token_mean,
  'completion_mean': lib.completion_mean,
  'prompt_mean': lib.prompt_mean,
  'constant': functools.partial(lib.constant, max_tokens=7),
}
every_reduction = pytest.mark.parametrize('name', REDUCTIONS)
few = hypothesis.settings(max_examples=25)
# Any tokens, not only prefixes: text that was put into a completion is masked.
masks = st.lists(st.booleans(), min_size=P * G * T, max_size=P * G * T).map(
  lambda x: np.array(x).reshape(P * G, T)
)


def _mask(lengths, T=T):
  return np.arange(T) < np.asarray(lengths)[:, None]


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    # Two prompts of three: 1 + 3 + 0 tokens, then 2 + 0 + 2.
    ('token_mean', [1 / 8, 1 / 8, 0, 1 / 8, 0, 1 / 8]),
    # Four completions have tokens: 1 / (4 * 1), 1 / (4 * 3), 1 / (4 * 2).
    ('completion_mean', [1 / 4, 1 / 12, 0, 1 / 8, 0, 1 / 8]),
    # Both prompts have four tokens; made uneven below.
    ('prompt_mean', [1 / 8, 1 / 8, 0, 1 / 8, 0, 1 / 8]),
    # 1 / (4 completions * 7).
    ('constant', [1 / 28, 1 / 28, 0, 1 / 28, 0, 1 / 28]),
  ],
)
def test_weights(name, expected):
  mask = _mask([1, 3, 0, 2, 0, 2])
  found = REDUCTIONS[name](mask, G)
  np.testing.assert_allclose(found, np.array(expected)[:, None] * mask)
  assert found.dtype == jnp.float32


def test_prompts_weigh_the_same():
  # One prompt of three with five tokens, one with two, one that was left out.
  mask = _mask([4, 1, 2, 0, 0, 0])
  found = lib.prompt_mean(mask, 2)
  expected = np.array([1 / 10, 1 / 10, 1 / 4, 0, 0, 0])[:, None] * mask
  np.testing.assert_allclose(found, expected)


@every_reduction
def test_a_batch_without_tokens(name):
  assert not np.any(REDUCTIONS[name](_mask([0] * 6), G))


def test_a_wrong_group_size():
  with pytest.raises(AssertionError):
    lib.prompt_mean(_mask([1] * 6), 4)


@every_reduction
@few
@hypothesis.given(mask=masks)
def test_any_mask(name, mask):
  reduce = REDUCTIONS[name]
  weights = np.asarray(reduce(mask, G))
  # Means sum to 1; the constant one says how full the batch is.
  completions = mask.any(1).sum()
  full = mask.sum() / max(completions * 7, 1) if name == 'constant' else 1
  np.testing.assert_allclose(weights.sum(), full * mask.any(), atol=1e-6)
  assert (weights[mask] > 0).all() and not weights[~mask].any()

  # Padding on the right, prompts that were left out, another order of prompts.
  wider = reduce(np.pad(mask, ((0, 0), (0, 3))), G)
  np.testing.assert_allclose(wider[:, :T], weights, rtol=1e-6)
  taller = reduce(np.pad(mask, ((0, G), (0, 0))), G)
  np.testing.assert_allclose(taller[: P * G], weights, rtol=1e-6)
  turned = reduce(np.roll(mask, G, axis=0), G)
  np.testing.assert_allclose(np.roll(turned, -G, axis=0), weights, rtol=1e-6)

  # Where they run, and 0 and 1 as floats.
  jitted = jax.jit(reduce, static_argnums=1)(mask, G)
  np.testing.assert_allclose(jitted, weights, rtol=1e-6)
  np.testing.assert_allclose(reduce(np.float32(mask), G), weights, rtol=1e-6)


@jax.jit
@jax.value_and_grad
def _weighted_ppo(scale, x_BT, behavior_BT, advantages_B1, mask_BT, weights_BT):
  loss_BT = losses.ppo(scale * x_BT, behavior_BT, advantages_B1, mask_BT)
  return jnp.sum(weights_BT * loss_BT)


@every_reduction
@few
@hypothesis.given(
  mask=masks,
  num_parts=st.sampled_from([2, 3, 6]),
  order=st.permutations(range(P * G)),
)
def test_microbatches_add_up(name, mask, num_parts, order):
  # Any rows in any order, across groups too.
  rng = np.random.default_rng(0)
  x_BT, behavior_BT = rng.normal(size=(2, P * G, T)).astype(np.float32)
  advantages_B1 = rng.normal(size=(P * G, 1)).astype(np.float32)
  arrays = x_BT, behavior_BT, advantages_B1, mask, REDUCTIONS[name](mask, G)
  whole = _weighted_ppo(0.5, *arrays)
  parts = [
    _weighted_ppo(0.5, *(x[rows] for x in arrays))
    for rows in np.split(np.array(order), num_parts)
  ]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, atol=1e-5)


@every_reduction
@pytest.mark.parametrize(
  'advantage',
  [
    advantages.group_centered,
    advantages.group_normalized,
    advantages.leave_one_out,
    advantages.batch_normalized,
  ],
)
def test_what_leaves_by_the_mask_is_as_if_it_were_not_there(name, advantage):
  # The third completion has no verdict; the second prompt is flat.
  rng = np.random.default_rng(0)
  logprobs_BT, behavior_BT = jnp.float32(rng.normal(size=(2, 8, T)))
  rewards_PG = jnp.array([[1.0, 0.0, np.nan, 0.5], [1.0, 1.0, 1.0, np.nan]])
  mask_BT = jnp.array(_mask([4, 2, 3, 1, 4, 4, 2, 3]))

  def loss(logprobs_BT, rows, rewards_PG, mask_BT):
    keep_PG = advantages.judged(rewards_PG)
    keep_PG &= advantages.varies(rewards_PG)[:, None]
    mask_BT &= keep_PG.reshape(-1, 1)
    advantages_B1 = advantage(rewards_PG).reshape(-1, 1)
    weights_BT = REDUCTIONS[name](mask_BT, rewards_PG.shape[1])
    loss_BT = losses.cispo(
      logprobs_BT[rows], behavior_BT[rows], advantages_B1, mask_BT
    )
    return jnp.sum(weights_BT * loss_BT)

  both = jax.jit(jax.value_and_grad(loss))
  found = both(logprobs_BT, np.arange(8), rewards_PG, mask_BT)
  kept = np.array([0, 1, 3])
  expected = both(logprobs_BT, kept, rewards_PG[:1, kept], mask_BT[kept])
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected
  )
  assert found[0] != 0


@every_reduction
def test_eight_devices(name):
  devices = jax.sharding.Mesh(jax.devices()[:8], 'batch')
  rows = jax.sharding.NamedSharding(devices, jax.P('batch'))
  mask = np.random.default_rng(0).random((16, T)) < 0.6
  # Groups of four lie on two devices each.
  expected = REDUCTIONS[name](mask, 4)
  found = jax.jit(REDUCTIONS[name], static_argnums=1, out_shardings=rows)(
    jax.device_put(mask, rows), 4
  )
  assert len(found.sharding.device_set) == 8
  np.testing.assert_allclose(found, expected, rtol=1e-6)
