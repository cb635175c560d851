"""Checks whether the boxed answer equals the right one as mathematics.

A policy writes the answers, so anything can be among them: `9^{9^{9^9}}`, a
thousand brackets, a null byte. Therefore math-verify and sympy run in other
processes (`math_worker`), each limited in time and memory, and no answer can
stall or stop a run.

A failure that the answer caused gives reward 0. Any other failure gives no
verdict (NaN). The reasons:

  right                     1
  wrong, unparsable         0
  long                      0: the answer has more than MAX_CHARACTERS, and is
                            not checked
  timeout, memory, crash    0: the gold had been read, so the answer caused the
                            failure. With NaN, the completion would be left out
                            of its group, and a policy about to be wrong could
                            escape the loss with an answer that cannot be
                            checked. A right answer that takes too long also
                            gets 0: watch the count. 'memory' is rare, because
                            math-verify catches most such errors, and then the
                            reason is 'wrong' or 'unparsable'
  format/...                0: see `extract`
  gold/...                  NaN: the gold is too long, cannot be read or does
                            not equal itself. No policy can cause this. It
                            affects all completions of a group that have an
                            answer
  killed, stalled, lost     NaN: the machine is out of memory or hangs. A worker
                            reaches its own limits before that, so no answer can
                            cause this
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Range
from rlpt_jax.rewards import extract, math_worker, scores
from rlpt_jax.rewards.process_pool import ProcessPool
from rlpt_jax.rewards.scores import Reward, Scores, Verdict

# Two such texts fit into a pipe: JSON takes at most 12 bytes a character.
MAX_CHARACTERS = 2000
CpuSeconds = Annotated[float, Range(0.01, 600)]
Megabytes = Annotated[int, Range(256, 2**20)]  # sympy alone needs about 100.
_OURS = frozenset({'killed', 'stalled', 'lost'})


class MathVerifier(Reward):
  """Compares answers with references[0]; owns its workers until it is closed.

  `cpu_seconds` limits the reading of a gold and, separately, its comparison
  with an answer. `memory_mb` limits each worker. By default there is one worker
  for each processor that this process may use, at most 16.
  """

  def __init__(
    self,
    *,
    num_workers: Count | None = None,
    cpu_seconds: CpuSeconds = 2.0,
    memory_mb: Megabytes = 1024,
    find: extract.Extract = extract.boxed,
  ):
    checks.check_arguments(type(self), locals())
    if num_workers is None:
      num_workers = min(_num_processors(), 16)
    self.find, self._limits = find, (cpu_seconds, memory_mb)
    self._pool = ProcessPool(
      # -P keeps the worker's folder off its import path.
      [sys.executable, '-P', math_worker.__file__, str(os.getpid()),
       str(cpu_seconds), str(memory_mb)],
      num_workers=num_workers,
      # More than a worker's two wall-clock limits together.
      patience=20 * cpu_seconds + 10,
    )  # fmt: skip

  def settings(self) -> dict[str, Any]:
    """Returns the settings that verdicts depend on: see core/settings.py."""
    cpu_seconds, memory_mb = self._limits
    return {
      'cpu_seconds': cpu_seconds, 'memory_mb': memory_mb, 'find': self.find,
    }  # fmt: skip

  def __call__(self, examples, completions) -> Scores:
    scores.check_groups(examples, completions)
    # The answers in a group are often equal: check each of them only once.
    reasons: list[str] = []
    pairs: dict[tuple[str, str], list[int]] = {}
    for example, group in zip(examples, completions, strict=True):
      for completion in group:
        answer = self.find(completion)
        if answer.text is not None:
          pair = (next(iter(example.references), ''), answer.text)
          pairs.setdefault(pair, []).append(len(reasons))
        reasons.append(answer.reason)
    for places, reason in zip(
      pairs.values(), self.compare(list(pairs)), strict=True
    ):
      for i in places:
        reasons[i] = reason
    return scores.grouped(
      [Verdict(_reward(reason), reason) for reason in reasons], len(examples)
    )

  def compare(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Returns a reason, such as 'right', for each (gold, answer), in order."""
    reasons = [_long(gold, answer) for gold, answer in pairs]
    pending = [i for i, reason in enumerate(reasons) if reason is None]
    results = self._pool.map([json.dumps(pairs[i]) for i in pending])
    for i, reason in zip(pending, results, strict=True):
      reasons[i] = reason or 'lost'
    return reasons

  def close(self) -> None:
    """Ends the workers."""
    self._pool.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _reward(reason: str) -> float:
  if reason.startswith('gold/') or reason in _OURS:
    return math.nan
  return float(reason == 'right')


def _long(gold: str, answer: str) -> str | None:
  if len(gold) > MAX_CHARACTERS:
    return 'gold/long'
  return 'long' if len(answer) > MAX_CHARACTERS else None


def _num_processors() -> int:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
