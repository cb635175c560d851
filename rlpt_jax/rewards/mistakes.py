"""Makes a reward err on purpose, to measure what errors do to learning."""

import dataclasses
import hashlib

import numpy as np

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Natural, Share
from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.scores import Reward, RewardFn, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erring(Reward):
  """Changes some of the verdicts of a reward of 0 and 1.

  An error depends on the example and on the answer that is judged, so an answer
  gets the same verdict however often it is given, as from a judge without
  temperature. Completions without an answer keep their reward, since a judge
  is not asked about them.

  accepts: the share of rejected answers that are accepted.
  rejects: the share of accepted answers that are rejected.
  find: finds the answer in a completion.
  """

  reward: RewardFn
  accepts: Share = 0.0
  rejects: Share = 0.0
  find: extract.Extract = extract.prediction
  seed: Natural = 0

  def __post_init__(self):
    checks.check_fields(self)

  def __call__(self, examples, completions) -> Scores:
    scored = scores.ask(self.reward, examples, completions)
    rewards_PG = scored.rewards_PG.copy()
    reasons_PG = scored.reasons_PG.astype(object)
    for (p, g), reward in np.ndenumerate(scored.rewards_PG):
      share = {0.0: self.accepts, 1.0: self.rejects}.get(float(reward), 0.0)
      if share and self._errs(examples[p], completions[p][g], share):
        rewards_PG[p, g] = 1 - reward
        reasons_PG[p, g] = 'mistake/' + ('rejected' if reward else 'accepted')
    return dataclasses.replace(
      scored, rewards_PG=rewards_PG, reasons_PG=reasons_PG.astype(str)
    )

  def _errs(self, example: Example, completion: str, share: float) -> bool:
    answer = self.find(completion).text
    if answer is None:
      return False
    content = '\0'.join((str(self.seed), example.id, answer))
    digest = hashlib.blake2b(
      content.encode('utf-8', 'surrogatepass'), digest_size=8
    ).digest()
    return int.from_bytes(digest) < share * 2**64
