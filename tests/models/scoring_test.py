"""Groups, rows and packed rows: one set of log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.models import moe, scoring
from tests.models.decoder_test import _assert_close, _decoder, _params

P, G, S, T = 3, 2, 6, 5


def batch(seed=0):
  """Prompts of 1 to S tokens, completions of 1 to T."""
  rng = np.random.default_rng(seed)
  prompts_PS = rng.integers(0, 259, (P, S)).astype(np.int32)
  tokens_BT = rng.integers(0, 259, (P * G, T)).astype(np.int32)
  prompt_mask_PS = np.arange(S) < np.array([[S], [1], [4]])
  mask_BT = np.arange(T) < np.array([[T], [1], [3], [2], [T], [4]])
  return prompts_PS, prompt_mask_PS, tokens_BT, mask_BT


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loss(score, decoder, params, batch):
  mask_BT = batch[-1]

  def loss(params):
    *results, _ = score(decoder, params, *batch, temperature=0.7)
    results = [jnp.where(mask_BT, x, 0) for x in results]
    return jnp.sin(results[0]).sum() + results[1].sum(), results

  return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.slow
@pytest.mark.parametrize('model', ['tiny_qwen3', 'tiny_qwen3_moe'])
def test_groups_are_rows(model, one_device):
  decoder, params = _decoder(model, one_device), _params(model, one_device)
  groups = _loss(scoring.in_groups, decoder, params, batch())
  rows = _loss(scoring.in_rows, decoder, params, batch())
  _assert_close(groups, rows, 5e-6)


@pytest.mark.slow
def test_padding_changes_nothing(one_device):
  decoder = _decoder('tiny_qwen3', one_device)
  params = _params('tiny_qwen3', one_device)
  prompts, prompt_mask, tokens, mask = batch()
  wider = tuple(
    np.pad(x, ((0, 0), (0, 3)), constant_values=fill)
    for x, fill in ((prompts, 9), (prompt_mask, 0), (tokens, 9), (mask, 0))
  )
  for score in (scoring.in_groups, scoring.in_rows):
    (loss, results), gradients = _loss(score, decoder, params, batch())
    (loss2, results2), gradients2 = _loss(score, decoder, params, wider)
    results2 = [x[:, :T] for x in results2]
    _assert_close(
      (loss, results, gradients), (loss2, results2, gradients2), 5e-6
    )


@pytest.mark.slow
def test_packed_rows_are_rows(one_device):
  decoder = _decoder('tiny_qwen3', one_device)
  params = _params('tiny_qwen3', one_device)
  prompts, prompt_mask, tokens, mask = batch()
  expected, *_ = scoring.in_rows(
    decoder, params, prompts, prompt_mask, tokens, mask
  )
  # The texts of the first two prompts with their first completions, packed.
  rows = [(0, 0), (1, G)]
  texts = [
    np.concatenate([prompts[p][prompt_mask[p]], tokens[b][mask[b]]])
    for p, b in rows
  ]
  packed = np.concatenate(texts)[None]
  segments = np.repeat([1, 2], [len(text) for text in texts])[None]
  found, *_ = scoring.in_packed_rows(decoder, params, packed, segments)
  start = 0
  for (p, b), text in zip(rows, texts, strict=True):
    first, end = start + prompt_mask[p].sum(), start + len(text)
    np.testing.assert_allclose(
      found[0, first:end], np.asarray(expected)[b][mask[b]], atol=1e-5
    )
    start = end


def test_the_router_is_counted_over_all_tokens(one_device):
  decoder = _decoder('tiny_qwen3_moe', one_device)
  params = _params('tiny_qwen3_moe', one_device)
  c = decoder.config
  score = jax.jit(scoring.in_groups, static_argnums=0)
  _, _, router = score(decoder, params, *batch())
  _, prompt_mask, _, mask = batch()
  # Prompts are computed once for their group.
  count = prompt_mask.sum() + mask.sum()
  assert router.tokens_L.tolist() == [count] * c.num_layers
  np.testing.assert_allclose(
    router.assigned_LE.sum(1), count * c.experts_per_token
  )
  assert 0.9 < float(moe.balance_of(c)(router)) < c.num_experts
  dense = _decoder('tiny_qwen3', one_device)
  assert moe.balance_of(dense.config) is None
