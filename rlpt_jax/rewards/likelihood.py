"""Rewards without a judge: the likelihood of the text that really follows, with
and without the policy's reasoning in the context.

With x the prompt, c the reasoning (a completion up to and including the tag
that opens its prediction), y the reference and n its length:

  with_(c) = log p(y | x, c)      without = log p(y | x, tag)

  information_gain   (with_ - without) / n
      RLP (2510.01265): r(c) = log p(y | x, c) - log p(y | x); there y is one
      token, and a moving average of the policy gives `without`.
  perplexity_gain    100 * (1 - exp(-with_ / n) / exp(-without / n))
      VR-CLI (2503.22828): I = 100 * (1 - PPL(y | x, c) / PPL(y | x)), where a
      frozen copy of the policy gives PPL. The reward is 0 for I below 0.05, 0.5
      below 1, 0.9 below 2, and 1 from 2 on: see `steps`.
  probability        exp(with_ / n)
      VeriFree (2505.21493): r(c) = p(y | x, c), so n = 1 there. Choose n = 1
      for short answers only: for any long text it gives 0 (2602.03979).

n is the number of tokens of y (`per_token`), its number of bytes (`per_byte`),
or 1 (`whole`). The caller chooses the model that gives p: the policy, a frozen
copy or a moving average of it. In both cases, with and without reasoning, y is
tokenized by itself and follows the tag.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from rlpt_jax.core import checks
from rlpt_jax.rewards import extract, scores
from rlpt_jax.rewards.judge import Reference, asked
from rlpt_jax.rewards.scores import Reward, Scores, Verdict

# (contexts, continuations) of token ids -> each continuation's log-probability.
Logprob = Callable[[list[list[int]], list[list[int]]], Sequence[float]]
# (with, without), each divided by the length -> reward.
Gain = Callable[[float, float], float]
# (tokens of a text, the text) -> the length n.
Length = Callable[[Sequence[int], str], int]


def per_token(tokens: Sequence[int], text: str) -> int:
  """Returns the number of tokens, the length that perplexity uses."""
  del text
  return len(tokens)


def per_byte(tokens: Sequence[int], text: str) -> int:
  """Returns the number of bytes, which is the same for every tokenizer."""
  del tokens
  return len(text.encode('utf-8', 'surrogatepass'))


def whole(tokens: Sequence[int], text: str) -> int:
  """Returns 1, so that nothing is normalized: a long reference weighs more."""
  del tokens, text
  return 1


def information_gain(with_: float, without: float) -> float:
  """Returns the nats, per unit of length, that the reasoning saves (RLP)."""
  return with_ - without


def perplexity_gain(with_: float, without: float) -> float:
  """Returns the percentage by which reasoning lowers perplexity (VR-CLI)."""
  return 100 * -math.expm1(min(without - with_, 700.0))


def probability(with_: float, without: float) -> float:
  """Returns exp(with_): the reference's probability if n = 1 (VeriFree)."""
  del without
  return math.exp(with_)


def steps(
  gain: Gain,
  *,
  bounds: Sequence[float] = (0.05, 1.0, 2.0),
  rewards: Sequence[float] = (0.0, 0.5, 0.9, 1.0),
) -> Gain:
  """Returns a gain that is rewards[k] if `gain` reaches k bounds (VR-CLI)."""
  if len(rewards) != len(bounds) + 1 or list(bounds) != sorted(bounds):
    raise ValueError(
      f'bounds={bounds}, rewards={rewards}: expected increasing bounds, and '
      'one more reward than bounds.'
    )
  return functools.partial(_stepped, gain, tuple(bounds), tuple(rewards))


def _stepped(gain: Gain, bounds, rewards, *both: float) -> float:
  return rewards[bisect.bisect_right(bounds, gain(*both))]


@dataclasses.dataclass(frozen=True)
class Likelihood(Reward):
  """Rewards `gain`, clipped to the range `clip`.

  A completion without a prediction gets the minimum, clip[0]. If it got 0, a
  policy with negative gains would do better to leave out the tags.
  """

  logprob: Logprob
  _: dataclasses.KW_ONLY
  encode: Callable[[str], list[int]]
  gain: Gain = information_gain
  length: Length = per_token
  clip: tuple[float, float] = (-1.0, 1.0)
  reference: Reference = asked
  find: extract.Extract = extract.prediction

  def __post_init__(self):
    checks.check_fields(self)
    low, high = self.clip
    if not low < high:
      raise checks.setting_error(
        type(self), 'clip', self.clip, 'a lower and a higher bound'
      )

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    contexts, continuations, rows = [], [], []
    opened = self.encode(extract.START)
    for example, group in zip(examples, completions, strict=True):
      text = self.reference(example)
      expected = self.encode(text)
      prompt = [int(i) for i in example.prompt_tokens]
      before = [reasoning(completion, self.find) for completion in group]
      rows.append((expected, text, before))
      if not expected:
        continue
      contexts.append(prompt + opened)
      contexts += [prompt + self.encode(t) for t, *_ in before if t is not None]
      continuations += [expected] * (len(contexts) - len(continuations))
    logprobs = [float(x) for x in self.logprob(contexts, continuations)]
    if len(logprobs) != len(contexts):
      raise ValueError(
        f'{len(logprobs)} log-probabilities of {len(contexts)} continuations; '
        'expected one per continuation, in their order.'
      )
    values, verdicts = iter(logprobs), []
    for expected, text, before in rows:
      if not expected:
        verdicts += [Verdict(math.nan, 'gold/empty')] * len(before)
        continue
      n = self.length(expected, text)
      without = next(values) / n
      for thought in before:
        if thought.text is None:
          verdicts.append(Verdict(self.clip[0], thought.reason))
        else:
          verdicts.append(self._verdict(next(values) / n, without))
    return scores.grouped(verdicts, len(examples))

  def _verdict(self, with_: float, without: float) -> Verdict:
    # If one of the two probabilities is 0, there is nothing to compare.
    if not (math.isfinite(with_) and math.isfinite(without)):
      return Verdict(math.nan, 'likelihood/infinite')
    value = self.gain(with_, without)
    clipped = min(max(value, self.clip[0]), self.clip[1])
    return Verdict(clipped, 'scored' if clipped == value else 'clipped')


def reasoning(
  completion: str, find: extract.Extract = extract.prediction
) -> extract.Answer:
  """Returns the completion up to and including its last start tag.

  If `find` finds no prediction, the answer has no text, but a reason.
  """
  prediction = find(completion)
  if prediction.text is None:
    return prediction
  end = completion.rfind(extract.START) + len(extract.START)
  return extract.Answer(completion[:end])
