"""Who keeps a connection, with real sockets."""

import asyncio
import contextlib
import errno
import os
import resource
import socket

import pytest

from rlpt_jax.serving import connections as lib
from rlpt_jax.serving.connections import Connections


class Greeting(asyncio.Protocol):
  """Sends a byte, so that a client knows it is there."""

  def connection_made(self, transport):
    transport.write(b'!')


def _run(test, most, patience=0.0):
  """Runs a test beside connections that are accepted; says what it raised."""

  async def main():
    connections = Connections(most, patience=patience)
    with socket.create_server(('127.0.0.1', 0)) as listening:
      listening.setblocking(False)
      task = asyncio.ensure_future(connections.accept(listening, Greeting))
      async with asyncio.timeout(60):
        await test(connections, listening.getsockname())
      task.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await task

  asyncio.run(main())


async def _open(address, is_greeted=True):
  reader, writer = await asyncio.open_connection(*address)
  if is_greeted:
    assert await reader.readexactly(1) == b'!'
  return reader, writer


async def _eventually(condition):
  while not condition():
    await asyncio.sleep(0.001)


def _transport(connections, number):
  return list(connections._idle)[number]


def test_the_one_that_has_been_idle_for_longest_gives_way():
  async def test(connections, address):
    first, second = await _open(address), await _open(address)
    with connections.busy(_transport(connections, 0)):
      pass  # The first has just been answered.
    third = await _open(address)
    assert await second[0].read() == b''
    fourth = await _open(address)
    assert await first[0].read() == b''
    assert len(connections._idle) == 2
    for _, writer in (third, fourth):
      writer.close()

  _run(test, most=2)


def test_one_that_is_answered_does_not_give_way():
  async def test(connections, address):
    first = await _open(address)
    transport = _transport(connections, 0)
    waits, became_idle = asyncio.Event(), connections._became_idle

    class Watched:
      set, clear = became_idle.set, became_idle.clear

      def wait(self):
        waits.set()
        return became_idle.wait()

    connections._became_idle = Watched()
    with connections.busy(transport):
      second = await _open(address, is_greeted=False)
      await waits.wait()  # The second has been accepted, and there is no room.
      assert not transport.is_closing() and not connections._idle
    assert await second[0].readexactly(1) == b'!'  # Now there is room.
    assert await first[0].read() == b''

  _run(test, most=1)


def test_one_that_is_new_stays_a_while():
  async def test(connections, address):
    loop = asyncio.get_running_loop()
    since = loop.time()  # Before it: a busy machine only adds to the time.
    first = await _open(address)
    await _open(address)
    assert loop.time() - since > 0.19
    assert await first[0].read() == b''

  _run(test, most=1, patience=0.2)


def test_one_that_has_gone_leaves_room():
  async def test(connections, address):
    first, second = await _open(address), await _open(address)
    transport = _transport(connections, 1)
    second[1].close()
    await _eventually(lambda: lib._is_gone(transport))
    third = await _open(address)
    assert len(connections._idle) == 2
    third[1].write(b'!')
    assert not first[0].at_eof()

  _run(test, most=2)


def test_without_files_it_makes_do_with_fewer(monkeypatch, capsys):
  monkeypatch.setattr(lib, 'RETRY', 0.0)

  async def test(connections, address):
    held = [await _open(address) for _ in range(3)]
    loop, failures = asyncio.get_running_loop(), []
    accept = loop.sock_accept

    async def sock_accept(listening):
      accepted = await accept(listening)
      if len(connections._idle) > 1:  # No more than two fit.
        failures.append(accepted[0].close())
        raise OSError(errno.EMFILE, 'Too many open files')
      return accepted

    monkeypatch.setattr(loop, 'sock_accept', sock_accept)
    for _ in range(20):
      held.append(await _open(address, is_greeted=False))
    await _eventually(lambda: failures and len(connections._idle) <= 2)
    assert (await _open(address))[1].transport

  _run(test, most=100)
  said = capsys.readouterr().err.splitlines()
  assert 1 <= len(said) <= 3  # One for each number that is still too many.
  assert 'at most 3 connections' in said[0]
  assert 'Too many open files' in said[0]


def _fails(loop, monkeypatch, *errors):
  """Lets the next calls of accept() fail."""
  accept, errors = loop.sock_accept, list(errors)

  async def sock_accept(listening):
    if errors:
      number = errors.pop(0)
      raise OSError(number, os.strerror(number))
    return await accept(listening)

  monkeypatch.setattr(loop, 'sock_accept', sock_accept)


def test_the_limit_is_restored(monkeypatch):
  monkeypatch.setattr(lib, 'RETRY', 0.0)
  monkeypatch.setattr(lib, 'RESTORE', 0.0)

  async def test(connections, address):
    held = [await _open(address)]
    _fails(asyncio.get_running_loop(), monkeypatch, errno.ENFILE)
    held += [await _open(address) for _ in range(4)]
    assert len(connections._idle) == 4  # One had to go at the error.

  _run(test, most=100)


def test_an_error_of_the_network_changes_no_limit(monkeypatch, capsys):
  async def test(connections, address):
    held = [await _open(address)]
    errors = errno.EPROTO, errno.EHOSTUNREACH, errno.ECONNABORTED, errno.EPERM
    _fails(asyncio.get_running_loop(), monkeypatch, *errors)
    held += [await _open(address) for _ in range(4)]
    assert len(connections._idle) == 5

  _run(test, most=100)
  assert capsys.readouterr().err == ''


def test_a_socket_that_is_broken_is_an_error():
  async def main():
    connections = Connections(1, patience=0.0)
    with socket.socket() as sock:  # It does not listen.
      sock.setblocking(False)
      with pytest.raises(OSError, match='Invalid argument'):
        await connections.accept(sock, Greeting)

  asyncio.run(main())


def test_a_limit_that_the_system_refuses_stays(monkeypatch):
  def setrlimit(*_):
    raise ValueError('current limit exceeds maximum limit')

  limits = 256, resource.RLIM_INFINITY
  monkeypatch.setattr(resource, 'getrlimit', lambda _: limits)
  monkeypatch.setattr(resource, 'setrlimit', setrlimit)
  assert lib.most(500) == 256 - lib.SPARE_FILES


@pytest.mark.parametrize(
  ('soft', 'hard', 'found', 'set_to'),
  [
    (1024, 4096, 500, None),
    (256, 4096, 500, 564),  # 500 and 64 for the rest.
    (256, 400, 336, 400),
    (256, resource.RLIM_INFINITY, 500, 564),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 500, None),
    (20, 20, 1, 20),
  ],
)
def test_files_bound_connections(soft, hard, found, set_to, monkeypatch):
  limits = []
  monkeypatch.setattr(resource, 'getrlimit', lambda _: (soft, hard))
  monkeypatch.setattr(resource, 'setrlimit', lambda _, to: limits.append(to))
  assert lib.most(500) == found
  assert limits == ([(set_to, hard)] if set_to else [])
