"""Held-out text as a benchmark: the model predicts the next or middle segment.

`next_segment=FILES` takes a glob, and uses the default settings. A gin file can
set all of them:

  wiki/sources.Files.name = 'wiki'
  wiki/sources.Files.files = 'held_out/*.jsonl'
  config.Data.corpora = [@wiki/sources.Files()]
  config.Data.task = @tasks.rlpt()

  next_segment.NextSegment.data = @config.Data()
  next_segment.NextSegment.reward = @judge.ByProbability()
  judge.ByProbability.score = @judges.Weighing()
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
from rlpt_jax.rewards.scores import RewardFn

NAME = 'next_segment'


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSegment:
  """A benchmark of held-out text, with the reward that scores its predictions.

  data: the held-out text. Its tokenizer is replaced by that of each model, and
    its epochs by 1.
  reward: (examples, completions) -> Scores. By default 1 for the exact words of
    the next segments; set a judge to accept other wordings.
  examples: how many examples to use, from the beginning of the data.
  together: the number of problems that are judged at the same time. A killed
    run loses the answers that are not judged yet.
  """

  data: Data
  reward: RewardFn = text_match.TextMatch(text_match.prefix)
  name: Name = NAME
  examples: Count = 1000
  samples: Count = 1
  together: Count = 64

  def __post_init__(self):
    checks.check_fields(self)


def of_files(glob: str, *, chat: bool = False) -> NextSegment:
  """Returns the benchmark of the matching files, with default settings."""
  task = tasks.rlpt(chat=chat)
  return NextSegment(data=Data([Files('held_out', glob)], task))


def read(
  held_out: NextSegment, tokenizer: str, limit: int | None
) -> list[Example]:
  """Reads the examples, at most `limit`, with the given tokenizer."""
  data = dataclasses.replace(held_out.data, tokenizer=tokenizer, epochs=1)
  count = min(held_out.examples, limit or held_out.examples)
  loader = Loader(data, 1)
  with contextlib.closing(iter(loader)) as batches:
    examples = [
      example
      for loaded in itertools.islice(batches, count)
      for example in loaded.examples
    ]
  loader.close()
  return examples
