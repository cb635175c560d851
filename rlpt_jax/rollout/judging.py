"""Asks a judge about samples while others are still being sampled."""

import concurrent.futures
import functools
import threading
from collections.abc import Sequence
from typing import NamedTuple

from rlpt_jax.core.types import Example
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import RewardFn, Scores


class Question(NamedTuple):
  """An example with the texts of its samples, which are to be scored."""

  name: str
  example: Example
  texts: Sequence[str]


class Judging:
  """Asks a reward in a thread of its own.

  What is submitted while the reward is busy is asked together afterwards. So
  the reward is never called twice at the same time, and a judge behind a URL
  gets many questions at once.
  """

  def __init__(self, reward: RewardFn):
    self._ask = functools.partial(scores.ask, reward)
    self._lock, self._waiting = threading.Lock(), []
    self._scores: dict[str, concurrent.futures.Future[Scores]] = {}
    # Its thread ends with the reward, which cancels calls when it is closed.
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'judging')

  def submit(self, question: Question):
    """Asks about an example, unless that was done under the same name."""
    if question.name in self._scores:
      return
    future = self._scores[question.name] = concurrent.futures.Future()
    with self._lock:
      self._waiting.append((question, future))
    self._worker.submit(self._work)

  def take(self, names: Sequence[str]) -> list[Scores]:
    """Returns the scores of each, [1, G]; raises what the reward raised."""
    return [self._scores.pop(name).result() for name in names]

  def _work(self):
    with self._lock:
      asked, self._waiting = self._waiting, []
    if not asked:
      return
    questions, futures = zip(*asked, strict=True)
    try:
      found = self._ask(
        [question.example for question in questions],
        [question.texts for question in questions],
      )
      for p, future in enumerate(futures):
        future.set_result(found[p : p + 1])
    except BaseException as error:  # Raised where the scores are needed.
      for future in futures:
        if not future.done():
          future.set_exception(error)
