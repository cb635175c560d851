"""The experience of a step: the groups it sampled, and their batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlpt_jax.core.types import Batch
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.training.experience import make_batch


@dataclasses.dataclass(frozen=True)
class Experience:
  """The groups of a step, and the batch to learn from.

  judged: all groups that were sampled, with their scores.
  learned_P: for each group, True if it is in the loss.
  batch: the arrays to learn from. Its advantages are 0 until `with_advantages`
    sets them, since some kinds of advantages depend on earlier updates.
  rows: for each row of the batch, the index of its group in `judged`. The batch
    may have more rows, which are padding.
  names: the names of all groups; `Rollouts` keeps their samples by name.
  curriculum: metrics of the examples that were drawn and skipped for this step.
  resume: the part of a checkpoint's record that says where in the data a run
    continues, once it has learned from this experience.
  """

  judged: Judged
  learned_P: np.ndarray
  batch: Batch
  rows: tuple[int, ...]
  names: Sequence[str]
  curriculum: dict[str, float]
  resume: dict[str, Any]

  def with_advantages(self, advantages: Callable) -> 'Experience':
    """Returns a copy with advantages; call it in the order of the updates.

    advantages: rewards_PG -> advantages_PG.
    """
    rewards_PG = np.full(self.batch.advantages_PG.shape, np.nan, np.float32)
    rewards_PG[: len(self.rows)] = self.judged.rewards_PG[list(self.rows)]
    batch = dataclasses.replace(
      self.batch, advantages_PG=np.asarray(advantages(rewards_PG), np.float32)
    )
    return dataclasses.replace(self, batch=batch)

  @property
  def advantages_PG(self) -> np.ndarray:
    """Advantages of all completions; NaN for those that are not in the loss."""
    rows = list(self.rows)
    advantages_PG = np.full_like(self.judged.rewards_PG, np.nan)
    advantages_PG[rows] = self.batch.advantages_PG[: len(rows)]
    advantages_PG[np.isnan(self.judged.rewards_PG)] = np.nan
    return advantages_PG

  def metrics(self) -> dict[str, float]:
    """Returns the metrics of advantages in the loss and of the curriculum."""
    advantages_PG = self.advantages_PG
    there = advantages_PG[~np.isnan(advantages_PG)]
    there = there.astype(np.float64) if there.size else np.zeros(1)
    return {
      'advantage/mean': float(there.mean()),
      'advantage/std': float(there.std()),
      **self.curriculum,
    }


def make_experience(
  groups: Groups,
  *,
  num_prompts: int,
  reduction: Callable,
  longest: tuple[int, int],
  share_prompt: bool,
  names: Sequence[str],
  curriculum: dict[str, float],
  resume: dict[str, Any],
) -> Experience:
  """Returns an experience that learns from at most `num_prompts` groups.

  The first options are those of `make_batch`.
  """
  # Groups in the loss come first; others fill the rest of the batch, so that it
  # is never empty.
  rows = np.argsort(~groups.learned_P, kind='stable')[:num_prompts].tolist()
  batch = make_batch(
    [groups.judged.group(p) for p in rows],
    num_prompts=num_prompts,
    reduction=reduction,
    longest=longest,
    share_prompt=share_prompt,
  )
  return Experience(
    groups.judged, groups.learned_P, batch, tuple(rows), names, curriculum,
    resume,
  )  # fmt: skip
