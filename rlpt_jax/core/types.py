"""The shape letters, and the data types that all parts share.

An array's name ends in its shape, one letter per dimension:

  B  rows of a batch (B = P * G)      D  embedding
  P  prompts                          N  query heads
  G  rollouts of each prompt          K  key and value heads
  T  queries: positions of a row      R  query heads per key head (R = N / K)
  S  keys                             H  size of a head
  L  layers                           F  hidden units of an mlp
  E  experts                          V  vocabulary
  M  the tokens of a group, flat      J  pairs of a token and an expert
  A  shares of a batch, on chips of their own
  C  a small count: positions of a chunk, choices of a router, parts

Row p * G + g of a batch is rollout g of prompt p, so `x_BT.reshape(P, G, T)`
groups a batch without moving data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import struct


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and its reference answers.

  For kind 'asr' (predict the next segment), the references are consecutive
  segments of the text. The first is the one to predict, but a prediction may
  also match the first few, joined. The same holds for tokens
  (masks.next_token).

  notes: extra fields for this example's lines in the rollout file.
  """

  prompt_tokens: np.ndarray  # int32
  references: tuple[str, ...]
  kind: str  # The task, see data/tasks.py: 'asr', 'msr' or 'rlvr'.
  corpus: str
  document: str
  segment: int
  notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def id(self) -> str:
    """An id that is unique among all examples and the same in every run."""
    return f'{self.corpus}/{self.document}/{self.segment}/{self.kind}'


@dataclasses.dataclass(frozen=True)
class Rows:
  """Packed text: each row holds several texts, with separate attention.

  `segments_BT` numbers the texts of a row from 1; 0 is padding. `loss_BT` is 1
  for tokens in the loss, else 0. The first token of a text is never in the
  loss, since there is nothing before it to predict it from.
  """

  tokens_BT: np.ndarray  # int32
  segments_BT: np.ndarray  # int32
  loss_BT: np.ndarray  # float32


@struct.dataclass
class Batch:
  """A batch of RL experience: P prompts with G completions each.

  Everything is padded on the right. A prompt that was left out of the loss, or
  only fills up the batch, has no token in `mask_PGT`. `weights_PGT` is each
  token's weight in the loss of the whole batch, so the losses of microbatches
  sum to that of the batch. `reference_PGT` is set if the loss has a KL term.
  """

  prompts_PS: np.ndarray | jax.Array  # int32
  prompt_mask_PS: np.ndarray | jax.Array
  tokens_PGT: np.ndarray | jax.Array  # int32
  present_PGT: np.ndarray | jax.Array  # True for tokens, False for padding.
  mask_PGT: np.ndarray | jax.Array  # True for sampled tokens in the loss.
  behavior_PGT: np.ndarray | jax.Array  # The behavior log-probabilities.
  advantages_PG: np.ndarray | jax.Array
  weights_PGT: np.ndarray | jax.Array
  # Log-probabilities under the reference policy.
  reference_PGT: np.ndarray | jax.Array | None = None
