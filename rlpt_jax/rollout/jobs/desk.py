"""The learner's desk: over HTTP, samplers get groups here and bring results.

A sampler posts JSON to /sync between its chunks of tokens. It names the groups
that it has, which extends their leases, and says how many more it wants. It
posts each finished group to /result, as bytes (group_state.py). Its connection
stays open: when the process dies, its groups are free at once.

The threads of this server touch host data only, under a lock.
"""

import contextlib
import hmac
import http.server
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.llm.remote import Unavailable
from rlpt_jax.rollout import group_state
from rlpt_jax.rollout.jobs.leases import Leases
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.sampling.requests import Completion

ANOTHER_START = 409  # The status for a sampler of another start of the learner.
LONELY_S = 30.0  # After so long without a sampler, the learner says so.
LOOK_S = 1.0  # Between two looks whether the run was preempted.
POLL_S = 0.05  # The longest time until the server sees that it is closed.
THREAD = 'desk'

logger = logging.getLogger(__name__)

Result = Sequence[Completion]  # The samples of a group.


class Refused(ValueError):
  """A result that the learner may not learn from."""


class Desk:
  """Hands out groups and takes their results, in threads of its own."""

  def __init__(
    self, contact: Contact, secret: str, *, samples: int, version: int
  ):
    """Listens at once.

    samples: the number of samples of a group.
    version: the version of the weights that are published.
    """
    self.secret, self.version = secret, version
    self._samples = samples
    self._changed = threading.Condition()
    self._leases = Leases(contact.lease_s)
    self._connections: dict[str, Any] = {}  # The newest of each sampler.
    self._in_use: list[float] = []
    self._is_stopped = False
    self._server = _listen(contact, self)
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=(POLL_S,), name=THREAD
    )
    self._thread.start()

  @property
  def port(self) -> int:
    return self._server.server_address[1]

  # Called by the learner.

  def offer(self, name: str, example: Example, oldest: int):
    with self._changed:
      self._leases.offer(name, (name, example), oldest)

  def collect(self, names: Sequence[str]) -> dict[str, Result]:
    """Waits for these groups; returns all results since the last call."""
    since = time.monotonic()
    with self._changed:
      while self._leases.are_open(names):
        if self._is_stopped:
          raise Unavailable('preempted while it was waiting for samplers')
        self._changed.wait(LOOK_S)
        if self._connections:
          since = time.monotonic()
        elif time.monotonic() > since + LONELY_S:
          since = float('inf')
          logger.warning(
            'waiting for samplers: start some with `rlpt sample`, and the '
            'settings and the workdir of this run'
          )
      return self._leases.take_results()

  def stop_waiting(self):
    """Lets `collect` raise; called by signal handlers, so without the lock."""
    self._is_stopped = True

  def take_slots_in_use(self) -> float:
    """The mean of what samplers have said since the last call."""
    with self._changed:
      shares, self._in_use = self._in_use, []
    return sum(shares) / max(len(shares), 1)

  def close(self):
    self._server.shutdown()
    self._server.hang_up()
    self._thread.join()
    self._server.server_close()  # Waits for the threads of all connections.

  # Called by the threads of connections.

  def sync(self, connection: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    sampler, now = str(asked['sampler']), time.monotonic()
    with self._changed:
      self._connections[sampler] = connection
      if asked['slots_in_use'] is not None:
        self._in_use.append(float(asked['slots_in_use']))
      lost = self._leases.hold(sampler, set(asked['names']), now)
      tasks = self._leases.lend(
        sampler, version=asked['version'], count=asked['wanted'], now=now
      )
      told = {'version': self.version, 'lost': lost}
    # Not earlier, since JSON takes many times the memory of an array.
    return told | {
      'tasks': [
        {'name': name, 'example': group_state.to_json(example)}
        for name, example in tasks
      ]
    }

  def finish(self, data: bytes) -> dict[str, Any]:
    """Keeps the result of a group; raises if it cannot be learned from."""
    ((example, name, samples),) = group_state.from_bytes(data)
    with self._changed:
      offer = self._leases.open.get(name)
      if offer:
        _, expected = offer.task
        if not np.array_equal(example.prompt_tokens, expected.prompt_tokens):
          raise Refused(f'{name}: samples of another prompt than was offered.')
        self._check(name, samples, offer.oldest)
      is_accepted = self._leases.finish(name, samples)
      self._changed.notify_all()
    return {'is_accepted': is_accepted}

  def _check(self, name: str, samples: Sequence[Completion | None], oldest):
    if len(samples) != self._samples:
      raise Refused(
        f'{name}: {len(samples)} samples, expected {self._samples}.'
      )
    for sample in samples:
      if sample is None or not sample.finish_reason:
        raise Refused(f'{name}: a sample is not finished.')
      low, high = sample.versions.min(), sample.versions.max()
      if low < oldest or high > self.version:
        raise Refused(
          f'{name}: sampled by weights of versions {low} to {high}, expected '
          f'{oldest} to {self.version}.'
        )

  def hung_up(self, connection: Any):
    """Frees the groups of the sampler, unless it has another connection."""
    with self._changed:
      for sampler, its in [*self._connections.items()]:
        if its is connection:
          self._leases.release(sampler)
          del self._connections[sampler]


def _listen(contact: Contact, desk: Desk) -> '_Server':
  address = contact.host or '', contact.port
  try:
    return _Server(address, desk, contact.lease_s)
  except OSError as error:
    raise ValueError(
      f'starts.Contact: host={contact.host!r}, port={contact.port}: '
      f'{error.strerror}; expected an address of this machine and a free port '
      '(0 picks one).'
    ) from error


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = False  # Those crash in JAX when the interpreter exits.
  request_queue_size = 128

  def __init__(self, address, desk: Desk, timeout: float):
    self.desk, self.connection_timeout = desk, timeout
    self._open: set[socket.socket] = set()
    super().__init__(address, _Handler)

  def process_request(self, request, client_address):
    self._open.add(request)
    super().process_request(request, client_address)

  def shutdown_request(self, request):
    self._open.discard(request)
    super().shutdown_request(request)

  def hang_up(self):
    """Ends all connections, so that their threads end."""
    for connection in [*self._open]:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

  def handle_error(self, request, client_address):
    """Prints errors of ours, but not of connections: samplers try again."""
    if not isinstance(sys.exception(), OSError):
      super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
  """One connection of a sampler."""

  protocol_version = 'HTTP/1.1'  # Keeps the connection open.
  disable_nagle_algorithm = True
  wbufsize = -1

  @property
  def timeout(self) -> float:
    return self.server.connection_timeout

  def handle(self):
    try:
      super().handle()
    finally:
      self.server.desk.hung_up(self)

  def do_POST(self):
    desk = self.server.desk
    given = self.headers.get('Authorization', '')
    if not hmac.compare_digest(given.encode(), desk.secret.encode()):
      self.close_connection = True  # The body stays unread.
      return self._answer(ANOTHER_START, {})
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    try:
      if self.path == '/sync':
        return self._answer(200, desk.sync(self, json.loads(body)))
      if self.path == '/result':
        return self._answer(200, desk.finish(body))
      raise ValueError(f'{self.path}: expected /sync or /result.')
    except (ValueError, KeyError, TypeError) as error:
      return self._answer(400, {'error': str(error) or repr(error)})

  def _answer(self, status: int, content: dict[str, Any]):
    data = json.dumps(content).encode()
    self.send_response(status)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *_):
    """Says nothing: there are several calls a second."""
