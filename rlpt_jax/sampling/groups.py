"""An engine's record of its samples: who waits, who runs, and their tokens."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from rlpt_jax.sampling.requests import Request

NO_TOKENS = np.zeros(0, np.int32)


@dataclasses.dataclass(eq=False)
class Group:
  """Samples of a request that share a prefix, queued or running."""

  ticket: int
  request: Request
  first: int  # The first of its samples.
  fresh: collections.deque[int]  # Samples that never had a slot or tokens.
  # Samples that wait with tokens, which they came with, or had when they were
  # put back.
  begun: dict[int, np.ndarray]
  put_back: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  running: int = 0
  prefix: int | None = None  # Row in the prefix cache; None: not assigned yet.
  shard: int | None = None  # The shard of the batch that has it.
  prompt_version: int = 0  # Version of the weights that computed the prefix.

  @property
  def waiting(self) -> int:
    return len(self.fresh) + len(self.begun) + len(self.put_back)

  def next(self) -> int:
    """The sample that enters a slot next: those with tokens come first."""
    return min([*self.put_back, *self.begun] or self.fresh)

  def tokens(self, sample: int) -> np.ndarray:
    """The tokens that a waiting sample has already."""
    return self.put_back.get(sample, self.begun.get(sample, NO_TOKENS))

  def drop(self, samples: Iterable[int]):
    """Forgets samples that wait."""
    for sample in samples:
      self.put_back.pop(sample, None)
      self.begun.pop(sample, None)
      if sample in self.fresh:
        self.fresh.remove(sample)


@dataclasses.dataclass(eq=False)
class Row:
  """A sample in a slot."""

  group: Group
  sample: int
  age: int  # How many samples had entered a slot before.
  replay: np.ndarray  # The tokens that it had when it was put back.
  new: list[np.ndarray] = dataclasses.field(default_factory=list)


def make_group(
  ticket: int, request: Request, samples: range, begun: Mapping[int, np.ndarray]
) -> Group:
  """Returns a group of some samples of a request.

  begun: the tokens that samples of the request have already.
  """
  fresh = collections.deque(i for i in samples if i not in begun)
  begun = {i: begun[i] for i in samples if i in begun}
  return Group(ticket, request, samples[0], fresh, begun)
