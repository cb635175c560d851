"""A pool of a toy that dies, sleeps and babbles when it is told to."""

import gc
import os
import pathlib
import select
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rlpt_jax.rewards import process_pool
from rlpt_jax.rewards.process_pool import ProcessPool

TOY = r"""
import os, signal, subprocess, sys, time
here = sys.argv[1]
def once(name):
  try:
    os.close(os.open(f'{here}/{name}', os.O_CREAT | os.O_EXCL))
    return True
  except FileExistsError:
    return False
if os.path.exists(f'{here}/gate') and not once('first') and once('second'):
  open(f'{here}/gate').read()
print('ready', flush=True)
for line in sys.stdin:
  number, request = line.rstrip('\n').split(' ', 1)
  word, _, name = request.partition(':')
  if word == 'die' or word == 'die once' and once(name):
    os._exit(3)
  if word == 'sleep' or word == 'sleep once' and once(name):
    child = subprocess.Popen(['sleep', '1000'])
    print(os.getpid(), child.pid, file=open(f'{here}/pids', 'a'), flush=True)
    time.sleep(1000)
  if word == 'babble' and once(name):
    print('what?', flush=True)
    time.sleep(0.2)
  if word == 'halves':
    sys.stdout.write(f'{number} ha'); sys.stdout.flush(); time.sleep(0.2)
    print('lves', flush=True); continue
  if word == 'slow':
    time.sleep(0.2)
  print(number, request.upper(), flush=True)
"""


def toy(folder, **options) -> ProcessPool:
  command = [sys.executable, '-S', '-E', '-c', TOY, str(folder)]
  return ProcessPool(command, **{'num_workers': 2, 'patience': 60.0} | options)


def is_running(pid: int) -> bool:
  """Zombies are dead: whether they are buried is up to whoever adopts them."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'


def children(pid: int) -> list[int]:
  found = pathlib.Path(f'/proc/{pid}/task').glob('*/children')
  return [int(child) for path in found for child in path.read_text().split()]


def wait_until(condition, seconds=30.0):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'waited in vain'
    time.sleep(0.02)


def test_answers_come_in_the_order_of_the_requests(tmp_path):
  with toy(tmp_path) as pool:
    # The slow one is answered last and is the first of the answers.
    requests = ['slow', *(f'request {i}' for i in range(200)), 'halves']
    expected = [request.upper() for request in requests[:-1]]
    for _ in range(2):
      assert pool.map(requests) == [*expected, 'halves']
    assert pool.map([]) == []


def test_one_that_dies_or_babbles_is_asked_again_elsewhere(tmp_path):
  requests = ['a', 'die once:1', 'b', 'babble:2', 'die once:3', 'c'] * 2
  with toy(tmp_path) as pool:
    assert pool.map(requests) == [request.upper() for request in requests]


def test_one_that_kills_two_workers_has_no_answer(tmp_path):
  with toy(tmp_path) as pool:
    for _ in range(3):
      assert pool.map(['a', 'die', 'b', 'die', 'c']) == [
        'A', None, 'B', None, 'C',
      ]  # fmt: skip


def test_one_that_is_silent_is_killed_with_what_it_has_started(
  tmp_path, monkeypatch
):
  pids = tmp_path / 'pids'

  def clock():
    """Goes on when the worker sleeps, and what it has started."""
    return float(pids.exists() and pids.read_text().endswith('\n'))

  monkeypatch.setattr(process_pool, 'time', SimpleNamespace(monotonic=clock))
  with toy(tmp_path, patience=0.01, num_workers=1) as pool:
    # It is not asked again: it would be answered.
    assert pool.map(['sleep once:1', 'a']) == [None, 'A']
    for pid in map(int, pids.read_text().split()):
      wait_until(lambda pid=pid: not is_running(pid))


def test_workers_killed_from_outside(tmp_path):
  """One is known to be ready; of the other that is still to be heard."""
  os.mkfifo(tmp_path / 'gate')
  with toy(tmp_path) as pool:
    assert pool.map(['a']) == ['A']
    (tmp_path / 'gate').write_text('')
    (unheard,) = (worker for worker in pool._workers if not worker.ready)
    select.select([unheard.stdout], [], [])
    for worker in pool._workers:
      os.kill(worker._process.pid, signal.SIGKILL)
      os.waitid(os.P_PID, worker._process.pid, os.WEXITED | os.WNOWAIT)
    assert pool.map(['a', 'b', 'c']) == ['A', 'B', 'C']


@pytest.fixture
def no_collections():
  """A KeyboardInterrupt that comes in a callback of gc, hypothesis has one, is
  printed and lost.
  """
  gc.disable()
  yield
  gc.enable()


def test_an_interrupted_call_leaves_nothing_for_the_next(
  tmp_path, no_collections
):
  def interrupt():
    wait_until((tmp_path / 'pids').exists)
    os.kill(os.getpid(), signal.SIGINT)

  with toy(tmp_path) as pool:
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
      pool.map(['slow', 'sleep'])
    thread.join()
    assert pool.map(['a', 'b', 'c']) == ['A', 'B', 'C']


def test_calls_from_several_threads(tmp_path):
  results = {}

  def call(name):
    results[name] = pool.map([f'{name}{i}' for i in range(50)])

  with toy(tmp_path) as pool:
    threads = [threading.Thread(target=call, args=(n,)) for n in 'abc']
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  for name in 'abc':
    assert results[name] == [f'{name.upper()}{i}' for i in range(50)]


def test_a_command_that_does_not_start_says_why():
  command = [sys.executable, '-S', '-c', 'raise SystemExit("no such thing")']
  with ProcessPool(command, num_workers=2, patience=1.0) as pool:
    with pytest.raises(RuntimeError, match=r'(?s)3 times.*no such thing'):
      pool.map(['a'])
  with pytest.raises(FileNotFoundError):
    ProcessPool(['/no/such/program'], num_workers=1, patience=1.0)


def test_a_closed_pool(tmp_path):
  before = set(children(os.getpid()))
  pool = toy(tmp_path)
  assert pool.map(['a']) == ['A']
  assert set(children(os.getpid())) - before
  pool.close()
  pool.close()
  assert set(children(os.getpid())) <= before
  with pytest.raises(ValueError, match='closed'):
    pool.map(['a'])


def test_no_workers(tmp_path):
  with pytest.raises(ValueError, match='num_workers'):
    toy(tmp_path, num_workers=0)
