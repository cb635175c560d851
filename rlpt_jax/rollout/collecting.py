"""Samples completions, scores them, and computes the metrics of a step."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlpt_jax.algorithms.advantages import judged, varies
from rlpt_jax.core import checks
from rlpt_jax.core.checks import (
  Count,
  Name,
  Natural,
  NonNegative,
  PositiveShare,
  Share,
)
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.rewards.scores import RewardFn, Scores, ask
from rlpt_jax.sampling import requests
from rlpt_jax.sampling.sampler import Sample, Sampler
from rlpt_jax.training.experience import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interruption:
  """Makes a model that thinks for too long answer (ScaleRL, section 4).

  phrase: text that is inserted after a number of tokens drawn evenly from
    `after`, both ends included. Its tokens are not in the loss.
  answer: the number of tokens left for the answer after the phrase.
  unless: a completion that has this text already is not interrupted. The search
    compares tokens, so the tokenizer should always encode the text in the same
    way.
  """

  phrase: Name = (
    'Okay, time is up. Let me stop thinking and formulate a final answer now. '
    '</think>'
  )
  after: tuple[Natural, Natural] = (10240, 12288)
  answer: Count = 2048
  unless: str = '</think>'

  def __post_init__(self):
    checks.check_fields(self)
    if self.after[0] > self.after[1]:
      raise checks.wrong(
        type(self), 'after', self.after, 'the smaller number first'
      )

  def in_tokens(self, tokenizer: Tokenizer) -> requests.Interruption:
    return requests.Interruption(
      phrase=tuple(tokenizer.encode(self.phrase)),
      after=tuple(self.after),
      answer=self.answer,
      unless=tuple(tokenizer.encode(self.unless)),
    )


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings, for training or for held-out examples.

  stop: texts that end a completion, in addition to EOS.
  """

  samples: Count = 8
  max_new_tokens: Count = 1024
  temperature: NonNegative = 1.0
  top_k: Natural = 0
  top_p: PositiveShare = 1.0
  min_p: Share = 0.0
  stop: tuple[Name, ...] = ()
  interruption: Interruption | None = None

  def __post_init__(self):
    checks.check_fields(self)

  def check_learnable(self):
    """Raises if the policy cannot be trained on samples with these settings.

    At temperature 0 all samples of a group are the same. With filters, samples
    come from a distribution that the learner does not compute.
    """
    if not self.temperature > 0:
      raise checks.wrong(
        type(self), 'temperature', self.temperature,
        'more than 0 to learn from, or all samples of a group are one',
      )  # fmt: skip
    if (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0):
      raise ValueError(
        f'Config.sampling: top_k={self.top_k}, top_p={self.top_p}, min_p='
        f'{self.min_p}: expected 0, 1 and 0: the learner compares the samples '
        'with the whole distribution. Filters are for Config.held_out_sampling.'
      )

  def interrupted(self, tokenizer: Tokenizer) -> requests.Interruption | None:
    """Tokenizes the interruption; raises if max_new_tokens is too small."""
    if self.interruption is None:
      return None
    found = self.interruption.in_tokens(tokenizer)
    longest = found.after[1] + len(found.phrase) + found.answer
    if self.max_new_tokens < longest:
      raise ValueError(
        f'Sampling.max_new_tokens={self.max_new_tokens}: expected at least '
        f'{longest}: {found.after[1]} tokens before the interruption, '
        f'{len(found.phrase)} of its phrase, {found.answer} of an answer.'
      )
    return found


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
    """[P]: True for groups that teach nothing: no verdicts, or all the same."""
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
      ]
    )

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


def judge(
  sampler: Sampler,
  tokenizer: Tokenizer,
  reward: RewardFn,
  sampling: Sampling,
  examples: Sequence[Example],
  names: Sequence[str],
  timers: Timers,
  *,
  seed: int,
  kept: dict[str, Sequence[Sample]],
) -> Judged:
  """Samples the policy on examples and scores the samples with the reward.

  names: one per example; they seed its samples.
  kept: {name: samples}, updated in place. Names in it are not sampled again;
    new samples are added, so that they are not lost if the reward fails.
  """
  interruption = sampling.interrupted(tokenizer)
  requested = [
    requests.Request(
      prompt_tokens=tuple(example.prompt_tokens.tolist()),
      id=name,
      samples=sampling.samples,
      seed=seed,
      max_new_tokens=sampling.max_new_tokens,
      temperature=sampling.temperature,
      top_k=sampling.top_k,
      top_p=sampling.top_p,
      min_p=sampling.min_p,
      stops=tuple((eos,) for eos in tokenizer.eos_ids),
      interruption=interruption,
    )
    for example, name in zip(examples, names, strict=True)
    if name not in kept
  ]
  with timers('rollout'):
    groups = sampler.complete(requested, tokenizer, stop=sampling.stop)
    for request, group in zip(requested, groups, strict=True):
      kept[request.id] = group
  groups = [kept[name] for name in names]
  with timers('reward'):
    texts = [[sample.text for sample in group] for group in groups]
    found = ask(reward, examples, texts)
  return Judged(examples, groups, found, found.rewards_PG)


def asked(judged_: Judged) -> np.ndarray:
  """[P, G]: True where a verdict is expected.

  False where the format or length settles the reward, or where the example has
  no usable reference.
  """
  return ~_where(judged_.scores, _is_settled, _kinds(judged_))


def _is_settled(reason: str) -> bool:
  return reason.startswith('format/') or reason == 'short' or 'gold/' in reason


def _kinds(judged_: Judged) -> np.ndarray:
  return np.array([example.kind for example in judged_.examples])


def together(parts: Sequence[Judged]) -> Judged:
  """Joins the results of several rounds of sampling into one."""
  if len(parts) == 1:
    return parts[0]
  return Judged(
    [example for part in parts for example in part.examples],
    [group for part in parts for group in part.samples],
    _joined([part.scores for part in parts]),
    np.concatenate([part.rewards_PG for part in parts]),
  )


def _joined(scores: Sequence[Scores]) -> Scores:
  names = dict.fromkeys(name for each in scores for name in each.parts)
  return Scores(
    np.concatenate([each.rewards_PG for each in scores]),
    np.concatenate([each.reasons_PG for each in scores]),
    {
      name: _joined([each.parts[name] for each in scores if name in each.parts])
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


def metrics(judged_: Judged, version: int) -> dict[str, float]:
  """Returns the rollout metrics of a step.

  Shares are of all completions, but `unjudged_share` is of those for which a
  verdict is expected. Staleness is relative to `version` of the current
  weights.
  """
  scores = judged_.scores
  rewards_PG, kinds = scores.rewards_PG, _kinds(judged_)
  missing_PG, asked_PG = ~np.asarray(judged(rewards_PG)), asked(judged_)
  completions = [s.completion for group in judged_.samples for s in group]
  lengths = np.array([len(c.tokens) for c in completions])
  stale = np.concatenate([version - c.versions for c in completions])
  found = {
    **_reward_metrics('reward', rewards_PG),
    'pass_rate': mean(rewards_PG > 0, of=rewards_PG),
    'flat_group_share': float(np.mean(judged_.flat)),
    'length/mean': float(lengths.mean()),
    'length/p50': float(np.median(lengths)),
    'length/p99': float(np.quantile(lengths, 0.99)),
    'truncated_share': float(judged_.truncated_PG.mean()),
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
      np.sum(missing_PG & asked_PG) / max(np.sum(asked_PG), 1)
    ),
    'staleness/mean': float(stale.mean()),
    'staleness/max': int(stale.max()),
  }
  for kind in sorted(set(kinds.tolist())):
    of_kind = rewards_PG[kinds == kind]
    found[f'pass_rate/{kind}'] = mean(of_kind > 0, of=of_kind)
  found |= _reason_metrics('reason', scores)
  for name, part in scores.parts.items():
    found |= _reward_metrics(f'reward/{name}', part.rewards_PG)
    found |= _reason_metrics(f'reason/{name}', part)
  return found


def speed(judged_: Judged, timing: dict[str, float]) -> dict[str, float]:
  """Returns sampled tokens per second, of the step and of sampling alone."""
  tokens = sum(
    len(sample.completion.tokens)
    for group in judged_.samples
    for sample in group
  )
  rollout_s = max(timing['timing/rollout_s'], 1e-9)
  return {
    'timing/tokens_per_s': tokens / timing['timing/step_s'],
    'timing/rollout_tokens_per_s': tokens / rollout_s,
  }


def mean(values_PG: np.ndarray, of: np.ndarray | None = None) -> float:
  """Returns the mean over entries where `of` (or else the value) is not NaN."""
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

  Parts are searched too, since a combined reason need not name theirs.
  """
  found_PG = np.vectorize(is_one, otypes=[bool])(scores.reasons_PG)
  for name, part in scores.parts.items():
    rows = np.ones(len(kinds), bool)
    # A part with fewer rows is for one kind of example, and named after it.
    if len(part.rewards_PG) < len(kinds):
      rows = kinds == name
    if rows.sum() == len(part.rewards_PG):
      found_PG[rows] |= _where(part, is_one, kinds[rows])
  return found_PG


class Drawn:
  """Draws examples in the order of the data and numbers them."""

  def __init__(self, examples: Iterator, *, count: int, position: Any):
    self._examples, self.count, self.position = examples, count, position

  def take(self, count: int) -> tuple[list[Example], list[str]]:
    """Returns the next examples and their names; fewer if the data ends."""
    taken, names = [], []
    while len(taken) < count and (loaded := next(self._examples, None)):
      (example,) = loaded.examples
      taken.append(example)
      # The count makes the names of an example differ between epochs.
      names.append(f'{self.count}/{example.id}')
      self.count += 1
      self.position = loaded.position
    return taken, names
