"""The weight of each token in the loss of a batch.

Each function is (mask_BT, group_size) -> weights_BT, float32, 0 outside of the
mask, and the loss is sum(weights_BT * loss_BT). All denominators are in the
weights, and they belong to the whole batch: a microbatch is a slice of rows of
both, its losses and gradients are added, and neither the split, the padding nor
the number of devices is in the result.

A row without a token in the mask is no completion, and a group without one no
prompt: neither is counted. So a completion leaves the loss by its mask, as
advantages.py says.
"""

import jax.numpy as jnp

from rlpt_jax.core.checks import Count


def token_mean(mask_BT, group_size):
  """1 / tokens of the batch: a completion weighs as much as it is long.

  What TRL and verl call DAPO. DAPO's own (arXiv 2503.14476) is a mean over
  prompts outside: `prompt_mean`.
  """
  del group_size
  weights_1M = _mean_of_means(mask_BT.reshape(1, -1))
  return weights_1M.reshape(mask_BT.shape)


def completion_mean(mask_BT, group_size):
  """1 / (completions * tokens of its own): completions weigh the same.

  GRPO (arXiv 2402.03300, Eq 3) and the "sample average" of ScaleRL. They are a
  mean over prompts of a mean over G completions; where some of a group have
  left the loss, its prompt weighs less here.
  """
  del group_size
  return _mean_of_means(mask_BT)


def prompt_mean(mask_BT, group_size):
  """1 / (prompts * tokens of its group): prompts weigh the same.

  The "prompt average" of ScaleRL (arXiv 2510.13786, Section 4) and DAPO (arXiv
  2503.14476). Flat groups that were filtered are no prompts, as above.
  """
  B, T = mask_BT.shape
  assert B % group_size == 0, (B, group_size)
  weights_PM = _mean_of_means(mask_BT.reshape(B // group_size, group_size * T))
  return weights_PM.reshape(B, T)


def constant(mask_BT, group_size, *, max_tokens: Count):
  """1 / (completions * max_tokens): tokens weigh the same in every batch.

  Dr. GRPO (arXiv 2503.20783, Section 3), which leaves out the length; its code
  divides by a constant, the limit of generation, to keep the scale. Not T,
  which is padding.
  """
  del group_size
  completions = jnp.count_nonzero(jnp.any(mask_BT, axis=1))
  weight = 1 / (jnp.maximum(completions, 1) * float(max_tokens))
  return jnp.where(mask_BT, weight, 0.0)


def _mean_of_means(mask):
  """Weights of a mean over rows, those with tokens, of the mean over a row."""
  tokens = jnp.count_nonzero(mask, axis=1, keepdims=True)
  rows = jnp.count_nonzero(tokens)
  weights = 1 / (jnp.maximum(tokens, 1) * jnp.maximum(rows, 1.0))
  return jnp.where(mask, weights, 0.0)
