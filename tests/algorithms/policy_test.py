"""The loss of a policy on a batch: its parts put together, and its figures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import (
  kl,
  losses,
  policy,
  reductions,
)
from rlpt_jax.core.types import Batch
from rlpt_jax.training import learner
from tests.algorithms import clipping

P, G, T, V = 4, 2, 5, 11


def score(params, prompts_PS, prompt_mask_PS, tokens_BT, present_BT):
  """A policy of one table: what comes next depends on the prompt's first token
  and on the position.
  """
  del prompt_mask_PS, present_BT
  rows_B = jnp.repeat(prompts_PS[:, 0], tokens_BT.shape[0] // len(prompts_PS))
  logits_BTV = params[rows_B][:, : tokens_BT.shape[1]]
  logprobs_BTV = jax.nn.log_softmax(logits_BTV)
  entropies_BT = -jnp.sum(jnp.exp(logprobs_BTV) * logprobs_BTV, axis=-1)
  taken_BT1 = jnp.take_along_axis(logprobs_BTV, tokens_BT[..., None], axis=-1)
  return taken_BT1[..., 0], entropies_BT


def batch(seed=0, gap=0.3):
  rng = np.random.default_rng(seed)
  lengths_PG = rng.integers(1, T + 1, (P, G))
  present_PGT = np.arange(T) < lengths_PG[..., None]
  mask_PGT = present_PGT & (rng.random((P, G, T)) < 0.8)
  weights_BT = reductions.completion_mean(mask_PGT.reshape(P * G, T), G)
  tokens_PGT = rng.integers(0, V, (P, G, T)).astype(np.int32)
  made = Batch(
    prompts_PS=np.arange(P, dtype=np.int32)[:, None],
    prompt_mask_PS=np.ones((P, 1), np.int32),
    tokens_PGT=tokens_PGT,
    present_PGT=present_PGT,
    mask_PGT=mask_PGT,
    behavior_PGT=np.zeros((P, G, T), np.float32),
    advantages_PG=rng.normal(size=(P, G)).astype(np.float32),
    weights_PGT=np.asarray(weights_BT).reshape(P, G, T),
  )
  logprobs_BT, _ = score(
    table(), made.prompts_PS, None, tokens_PGT.reshape(P * G, T), None
  )
  behavior_PGT = np.asarray(logprobs_BT).reshape(P, G, T)
  behavior_PGT = behavior_PGT + rng.normal(size=(P, G, T)) * gap
  return jax.tree.map(
    jnp.asarray, _replaced(made, behavior_PGT=behavior_PGT.astype(np.float32))
  )


def _replaced(made, **changes):
  return Batch(**vars(made) | changes)


def table():
  rng = np.random.default_rng(9)
  return jnp.array(rng.normal(size=(P, T, V)), jnp.float32)


def plain(params, made, loss, beta=0.0):
  """Completion by completion, token by token."""
  total, reference = 0.0, None
  if beta:
    made, reference = made
  completions = sum(bool(made.mask_PGT[p, g].any()) for p in range(P)
                    for g in range(G))  # fmt: skip
  for p in range(P):
    logprobs_TV = jax.nn.log_softmax(params[p])
    for g in range(G):
      count = int(made.mask_PGT[p, g].sum())
      for t in range(T):
        if not made.mask_PGT[p, g, t]:
          continue
        x = logprobs_TV[t, made.tokens_PGT[p, g, t]]
        one = jnp.ones((1, 1), bool)
        value = loss(
          x.reshape(1, 1), made.behavior_PGT[p, g, t].reshape(1, 1),
          made.advantages_PG[p, g].reshape(1, 1), one,
        )  # fmt: skip
        if beta:
          far = reference[p, g, t].reshape(1, 1)
          value += beta * kl.k3(x.reshape(1, 1), far, one)
        total += value[0, 0] / (count * completions)
  return total


@pytest.mark.parametrize('loss', [losses.reinforce, losses.ppo, losses.cispo])
def test_it_is_the_sum_over_tokens(loss):
  made, params = batch(), table()
  expected, expected_grads = jax.value_and_grad(plain)(params, made, loss)
  for num_microbatches in (1, 2, 4):
    (found, (said,)), grads = learner.gradients(
      policy.make_loss(score, loss), params, made,
      num_microbatches=num_microbatches,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(grads, expected_grads, atol=1e-6)
    assert said['logprobs_PGT'].shape == (P, G, T)


def test_a_kl_to_a_reference_is_added():
  made, params = batch(), table()
  reference_PGT = made.behavior_PGT - 0.2
  made = dataclasses.replace(made, reference_PGT=reference_PGT)
  loss_fn = policy.make_loss(score, losses.ppo, kl=kl.InLoss(weight=0.5))
  (found, _), grads = learner.gradients(
    loss_fn, params, made, num_microbatches=2
  )
  expected, expected_grads = jax.value_and_grad(plain)(
    params, (made, reference_PGT), losses.ppo, 0.5
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(grads, expected_grads, atol=1e-6)
  without, _ = policy.make_loss(score, losses.ppo)(params, made)
  assert abs(float(found - without)) > 1e-3


def test_what_it_measures():
  made, params = batch(gap=0.5), table()
  clip = functools.partial(losses.ppo, clip_low=0.2, clip_high=0.2)
  _, said = policy.make_loss(score, clip)(params, made)
  found = policy.measure(made, said)
  mask = np.asarray(made.mask_PGT)
  log_ratio_BT = np.asarray(said['logprobs_PGT'] - made.behavior_PGT)
  log_ratio_BT = log_ratio_BT.reshape(P * G, T)
  clipped_BT = clipping.clipped(
    log_ratio_BT, np.asarray(made.advantages_PG).reshape(-1, 1)
  )
  expected = np.asarray(clipped_BT).reshape(mask.shape)[mask].mean()
  assert 0 < expected < 1
  np.testing.assert_allclose(found['clip_share'], expected, rtol=1e-6)
  entropies = np.asarray(said['entropies_PGT'])[mask]
  np.testing.assert_allclose(found['entropy'], entropies.mean(), rtol=1e-6)
  assert found['tokens_in_loss'] == mask.sum()
  gap = np.abs(log_ratio_BT.reshape(mask.shape)[mask])
  np.testing.assert_allclose(found['sampler/gap_max'], gap.max(), rtol=1e-5)


def test_a_balance_of_experts_is_measured_and_weighs_in():
  made, params = batch(), table()

  def routed(*arguments):
    return *score(*arguments), jnp.array([3.0, 5.0])  # What a router did.

  options = {'balance': jnp.max, 'balance_weight': 0.25}
  plain, stats = policy.make_loss(routed, losses.ppo)(params, made)
  assert 'router_balance' not in policy.measure(made, stats)
  loss, stats = policy.make_loss(routed, losses.ppo, **options)(params, made)
  np.testing.assert_allclose(loss, plain + 0.25 * 5, rtol=1e-6)
  assert policy.measure(made, stats)['router_balance'] == 5


@pytest.mark.slow
def test_on_policy_nothing_is_clipped_and_all_losses_have_one_gradient():
  made, params = batch(gap=0.0), table()
  grads = [
    jax.grad(policy.make_loss(score, loss), has_aux=True)(params, made)[0]
    for loss in (losses.reinforce, losses.ppo, losses.cispo)
  ]
  for other in grads[1:]:
    np.testing.assert_allclose(other, grads[0], atol=1e-6)
  _, said = policy.make_loss(score, losses.ppo)(params, made)
  found = policy.measure(made, said)
  assert found['clip_share'] == 0
  assert found['sampler/gap_max'] < 1e-5


def test_no_token_at_all_is_no_gradient():
  made = batch()
  empty = _replaced(
    made, mask_PGT=made.mask_PGT & False, weights_PGT=made.weights_PGT * 0
  )
  loss_fn = policy.make_loss(score, losses.ppo)
  (loss, (said,)), grads = learner.gradients(
    loss_fn, table(), empty, num_microbatches=1
  )
  assert loss == 0 and not np.asarray(grads).any()
  assert all(np.isfinite(x) for x in policy.measure(empty, said).values())
