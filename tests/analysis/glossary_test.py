"""No word that a reward says is unknown to a reader."""

import pathlib
import re

from rlpt_jax import rewards
from rlpt_jax.analysis import glossary
from rlpt_jax.data import masks
from rlpt_jax.rollout import game

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


def test_every_reason_of_a_span_is_explained():
  sources = (masks.__file__, game.__file__)
  text = ''.join(pathlib.Path(path).read_text('utf-8') for path in sources)
  found = {
    *re.findall(r"return '([a-z_]+)'", text),
    *re.findall(r"Choice\(None, '([a-z_]+)'\)", text),
    *re.findall(r"return '([a-z_]+)' if", text),
    *re.findall(r" else '([a-z_]+)'", text),
  }
  assert {'not_found', 'cut', 'prompt_too_long', 'nobody', 'some'} <= found
  assert found <= glossary.SPANS.keys()
