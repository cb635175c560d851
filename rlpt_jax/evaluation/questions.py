"""Loads the benchmarks of `rlpt evaluate`, and tokenizes them for a model."""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from rlpt_jax.completions import tokenized
from rlpt_jax.completions.prompt_files import Prompt
from rlpt_jax.core import settings
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.data import benchmarks
from rlpt_jax.data.benchmarks import Loaded
from rlpt_jax.evaluation import next_segment
from rlpt_jax.evaluation.next_segment import NextSegment
from rlpt_jax.rewards.brackets import Brackets
from rlpt_jax.rewards.choice import Choice
from rlpt_jax.rewards.final_answer import final_answer
from rlpt_jax.rewards.math_verifier import MathVerifier
from rlpt_jax.rewards.scores import Reward, RewardFn, Scores

# The verifier gives these reasons if it could not finish checking an answer. In
# training, such an answer gets reward 0, so that a policy gains nothing by it
# (see math_verifier). Here it has no verdict.
UNFINISHED = ('timeout', 'memory', 'crash')


@dataclasses.dataclass(frozen=True)
class Questions:
  """The problems of one benchmark, for one model."""

  name: str
  ids: Sequence[str]
  prompts: Sequence[str]  # As text.
  examples: Sequence[Example]  # With the tokens that the model reads.
  groups: Sequence[str]
  samples: int
  reward: RewardFn
  together: int = 1  # The number of problems that are judged at the same time.

  @functools.cached_property
  def digest(self) -> str:
    """The number of problems, and a hash of problems, tokens and scorer."""
    sha256 = hashlib.sha256()
    for id, example in zip(self.ids, self.examples, strict=True):
      ids = example.prompt_tokens.tolist()
      sha256.update(json.dumps([id, ids, example.references]).encode())
    scorer = json.dumps(settings.describe(self.reward), sort_keys=True)
    sha256.update(scorer.encode())
    return f'{len(self.ids)}, sha256 {sha256.hexdigest()[:16]}'


def load(
  wanted: Sequence[str | NextSegment],
  folder: pathlib.Path | None,
  *,
  chat: bool,
) -> list[Loaded | NextSegment]:
  """Loads benchmarks given by NAME, by NAME=PLACE, or as held-out text."""
  loaded = []
  for one in wanted:
    if isinstance(one, str):
      name, _, place = one.partition('=')
      if name == next_segment.NAME:
        if not place:
          raise ValueError(
            f'{name}: no text is given. Expected {name}=FILES, or a .gin file.'
          )
        one = next_segment.of_files(place, chat=chat)
      else:
        one = benchmarks.load(name, folder, place)
    loaded.append(one)
  if not loaded:
    raise ValueError(
      f'--benchmarks: expected one or more of {", ".join(benchmarks.NAMES)}, '
      f'{next_segment.NAME}=FILES, or .gin files of held-out text.'
    )
  names = [name_of(one) for one in loaded]
  if twice := {name for name in names if names.count(name) > 1}:
    raise ValueError(
      f'--benchmarks: {", ".join(sorted(twice))} is given twice; expected '
      'each once. Set NextSegment.name to give held-out text another name.'
    )
  return loaded


def name_of(benchmark: Loaded | NextSegment) -> str:
  if isinstance(benchmark, NextSegment):
    return benchmark.name
  return benchmark.benchmark.name


class Scorers:
  """The scorers of benchmarks: created at first use, closed together."""

  def __init__(self):
    self._made: dict[str, Reward] = {}

  def __getitem__(self, scorer: benchmarks.Scorer) -> Reward:
    if scorer not in self._made:
      self._made[scorer] = {
        'math': lambda: MathVerifier(find=final_answer),
        'number': lambda: MathVerifier(
          find=functools.partial(final_answer, number=True)
        ),
        'choice': Choice,
        'brackets': Brackets,
      }[scorer]()
    return self._made[scorer]

  def close(self):
    for scorer in self._made.values():
      scorer.close()


def ask(
  benchmark: Loaded | NextSegment,
  scorers: Scorers,
  tokenizer: Tokenizer,
  *,
  source: str,
  chat: bool,
  n: int | None,
  limit: int | None,
) -> Questions:
  """Returns the questions of a benchmark, tokenized for a model.

  source: where `tokenizer` was loaded from.
  """
  if isinstance(benchmark, NextSegment):
    examples = next_segment.read(benchmark, source, limit)
    return Questions(
      benchmark.name,
      [example.id for example in examples],
      [tokenizer.decode(e.prompt_tokens.tolist()) for e in examples],
      examples,
      [example.kind for example in examples],
      n or benchmark.samples,
      benchmark.reward,
      benchmark.together,
    )
  row, problems = benchmark.benchmark, benchmark.problems[:limit]
  examples = []
  for i, problem in enumerate(problems):
    prompt = Prompt(problem.id, {'prompt': problem.prompt})
    tokens = tokenized.tokens_of(prompt, tokenizer, chat)
    examples.append(
      Example(
        np.array(tokens, np.int32), problem.references, row.name, row.name,
        problem.id, i,
      )
    )  # fmt: skip
  return Questions(
    row.name,
    [problem.id for problem in problems],
    [problem.prompt for problem in problems],
    examples,
    [problem.group for problem in problems],
    n or row.samples,
    scorers[row.scorer],
  )


def without_unfinished(scores: Scores) -> Scores:
  """Returns the scores, with NaN where the verifier did not finish."""
  unfinished = np.isin(scores.reasons_PG, UNFINISHED)
  rewards_PG = np.where(unfinished, np.float32(math.nan), scores.rewards_PG)
  return dataclasses.replace(scores, rewards_PG=rewards_PG)
