"""The result of a reward function: a number and a reason for each completion.

A reward is a callable (examples, completions) -> Scores, for P examples and P
lists of G completions. A number alone cannot say why it is 0. If the reward of
a run falls, its policy may answer wrongly or no longer write the tags, or the
verifier may be down: only the counts of the reasons tell these apart.

Our rewards derive from `Reward`; most are dataclasses. A function is a reward
too. It may return numbers alone, with None or NaN for no verdict: P lists of G,
an array, or, as TRL's rewards do, one flat list, prompt by prompt. `ask`
converts numbers to Scores, so all callers call a reward through `ask`.
"""

import abc
import collections
import contextlib
import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core import settings
from rlpt_jax.core.types import Example
from rlpt_jax.rewards import extract


@dataclasses.dataclass(frozen=True)
class Scores:
  """Rewards (NaN: no verdict), and a short reason for each.

  Reasons, such as 'right' or 'format/empty', come from a small, fixed set so
  that they can be counted. `parts` holds the scores that these were combined
  from, by name. `answers_PG` holds a judge's answers verbatim, and None where
  the judge was not asked.
  """

  rewards_PG: np.ndarray  # float32
  reasons_PG: np.ndarray  # str
  parts: Mapping[str, 'Scores'] = dataclasses.field(default_factory=dict)
  answers_PG: np.ndarray | None = None  # object

  def __post_init__(self):
    rewards, reasons = np.asarray(self.rewards_PG), np.asarray(self.reasons_PG)
    if (
      (rewards.dtype, rewards.ndim) != (np.float32, 2)
      or rewards.shape != reasons.shape
    ):  # fmt: skip
      raise ValueError(
        f'Scores: rewards of {rewards.dtype} {rewards.shape} with reasons '
        f'{reasons.shape}: expected two arrays of the same shape [P, G], the '
        'first of float32.'
      )
    if np.isinf(self.rewards_PG).any():
      raise ValueError(
        'a reward is infinite; expected a number, or NaN for no verdict. Its '
        f'reason: {self.reasons_PG[np.isinf(self.rewards_PG)][0]!r}.'
      )

  def __getitem__(self, prompts: slice) -> 'Scores':
    """Returns the scores of some prompts."""
    answers_PG = self.answers_PG
    return Scores(
      self.rewards_PG[prompts],
      self.reasons_PG[prompts],
      {name: part[prompts] for name, part in self.parts.items()},
      None if answers_PG is None else answers_PG[prompts],
    )

  def counts(self) -> dict[str, int]:
    """Returns the number of completions with each reason, largest first."""
    reasons = collections.Counter(self.reasons_PG.ravel().tolist())
    return dict(reasons.most_common())


class Reward(abc.ABC):
  """A callable (examples, completions) -> Scores, with its settings as fields.

  Derive a dataclass from it. If the value of a field has a method `close`, as a
  judge or another reward has, `close` of this reward calls that method.
  """

  @abc.abstractmethod
  def __call__(
    self, examples: Sequence[Example], completions: Sequence[Sequence[str]]
  ) -> Scores: ...

  def settings(self) -> dict[str, Any]:
    """Returns the settings that scores depend on; a run records them."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
    }

  def close(self):
    """Frees the models and processes that the parts of this reward hold."""
    with contextlib.ExitStack() as stack:  # Closes all, even if one raises.
      for part in reversed(settings.parts(self.settings())):
        close = None if isinstance(part, type) else getattr(part, 'close', None)
        # Skip a part that only closes its own parts: this loop has those too.
        if close and getattr(close, '__func__', None) is not Reward.close:
          stack.callback(close)

  def find_answer(self, completion: str) -> extract.Answer | None:
    """Returns the answer that is scored; None if the reward extracts none."""
    if find := getattr(self, 'find', None):
      return find(completion)
    parts = settings.parts(self.settings())
    rewards = (part for part in parts if isinstance(part, Reward))
    answers = (reward.find_answer(completion) for reward in rewards)
    return next((answer for answer in answers if answer is not None), None)


# A Reward, or a function whose numbers `ask` converts to Scores.
RewardFn = Callable[[Sequence[Example], Sequence[Sequence[str]]], Scores]


class Verdict(NamedTuple):
  """A completion's reward (NaN: no verdict), reason, and judge's answer."""

  reward: float
  reason: str
  answer: str | None = None


@dataclasses.dataclass(frozen=True)
class Each(Reward):
  """Calls `judge` on one completion at a time: (example, text) -> Verdict."""

  judge: Callable[[Example, str], Verdict]

  def __call__(self, examples, completions) -> Scores:
    check_groups(examples, completions)
    verdicts = [
      self.judge(example, text)
      for example, group in zip(examples, completions, strict=True)
      for text in group
    ]
    return grouped(verdicts, len(examples))


@dataclasses.dataclass(frozen=True)
class Function(Reward):
  """A plain function, wrapped as a Reward by `of`."""

  function: Callable[..., Any]

  def __call__(self, examples, completions) -> Scores:
    return ask(self.function, examples, completions)


def of(reward: RewardFn) -> Reward:
  """Returns the reward itself, or a plain function wrapped as a `Function`."""
  return reward if isinstance(reward, Reward) else Function(reward)


def ask(
  reward: RewardFn,
  examples: Sequence[Example],
  completions: Sequence[Sequence[str]],
) -> Scores:
  """Calls a reward; returns Scores even if the reward returns only numbers."""
  result = reward(examples, completions)
  P, G = len(completions), max(map(len, completions), default=0)
  if isinstance(result, Scores):
    if result.rewards_PG.shape != (P, G):
      what = f'scores of shape {result.rewards_PG.shape}'
      raise _refused(reward, what, P, G)
    return result
  rewards = _numbers(result)
  if rewards is None or rewards.shape not in ((P, G), (P * G,)):
    what = f'{" ".join(reprlib.repr(result).split())} ({type(result).__name__}'
    what += ')' if rewards is None else f' of shape {rewards.shape})'
    raise _refused(reward, what, P, G)
  rewards_PG = rewards.reshape(P, G)
  reasons_PG = np.where(np.isnan(rewards_PG), 'none', 'scored')
  return Scores(rewards_PG, reasons_PG)


def _numbers(values: Any) -> np.ndarray | None:
  """Converts lists or an array of numbers to floats; None for anything else."""
  if not isinstance(values, list | tuple) and not hasattr(values, '__array__'):
    return None
  try:
    array = np.asarray(values)
    if array.dtype == object:  # Some are None, which becomes NaN.
      if any(isinstance(x, str | bytes) for x in array.flat):
        return None
      array = array.astype(np.float32)
  except (TypeError, ValueError, RuntimeError):  # Such as uneven lists.
    return None
  return array.astype(np.float32) if array.dtype.kind in 'biuf' else None


def _refused(reward: Callable, what: str, P: int, G: int) -> ValueError:
  """Returns an error that says what was returned and what was expected."""
  function = inspect.unwrap(reward)
  function = getattr(function, 'func', function)  # If it is a partial.
  if not hasattr(function, '__qualname__'):
    function = type(function)
  name = f'{function.__module__}.{function.__qualname__}'
  return ValueError(
    f'the reward {name} returned {what}; expected Scores, or {P} lists of {G} '
    'numbers (a number or None for each completion), or one list of all '
    f'{P * G}.'
  )


def grouped(verdicts: Sequence[Verdict], num_prompts: int) -> Scores:
  """Returns the scores of a flat list of verdicts, ordered by prompt."""
  shape = (num_prompts, len(verdicts) // max(num_prompts, 1))
  rewards = np.array([verdict.reward for verdict in verdicts], np.float32)
  reasons = np.array([verdict.reason for verdict in verdicts], np.str_)
  answers_PG = None
  if any(verdict.answer is not None for verdict in verdicts):
    answers_PG = np.array([v.answer for v in verdicts], object).reshape(shape)
  return Scores(
    rewards.reshape(shape), reasons.reshape(shape), answers_PG=answers_PG
  )


def check_groups(
  examples: Sequence[Example], completions: Sequence[Sequence[str]]
) -> None:
  """Raises unless every example has a group and all groups have one size."""
  if len(completions) != len(examples):
    raise ValueError(
      f'{len(examples)} examples but {len(completions)} groups of '
      'completions; expected one group per example.'
    )
  sizes = sorted({len(group) for group in completions})
  if len(sizes) > 1:
    raise ValueError(
      f'groups of {sizes[0]} and of {sizes[-1]} completions; expected the '
      'same number for every example. Call the reward once for each size.'
    )
