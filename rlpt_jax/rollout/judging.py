"""Asks a judge about samples while others are still being sampled."""

import concurrent.futures
import functools
import threading
from collections.abc import Iterable, Sequence
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

  def submit(self, questions: Iterable[Question]):
    """Asks about examples together, but for names that wait for scores."""
    added = []
    for question in questions:
      if question.name not in self._scores:
        future = self._scores[question.name] = concurrent.futures.Future()
        added.append((question, future))
    if added:
      with self._lock:
        self._waiting += added
      self._worker.submit(self._work)

  def take(self, names: Sequence[str]) -> list[Scores]:
    """Returns the scores of each, [1, G]; raises what the reward raised."""
    futures = [self._scores[name] for name in names]  # A name may come twice.
    for name in names:
      self._scores.pop(name, None)
    return [future.result() for future in futures]

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
