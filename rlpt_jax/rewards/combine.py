"""Rewards combined from others; the scores of each part are kept for the log.

No exception is caught here: a reward that raises stops the run.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.types import Example
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import Reward, RewardFn, Scores

_NUMBER = re.compile(
  r'\s*[-+−]?\s*[$€£]?\s*(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?\s*%?\s*'
)


@dataclasses.dataclass(frozen=True)
class Weighted(Reward):
  """The sum of weight * reward over {name: (reward, weight)}.

  If one part has no verdict (NaN), the sum has none, because a sum without that
  part would be on a different scale from the other sums of its group. A part of
  weight 0 is computed and kept for the log, but does not affect the sum, even
  if it has no verdict.
  """

  rewards: Mapping[str, tuple[RewardFn, float]]

  def __post_init__(self):
    checks.check_fields(self)
    if not self.rewards:
      raise ValueError(
        'no rewards to combine; expected {name: (reward, weight)}'
      )

  def __call__(self, examples, completions) -> Scores:
    parts = {
      name: scores.ask(reward, examples, completions)
      for name, (reward, _) in self.rewards.items()
    }
    first = next(iter(parts.values()))
    total_PG = np.zeros_like(first.rewards_PG)
    reasons_PG = np.full(total_PG.shape, 'scored', object)
    # Reversed, so that the first part without a verdict gives the reason.
    for name, (_, weight) in reversed(self.rewards.items()):
      if weight == 0:
        continue
      part = parts[name]
      total_PG = total_PG + np.float32(weight) * part.rewards_PG
      for place in zip(*np.nonzero(np.isnan(part.rewards_PG)), strict=True):
        reasons_PG[place] = f'{name}/{part.reasons_PG[place]}'
    return Scores(total_PG, reasons_PG.astype(np.str_), parts)


@dataclasses.dataclass(frozen=True)
class ByKind(Reward):
  """Scores each example with rewards[example.kind].

  In the result, `parts[kind]` holds the scores of that kind's examples only, in
  order.
  """

  rewards: Mapping[str, RewardFn]

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    kinds = [example.kind for example in examples]
    if unknown := sorted(set(kinds) - set(self.rewards)):
      raise ValueError(
        f'examples of kind {unknown[0]!r}, but rewards for '
        f'{sorted(self.rewards)} only. Add a reward for that kind.'
      )
    return _chosen(self.rewards, kinds, examples, completions)


@dataclasses.dataclass(frozen=True)
class ByReference(Reward):
  """Scores with `number` where the reference is a number, else with `text`.

  A verifier of numbers is exact and free; a judge compares everything else, for
  which 'the red ones' and 'those that are red' are the same. A number with a
  unit is a text, since the unit may differ.

  In the result, `parts` has the scores of each.
  """

  number: RewardFn
  text: RewardFn

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    kinds = [
      'number' if _NUMBER.fullmatch(example.references[0]) else 'text'
      for example in examples
    ]
    rewards = {'number': self.number, 'text': self.text}
    return _chosen(rewards, kinds, examples, completions)


def _chosen(
  rewards: Mapping[str, RewardFn],
  kinds: Sequence[str],
  examples: Sequence[Example],
  completions: Sequence[Sequence[str]],
) -> Scores:
  """Scores each example with the reward of its kind, and keeps the parts."""
  verdicts: list = [None] * len(examples)
  parts = {}
  for kind, reward in rewards.items():
    rows = [p for p, own_kind in enumerate(kinds) if own_kind == kind]
    if not rows:
      continue
    part = parts[kind] = scores.ask(
      reward, [examples[p] for p in rows], [completions[p] for p in rows]
    )
    for p, rewards_G, reasons_G in zip(
      rows, part.rewards_PG, part.reasons_PG, strict=True
    ):
      verdicts[p] = map(scores.Verdict, rewards_G, reasons_G)
  flat = [verdict for group in verdicts for verdict in group]
  together = scores.grouped(flat, len(examples))
  return dataclasses.replace(together, parts=parts)
