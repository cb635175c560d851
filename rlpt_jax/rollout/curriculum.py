"""Skips examples that the policy already solves."""

import base64
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from rlpt_jax.core.types import Example

# After so many solved examples in a row, the data counts as ended:
# PATIENCE_EACH for each example known to be solved, plus PATIENCE. The number
# is large because a mixture may draw from a small, solved corpus many times
# before it draws from a large one.
PATIENCE_EACH, PATIENCE = 10, 1000


class Curriculum:
  """ScaleRL's no-positive-resampling (arXiv 2510.13786, section 4).

  An example whose latest group had a pass rate of at least `max_pass_rate` is
  skipped from its next epoch on. Since it is never sampled again, it stays
  solved, so a set of the solved examples is all that must be kept. Each is a
  digest of 8 bytes: a million of them take 11 MB in the record of a checkpoint,
  and the chance that any two are equal is 3e-8. The pass rate is the share of
  positive rewards among the verdicts, as in TRL; a group without verdicts
  changes nothing.
  """

  def __init__(
    self,
    max_pass_rate: float | None,
    record: str = '',
    draws: tuple[int, int] = (0, 0),
  ):
    """Continues from the `record` of an earlier run, if there is one.

    max_pass_rate: None disables the curriculum.
    draws: the examples that the earlier run had given and skipped since its
      last call of metrics().
    """
    self._max_pass_rate = max_pass_rate
    digests = np.frombuffer(base64.b64decode(record), '<u8')
    self._solved: set[int] = set(digests.tolist())
    self._given, self._skipped = draws  # Since the last call of metrics().

  @property
  def record(self) -> str:
    """The solved examples as base64; does not depend on their order."""
    digests = np.fromiter(self._solved, '<u8', len(self._solved))
    return base64.b64encode(np.sort(digests).tobytes()).decode()

  @property
  def draws(self) -> tuple[int, int]:
    """The examples given and skipped since the last call of metrics()."""
    return self._given, self._skipped

  def unsolved(self, batches: Iterator) -> Iterator:
    """Yields a Loader's batches, one example each; skips solved examples.

    Ends when only solved examples seem to be left: see PATIENCE.
    """
    in_a_row = 0
    for loaded in batches:
      (example,) = loaded.examples
      if self._solved and _digest(example) in self._solved:
        self._skipped += 1
        in_a_row += 1
        if in_a_row >= PATIENCE_EACH * len(self._solved) + PATIENCE:
          return
        continue
      in_a_row = 0
      self._given += 1
      yield loaded

  def note(self, examples: Sequence[Example], rewards_PG: np.ndarray):
    """Marks examples as solved or unsolved, according to their rewards."""
    if self._max_pass_rate is None:
      return
    for example, rewards_G in zip(examples, rewards_PG, strict=True):
      verdicts = rewards_G[~np.isnan(rewards_G)]
      if not len(verdicts):
        continue
      if np.mean(verdicts > 0) >= self._max_pass_rate:
        self._solved.add(_digest(example))
      else:
        self._solved.discard(_digest(example))

  def metrics(self) -> dict[str, float]:
    """Returns the share skipped since the last call, and the number solved."""
    if self._max_pass_rate is None:
      return {}
    given, skipped = self._given, self._skipped
    self._given = self._skipped = 0
    return {
      'curriculum/skipped_share': skipped / max(given + skipped, 1),
      'curriculum/solved': len(self._solved),
    }


def _digest(example: Example) -> int:
  name = example.id.encode('utf-8', 'surrogatepass')
  digest = hashlib.blake2b(name, digest_size=8).digest()
  return int.from_bytes(digest, 'little')
