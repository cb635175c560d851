"""A sampler's link to the learner of its run, which may start again."""

import http.client
import json
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rlpt_jax.rollout.jobs import starts
from rlpt_jax.rollout.jobs.desk import ANOTHER_START
from rlpt_jax.rollout.jobs.sampler_work import Work
from rlpt_jax.rollout.jobs.starts import Contact, Start

ANSWER_S = 30.0  # The longest wait for an answer.
TELL_S = 15.0  # A sampler that waits for longer says why.

logger = logging.getLogger(__name__)


class LearnerGone(ConnectionError):
  """Raised if the learner does not answer for longer than a sampler waits."""


class Told(NamedTuple):
  """What the learner tells: see desk.py."""

  version: int
  lost: list[str]
  tasks: list[dict[str, Any]]


class Link:
  """Posts to the newest start of the learner.

  start: the newest start that was found; None before the first.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    sampler: str,
    contact: Contact,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.start: Start | None = None
    self._over: int | None = None
    self._has_spoken = False
    self._workdir, self._sampler, self._clock = workdir, sampler, clock
    self._patience_s = contact.patience_s
    self._connection: http.client.HTTPConnection | None = None
    self._failing_since: float | None = None
    self._is_told = False

  @property
  def is_open(self) -> bool:
    return self._connection is not None

  def open(self) -> bool:
    """Finds the newest start; returns False if there is none, or it is over.

    Raises LearnerGone if that has been so for too long.
    """
    start = starts.read(self._workdir)
    if start is None or start.over is not None:
      self._over = start and start.over
      self._failed(
        'it has not started'
        if start is None
        else f'its run has ended after {start.over} steps'
      )
      return False
    self.start, self._over = start, None
    self._connection = http.client.HTTPConnection(
      start.host, start.port, timeout=ANSWER_S
    )
    return True

  def is_over(self, num_steps: int) -> bool:
    """Returns True if the run has ended, as far as the sampler knows.

    A run that has ended may go on with a larger number of steps.

    num_steps: that of the sampler's settings.
    """
    return self._over is not None and (
      self._has_spoken or self._over >= num_steps
    )

  def sync(self, work: Work) -> Told | None:
    """Names the groups that the sampler has; None: the learner is not there."""
    asked = {
      'sampler': self._sampler,
      'names': work.names,
      'version': work.version,
      'wanted': work.wanted,
      'slots_in_use': work.take_slots_in_use(),
    }
    answer = self._post('/sync', json.dumps(asked).encode())
    if answer is None:
      return None
    if 'error' in answer:
      raise ValueError(f'{self._workdir}: the learner says: {answer["error"]}')
    return Told(**answer)

  def give(self, data: bytes) -> dict[str, Any] | None:
    """Sends a finished group; None: the learner is not there, try again."""
    return self._post('/result', data)

  def _post(self, route: str, body: bytes) -> dict[str, Any] | None:
    headers = {'Authorization': self.start.secret}
    try:
      self._connection.request('POST', route, body, headers)
      response = self._connection.getresponse()
      content = json.loads(response.read())
      is_ours = response.status != ANOTHER_START
      why = 'another run or another start of the learner answers'
    except (OSError, http.client.HTTPException, ValueError) as error:
      is_ours, why = False, str(error)
    if not is_ours:
      self.close()
      self._failed(f'{self.start.host}:{self.start.port}: {why}')
      return None
    self._failing_since, self._has_spoken = None, True
    return content

  def _failed(self, why: str):
    now = self._clock()
    if self._failing_since is None:
      self._failing_since, self._is_told = now, False
    seconds = now - self._failing_since
    if seconds > self._patience_s:
      raise LearnerGone(
        f'{self._workdir}: no learner has answered for {self._patience_s:g} '
        f's ({why}). Start it with `rlpt train_rl` and the same workdir, then '
        'this sampler again.'
      )
    if seconds > TELL_S and not self._is_told:
      self._is_told = True
      logger.warning('still waiting for the learner (%s)', why)

  def close(self):
    """Hangs up: the groups of this sampler go to others."""
    if self._connection:
      self._connection.close()
    self._connection = None
