"""The loss of a policy on a batch, and the metrics of an update."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlpt_jax.algorithms.ratios import ratio_statistics, token_log_ratio
from rlpt_jax.core.types import Batch

# (params, prompts_PS, prompt_mask_PS, tokens_BT, present_BT)
#   -> (log-probabilities_BT, entropies_BT, the router's statistics, if any),
# at the sampling temperature.
Score = Callable[..., tuple[Any, ...]]
# (logprobs_BT, behavior_BT, advantages_B1, mask_BT) -> loss_BT: losses.py.
Loss = Callable[..., jax.Array]
# (logprobs_BT, reference_BT, mask_BT) -> kl_BT: kl.py.
Kl = Callable[..., jax.Array]


def make_loss(
  score: Score,
  loss: Loss,
  *,
  kl: Kl | None = None,
  balance: Callable[[Any], jax.Array] | None = None,
  balance_weight: float = 0.0,
):
  """Returns (params, microbatch) -> (its share of the loss, stats).

  The stats of all microbatches, joined, are the input of `measure`.

  kl: is added to the loss; the batch must have `reference_PGT`.
  balance: the load balancing loss of the router's statistics, for a model with
    experts. It is measured and, times `balance_weight`, added to the share of
    every microbatch, so the weight must be divided by their number.
  """

  def loss_fn(params, batch: Batch):
    shape = batch.tokens_PGT.shape
    rows = batch.advantages_PG.size
    tokens_BT, present_BT, mask_BT, behavior_BT, weights_BT = (
      x.reshape(rows, -1)
      for x in (
        batch.tokens_PGT, batch.present_PGT, batch.mask_PGT,
        batch.behavior_PGT, batch.weights_PGT,
      )
    )  # fmt: skip
    advantages_B1 = batch.advantages_PG.reshape(rows, 1)
    logprobs_BT, entropies_BT, *router = score(
      params, batch.prompts_PS, batch.prompt_mask_PS, tokens_BT, present_BT
    )
    loss_BT, gradient_BT = _with_gradient(
      lambda x_BT: loss(x_BT, behavior_BT, advantages_B1, mask_BT), logprobs_BT
    )
    if kl:
      reference_BT = batch.reference_PGT.reshape(rows, -1)
      loss_BT += kl(logprobs_BT, reference_BT, mask_BT)
    stats = {
      'logprobs_PGT': logprobs_BT,
      'entropies_PGT': entropies_BT,
      'has_gradient_PGT': gradient_BT != 0,
    }
    stats = {name: x.reshape(shape) for name, x in stats.items()}
    total = jnp.sum(weights_BT * loss_BT)
    if balance:
      balance_1 = balance(*router)[None]
      total += balance_weight * balance_1[0]
      stats['router_balance'] = balance_1
    return total, jax.lax.stop_gradient(stats)

  return loss_fn


def _with_gradient(loss, logprobs_BT):
  """(loss_BT, its derivative with respect to each log-probability)."""
  loss_BT = loss(logprobs_BT)
  # A second evaluation, which the outer gradient must not go through.
  _, pull = jax.vjp(loss, jax.lax.stop_gradient(logprobs_BT))
  (gradient_BT,) = pull(jnp.ones_like(loss_BT))
  return loss_BT, gradient_BT


def of_roles(names: Sequence[str]):
  """Returns a function like `measure` that takes one batch per role.

  names: the names of the roles, which are prefixes of their metrics. The first
    is '', so its metrics have no prefix.
  """
  if len(names) == 1:
    return measure

  def measure_all(batches, stats) -> dict[str, jax.Array]:
    return {
      f'{name}/{key}' if name else key: value
      for name, batch, of_batch in zip(names, batches, stats, strict=True)
      for key, value in measure(batch, of_batch).items()
    }

  return measure_all


def measure(batch: Batch, stats: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """The metrics of an update.

  `sampler/gap_*` and `sampler/ratio_*` compare the learner with the behavior
  policy: before the first update on a batch, they show how well sampler and
  learner agree. `clip_share` is the share, among the tokens with a nonzero
  advantage, of those with a gradient of zero.
  """
  P, G, T = batch.mask_PGT.shape
  mask_BT = batch.mask_PGT.reshape(P * G, T).astype(bool)
  logprobs_BT, entropies_BT, has_gradient_BT, behavior_BT = (
    x.reshape(P * G, T)
    for x in (
      stats['logprobs_PGT'], stats['entropies_PGT'], stats['has_gradient_PGT'],
      batch.behavior_PGT,
    )
  )  # fmt: skip
  tokens = jnp.maximum(jnp.count_nonzero(mask_BT), 1)
  router = {}
  if 'router_balance' in stats:  # One value per microbatch; 0 if skipped.
    balance = stats['router_balance']
    count = jnp.maximum(jnp.count_nonzero(balance), 1)
    router = {'router_balance': jnp.sum(balance) / count}
  with_advantage_BT = mask_BT & (batch.advantages_PG.reshape(-1, 1) != 0)
  clipped_BT = with_advantage_BT & ~has_gradient_BT
  log_ratio_BT = token_log_ratio(logprobs_BT, behavior_BT, mask_BT)
  return {
    'entropy': jnp.sum(entropies_BT, where=mask_BT) / tokens,
    'clip_share': jnp.count_nonzero(clipped_BT)
    / jnp.maximum(jnp.count_nonzero(with_advantage_BT), 1),
    'tokens_in_loss': jnp.count_nonzero(mask_BT),
    **router,
    **{
      f'sampler/{name}': value
      for name, value in ratio_statistics(log_ratio_BT, mask_BT).items()
    },
  }
