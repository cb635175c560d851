"""Settings for sampling completions, to learn from or to evaluate."""

import dataclasses
from collections.abc import Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import (
  Count,
  Name,
  Natural,
  NonNegative,
  PositiveShare,
  Share,
)
from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.sampling import requests
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import SampleGroup
from rlpt_jax.sampling.table import Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interruption:
  """Makes a model stop thinking and answer (ScaleRL, section 4).

  phrase: text that is inserted after a random number of tokens. The tokens of
    the phrase are not in the loss.
  after: the smallest and the largest value of this random number; all values
    between them are equally likely.
  answer: the number of tokens left for the answer after the phrase.
  unless: a completion that has this text already is not interrupted. The search
    compares tokens, so the tokenizer should always encode the text in the same
    way.
  """

  phrase: Name = (
    'Okay, time is up. Let me stop thinking and formulate a final answer now. '
    '</think>'
  )
  after: tuple[Natural, Natural] = (10240, 12288)
  answer: Count = 2048
  unless: str = '</think>'

  def __post_init__(self):
    checks.check_fields(self)
    if self.after[0] > self.after[1]:
      raise checks.setting_error(
        type(self), 'after', self.after, 'the smaller number first'
      )

  def in_tokens(self, tokenizer: Tokenizer) -> requests.Interruption:
    return requests.Interruption(
      phrase=tuple(tokenizer.encode(self.phrase)),
      after=tuple(self.after),
      answer=self.answer,
      unless=tuple(tokenizer.encode(self.unless)),
    )


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings, for training or for held-out examples.

  stop: texts that end a completion, in addition to EOS.
  """

  samples: Count = 8
  max_new_tokens: Count = 1024
  temperature: NonNegative = 1.0
  top_k: Natural = 0
  top_p: PositiveShare = 1.0
  min_p: Share = 0.0
  stop: tuple[Name, ...] = ()
  interruption: Interruption | None = None

  def __post_init__(self):
    checks.check_fields(self)

  def check_learnable(self):
    """Raises if the policy cannot be trained on samples with these settings.

    At temperature 0, all samples of a group are the same. With top_k, top_p or
    min_p, they come from a distribution that the learner does not compute.
    """
    if not self.temperature > 0:
      raise checks.setting_error(
        type(self), 'temperature', self.temperature,
        'more than 0 for training, or all samples of a group are the same',
      )  # fmt: skip
    if (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0):
      raise ValueError(
        f'Config.sampling: top_k={self.top_k}, top_p={self.top_p}, '
        f'min_p={self.min_p}: expected 0, 1 and 0: the learner compares the '
        'samples with the whole distribution. Use filters in HeldOut.sampling '
        'only.'
      )

  def interrupted(self, tokenizer: Tokenizer) -> requests.Interruption | None:
    """Tokenizes the interruption; raises if max_new_tokens is too small."""
    if self.interruption is None:
      return None
    forced = self.interruption.in_tokens(tokenizer)
    longest = forced.after[1] + len(forced.phrase) + forced.answer
    if self.max_new_tokens < longest:
      raise ValueError(
        f'Sampling.max_new_tokens={self.max_new_tokens}: expected at least '
        f'{longest}: {forced.after[1]} tokens before the interruption, '
        f'{len(forced.phrase)} of its phrase, {forced.answer} of an answer.'
      )
    return forced

  def group(
    self, example: Example, name: str, tokenizer: Tokenizer, seed: int
  ) -> SampleGroup:
    """Returns the samples of an example, none of which has a token yet."""
    request = self.request(example, name, tokenizer, seed)
    return SampleGroup(request, tokenizer, self.stop)

  def request(
    self, example: Example, name: str, tokenizer: Tokenizer, seed: int
  ) -> Request:
    """Returns an example's request; `name` and `seed` seed its samples."""
    return Request(
      prompt_tokens=tuple(example.prompt_tokens.tolist()),
      id=name,
      samples=self.samples,
      seed=seed,
      stops=tuple((eos,) for eos in tokenizer.eos_ids),
      interruption=self.interrupted(tokenizer),
      **requests.sampling_fields(self),
    )


def sizes(samplings: Sequence[Sampling], tokenizer: Tokenizer) -> Sizes:
  """Returns the sizes that an engine needs for all of these settings."""
  forced = [x for s in samplings if (x := s.interrupted(tokenizer))]
  return Sizes(
    stops=max(1, len(tokenizer.eos_ids)),
    stop_tokens=max([1, *(len(x.unless) for x in forced)]),
    phrase_tokens=max([1, *(len(x.phrase) for x in forced)]),
  )
