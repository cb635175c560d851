"""Scores predictions, answers and judges by the small world's ground truth."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator

from rlpt_jax.core.types import Example
from rlpt_jax.quickstart.wordings import is_true_prefix
from rlpt_jax.rewards import extract, judge, scores
from rlpt_jax.rewards.judge import Score
from rlpt_jax.rewards.scores import Reward, RewardFn, Scores, Verdict


@scores.Each
def truth(example: Example, completion: str) -> Verdict:
  """Rewards 1 for a prediction that is true in the world, else 0."""
  answer = extract.prediction(completion)
  if answer.text is None:
    return Verdict(0.0, answer.reason)
  is_right = is_true_prefix(answer.text, ''.join(example.references))
  return Verdict(float(is_right), 'right' if is_right else 'wrong')


@dataclasses.dataclass(frozen=True)
class WithTruth(Reward):
  """Adds the truth to a reward as a part that is recorded, not learned from.

  The difference between the reward and the truth shows how much a policy gains
  from a judge's mistakes.
  """

  reward: RewardFn

  def __call__(self, examples, completions) -> Scores:
    scored = scores.ask(self.reward, examples, completions)
    parts = {**scored.parts, 'truth': truth(examples, completions)}
    return dataclasses.replace(scored, parts=parts)


def accuracy(
  questions: pathlib.Path, answers: pathlib.Path
) -> dict[str, float]:
  """Returns the shares of true answers: 'all', by task, by kind of document.

  answers: the file that `rlpt generate` wrote for the prompts of `questions`.
    It has the same number of answers to each prompt, in the order of the
    prompts. The order matters because equal prompts may have different
    references.
  """
  right = collections.defaultdict(list)
  for question, _, flag in _checked(questions, answers):
    for name in ('all', question['task'], question['kind']):
      right[name].append(flag)
  return {name: sum(flags) / len(flags) for name, flags in right.items()}


def right_answers(questions: pathlib.Path, answers: pathlib.Path) -> list[int]:
  """Returns how many answers to each question are true, as in `accuracy`."""
  flags = [flag for *_, flag in _checked(questions, answers)]
  each = len(flags) // max(sum(1 for _ in _lines(questions)), 1)
  return [sum(flags[i : i + each]) for i in range(0, len(flags), each)]


@dataclasses.dataclass(frozen=True)
class ThinkingStats:
  """How many answers think before their prediction, and whether that helps."""

  predict: float  # The share of answers with a prediction.
  think: float  # The share of answers with a thought.
  right_thinking: float  # The share of right ones among answers with a thought.
  right_guessing: float  # The share of right ones among the others.

  def __str__(self):
    return (
      f'{self.predict:.0%} of answers have a prediction; {self.think:.0%} '
      f'think first, of which {self.right_thinking:.0%} are right, and of the '
      f'others {self.right_guessing:.0%}'
    )


def thinking_stats(
  questions: pathlib.Path, answers: pathlib.Path
) -> ThinkingStats:
  """Compares answers with and without thoughts; arguments as in `accuracy`."""
  predict, right = [], {True: [], False: []}
  for _, completion, flag in _checked(questions, answers):
    predict.append(extract.prediction(completion).text is not None)
    thought, *_ = completion.partition(extract.START)
    # One or two words, such as a stray tag, are not a thought.
    right[len(thought.split()) > 2].append(flag)
  return ThinkingStats(
    predict=sum(predict) / len(predict),
    think=len(right[True]) / len(predict),
    right_thinking=sum(right[True]) / max(len(right[True]), 1),
    right_guessing=sum(right[False]) / max(len(right[False]), 1),
  )


def _checked(
  questions: pathlib.Path, answers: pathlib.Path
) -> Iterator[tuple[dict, str, bool]]:
  """Yields (question, completion, True if it is right) for every answer."""
  question_lines, answer_lines = list(_lines(questions)), list(_lines(answers))
  each = max(len(answer_lines) // len(question_lines), 1)
  wanted = [question for question in question_lines for _ in range(each)]
  if [x['prompt'] for x in wanted] != [x['prompt'] for x in answer_lines]:
    raise ValueError(
      f'{answers}: does not match {questions}; expected the same number of '
      'answers to each of its prompts, in the same order. Run `rlpt generate` '
      'again to rewrite it.'
    )
  for question, line in zip(wanted, answer_lines, strict=True):
    completion = line['completion']
    yield question, completion, is_right(question, completion)


def is_right(question: dict, completion: str) -> bool:
  """Returns True if a completion answers a line of a file of questions."""
  predicted = extract.prediction(completion).text or ''
  references = ' '.join(question['references'])  # They have no outer spaces.
  return is_true_prefix(predicted, references)


@dataclasses.dataclass(frozen=True)
class Agreement:
  """The agreement of a judge with the truth, over `count` pairs."""

  count: int
  accuracy: float
  false_accepts: float  # The share of wrong predictions that it accepts.
  false_rejects: float  # The share of right ones that it rejects.

  def __str__(self):
    return (
      f'{self.accuracy:.1%} of {self.count:,} verdicts agree with the truth; '
      f'false accepts {self.false_accepts:.1%}, false rejects '
      f'{self.false_rejects:.1%}'
    )


def agreement(
  score: Score, pairs: pathlib.Path, *, threshold: float = 0.5
) -> Agreement:
  """Compares a judge with labeled pairs; asks as judge.ByProbability does."""
  lines = list(_lines(pairs))
  weighed = score([line['prompt'].rstrip('\n') for line in lines])
  counts = collections.Counter()
  for line, pair in zip(lines, weighed, strict=True):
    is_right = line['response'].endswith('1')
    counts[is_right, judge.weigh(*pair, threshold=threshold).reward == 1] += 1
  right = counts[True, True] + counts[True, False]
  wrong = counts[False, True] + counts[False, False]
  return Agreement(
    count=len(lines),
    accuracy=(counts[True, True] + counts[False, False]) / len(lines),
    false_accepts=counts[False, True] / max(wrong, 1),
    false_rejects=counts[True, False] / max(right, 1),
  )


def _lines(path: pathlib.Path):
  # Not splitlines: it would also split at rare separators inside a completion.
  with path.open(encoding='utf-8') as file:
    yield from map(json.loads, file)
