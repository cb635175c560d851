"""Rewards combined from others; the scores of each part are kept for the log.

No exception is caught here: a reward that raises stops the run.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import Reward, Scores


def weighted(rewards: Mapping[str, tuple[Reward, float]]) -> Reward:
  """Returns the sum of weight * reward over {name: (reward, weight)}.

  If one part has no verdict, the sum has none: without that part, some
  completions of a group would be rewarded on another scale. A part of weight 0
  is only recorded: it is computed and kept, and needs no verdict.
  """
  checks.check_arguments(weighted, locals())
  if not rewards:
    raise ValueError('no rewards to combine; expected {name: (reward, weight)}')

  def combined(examples, completions):
    parts = {
      name: scores.ask(reward, examples, completions)
      for name, (reward, _) in rewards.items()
    }
    first = next(iter(parts.values()))
    total_PG = np.zeros_like(first.rewards_PG)
    reasons_PG = np.full(total_PG.shape, 'scored', object)
    # Reversed, so that the first part without a verdict gives the reason.
    for name, (_, weight) in reversed(rewards.items()):
      if weight == 0:
        continue
      part = parts[name]
      total_PG = total_PG + np.float32(weight) * part.rewards_PG
      for place in zip(*np.nonzero(np.isnan(part.rewards_PG)), strict=True):
        reasons_PG[place] = f'{name}/{part.reasons_PG[place]}'
    return Scores(total_PG, reasons_PG.astype(np.str_), parts)

  return combined


def by_kind(rewards: Mapping[str, Reward]) -> Reward:
  """Returns the reward that scores each example with rewards[example.kind].

  A part of its scores holds only the rows of that kind, in order.
  """
  checks.check_arguments(by_kind, locals())

  def combined(examples, completions):
    scores.check_groups(examples, completions)
    kinds = [example.kind for example in examples]
    if unknown := sorted(set(kinds) - set(rewards)):
      raise ValueError(
        f'examples of kind {unknown[0]!r}, but rewards for '
        f'{sorted(rewards)} only. Add one for it.'
      )
    verdicts: list = [None] * len(examples)
    parts = {}
    for kind, reward in rewards.items():
      rows = [p for p, found in enumerate(kinds) if found == kind]
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

  return combined
