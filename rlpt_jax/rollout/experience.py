"""The experience of a step: the groups it sampled, and their batches."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core.types import Batch
from rlpt_jax.rewards import extract
from rlpt_jax.rollout import judged as judged_lib
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.training import experience as training
from rlpt_jax.training.experience import make_batch


class Collected(NamedTuple):
  """The groups that the policy has sampled in one role.

  num_prompts: the number of groups in a batch, which may have fewer.
  num_samples: the number of completions of a group.
  name: the name of the role; '' for the first.
  find_answer: finds the answer in a completion; by default, the reward does.
  """

  groups: Groups
  num_prompts: int
  num_samples: int
  name: str = ''
  find_answer: extract.Extract | None = None


@dataclasses.dataclass(frozen=True)
class Role:
  """All groups that one role has sampled, and the batch to learn from.

  learned_P: for each group, True if it is in the loss.
  batch: the arrays to learn from. Its advantages are 0 until `with_advantages`
    sets them, since some kinds of advantages depend on earlier updates.
  rows: {row of the batch: the index of its group in `judged`}. The batch may
    have more rows, which are padding.
  name: the prefix of its metrics; '' for the first role.
  find_answer: as in `Collected`.
  """

  judged: Judged
  learned_P: np.ndarray
  batch: Batch
  rows: dict[int, int]
  name: str = ''
  find_answer: extract.Extract | None = None

  def with_advantages(self, advantages: Callable) -> 'Role':
    """Returns a copy with advantages; advantages: rewards_PG -> advantages_PG.

    Groups that are in no row have no advantages.
    """
    rewards_PG = np.full(self.batch.advantages_PG.shape, np.nan, np.float32)
    rewards_PG[list(self.rows)] = self.judged.rewards_PG[self._groups]
    batch = dataclasses.replace(
      self.batch, advantages_PG=np.asarray(advantages(rewards_PG), np.float32)
    )
    return dataclasses.replace(self, batch=batch)

  @property
  def advantages_PG(self) -> np.ndarray:
    """Advantages of all completions; NaN for those that are not in the loss."""
    advantages_PG = np.full_like(self.judged.rewards_PG, np.nan)
    advantages_PG[self._groups] = self.batch.advantages_PG[list(self.rows)]
    advantages_PG[np.isnan(self.judged.rewards_PG)] = np.nan
    return advantages_PG

  @property
  def _groups(self) -> list[int]:
    return list(self.rows.values())

  def metrics(self) -> dict[str, float]:
    """Returns the metrics of the advantages in the loss."""
    advantages_PG = self.advantages_PG
    there = advantages_PG[~np.isnan(advantages_PG)]
    there = there.astype(np.float64) if there.size else np.zeros(1)
    return {
      'advantage/mean': float(there.mean()),
      'advantage/std': float(there.std()),
    }

  def named(self, metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns metrics of this role under names that begin with its own."""
    prefix = f'{self.name}/' if self.name else ''
    return {f'{prefix}{name}': value for name, value in metrics.items()}


@dataclasses.dataclass(frozen=True)
class Experience:
  """What a step has sampled, and the batches to learn from.

  roles: of the policy; RLPT has one. A step learns from all of them at once.
  names: the names of all groups; `Rollouts` keeps their samples by name.
  curriculum: metrics of the examples that were drawn and skipped for this step.
  resume: the part of a checkpoint's record that says where in the data a run
    continues, once it has learned from this experience.
  scored: the numbers of tokens of texts whose entropies were computed for it.
  """

  roles: tuple[Role, ...]
  names: Sequence[str]
  curriculum: dict[str, float]
  resume: dict[str, Any]
  scored: Sequence[int] = ()

  @property
  def first(self) -> Role:
    return self.roles[0]

  def with_advantages(self, advantages: Mapping[str, Callable]) -> 'Experience':
    """Returns a copy with advantages; call it in the order of the updates.

    advantages: a function for each role, by its name.
    """
    roles = tuple(
      role.with_advantages(advantages[role.name]) for role in self.roles
    )
    return dataclasses.replace(self, roles=roles)

  def rollout_metrics(self, version: int) -> dict[str, float]:
    """Returns `judged.metrics` of all roles, at this version of the weights."""
    metrics = {}
    for role in self.roles:
      metrics |= role.named(judged_lib.metrics(role.judged, version))
    return metrics

  def metrics(self) -> dict[str, float]:
    """Returns the metrics of advantages in the loss and of the curriculum."""
    metrics = dict(self.curriculum)
    for role in self.roles:
      metrics |= role.named(role.metrics())
    return metrics


def make_experience(
  collected: Sequence[Collected],
  *,
  reduction: Callable,
  longest: tuple[int, int],
  share_prompt: bool,
  names: Sequence[str],
  curriculum: dict[str, float],
  resume: dict[str, Any],
  scored: Sequence[int] = (),
) -> Experience:
  """Returns the experience of some groups; options as for `make_batch`."""
  roles = tuple(
    _role(each, reduction=reduction, longest=longest, share_prompt=share_prompt)
    for each in collected
  )
  if len(roles) > 1:
    # The weights are those of tokens in the loss of all roles.
    batches = training.weighted([role.batch for role in roles], reduction)
    roles = tuple(
      dataclasses.replace(role, batch=batch)
      for role, batch in zip(roles, batches, strict=True)
    )
  return Experience(roles, names, curriculum, resume, scored)


def _role(collected: Collected, **options) -> Role:
  groups = collected.groups
  # Groups in the loss come first; others fill the rest of the batch, so that it
  # is never empty.
  order = np.argsort(~groups.learned_P, kind='stable')
  chosen = order[: collected.num_prompts].tolist()
  batch = make_batch(
    [groups.judged.group(p) for p in chosen],
    num_prompts=collected.num_prompts,
    num_samples=collected.num_samples,
    **options,
  )
  return Role(
    groups.judged, groups.learned_P, batch, dict(enumerate(chosen)),
    collected.name, collected.find_answer,
  )  # fmt: skip
