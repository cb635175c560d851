"""Losses by hand, against exact policy gradients and against TRL."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import kl, ratios, reductions
from rlpt_jax.algorithms import losses as lib
from tests.algorithms import clipping

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / 'golden/trl_losses.json').read_text()
)
LOSSES = {
  'reinforce': lib.reinforce,
  'ppo': lib.ppo,
  'gspo': lib.gspo,
  'cispo': lib.cispo,
}
every_loss = pytest.mark.parametrize('name', LOSSES)


def _batch(seed=0, B=6, T=5):
  rng = np.random.default_rng(seed)
  behavior_BT = -np.abs(rng.normal(size=(B, T)))
  logprobs_BT = behavior_BT + rng.normal(size=(B, T)) * 0.3
  advantages_B1 = rng.normal(size=(B, 1))
  mask_BT = np.arange(T) < np.array([5, 3, 1, 4, 5, 2])[:B, None]
  return *map(jnp.float32, (logprobs_BT, behavior_BT, advantages_B1)), mask_BT


def _value_and_gradient(loss, logprobs_BT, *args, weights_BT=1.0):
  return jax.value_and_grad(lambda x: jnp.sum(weights_BT * loss(x, *args)))(
    logprobs_BT
  )


def _tokens(loss, ratio, advantage, prob=0.4):
  """(loss, its gradient) of tokens, each a completion."""
  ratio, advantage = np.broadcast_arrays(ratio, advantage)
  logprobs_BT = jnp.full((ratio.size, 1), np.log(prob), jnp.float32)
  behavior_BT = logprobs_BT - np.log(ratio).reshape(-1, 1)
  args = behavior_BT, jnp.float32(advantage.reshape(-1, 1)), np.ones((1, 1))
  _, gradient_BT = _value_and_gradient(loss, logprobs_BT, *args)
  return loss(logprobs_BT, *args)[:, 0], gradient_BT[:, 0]


def test_reinforce():
  # -A log pi; its gradient is -A whoever sampled.
  loss, gradient = _tokens(lib.reinforce, [0.5, 1, 8], [2, -1, 0.5])
  log_pi = np.log(0.4)
  np.testing.assert_allclose(
    loss, [-2 * log_pi, log_pi, -0.5 * log_pi], rtol=1e-5
  )
  np.testing.assert_allclose(gradient, [-2, 1, -0.5])


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'loss', 'gradient'),
  [
    (1.1, 2, -2.2, -2.2),  # Inside: -ratio A, and so is its gradient.
    (1.1, -2, 2.2, 2.2),
    (1.5, 1, -1.2, 0),  # Raised enough already.
    (1.5, -1, 1.5, 1.5),  # Raised, and should not have been.
    (0.5, 1, -0.5, -0.5),  # Lowered, and should not have been.
    (0.5, -1, 0.8, 0),  # Lowered enough already.
    (0.5, 0, 0, 0),
  ],
)
def test_ppo(ratio, advantage, loss, gradient):
  found = _tokens(lib.ppo, ratio, advantage)
  np.testing.assert_allclose(np.ravel(found), [loss, gradient], atol=1e-6)


def test_ppo_clips_higher_where_asked():
  # Between 1.2 and 1.28 there is a gradient again; below nothing changes.
  dapo = functools.partial(lib.ppo, clip_high=0.28)
  loss, gradient = _tokens(dapo, [1.25, 1.3, 0.7], [1, 1, -1])
  np.testing.assert_allclose(loss, [-1.25, -1.28, 0.8], atol=1e-6)
  np.testing.assert_allclose(gradient, [-1.25, 0, 0], atol=1e-6)


@pytest.mark.parametrize('name', ['ppo', 'gspo'])
def test_clipped_is_where_there_is_no_gradient(name):
  batch = logprobs_BT, behavior_BT, advantages_B1, mask_BT = _batch()
  clips = {'clip_low': 0.03, 'clip_high': 0.05}
  loss = functools.partial(LOSSES[name], **clips)
  _, gradient = _value_and_gradient(loss, *batch)
  log_ratio = {
    'ppo': ratios.token_log_ratio, 'gspo': ratios.sequence_log_ratio,
  }[name]  # fmt: skip
  clipped = clipping.clipped(
    log_ratio(logprobs_BT, behavior_BT, mask_BT), advantages_B1, **clips
  )
  np.testing.assert_array_equal(gradient[mask_BT] == 0, clipped[mask_BT])
  assert 0 < clipped[mask_BT].sum() < mask_BT.sum()


def test_cispo():
  # -min(ratio, 5) A log pi: weights 0.1, 1, 4, 5, 5.
  loss, gradient = _tokens(lib.cispo, [0.1, 1, 4, 8, 1e30], [1, -1, 2, 2, -2])
  weighted = np.array([0.1, -1, 8, 10, -10])
  np.testing.assert_allclose(loss, -weighted * np.log(0.4), rtol=1e-5)
  np.testing.assert_allclose(gradient, -weighted, rtol=1e-5)


def test_cispo_never_clips_the_gradient():
  ratio = np.logspace(-4, 4, 50)
  _, gradient = _tokens(lib.cispo, ratio[:, None], [-1.5, 1.5])
  expected = -np.minimum(ratio, 5)[:, None] * [-1.5, 1.5]
  np.testing.assert_allclose(gradient, expected.ravel(), rtol=1e-4)
  assert gradient.all()


def test_cispo_is_reinforce_with_a_truncated_weight():
  logprobs_BT, behavior_BT, _, mask_BT = batch = _batch()

  def weighted(x, *args):
    return lib.reinforce(x, *args) * ratios.truncated_weight(
      logprobs_BT, behavior_BT, mask_BT, max_weight=1.1
    )

  found = _value_and_gradient(
    functools.partial(lib.cispo, max_ratio=1.1), *batch
  )
  expected = _value_and_gradient(weighted, *batch)
  jax.tree.map(np.testing.assert_allclose, found, expected)


def test_gspo():
  # Ratios 2 and 1/2 make 1, geometrically: no clip where ppo clips one token.
  # Ratios 2 and 2 make 2, too high for A > 0.
  behavior_BT = jnp.log(jnp.full((2, 2), 0.4))
  logprobs_BT = behavior_BT + jnp.log(jnp.array([[2, 0.5], [2, 2]]))
  args = behavior_BT, jnp.array([[3.0], [3.0]]), np.ones((2, 2), bool)
  found = lib.gspo(logprobs_BT, *args, clip_high=0.5)
  np.testing.assert_allclose(found, [[-3, -3], [-4.5, -4.5]], rtol=1e-6)
  _, gradient = _value_and_gradient(lib.gspo, logprobs_BT, *args)
  np.testing.assert_allclose(gradient, [[-3, -3], [0, 0]], rtol=1e-6)


def test_gspo_clips_by_3e_4_and_4e_4():
  ratio = 1 + 1e-4 * np.array([-3.5, -2.5, 3.5, 4.5])
  _, gradient = _tokens(lib.gspo, ratio, [-1, -1, 1, 1])
  np.testing.assert_allclose(gradient, [0, 1, -1, 0], atol=1e-3)


def test_gspo_is_its_equation_5():
  *_, mask_BT = batch = _batch()
  clips = {'clip_low': 0.03, 'clip_high': 0.05}

  def plainly(x, behavior_BT, advantages_B1, mask_BT):
    log_ratio = jnp.where(mask_BT, x - behavior_BT, 0).sum(1) / mask_BT.sum(1)
    s, A = jnp.exp(log_ratio), advantages_B1[:, 0]
    return -jnp.minimum(s * A, jnp.clip(s, 0.97, 1.05) * A) / len(x)

  expected = _value_and_gradient(plainly, *batch)
  found = _value_and_gradient(
    functools.partial(lib.gspo, **clips),
    *batch,
    weights_BT=reductions.completion_mean(mask_BT, 3),
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  # Some completions are clipped and some are not.
  zero = (np.asarray(found[1]) == 0).all(1)
  assert zero.any() and not zero.all()


@every_loss
def test_on_policy_all_have_the_gradient_of_reinforce(name):
  logprobs_BT, _, advantages_B1, mask_BT = _batch()
  _, gradient = _value_and_gradient(
    lambda x, *args: LOSSES[name](x, x, *args),
    logprobs_BT,
    advantages_B1,
    mask_BT,
  )
  np.testing.assert_allclose(gradient, -advantages_B1 * mask_BT, rtol=1e-6)


REWARDS = jnp.array([1.0, -0.5, 0.2, 2.0])
LOGITS = jnp.array([0.3, -1.0, 0.8, 0.1])
BEHAVIOR = jax.nn.log_softmax(jnp.array([0.9, -0.2, 0.2, -0.6]))
NO_CLIP = {'clip_low': 1.0, 'clip_high': 1e6}


@pytest.mark.parametrize(
  ('loss', 'behavior'),
  [
    (lib.reinforce, None),
    (functools.partial(lib.cispo, max_ratio=1e6), BEHAVIOR),
    (functools.partial(lib.ppo, **NO_CLIP), BEHAVIOR),
    (functools.partial(lib.gspo, **NO_CLIP), BEHAVIOR),
  ],
  ids=['reinforce', 'cispo', 'ppo', 'gspo'],
)
@pytest.mark.parametrize('baseline', [0.0, 0.7])
def test_the_mean_gradient_is_that_of_the_mean_reward(loss, behavior, baseline):
  """Each token of a vocabulary as a completion, as often as it is sampled."""

  def mean_loss(logits):
    logprobs_B1 = jax.nn.log_softmax(logits)[:, None]
    sampled_B1 = logprobs_B1 if behavior is None else behavior[:, None]
    loss_B1 = loss(
      logprobs_B1,
      sampled_B1,
      REWARDS[:, None] - baseline,
      np.ones((4, 1), bool),
    )
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(sampled_B1)) * loss_B1)

  def mean_reward(logits):
    return jnp.sum(jax.nn.softmax(logits) * REWARDS)

  found = jax.grad(mean_loss)(LOGITS)
  np.testing.assert_allclose(found, -jax.grad(mean_reward)(LOGITS), atol=1e-6)


@every_loss
@pytest.mark.parametrize('fill', [np.nan, np.inf])
@pytest.mark.parametrize('mask_type', [bool, np.float32])
def test_padding_is_never_read(name, fill, mask_type):
  logprobs_BT, behavior_BT, advantages_B1, mask_BT = batch = _batch()
  loss = LOSSES[name]
  clean = _value_and_gradient(loss, *batch)
  dirty = _value_and_gradient(
    loss,
    jnp.where(mask_BT, logprobs_BT, fill),
    jnp.where(mask_BT, behavior_BT, -fill),
    advantages_B1,
    mask_BT.astype(mask_type),
  )
  jax.tree.map(np.testing.assert_array_equal, dirty, clean)
  assert not dirty[1][~mask_BT].any()
  assert not loss(*batch)[~mask_BT].any()

  wide = [jnp.pad(x, ((0, 0), (0, 4))) for x in batch[:2]]
  found = loss(*wide, advantages_B1, np.pad(mask_BT, ((0, 0), (0, 4))))
  np.testing.assert_allclose(found[:, :5], loss(*batch), rtol=1e-6)


@every_loss
@pytest.mark.parametrize('advantage', [1.0, 0.0, -1.0])
@pytest.mark.parametrize('gap', [-300.0, 300.0])
def test_policies_far_apart_have_finite_gradients(name, advantage, gap):
  logprobs_BT = jnp.full((1, 2), -400.0)
  value, gradient = _value_and_gradient(
    LOSSES[name],
    logprobs_BT,
    logprobs_BT - gap,
    jnp.full((1, 1), advantage),
    np.ones((1, 2), bool),
  )
  assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize('name', GOLDEN['cases'])
def test_trl(name):
  case = GOLDEN['cases'][name]
  arrays = {k: jnp.float32(x) for k, x in GOLDEN['inputs'].items()}
  mask_BT = arrays.pop('mask') > 0
  advantages_B1 = arrays.pop('advantages')[:, None]
  # Theirs was made with numbers in the padding.
  logprobs_BT, old_BT, behavior_BT, reference_BT = (
    jnp.where(mask_BT, arrays[k], jnp.nan)
    for k in ('logprobs', 'old', 'behavior', 'reference')
  )
  clips = {'clip_low': case['epsilon'], 'clip_high': case['epsilon_high']}
  policy_loss = functools.partial(lib.ppo, **clips)
  log_ratio = ratios.token_log_ratio
  if case['level'] == 'sequence':
    policy_loss = functools.partial(lib.gspo, **clips)
    log_ratio = ratios.sequence_log_ratio
  if case['loss_type'] == 'cispo':
    policy_loss = functools.partial(lib.cispo, max_ratio=case['epsilon_high'])
  reduce = {
    'grpo': reductions.completion_mean,
    'bnpo': reductions.token_mean,
    'dapo': reductions.token_mean,
    'cispo': reductions.token_mean,
    'dr_grpo': functools.partial(
      reductions.constant, max_tokens=GOLDEN['max_tokens']
    ),
  }[case['loss_type']]

  def loss(logprobs_BT):
    loss_BT = policy_loss(logprobs_BT, old_BT, advantages_B1, mask_BT)
    if case['truncated']:
      loss_BT *= ratios.truncated_weight(
        old_BT, behavior_BT, mask_BT, max_weight=GOLDEN['max_weight']
      )
    kl_BT = kl.k3(logprobs_BT, reference_BT, mask_BT)
    if case['weighted_kl']:
      kl_BT *= ratios.ratio(log_ratio(logprobs_BT, old_BT, mask_BT))
    loss_BT += case['beta'] * kl_BT
    return jnp.sum(reduce(mask_BT, GOLDEN['group_size']) * loss_BT)

  value, gradient = jax.jit(jax.value_and_grad(loss))(logprobs_BT)
  np.testing.assert_allclose(value, case['loss'], atol=1e-6, rtol=1e-5)
  np.testing.assert_allclose(gradient, case['gradient'], atol=1e-6, rtol=1e-5)

  if case['clip_share'] is not None:
    # TRL counts a clipped sequence once, however long it is.
    share = {
      'token': reductions.token_mean, 'sequence': reductions.completion_mean,
    }[case['level']]  # fmt: skip
    clipped_BT = clipping.clipped(
      log_ratio(logprobs_BT, old_BT, mask_BT), advantages_B1, **clips
    )
    found = jnp.sum(share(mask_BT, GOLDEN['group_size']) * clipped_BT)
    np.testing.assert_allclose(found, case['clip_share'], rtol=1e-5)
    assert 0 < case['clip_share'] < 1


def test_truncated_weighs_the_loss_of_the_learner_itself():
  # Ratios to behavior: e^0.5 = 1.649, e^-1 = 0.368, e^2 = 7.389, cut at 2.
  logprobs = jnp.array([[-1.0, -2.0, -0.5]])
  behavior = jnp.array([[-1.5, -1.0, -2.5]])
  advantages, mask = jnp.array([[3.0]]), jnp.ones((1, 3), bool)
  weights = np.array([[1.6487213, 0.3678794, 2.0]])

  def total(x):
    return lib.truncated(x, behavior, advantages, mask).sum()

  # The learner's ratio to itself is 1: nothing is clipped.
  found = lib.truncated(logprobs, behavior, advantages, mask)
  np.testing.assert_allclose(found, -3 * weights, rtol=1e-6)
  np.testing.assert_allclose(jax.grad(total)(logprobs), -3 * weights, rtol=1e-6)
  plain = lib.truncated(
    logprobs, behavior, advantages, mask, loss=lib.reinforce, max_weight=5.0
  )
  np.testing.assert_allclose(
    plain, lib.cispo(logprobs, behavior, advantages, mask), rtol=1e-6
  )
