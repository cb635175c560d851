"""The prompts of a run: its data, in order, without solved examples."""

import contextlib
from typing import Any

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.rollout.curriculum import Curriculum


class Prompts:
  """Draws examples in the order of the data, and numbers them.

  count: the number of examples drawn so far, including those drawn before the
    run was resumed.
  """

  def __init__(self, loader: Loader, curriculum: Curriculum, count: int = 0):
    """loader: must give one example at a time; `close` closes it too."""
    self.curriculum, self.count = curriculum, count
    self._loader, self._position = loader, loader.position
    self._batches = iter(loader)
    self._unsolved = curriculum.unsolved(self._batches)

  @property
  def tokenizer(self) -> Tokenizer:
    return self._loader.tokenizer

  def take(self, count: int) -> tuple[list[Example], list[str]]:
    """Returns the next examples and their names; fewer if the data ends."""
    taken, names = [], []
    while len(taken) < count and (loaded := next(self._unsolved, None)):
      (example,) = loaded.examples
      taken.append(example)
      # The count makes the names of an example differ between epochs.
      names.append(f'{self.count}/{example.id}')
      self.count += 1
      self._position = loaded.position
    return taken, names

  def resume(self) -> dict[str, Any]:
    """Returns the record from which a resumed run draws the next examples."""
    return {
      'position': self._position,
      'drawn': self.count,
      'solved': self.curriculum.record,
    }

  def close(self):
    with contextlib.closing(self._batches):
      self._loader.close()


def open_prompts(
  data: Data, max_pass_rate: float | None, record: dict[str, Any]
) -> Prompts:
  """Returns the prompts that follow those drawn before the record was saved."""
  return Prompts(
    Loader(data, 1, position=record.get('position')),
    Curriculum(
      max_pass_rate,
      record.get('solved', ''),
      tuple(record.get('stream', {}).get('draws', (0, 0))),
    ),
    record.get('drawn', 0),
  )
