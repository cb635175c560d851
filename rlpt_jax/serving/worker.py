"""Runs the engine in one thread and hands its results to the event loop."""

import asyncio
import concurrent.futures
import functools
import queue
from collections.abc import Callable

from rlpt_jax.sampling.requests import Completion, Request
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.serving.protocol import ApiError

Event = tuple[int, Completion]  # (a sample's number in its job, its new tokens)


class Job:
  """The requests of one call; samples are numbered across all of them."""

  def __init__(self, requests: tuple[Request, ...]):
    self.requests = requests
    self.running = set(range(sum(request.samples for request in requests)))
    # (ticket, the numbers of its samples); only the engine's thread uses them.
    self.tickets: list[tuple[int, range]] = []
    self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

  def put(self, event: Event | Exception | None):
    self._events.put_nowait(event)

  async def next(self) -> Event | None:
    """Returns None first, once the job is accepted; later calls return events.

    Raises the error of the job, if there is one.
    """
    event = await self._events.get()
    if isinstance(event, Exception):
      raise event
    return event


class Worker:
  """Runs a sampler in a thread of its own until `close`.

  Methods whose names begin with `_engine` run in that thread, all others in the
  event loop. Commands reach the thread through a queue; its results come back
  through `call_soon_threadsafe`, once per step.
  """

  def __init__(self, sampler: Sampler, *, max_samples: int):
    self._sampler, self._max_samples = sampler, max_samples
    self._loop = asyncio.get_running_loop()
    self._jobs: set[Job] = set()  # Jobs with unfinished samples.
    self._refusal: ApiError | None = None  # The error that new jobs get.
    self._commands: queue.SimpleQueue[Callable[[], None] | None] = (
      queue.SimpleQueue()
    )
    self._events: list[tuple[Job, Event]] = []  # Events of the current step.
    self.idle = asyncio.Event()  # Set while nothing runs or waits.
    self.idle.set()
    self.failed: asyncio.Future[Exception] = self._loop.create_future()
    # Not a daemon thread: those crash in JAX when the interpreter exits.
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'engine')
    self._thread.submit(self._engine_run)

  @property
  def samples(self) -> int:
    """The number of samples that run or wait."""
    return sum(len(job.running) for job in self._jobs)

  def submit(self, requests: tuple[Request, ...]) -> Job:
    """Queues a job.

    Raises ApiError if the queue is full, if the engine has failed, and once
    `drain` has begun.
    """
    if self._refusal:
      raise self._refusal
    job = Job(requests)
    if self.samples + len(job.running) > self._max_samples:
      raise ApiError(
        f'The queue is full: {self.samples} completions run or wait, expected '
        f'at most {self._max_samples}, including yours. Try again later.',
        status=429,
        code='queue_full',
        headers={'Retry-After': '1'},
      )
    self._jobs.add(job)
    self.idle.clear()
    self._commands.put(lambda: self._engine_submit(job))
    return job

  def cancel(self, job: Job, index: int | None = None):
    """Ends one sample of a job, or all; ignores those that have ended."""
    ended = job.running & ({index} if index is not None else job.running)
    if ended:
      self._end(job, ended)
      self._commands.put(lambda: self._engine_cancel(job, ended))

  async def drain(self, seconds: float):
    """Refuses new jobs; those still running after `seconds` end in an error."""
    ending = ApiError('The server is shutting down.', status=503)
    self._refusal = self._refusal or ending
    try:
      await asyncio.wait_for(self.idle.wait(), seconds)
    except TimeoutError:
      for job in list(self._jobs):
        job.put(ending)
        self.cancel(job)

  def close(self):
    """Waits for the running step, if any, and ends the thread."""
    self._commands.put(None)
    self._thread.shutdown()

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *_):
    self.close()

  def _end(self, job: Job, ended: set[int]):
    job.running -= ended
    if not job.running:
      self._jobs.discard(job)
    if not self._jobs:
      self.idle.set()

  def _deliver(self, events: list[tuple[Job, Event | Exception | None]]):
    for job, event in events:
      if isinstance(event, Exception):
        self._end(job, set(job.running))
      elif event and event[1].finish_reason:
        self._end(job, {event[0]})
      job.put(event)

  def _fail(self, error: Exception):
    message = f'The engine failed: {type(error).__name__}: {error}'
    self._refusal = ApiError(message.splitlines()[0], status=500)
    self._deliver([(job, self._refusal) for job in list(self._jobs)])
    self.failed.set_result(error)

  def _engine_run(self):
    try:
      while self._engine_run_commands():
        self._engine_step()
    except Exception as error:
      self._loop.call_soon_threadsafe(self._fail, error)

  def _engine_run_commands(self) -> bool:
    """Runs queued commands, waiting while idle; returns False once closed."""
    try:
      while command := self._commands.get(block=self._sampler.is_idle):
        command()
    except queue.Empty:
      return True
    return False

  def _engine_submit(self, job: Job):
    answer, first = None, 0
    try:
      for request in job.requests:
        note = functools.partial(self._engine_note, job, first)
        ticket = self._sampler.submit(request, note)
        job.tickets.append((ticket, range(first, first + request.samples)))
        first += request.samples
    except ValueError as error:
      self._engine_cancel(job, set(range(first)))
      answer = ApiError(str(error).splitlines()[0])
    self._loop.call_soon_threadsafe(self._deliver, [(job, answer)])

  def _engine_cancel(self, job: Job, indices: set[int]):
    for ticket, numbers in job.tickets:
      if indices.issuperset(numbers):
        self._sampler.cancel(ticket)
      else:
        for index in indices.intersection(numbers):
          self._sampler.cancel(ticket, index - numbers.start)

  def _engine_note(self, job: Job, first: int, sample: int, piece: Completion):
    self._events.append((job, (first + sample, piece)))

  def _engine_step(self):
    self._events = []
    self._sampler.step()
    self._loop.call_soon_threadsafe(self._deliver, self._events)
