"""The weight of each token in the loss of a batch.

Each function is (mask_BT, group_size) -> weights_BT, float32, 0 outside the
mask, and the loss is sum(weights_BT * loss_BT). The weights include all
denominators, computed over the whole batch. A microbatch takes some of the
rows, with their weights, and losses and gradients are summed over microbatches.
So the result depends neither on the split nor on padding or the number of
devices.

A row without a token in the mask does not count as a completion, and a group of
such rows does not count as a prompt. So a completion is removed from the loss
through its mask, as advantages.py says.
"""

import jax
import jax.numpy as jnp

from rlpt_jax.core.checks import Count


def token_mean(mask_BT, group_size):
  """1 / (tokens in the batch): a completion weighs in proportion to its length.

  TRL and verl call this DAPO. DAPO itself (arXiv 2503.14476) averages over the
  tokens of each group, then over prompts: `prompt_mean`.
  """
  del group_size
  weights_1M = _mean_of_means(mask_BT.reshape(1, -1))
  return weights_1M.reshape(mask_BT.shape)


def completion_mean(mask_BT, group_size):
  """1 / (completions * tokens of the completion): completions weigh the same.

  GRPO (arXiv 2402.03300, Eq 3) and the "sample average" of ScaleRL. The papers
  average over G completions, then over prompts; here a prompt weighs less
  if some of its completions have left the loss.
  """
  del group_size
  return _mean_of_means(mask_BT)


def prompt_mean(mask_BT, group_size):
  """1 / (prompts * tokens of the group): prompts have equal weight.

  The "prompt average" of ScaleRL (arXiv 2510.13786, Section 4) and DAPO (arXiv
  2503.14476). Groups filtered for their equal rewards do not count as prompts.
  """
  B, T = mask_BT.shape
  assert B % group_size == 0, (B, group_size)
  weights_PM = _mean_of_means(mask_BT.reshape(B // group_size, group_size * T))
  return weights_PM.reshape(B, T)


def constant(mask_BT, group_size, *, max_tokens: Count):
  """1 / (completions * max_tokens): weights do not depend on lengths.

  Dr. GRPO (arXiv 2503.20783, Section 3), which drops the division by lengths;
  its code divides by a constant, the generation limit, to keep the scale. The
  limit is not T, which includes padding.
  """
  del group_size
  completions = jnp.count_nonzero(jnp.any(mask_BT, axis=1))
  weight = 1 / (jnp.maximum(completions, 1) * float(max_tokens))
  return jnp.where(mask_BT, weight, 0.0)


@jax.jit  # One program takes less time to compile than one per operation.
def _mean_of_means(mask):
  """Weights that average over each row, then over the rows with tokens."""
  tokens = jnp.count_nonzero(mask, axis=1, keepdims=True)
  rows = jnp.count_nonzero(tokens)
  weights = 1 / (jnp.maximum(tokens, 1) * jnp.maximum(rows, 1.0))
  return jnp.where(mask, weights, 0.0)
