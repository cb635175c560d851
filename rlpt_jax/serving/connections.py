"""Limits the number of open connections and closes idle ones for new ones."""

import asyncio
import contextlib
import errno
import resource
import socket
import sys
from collections.abc import Callable, Iterator

SPARE_FILES = 64  # Open files of a server besides its connections.
RETRY = 1.0  # Seconds until the system is asked again for a connection.
RESTORE = 60.0  # Seconds until the full limit is tried again.
# The system cannot open another file. Most other errors of accept() concern one
# client: on Linux, accept() also reports network errors of the new connection.
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
BROKEN = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}  # No accept will succeed.


def most(wanted: int) -> int:
  """Returns the number of connections, up to `wanted`, that may be open.

  Increases the soft limit of open files if necessary and possible.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  needed = wanted + SPARE_FILES
  if soft != resource.RLIM_INFINITY and soft < needed:
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # macOS may report no hard limit and yet refuse more than its kernel allows.
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
      soft = raised
  if soft == resource.RLIM_INFINITY:
    return wanted
  return max(1, min(wanted, soft - SPARE_FILES))


class Connections:
  """Accepts connections and keeps at most `most` of them open.

  At the limit, a new connection replaces the one that has been idle for
  longest. A connection is busy only while the server answers a request that has
  arrived completely, with its body; otherwise it is idle. So a client that
  sends half a request keeps nobody out. An idle connection stays open for at
  least `patience` seconds, because a request may be on its way.
  """

  def __init__(self, most: int, *, patience: float):
    self._most, self._patience = most, patience
    self._wanted, self._restore_at = most, 0.0
    self._busy: set[asyncio.Transport] = set()
    self._idle: dict[asyncio.Transport, float] = {}  # Since when; oldest first.
    self._became_idle = asyncio.Event()

  @contextlib.contextmanager
  def busy(self, transport: asyncio.Transport | None) -> Iterator[None]:
    """Keeps a connection open while one of its requests is answered."""
    if transport is None:  # The client has gone.
      yield
      return
    self._idle.pop(transport, None)
    self._busy.add(transport)
    try:
      yield
    finally:
      self._busy.remove(transport)
      if not _is_gone(transport):
        self._idle[transport] = asyncio.get_running_loop().time()
      self._became_idle.set()

  async def accept(
    self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]
  ):
    """Accepts connections until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
      try:
        connection, _ = await loop.sock_accept(listening)
      except OSError as error:
        if error.errno in BROKEN:
          raise
        if error.errno in NO_ROOM:
          await self._lower_limit(error)
        await asyncio.sleep(0)  # Let other tasks run even if every call fails.
        continue
      if loop.time() >= self._restore_at:
        self._most = self._wanted
      try:
        await self._make_room()
        transport, _ = await loop.connect_accepted_socket(protocol, connection)
      except BaseException as error:
        connection.close()
        if not isinstance(error, OSError):
          raise
      else:
        self._idle[transport] = loop.time()

  async def _lower_limit(self, error: OSError):
    """Lowers the limit for a while, because the system allows no more now."""
    fewer = max(1, min(self._most, len(self._busy) + len(self._idle)) - 1)
    if fewer < self._most:
      self._most = fewer
      print(
        f'warning: at most {fewer} connections for now: the system allows no '
        f'more ({error.strerror}).',
        file=sys.stderr,
      )
    self._restore_at = asyncio.get_running_loop().time() + RESTORE
    await asyncio.sleep(RETRY)
    await self._make_room()

  async def _make_room(self):
    loop = asyncio.get_running_loop()
    while len(self._busy) + len(self._idle) >= self._most:
      for transport in list(filter(_is_gone, self._idle)):
        del self._idle[transport]
      if len(self._busy) + len(self._idle) < self._most:
        return
      oldest = next(iter(self._idle), None)
      wait = None
      if oldest:
        wait = self._idle[oldest] + self._patience - loop.time()
        if wait <= 0:
          del self._idle[oldest]
          oldest.abort()
          return
      self._became_idle.clear()
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
          await self._became_idle.wait()


def _is_gone(transport: asyncio.Transport) -> bool:
  # is_closing() is not enough: unsent data keeps the file open.
  return transport.get_extra_info('socket').fileno() < 0
