"""Samples with their scores, and the metrics that are computed from them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from rlpt_jax.algorithms.advantages import varies
from rlpt_jax.core.types import Example
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.sampling.sampler import Sample
from rlpt_jax.training.experience import Group


@dataclasses.dataclass(frozen=True)
class Judged:
  """Examples with their samples and scores."""

  examples: Sequence[Example]
  samples: Sequence[Sequence[Sample]]
  scores: Scores
  # The rewards used in the loss; NaN excludes a completion.
  rewards_PG: np.ndarray

  @property
  def flat(self) -> np.ndarray:
    """[P]: True for groups that teach nothing: no verdicts, or equal ones."""
    left_out_PG = np.isnan(self.rewards_PG)
    verdicts_PG = np.where(left_out_PG, np.nan, self.scores.rewards_PG)
    return ~np.asarray(varies(verdicts_PG))

  @property
  def truncated_PG(self) -> np.ndarray:
    """[P, G]: True where a completion was cut at its length limit."""
    return np.array(
      [
        [sample.finish_reason == 'length' for sample in group]
        for group in self.samples
      ],
      bool,
    ).reshape(self.rewards_PG.shape)

  def without(self, where_PG: np.ndarray) -> 'Judged':
    """Returns a copy that excludes these completions from the loss."""
    rewards_PG = np.where(where_PG, np.float32(np.nan), self.rewards_PG)
    return dataclasses.replace(self, rewards_PG=rewards_PG)

  def group(self, p: int) -> Group:
    return Group(
      self.examples[p].prompt_tokens,
      [sample.completion for sample in self.samples[p]],
      self.rewards_PG[p],
    )


def expects_verdict(judged: Judged) -> np.ndarray:
  """[P, G]: True where a verdict is expected.

  False where the format or length of a completion settles its reward, or where
  the example has no usable reference.
  """
  return ~_where(judged.scores, _is_settled, _kinds(judged))


def _is_settled(reason: str) -> bool:
  return reason.startswith('format/') or reason == 'short' or 'gold/' in reason


def _kinds(judged: Judged) -> np.ndarray:
  return np.array([example.kind for example in judged.examples])


def concatenate(parts: Sequence[Judged]) -> Judged:
  """Joins the results of several rounds of sampling into one."""
  if len(parts) == 1:
    return parts[0]
  return Judged(
    [example for part in parts for example in part.examples],
    [group for part in parts for group in part.samples],
    joined([part.scores for part in parts]),
    np.concatenate([part.rewards_PG for part in parts]),
  )


def joined(scores: Sequence[Scores]) -> Scores:
  """Returns the scores of all prompts together."""
  names = dict.fromkeys(name for each in scores for name in each.parts)
  return Scores(
    np.concatenate([each.rewards_PG for each in scores]),
    np.concatenate([each.reasons_PG for each in scores]),
    {
      name: joined([each.parts[name] for each in scores if name in each.parts])
      for name in names
    },
    _joined_answers(scores),
  )


def _joined_answers(scores: Sequence[Scores]) -> np.ndarray | None:
  if all(each.answers_PG is None for each in scores):
    return None
  # A round in which the judge was not asked has no answers.
  return np.concatenate(
    [
      np.full(each.rewards_PG.shape, None)
      if each.answers_PG is None
      else each.answers_PG
      for each in scores
    ]
  )


def metrics(judged: Judged, version: int) -> dict[str, float]:
  """Returns the rollout metrics of a step.

  Most shares are of all completions. But `flat_group_share` is of groups, and
  `unjudged_share` is of the completions for which a verdict is expected. The
  staleness of a token is the number of times that weights were published since
  it was sampled.

  version: the version of the current weights.
  """
  if not judged.examples:
    return {}
  scores = judged.scores
  rewards_PG, kinds = scores.rewards_PG, _kinds(judged)
  missing_PG, expected_PG = np.isnan(rewards_PG), expects_verdict(judged)
  completions = [s.completion for group in judged.samples for s in group]
  lengths = np.array([len(c.tokens) for c in completions])
  stale = np.concatenate([version - c.versions for c in completions])
  values = {
    **_reward_metrics('reward', rewards_PG),
    'pass_rate': mean(rewards_PG > 0, of=rewards_PG),
    'flat_group_share': float(np.mean(judged.flat)),
    'length/mean': float(lengths.mean()),
    'length/p50': float(np.median(lengths)),
    'length/p99': float(np.quantile(lengths, 0.99)),
    'truncated_share': float(judged.truncated_PG.mean()),
    'interrupted_share': float(
      np.mean([not c.is_own.all() for c in completions])
    ),
    'format_failure_share': float(
      np.mean(_where(scores, lambda r: r.startswith('format/'), kinds))
    ),
    'short_share': float(
      np.mean(_where(scores, lambda r: r == 'short', kinds))
    ),
    'no_verdict_share': float(np.mean(missing_PG)),
    'unjudged_share': float(
      np.sum(missing_PG & expected_PG) / max(np.sum(expected_PG), 1)
    ),
    'staleness/mean': float(stale.mean()),
    'staleness/max': int(stale.max()),
  }
  for kind in sorted(set(kinds.tolist())):
    of_kind = rewards_PG[kinds == kind]
    values[f'pass_rate/{kind}'] = mean(of_kind > 0, of=of_kind)
  values |= _reason_metrics('reason', scores)
  for name, part in scores.parts.items():
    values |= _reward_metrics(f'reward/{name}', part.rewards_PG)
    values |= _reason_metrics(f'reason/{name}', part)
  return values


def speed(
  judged: Sequence[Judged], timing: dict[str, float]
) -> dict[str, float]:
  """Returns sampled tokens per second, and how long devices had to wait.

  Devices that sample wait for updates and for all else, and the other way
  round; if both are the same devices, one always waits.
  """
  tokens = sum(
    len(sample.completion.tokens)
    for each in judged
    for group in each.samples
    for sample in group
  )
  rollout_s = max(timing['timing/rollout_s'], 1e-9)
  step_s = timing['timing/step_s']
  return {
    'timing/tokens_per_s': tokens / step_s,
    'timing/rollout_tokens_per_s': tokens / rollout_s,
    'timing/sampler_idle_share': 1 - timing['timing/rollout_s'] / step_s,
    'timing/learner_idle_share': 1 - timing['timing/update_s'] / step_s,
  }


def mean(values_PG: np.ndarray, of: np.ndarray | None = None) -> float:
  """Returns the mean of the values at the places where `of` is not NaN.

  of: by default, the values themselves.
  """
  there = ~np.isnan(values_PG if of is None else of)
  return float(np.mean(values_PG[there])) if there.any() else math.nan


def _reward_metrics(name: str, rewards_PG: np.ndarray) -> dict[str, float]:
  rewards_PG = rewards_PG.astype(np.float64)
  average = mean(rewards_PG)
  return {
    f'{name}/mean': average,
    f'{name}/std': math.sqrt(mean((rewards_PG - average) ** 2)),
  }


def _reason_metrics(name: str, scores: Scores) -> dict[str, float]:
  count = scores.rewards_PG.size
  reasons = sorted(scores.counts().items())
  return {f'{name}/{reason}': times / count for reason, times in reasons}


def _where(
  scores: Scores, is_one: Callable[[str], bool], kinds: np.ndarray
) -> np.ndarray:
  """[P, G]: True where `is_one` holds for the reason of the score or of a part.

  Parts are searched too, because the reason of a combined score does not always
  contain the reasons of its parts.
  """
  found_PG = np.vectorize(is_one, otypes=[bool])(scores.reasons_PG)
  for name, part in scores.parts.items():
    rows = np.ones(len(kinds), bool)
    # A part with fewer rows is for one kind of example, and is named after it.
    if len(part.rewards_PG) < len(kinds):
      rows = kinds == name
    if rows.sum() == len(part.rewards_PG):
      found_PG[rows] |= _where(part, is_one, kinds[rows])
  return found_PG
