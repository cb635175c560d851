"""Examples that the policy can do already are not sampled again."""

import base64
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from rlpt_jax.core.types import Example

# So many in a row that are solved, for each that is known to be and for a few
# more, mean that nothing else is left. A mixture may ask a small corpus that is
# solved many times before it asks a large one.
PATIENCE_EACH, PATIENCE = 10, 1000


class Curriculum:
  """ScaleRL's no-positive-resampling (arXiv 2510.13786, section 4).

  An example whose latest group had a pass rate of at least `max_pass_rate` is
  passed over from its next epoch on, for ever: nobody samples it again, so the
  history is who they are, eight bytes of a digest each (11 MB of a checkpoint's
  record for a million; two of these are taken for one with a chance of 3e-8).
  The pass rate is the share of positive rewards among the verdicts, TRL's
  choice; a group without any verdict changes nothing.
  """

  def __init__(self, max_pass_rate: float | None, record: str = ''):
    """max_pass_rate: None for no curriculum; record: what an earlier run has
    said of itself.
    """
    self._max_pass_rate = max_pass_rate
    digests = np.frombuffer(base64.b64decode(record), '<u8')
    self._solved: set[int] = set(digests.tolist())
    self._given = self._skipped = 0  # Since metrics were asked for.

  @property
  def record(self) -> str:
    """The history; the same for the same examples in whatever order."""
    digests = np.fromiter(self._solved, '<u8', len(self._solved))
    return base64.b64encode(np.sort(digests).tobytes()).decode()

  def unsolved(self, batches: Iterator) -> Iterator:
    """What a Loader gives, one example at a time, but those that are solved.

    Ends where nothing else comes any more.
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
    """Takes what the groups of some examples were rewarded with."""
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
    """Of a step: the share that was passed over; and how many are solved."""
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
