"""The batches of an update: which rows they have, in which order, and where.

config is always that of train_rl.
"""

import functools
from collections.abc import Callable
from typing import Any

from rlpt_jax.core.layout import Layout
from rlpt_jax.core.types import Batch
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.reference import Reference, put
from rlpt_jax.training import lengths as lengths_lib


def shorten(config: Any) -> Callable[[Callable], Callable] | None:
  """Returns what makes a function of a microbatch leave out padding, if any."""
  lengths = num_lengths(config)
  if lengths == 1 and not config.collector.varies:
    return None
  return functools.partial(lengths_lib.shortened, lengths=lengths)


def samples_together(config: Any, layout: Layout, parts: int, *sizes) -> int:
  """Returns the samples of a row; sizes: P, G, S and T of a batch."""
  return lengths_lib.samples_together(
    *sizes, parts=parts, lengths=num_lengths(config), layout=layout,
    share_prompt=config.shares_prompts,
  )  # fmt: skip


def num_lengths(config: Any) -> int:
  """Returns the number of lengths that an update is compiled for."""
  # A batch has the length of its longest completion, so a single microbatch
  # cannot be shorter.
  is_split = max(config.collector.parts(config)) > 1
  return config.hardware.lengths if is_split else 1


def make_batches(
  config: Any,
  layout: Layout,
  experience: Experience,
  reference: Reference | None,
) -> list[Batch]:
  """Returns the batch of each role on the devices, sharded by row."""
  numbers = config.collector.parts(config)

  def make(batch: Batch, parts: int) -> Batch:
    if shorten(config):
      (P, G, T), (_, S) = batch.mask_PGT.shape, batch.prompts_PS.shape
      together = samples_together(config, layout, parts, P, G, S, T)
      batch = lengths_lib.arrange(batch, parts=parts, together=together)
    batch = put(layout, batch)
    if config.kl_in_loss:
      batch = reference.with_logprobs(batch, parts)
    return batch

  return [
    make(role.batch, parts)
    for role, parts in zip(experience.roles, numbers, strict=True)
  ]
