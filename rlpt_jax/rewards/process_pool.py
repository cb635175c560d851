"""Processes that answer a line with a line, and may be killed at any time."""

import collections
import contextlib
import math
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence

MAX_BYTES = 1 << 16  # What a pipe takes without waiting for its reader.
MAX_STARTS = 3
START_SECONDS = 120.0  # A file system may be slow.


class ProcessPool:
  """Runs `command` several times over and shares lines out among them.

  The command says 'ready', then answers every line '<number> <request>' with a
  line '<number> <answer>'. One that dies, or is silent for `patience` seconds,
  is killed with all it has started, and another takes its place. A request
  whose worker died is made again, once, to a worker that was started after
  that: an older one may be dead as well, of what has nothing to do with the
  request. One about which a worker was silent is not made again.

  There is no thread here, no signal and no fork of this process, which may hold
  JAX: a call waits on pipes. Workers are to end when their stdin does, so that
  they do not outlive this process however it ends.
  """

  def __init__(
    self, command: Sequence[str], *, num_workers: int, patience: float
  ):
    if num_workers < 1:
      raise ValueError(
        f'num_workers: expected at least 1, found {num_workers}.'
      )
    self._command, self._patience = list(command), patience
    self._workers: list[_Worker] = []
    self._lock = threading.Lock()
    self._starts = self._failed_starts = 0  # The latter in a row.
    self._closed = False
    try:
      # Now, not when they are asked: they load while the caller does.
      for _ in range(num_workers):
        self._workers.append(self._start())
    except BaseException:
      self.close()
      raise

  def map(self, requests: Sequence[str]) -> list[str | None]:
    """Answers in the order of requests; None where a worker was silent, or two
    died.
    """
    with self._lock:
      if self._closed:
        raise ValueError('the pool is closed: make another.')
      try:
        return self._map(requests)
      except BaseException:
        # Answers that are under way are not for the next call.
        for worker in self._workers:
          worker.kill()
        raise

  def close(self) -> None:
    """Kills the workers; a second time does nothing."""
    self._closed = True
    for worker in self._workers:
      worker.kill()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _map(self, requests):
    answers: list[str | None] = [None] * len(requests)
    waiting = collections.deque(range(len(requests)))
    lost_at: dict[int, int] = {}  # Task: the workers started by its first loss.
    left = len(requests)
    while left:
      self._hand_out(waiting, requests, lost_at)
      for worker, spoke in self._wait():
        task = worker.task
        try:
          answer = worker.receive(spoke)
          if answer is None:
            continue  # 'ready', or half a line.
        except _Lost as lost:
          worker.kill()
          self._count_failed_start(worker, lost)
          answer = None
          if task is None:
            continue
          if spoke and task not in lost_at:
            lost_at[task] = self._starts
            waiting.appendleft(task)
            continue
        answers[task] = answer
        left -= 1
    return answers

  def _hand_out(self, waiting, requests, lost_at):
    for i, worker in enumerate(self._workers):
      if waiting and not worker.alive:
        self._workers[i] = worker = self._start()
      if not worker.ready or worker.task is not None:
        continue
      # Those that were lost stand in front, at most one for each worker.
      for place, task in enumerate(waiting):
        if worker.number >= lost_at.get(task, 0):
          del waiting[place]
          worker.ask(task, requests[task], self._patience)
          break

  def _start(self) -> '_Worker':
    worker = _Worker(self._command, self._starts)
    self._starts += 1
    return worker

  def _wait(self) -> list[tuple['_Worker', bool]]:
    """Workers that have spoken or died (True), and those who are late."""
    alive = [worker for worker in self._workers if worker.alive]
    nearest = min(worker.deadline for worker in alive)
    # Not select(): its descriptors end at 1024, a trainer's do not.
    with selectors.DefaultSelector() as selector:
      for worker in alive:
        selector.register(worker.stdout, selectors.EVENT_READ, worker)
      seconds = min(max(nearest - time.monotonic(), 0), 3600)
      spoke = [key.data for key, _ in selector.select(seconds)]
    now = time.monotonic()
    late = [w for w in alive if w.deadline <= now and w not in spoke]
    return [(w, True) for w in spoke] + [(w, False) for w in late]

  def _count_failed_start(self, worker, lost):
    self._failed_starts = 0 if worker.ready else self._failed_starts + 1
    if self._failed_starts == MAX_STARTS:
      self._failed_starts = 0
      raise RuntimeError(
        f'{" ".join(self._command)}: {lost} before it was ready, {MAX_STARTS} '
        f'times in a row. Run it by hand; what it said last:\n{worker.said}'
      )


class _Lost(Exception):
  """A worker has died, is silent or answers something else."""


class _Worker:
  """One process, and the request it is at."""

  def __init__(self, command: list[str], number: int):
    self.number = number  # Workers that were started before.
    self.alive, self.ready, self.task = True, False, None
    self.deadline = time.monotonic() + START_SECONDS
    self._rest = b''
    self.said = ''  # The end of its stderr, once it is killed.
    # A pipe would fill up. Closed in kill().
    self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._stderr,
      # A group of its own: Ctrl-C is for us alone, a kill for all of it.
      start_new_session=True,
      # sympy's order of things follows hashes.
      env={**os.environ, 'PYTHONHASHSEED': '0'},
    )
    self.stdout = self._process.stdout

  def ask(self, task: int, request: str, patience: float) -> None:
    line = f'{task} {request}\n'.encode()
    assert len(line) <= MAX_BYTES, len(line)
    assert line.count(b'\n') == 1, request
    self.task, self.deadline = task, time.monotonic() + patience
    # One that is dead is noticed when it is read.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(line)
      self._process.stdin.flush()

  def receive(self, spoke: bool) -> str | None:
    """The answer, if all of it is there; raises _Lost."""
    if not spoke:
      raise _Lost('it was silent')
    block = os.read(self.stdout.fileno(), MAX_BYTES)
    if not block:
      raise _Lost('it ended')
    self._rest += block
    if not self._rest.endswith(b'\n'):
      return None
    said, self._rest = self._rest[:-1].decode(errors='replace'), b''
    if not self.ready and said == 'ready':
      self.ready, self.deadline = True, math.inf
      return None
    number, _, answer = said.partition(' ')
    if self.task is None or number != str(self.task):
      raise _Lost(f'it said {said!r}')
    self.task, self.deadline = None, math.inf
    return answer

  def kill(self) -> None:
    """Ends it and what it has started; a second time does nothing."""
    if not self.alive:
      return
    self.alive = False
    # Before it is waited for: until then its number is nobody else's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for pipe in (self._process.stdin, self.stdout):
      with contextlib.suppress(BrokenPipeError):
        pipe.close()
    with self._stderr as file:
      file.seek(max(file.seek(0, os.SEEK_END) - 4000, 0))
      self.said = file.read().decode(errors='replace')
