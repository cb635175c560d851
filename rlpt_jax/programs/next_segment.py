"""Held-out text as a benchmark: how often the next or the middle segment is
predicted. A gin file says more than a glob does:

  from __gin__ import dynamic_registration
  from rlpt_jax.data import config, sources, tasks
  from rlpt_jax.programs import judges, next_segment
  from rlpt_jax.rewards import judge

  wiki/sources.Files.name = 'wiki'
  wiki/sources.Files.files = 'held_out/*.jsonl'
  config.Data.corpora = [@wiki/sources.Files()]
  config.Data.task = @tasks.rlpt()

  next_segment.NextSegment.data = @config.Data()
  next_segment.NextSegment.reward = @judge.by_probability()
  judge.by_probability.score = @judges.Weighing()
  judges.Weighing.model = 'models/Qwen2.5-7B-Instruct'
"""

import contextlib
import dataclasses
import itertools

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Name
from rlpt_jax.core.types import Example
from rlpt_jax.data import tasks
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.data.sources import Files
from rlpt_jax.rewards import text_match
from rlpt_jax.rewards.scores import Reward

NAME = 'next_segment'


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSegment:
  """Text that was not learned from, and what predictions of it are worth.

  data: its tokenizer is that of each model that is evaluated, its epochs are 1.
  reward: (examples, completions) -> Scores; by default 1 for the very words of
    the next segments. A judge that allows others is named here.
  examples: the first of them in the order of the data.
  together: problems that are judged at a time; a run that is killed has lost
    the answers to so many at most.
  """

  data: Data
  reward: Reward = text_match.text_match(text_match.prefix)
  name: Name = NAME
  examples: Count = 1000
  samples: Count = 1
  together: Count = 64

  def __post_init__(self):
    checks.check_fields(self)


def of_files(glob: str, *, chat: bool = False) -> NextSegment:
  """The files that match, with everything else as it is by default."""
  task = tasks.rlpt(chat=chat)
  return NextSegment(data=Data([Files('held_out', glob)], task))


def read(
  held_out: NextSegment, tokenizer: str, limit: int | None
) -> list[Example]:
  """Its examples, in the tokens of a tokenizer."""
  data = dataclasses.replace(held_out.data, tokenizer=tokenizer, epochs=1)
  count = min(held_out.examples, limit or held_out.examples)
  loader = Loader(data, 1)
  with contextlib.closing(iter(loader)) as batches:
    found = [
      example
      for loaded in itertools.islice(batches, count)
      for example in loaded.examples
    ]
  loader.close()
  return found
