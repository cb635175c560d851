"""An engine that says what it is told to, and a server of it, for tests."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import numpy as np

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.sampling.requests import Completion, Request
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.serving import http
from rlpt_jax.serving.protocol import Served

EOS = ByteTokenizer.eos_ids[0]


def say(request: Request, sample: int) -> str:
  """A short text that differs by all that the tokens of a sample depend on."""
  prompt = ByteTokenizer().decode(request.prompt_tokens)
  return f' {prompt[::-1]}/{sample}/{request.seed}/{request.temperature:g}'


def completion(ids, reason=None, logprobs=None) -> Completion:
  """Log-probabilities are -id / 100, those of the sampler twice that."""
  own = np.asarray(ids, np.float32) / -100 if logprobs is None else logprobs
  return Completion(
    tokens=np.asarray(ids, np.int32),
    logprobs=np.asarray(own, np.float32) * 2,
    policy_logprobs=np.asarray(own, np.float32),
    is_own=np.ones(len(ids), bool),
    versions=np.zeros(len(ids), np.int32),
    finish_reason=reason,
  )


@dataclasses.dataclass
class Row:
  ticket: int
  sample: int
  left: list[int]
  room: int


class ToyEngine:
  """Says a text, byte by byte, and EOS; `chunk` tokens a step."""

  def __init__(self, *, say=say, slots=64, chunk=4, seconds=0.0, fail_at=None):
    self._say, self._slots, self._chunk = say, slots, chunk
    self._seconds, self.fail_at = seconds, fail_at
    self.waiting_rows: list[Row] = []
    self.rows: list[Row] = []
    self.submitted: list[Request] = []
    self.cancelled: list[tuple[int, int | None]] = []
    self.steps = self.most_rows = self.asked = 0
    self.threads: set[str] = set()

  @property
  def is_idle(self) -> bool:
    self.asked += 1
    return not (self.rows or self.waiting_rows)

  @property
  def waiting(self) -> int:
    return len(self.waiting_rows)

  def submit(self, request: Request, begun=None) -> int:
    self.threads.add(threading.current_thread().name)
    if request.prompt_tokens[-5:] == tuple(b'never'):
      raise ValueError('this cannot be served\nat all')
    ticket = len(self.submitted)
    self.submitted.append(request)
    for sample in range(request.samples):
      said = self._say(request, request.first_sample + sample)
      ids = [*said.encode(), EOS]
      row = Row(ticket, sample, ids, request.max_new_tokens)
      self.waiting_rows.append(row)
    return ticket

  def cancel(self, ticket: int, sample: int | None = None):
    self.cancelled.append((ticket, sample))
    for rows in (self.rows, self.waiting_rows):
      for row in list(rows):
        if row.ticket == ticket and sample in (None, row.sample):
          rows.remove(row)

  def step(self) -> list[tuple[int, int, Completion]]:
    assert not self.is_idle, 'a step for nothing'
    self.steps += 1
    self.threads.add(threading.current_thread().name)
    if self.steps == self.fail_at:
      raise FloatingPointError('the chip is gone')
    if self._seconds:
      time.sleep(self._seconds)
    while self.waiting_rows and len(self.rows) < self._slots:
      self.rows.append(self.waiting_rows.pop(0))
    self.most_rows = max(self.most_rows, len(self.rows))
    pieces = []
    for row in list(self.rows):
      count = min(self._chunk, row.room, len(row.left))
      ids, row.left = row.left[:count], row.left[count:]
      row.room -= count
      reason = 'stop' if not row.left else None if row.room else 'length'
      if reason:
        self.rows.remove(row)
      pieces.append((row.ticket, row.sample, completion(ids, reason)))
    return pieces


class ChatTokenizer(ByteTokenizer):
  """Bytes, with a template: 'role:content|role:content|'."""

  def encode_chat(self, messages, **_):
    if any(m['role'] == 'clown' for m in messages):
      raise RuntimeError('roles are\nsystem, user and assistant')
    text = ''.join(f'{m["role"]}:{m["content"]}|' for m in messages)
    return self.encode(text)


ENDLESS = {'say': lambda *_: 'x' * 10_000, 'seconds': 0.01}


def served(tokenizer=None, **limits) -> Served:
  limits = {
    'vocab_size': 259, 'max_prompt_tokens': 100, 'max_new_tokens': 200,
    'max_samples': 256, 'group': 4, **limits,
  }  # fmt: skip
  return Served(name='toy', tokenizer=tokenizer or ChatTokenizer(), **limits)


@dataclasses.dataclass
class Running:
  """A server in a thread: where it is, what it runs, and how it ended."""

  url: str
  engine: ToyEngine
  stop: object  # Call it.
  ended: threading.Event
  error: BaseException | None = None


@contextlib.contextmanager
def running(engine=None, model=None, *, token=None, **limits):
  """A server of a toy, on a free port; stopped at the end."""
  engine, model = engine or ToyEngine(), model or served()
  ready = threading.Event()
  state = Running('', engine, None, threading.Event())

  async def main():
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop():
      with contextlib.suppress(RuntimeError):  # Ended by itself.
        loop.call_soon_threadsafe(stopped.set)

    state.stop = stop
    with http.bind('127.0.0.1', 0) as sock:
      state.url = f'http://127.0.0.1:{sock.getsockname()[1]}'
      await http.run(
        Sampler(engine), model, sock,
        token=token, stopped=stopped, on_ready=ready.set,
        limits=http.Limits(**limits),
      )  # fmt: skip

  def run():
    try:
      asyncio.run(main())
    except BaseException as error:
      state.error = error
    finally:
      state.ended.set()
      ready.set()

  thread = threading.Thread(target=run)
  thread.start()
  assert ready.wait(60)
  if state.error:
    raise state.error
  try:
    yield state
  finally:
    state.stop()
    thread.join(10)
    assert not thread.is_alive()


def eventually(condition, seconds=60.0):
  """Waits until something is so."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it never happened'
    time.sleep(0.01)
