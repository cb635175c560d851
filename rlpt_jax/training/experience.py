"""Turns completions and their rewards into arrays that a policy learns from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rlpt_jax.core.types import Batch
from rlpt_jax.training.lengths import halves


class Sampled(Protocol):
  """The fields of a completion that learning needs."""

  tokens: np.ndarray
  logprobs: np.ndarray  # Under the distribution that was sampled from.
  is_own: np.ndarray  # False: forced, not sampled.


@dataclasses.dataclass(frozen=True)
class Group:
  """A prompt, its completions and the reward of each.

  A reward of NaN means no verdict, or a completion that must not be learned
  from.
  """

  prompt_tokens: Sequence[int]
  completions: Sequence[Sampled]
  rewards_G: np.ndarray


def padded(length: int, longest: int) -> int:
  """The smallest of `longest`, its half, its quarter, ... that is >= `length`.

  XLA compiles an update for every length, in seconds for the smallest model on
  a CPU and minutes for a large one. The longest rollout of a batch is usually
  near the limit, so most runs compile only one update. If it is much shorter,
  halving the length limits the padding.
  """
  assert length <= longest, (length, longest)
  return min(half for half in halves(longest) if half >= length)


def make_batch(
  groups: Sequence[Group],
  *,
  num_prompts: int,
  num_samples: int | None = None,
  reduction: Callable,
  longest: tuple[int, int],
  share_prompt: bool = True,
) -> Batch:
  """Makes a batch of groups, with a shape that rarely changes between steps.

  Its advantages are 0; they are filled in later.

  num_prompts: number of prompts of the batch. If there are fewer groups, empty
    prompts fill it up; they have no tokens in the loss.
  num_samples: the number of completions of a prompt; by default, that of the
    first group. Without groups, all prompts are empty.
  reduction: (mask_BT, group size) -> weights_BT.
  longest: the maximum numbers of tokens of a prompt and of a completion.
  share_prompt: True if the update computes a prompt once for its group, False
    if it does so in every row.
  """
  assert len(groups) <= num_prompts, (len(groups), num_prompts)
  P, G = num_prompts, num_samples or len(groups[0].completions)
  S, T = _lengths(groups, longest, prompts=1 if share_prompt else G, G=G)
  prompts_PS = np.zeros((P, S), np.int32)
  prompt_mask_PS = np.zeros((P, S), np.int32)
  # An empty prompt has a token too: attention to no keys is undefined.
  prompt_mask_PS[:, 0] = 1
  tokens_PGT = np.zeros((P, G, T), np.int32)
  present_PGT, own_PGT = (np.zeros((P, G, T), bool) for _ in range(2))
  behavior_PGT = np.zeros((P, G, T), np.float32)
  rewards_PG = np.full((P, G), np.nan, np.float32)
  for p, group in enumerate(groups):
    length = len(group.prompt_tokens)
    prompts_PS[p, :length], prompt_mask_PS[p, :length] = group.prompt_tokens, 1
    rewards_PG[p] = group.rewards_G
    for g, completion in enumerate(group.completions):
      length = len(completion.tokens)
      tokens_PGT[p, g, :length] = completion.tokens
      present_PGT[p, g, :length] = True
      own_PGT[p, g, :length] = completion.is_own
      behavior_PGT[p, g, :length] = completion.logprobs
  # The loss and its denominators leave out completions without a verdict.
  mask_PGT = own_PGT & ~np.isnan(rewards_PG)[..., None]
  weights_BT = reduction(mask_PGT.reshape(P * G, T), G)
  return Batch(
    prompts_PS=prompts_PS,
    prompt_mask_PS=prompt_mask_PS,
    tokens_PGT=tokens_PGT,
    present_PGT=present_PGT,
    mask_PGT=mask_PGT,
    behavior_PGT=behavior_PGT,
    advantages_PG=np.zeros((P, G), np.float32),
    weights_PGT=np.asarray(weights_BT, np.float32).reshape(P, G, T),
  )


def _lengths(
  groups: Sequence[Group], longest: tuple[int, int], *, prompts: int, G: int
) -> tuple[int, int]:
  """Returns the padded lengths of prompts and completions.

  prompts: how often an update computes the prompt of a group.
  """
  completions = [c for group in groups for c in group.completions]
  # Without groups, the longest: another shape would compile another program.
  T = max((len(c.tokens) for c in completions), default=longest[1])
  S = max((len(group.prompt_tokens) for group in groups), default=longest[0])
  T, S = padded(T, longest[1]), padded(S, longest[0])
  # A shorter prompt length must save an eighth of a group's computation to be
  # worth compiling another program.
  if 8 * prompts * (longest[0] - S) < prompts * longest[0] + G * T:
    S = longest[0]
  return S, T


def weighted(batches: Sequence[Batch], reduction: Callable) -> list[Batch]:
  """Returns batches with the weights that they would have as one batch.

  The sum of their losses is the loss of all rows together, though each keeps
  its own lengths and numbers of samples.
  """
  G, T = (
    max(batch.mask_PGT.shape[axis] for batch in batches) for axis in (1, 2)
  )
  masks = []
  for batch in batches:
    _, own_G, own_T = batch.mask_PGT.shape
    masks.append(
      np.pad(batch.mask_PGT, ((0, 0), (0, G - own_G), (0, T - own_T)))
    )
  mask_PGT = np.concatenate(masks)
  weights_BT = reduction(mask_PGT.reshape(-1, T), G)
  weights_PGT = np.asarray(weights_BT, np.float32).reshape(mask_PGT.shape)
  ends = np.cumsum([len(mask) for mask in masks])[:-1]
  return [
    dataclasses.replace(
      batch, weights_PGT=weights[:, : batch.mask_PGT.shape[1],
                                 : batch.mask_PGT.shape[2]]
    )
    for batch, weights in zip(batches, np.split(weights_PGT, ends), strict=True)
  ]  # fmt: skip
