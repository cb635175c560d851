"""The key of shape letters, and the records that pass between the parts.

An array's name ends in its shape, one letter a dimension:

  B  rows of a batch (B = P * G)      D  embedding
  P  prompts                          N  query heads
  G  rollouts of each prompt          K  key and value heads
  T  queries: positions of a row      R  query heads of a key head (R = N / K)
  S  keys                             H  size of a head
  L  layers                           F  hidden units of an mlp
  E  experts                          V  vocabulary
  M  tokens laid flat: a group's      J  token and expert pairs
  C  a few of something: positions of a chunk, choices of a router, parts

Row p * G + g of a batch is rollout g of prompt p, so `x_BT.reshape(P, G, T)`
groups a batch without moving it.
"""

import dataclasses

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
  """One thing to predict: what the model reads and what really follows.

  The references are segments in the order of the text, the first the one that
  is asked for: a prediction may mean the same as a prefix of them joined.
  """

  prompt_tokens: np.ndarray  # int32
  references: tuple[str, ...]
  kind: str  # 'asr', 'msr', 'rlvr'
  corpus: str
  document: str
  segment: int

  @property
  def id(self) -> str:
    """Unique among all examples, and the same in every run."""
    return f'{self.corpus}/{self.document}/{self.segment}/{self.kind}'


@dataclasses.dataclass(frozen=True)
class Rows:
  """Packed text: several documents in a row, each a segment of attention.

  `segments_BT` numbers the texts of a row from 1; 0 is padding. `loss_BT` is 1
  where a token is to be predicted from those before it, so never for the first
  of a segment.
  """

  tokens_BT: np.ndarray  # int32
  segments_BT: np.ndarray  # int32
  loss_BT: np.ndarray  # float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """What a policy learns from: P prompts with G completions each.

  Everything is padded on the right; a prompt that left the loss, or is none,
  has no token in `mask_PGT`. `weights_PGT` is the share of each token in the
  loss of the whole batch, so a sum over a part of it is that part's share.
  """

  prompts_PS: np.ndarray | jax.Array  # int32
  prompt_mask_PS: np.ndarray | jax.Array
  tokens_PGT: np.ndarray | jax.Array  # int32
  present_PGT: np.ndarray | jax.Array  # Where there is a token,
  mask_PGT: np.ndarray | jax.Array  # and where it is the policy's and counts.
  behavior_PGT: np.ndarray | jax.Array  # Log-probabilities when sampled.
  advantages_PG: np.ndarray | jax.Array
  weights_PGT: np.ndarray | jax.Array
