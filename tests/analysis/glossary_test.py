"""No word that a reward says is unknown to a reader."""

import pathlib
import re

from rlpt_jax import rewards
from rlpt_jax.analysis import glossary

REASON = re.compile(
  r"Verdict\([^()]*, '([a-z/]+)'\)|'((?:format|judge|gold|likelihood)/\w+)'"
)


def test_every_reason_of_a_reward_is_explained():
  sources = pathlib.Path(rewards.__file__).parent.glob('*.py')
  found = {
    first or second
    for path in sources
    for first, second in REASON.findall(path.read_text('utf-8'))
  }
  assert {'right', 'short', 'format/open', 'judge/failed'} <= found
  assert found <= glossary.REASONS.keys()
