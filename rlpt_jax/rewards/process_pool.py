"""Processes that answer each line with a line and may be killed at any time."""

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

MAX_BYTES = 1 << 16  # A pipe takes this much without waiting for its reader.
MAX_STARTS = 3  # After this many failed starts in a row, the pool raises.
START_SECONDS = 120.0  # The limit until 'ready'. A file system may be slow.


class ProcessPool:
  """Runs several processes of `command` and distributes lines among them.

  The command prints 'ready', then answers each line '<number> <request>' with a
  line '<number> <answer>'. A process that dies, or holds a request for
  `patience` seconds, is killed with its children and replaced; before 'ready'
  the limit is START_SECONDS. A request whose worker died is repeated once, by a
  worker that was started after the death, because the older ones may be about
  to die of the same cause, unrelated to the request. A request that a worker
  did not answer in time is not repeated.

  A call only waits on pipes. It uses no thread, no signal handler and no fork
  without exec, since this process may hold JAX. Workers must end when their
  stdin ends, so that they do not outlive this process, however it ends.
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
    # _failed_starts counts only failures in a row.
    self._starts = self._failed_starts = 0
    self._closed = False
    try:
      # Start the workers now, so that they load while the caller loads.
      for _ in range(num_workers):
        self._workers.append(self._start())
    except BaseException:
      self.close()
      raise

  def map(self, requests: Sequence[str]) -> list[str | None]:
    """Returns answers in order; None where a worker was late or two died."""
    with self._lock:
      if self._closed:
        raise ValueError('the pool is closed: create another.')
      try:
        return self._map(requests)
      except BaseException:
        # The next call must not receive answers that are still pending.
        for worker in self._workers:
          worker.kill()
        raise

  def close(self) -> None:
    """Kills the workers; a second call does nothing."""
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
    # {task: the number of workers that were started before it was first lost}
    lost_at: dict[int, int] = {}
    left = len(requests)
    while left:
      self._hand_out(waiting, requests, lost_at)
      for worker, spoke in self._wait():
        task = worker.task
        try:
          answer = worker.receive(spoke)
          if answer is None:
            continue  # 'ready', or an incomplete line.
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
      # Lost tasks are at the front, at most one per worker: this loop is short.
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
    """Returns (worker, True) if one wrote or died, (worker, False) if late."""
    alive = [worker for worker in self._workers if worker.alive]
    nearest = min(worker.deadline for worker in alive)
    # Not select(): it only takes descriptors below 1024.
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
        'times in a row. Run it by hand to see why; the end of its '
        f'stderr:\n{worker.stderr_tail}'
      )


class _Lost(Exception):
  """Raised if a worker has died, is late or sends an unexpected line."""


class _Worker:
  """One process and the request that it works on."""

  def __init__(self, command: list[str], number: int):
    self.number = number  # How many workers were started before it.
    self.alive, self.ready, self.task = True, False, None
    self.deadline = time.monotonic() + START_SECONDS
    self._rest = b''
    self.stderr_tail = ''  # The end of its stderr, set by kill().
    # A file, since a pipe would fill up. Closed in kill().
    self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._stderr,
      # It gets its own process group: Ctrl-C does not reach it, and a kill
      # also reaches its children.
      start_new_session=True,
      # The order of terms in sympy depends on hashes.
      env={**os.environ, 'PYTHONHASHSEED': '0'},
    )
    self.stdout = self._process.stdout

  def ask(self, task: int, request: str, patience: float) -> None:
    line = f'{task} {request}\n'.encode()
    assert len(line) <= MAX_BYTES, len(line)
    assert line.count(b'\n') == 1, request
    self.task, self.deadline = task, time.monotonic() + patience
    # A dead worker is noticed when its stdout is read.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(line)
      self._process.stdin.flush()

  def receive(self, spoke: bool) -> str | None:
    """Returns an answer; None for 'ready' or an incomplete line. Raises _Lost.

    spoke: False if the worker has nothing to read and is late.
    """
    if not spoke:
      raise _Lost('it did not respond')
    block = os.read(self.stdout.fileno(), MAX_BYTES)
    if not block:
      raise _Lost('it exited')
    self._rest += block
    if not self._rest.endswith(b'\n'):
      return None
    line, self._rest = self._rest[:-1].decode(errors='replace'), b''
    if not self.ready and line == 'ready':
      self.ready, self.deadline = True, math.inf
      return None
    number, _, answer = line.partition(' ')
    if self.task is None or number != str(self.task):
      raise _Lost(f'it printed {line!r}')
    self.task, self.deadline = None, math.inf
    return answer

  def kill(self) -> None:
    """Kills the process and its children; a second call does nothing."""
    if not self.alive:
      return
    self.alive = False
    # Before wait(): until then no other process can get its pid.
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for pipe in (self._process.stdin, self.stdout):
      with contextlib.suppress(BrokenPipeError):
        pipe.close()
    with self._stderr as file:
      file.seek(max(file.seek(0, os.SEEK_END) - 4000, 0))
      self.stderr_tail = file.read().decode(errors='replace')
