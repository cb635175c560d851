"""What a reward returns: a number and a reason for every completion.

A reward is any callable (examples, completions) -> Scores, for P examples and P
lists of G completions. Reasons are there because a number cannot say why it is
0: a run whose reward falls has learnt nothing, or forgotten its tags, or met a
verifier that is down, and only their counts tell these apart.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlpt_jax.core.types import Example


@dataclasses.dataclass(frozen=True)
class Scores:
  """Rewards, NaN where there is no verdict, and a word or two for each.

  The reasons are few and fixed, to be counted: 'right', 'format/empty'. `parts`
  holds what these scores were combined from, by name. `answers_PG` holds what a
  judge answered, word for word, and None where it was not asked.
  """

  rewards_PG: np.ndarray  # float32
  reasons_PG: np.ndarray  # str
  parts: Mapping[str, 'Scores'] = dataclasses.field(default_factory=dict)
  answers_PG: np.ndarray | None = None  # object

  def __post_init__(self):
    assert self.rewards_PG.dtype == np.float32, self.rewards_PG.dtype
    assert self.rewards_PG.ndim == 2, self.rewards_PG.shape
    assert self.rewards_PG.shape == self.reasons_PG.shape
    if np.isinf(self.rewards_PG).any():
      raise ValueError(
        'a reward is infinite; expected a number, or NaN for no verdict. Its '
        f'reason: {self.reasons_PG[np.isinf(self.rewards_PG)][0]!r}.'
      )

  def counts(self) -> dict[str, int]:
    """How many completions there are of every reason, the most first."""
    reasons = collections.Counter(self.reasons_PG.ravel().tolist())
    return dict(reasons.most_common())


Reward = Callable[[Sequence[Example], Sequence[Sequence[str]]], Scores]


class Verdict(NamedTuple):
  """On one completion: NaN if there is none, why, and a judge's answer."""

  reward: float
  reason: str
  answer: str | None = None


def each(judge: Callable[[Example, str], Verdict]) -> Reward:
  """The reward that asks `judge` about one completion at a time."""

  def reward(examples, completions):
    check_groups(examples, completions)
    verdicts = [
      judge(example, text)
      for example, group in zip(examples, completions, strict=True)
      for text in group
    ]
    return grouped(verdicts, len(examples))

  return reward


def grouped(verdicts: Sequence[Verdict], num_prompts: int) -> Scores:
  """The scores of a flat list: rollout g of prompt p is number p * G + g."""
  shape = (num_prompts, len(verdicts) // max(num_prompts, 1))
  rewards = np.array([verdict.reward for verdict in verdicts], np.float32)
  reasons = np.array([verdict.reason for verdict in verdicts], np.str_)
  answers_PG = None
  if any(verdict.answer is not None for verdict in verdicts):
    answers_PG = np.array([v.answer for v in verdicts], object).reshape(shape)
  return Scores(
    rewards.reshape(shape), reasons.reshape(shape), answers_PG=answers_PG
  )


def check_groups(
  examples: Sequence[Example], completions: Sequence[Sequence[str]]
) -> None:
  """Raises unless there is a group for every example, all of one size."""
  if len(completions) != len(examples):
    raise ValueError(
      f'{len(examples)} examples but {len(completions)} groups of completions; '
      'expected one group for every example.'
    )
  sizes = sorted({len(group) for group in completions})
  if len(sizes) > 1:
    raise ValueError(
      f'groups of {sizes[0]} and of {sizes[-1]} completions; expected the same '
      'number for every example. Give each its own call.'
    )
