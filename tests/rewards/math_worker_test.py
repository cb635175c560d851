r"""What equals what, the program by itself, and what it leaves behind."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rlpt_jax.rewards import math_worker
from tests.rewards.process_pool_test import children, is_running, wait_until

SLOW = '9^{9^{9^{9}}}'


@pytest.mark.parametrize(
  'gold, answer, reason',
  [
    ('42', '42', 'right'),
    ('42', '42.', 'right'),
    ('42', 'x = 42', 'right'),
    ('42', '$42$', 'right'),
    ('$42$', '42', 'right'),
    (r'\$42', '42', 'right'),
    ('42', '24', 'wrong'),
    ('42', '-42', 'wrong'),
    (r'\frac{1}{2}', '0.5', 'right'),
    (r'\frac12', '1/2', 'right'),
    ('0.333333', '1/3', 'right'),
    ('0.33', '1/3', 'wrong'),
    ('1,000', '1000', 'right'),
    (r'50\%', '0.5', 'right'),
    (r'\sqrt{8}', r'2\sqrt{2}', 'right'),
    ('x^2 + 2x + 1', '(x+1)^2', 'right'),
    ('x^2', 'y^2', 'wrong'),
    (r'\{1, 2\}', '2, 1', 'right'),
    ('(1, 2)', '(2, 1)', 'wrong'),
    ('[1, 2]', '(1, 2)', 'wrong'),
    (r'5\text{ cm}', '5', 'right'),
    # Two answers are not one.
    ('5', '4, 5', 'wrong'),
    ('5', r'4 \text{ or } 5', 'wrong'),
    ('5', r'\pm 5', 'wrong'),
    # Words are words, and not the product of their letters.
    ('Paris', 'paris', 'right'),
    ('Paris', r'\text{Paris}', 'right'),
    (r'\text{New York}', 'new  york.', 'right'),
    ('Paris', 'Pairs', 'wrong'),
    ('Paris', '5', 'wrong'),
    ('yes', r'\textbf{Yes}', 'right'),
    ('Zürich', 'zürich', 'right'),
    ('B', r'\text{B}', 'right'),
    ('xy', 'yx', 'right'),
    ('5', r'\frac{', 'unparsable'),
    ('5', '', 'unparsable'),
    ('5', '\x00', 'unparsable'),
    ('5', '\ud800', 'unparsable'),
    ('', '5', 'gold/unparsable'),
    (r'\frac{', r'\frac{', 'gold/unparsable'),
    ('1/0', '1/0', 'gold/unparsable'),
  ],
)
def test_compare(gold, answer, reason):
  assert math_worker.compare(gold, answer) == reason


def test_the_alarms_of_math_verify_are_off(monkeypatch):
  def alarm(seconds):
    raise AssertionError('an alarm was set')

  monkeypatch.setattr(signal, 'alarm', alarm)
  assert math_worker.compare('61', '61.0') == 'right'


def test_every_pair_sees_the_same_random_numbers(monkeypatch):
  # sympy draws some to decide whether two expressions differ.
  from sympy.core.random import rng

  drawn = []

  def parsed(text):
    drawn.append(rng.random())
    return []

  monkeypatch.setattr(math_worker, 'parsed_gold', parsed)
  for gold in ('5', '6', '7'):
    math_worker.compare(gold, '5')
  assert len(drawn) == 3 and len(set(drawn)) == 1


def test_gold_is_good_once_it_is_read():
  said = []
  for gold, answer in [('5', '6'), ('Paris', 'x'), ('', '5'), ('1/0', '5')]:
    math_worker.compare(gold, answer, lambda gold=gold: said.append(gold))
  assert said == ['5', 'Paris']


@pytest.mark.parametrize(
  'ended, in_gold, in_answer',
  [
    (signal.SIGPROF, 'gold/timeout', 'timeout'),
    (signal.SIGSEGV, 'gold/crash', 'crash'),
    (3 << 8, 'gold/crash', 'crash'),
    (signal.SIGKILL, 'killed', 'killed'),
    (signal.SIGALRM, 'stalled', 'stalled'),
  ],
)
def test_epitaph(ended, in_gold, in_answer):
  found = math_worker.death_reason(int(ended), math_worker.GOLD)
  assert found.decode() == in_gold
  found = math_worker.death_reason(int(ended), math_worker.ANSWER)
  assert found.decode() == in_answer


COMMAND = (sys.executable, '-P', math_worker.__file__)


@contextlib.contextmanager
def start(command=COMMAND, *, cpu_seconds=1.0, memory_mb=512):
  worker = subprocess.Popen(
    [*command, str(os.getpid()), str(cpu_seconds), str(memory_mb)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  try:
    assert worker.stdout.readline() == 'ready\n'
    assert ask(worker, '0 ["5", "5"]') == ['0 right']
    yield worker
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()


def child_of(worker) -> int:
  """The process that answers: there is one as soon as there must be."""
  wait_until(lambda: children(worker.pid))
  (child,) = children(worker.pid)
  return child


def ask(worker, *lines: str):
  said = []
  for line in lines:
    worker.stdin.write(line + '\n')
    worker.stdin.flush()
    said.append(worker.stdout.readline().rstrip('\n'))
  return said


def test_the_program():
  with start() as worker:
    assert ask(worker, '7 ["5", "5.0"]', '3 ["5", "6"]') == [
      '7 right', '3 wrong',
    ]  # fmt: skip
    # It dies of this, and goes on.
    assert ask(
      worker,
      f'8 ["5", "{SLOW}"]',
      f'9 ["{SLOW}", "5"]',
      '10 ["5", "5.0"]',
    ) == ['8 timeout', '9 gold/timeout', '10 right']
    child = child_of(worker)
    maps = pathlib.Path(f'/proc/{child}/maps').read_text()
    assert 'jaxlib' not in maps and 'numpy' not in maps
    resident = int(
      pathlib.Path(f'/proc/{worker.pid}/statm').read_text().split()[1]
    )
    assert resident * os.sysconf('SC_PAGESIZE') < 150 << 20
    worker.stdin.close()
    assert worker.wait(10) == 0
  assert not is_running(child)


# Its children's: its own peak is that of the process which has started it.
PEAK = """
  import os, resource, sys
  from rlpt_jax.rewards import math_worker
  replies = os.dup(1)
  math_worker.main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  os.write(replies, b'%d\\n' % (peak >> 10))
"""


@pytest.mark.slow
def test_memory_is_bounded():
  command = [sys.executable, '-c', textwrap.dedent(PEAK)]
  with start(command, cpu_seconds=10, memory_mb=256) as worker:
    # A hundred thousand terms, half a gigabyte after some seconds. math-verify
    # swallows the MemoryError and says that they are not 5.
    assert ask(worker, '1 ["5", "(1 + x)^{100000}"]') == ['1 wrong']
    assert ask(worker, '2 ["5", "5.0"]') == ['2 right']
    worker.stdin.close()
    assert 100 < int(worker.stdout.readline()) <= 256


@pytest.mark.parametrize(
  'number, reason', [(signal.SIGKILL, 'killed'), (signal.SIGSEGV, 'crash')]
)
def test_one_that_dies_is_replaced(number, reason):
  """Killed by the machine, which is no verdict, or by a bug of a library."""
  with start(cpu_seconds=60) as worker:
    worker.stdin.write(f'1 ["5", "{SLOW}"]\n')
    worker.stdin.flush()
    child = child_of(worker)
    wait_until(lambda: busy(child))
    os.kill(child, number)
    assert worker.stdout.readline() == f'1 {reason}\n'
    assert ask(worker, '2 ["5", "5.0"]') == ['2 right']
    assert child_of(worker) != child


# What becomes of a comparison that math-verify does not survive.
PLANTED = """
  import os, sys, time
  from rlpt_jax.rewards import math_worker
  real = math_worker.compare

  def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
      pass

  def compare(gold, answer, gold_is_good=lambda: None):
    def meet(text):
      if text == 'deep':
        meet(text)
      if text == 'large':
        bytearray(1 << 40)
      if text == 'broken':
        raise SystemExit
      if text == 'abort':
        os.abort()
      if text == 'work':
        work(0.7)
    meet(gold)
    gold_is_good()
    meet(answer)
    return 'right' if 'work' in answer else real(gold, answer)

  math_worker.compare = compare
  math_worker.main(int(sys.argv[1]), 1.0, 512)
"""


def test_what_math_verify_might_do():
  command = [sys.executable, '-c', textwrap.dedent(PLANTED)]
  with start(command) as worker:
    for text, reason in [
      ('deep', 'memory'),
      ('large', 'memory'),
      ('broken', 'crash'),
      ('abort', 'crash'),
    ]:
      assert ask(
        worker, f'1 ["5", "{text}"]', f'2 ["{text}", "5"]', '3 ["5", "5"]'
      ) == [f'1 {reason}', f'2 gold/{reason}', '3 right']
    # 0.7 s for each of two, and a limit of 1 s.
    assert ask(worker, '4 ["work", "work"]') == ['4 right']


@pytest.mark.slow
def test_time_is_the_processors_not_the_clocks():
  with start(cpu_seconds=1.0) as worker:
    worker.stdin.write(f'1 ["5", "{SLOW}"]\n')
    worker.stdin.flush()
    child = child_of(worker)
    wait_until(lambda: busy(child))
    os.kill(child, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(child, signal.SIGCONT)
    time.sleep(0.1)
    # It has had 0.4 s of its second.
    assert is_running(child)
    assert worker.stdout.readline() == '1 timeout\n'


def test_one_that_stands_still_is_no_verdict():
  with start(cpu_seconds=0.3) as worker:
    worker.stdin.write(f'1 ["5", "{SLOW}"]\n')
    worker.stdin.flush()
    child = child_of(worker)
    wait_until(lambda: busy(child, 0.1))
    os.kill(child, signal.SIGSTOP)
    time.sleep(3.1)  # Ten times the limit, and it has used a third of that.
    os.kill(child, signal.SIGCONT)
    assert worker.stdout.readline() == '1 stalled\n'


def test_one_that_has_nothing_to_do_is_not_late():
  with start(cpu_seconds=0.1) as worker:
    child = child_of(worker)
    time.sleep(1.2)
    assert ask(worker, '1 ["5", "5.0"]') == ['1 right']
    assert child_of(worker) == child


def busy(pid: int, seconds: float = 0.3) -> bool:
  """Whether it has computed for so long; loading is its parent's."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1]
  return int(fields.split()[11]) / os.sysconf('SC_CLK_TCK') > seconds


def is_worker(pid: int) -> bool:
  command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  return math_worker.__file__.encode() in command


PARENT = """
  import os, sys, time
  from rlpt_jax.rewards.math_verifier import MathVerifier
  with MathVerifier(num_workers=2, cpu_seconds=1.0, memory_mb=512) as verifier:
    if sys.argv[1] != 'loading':
      verifier.compare([('5', '5')] * 2)
    if sys.argv[1] in ('loading', 'forked') and os.fork() == 0:
      time.sleep(60)
      os._exit(0)
    print('started', flush=True)
    if sys.argv[1] == 'busy':
      verifier.compare([('5', '{slow}')] * 1000)
    time.sleep(60)
"""


@pytest.mark.parametrize(
  'how, number',
  [
    ('idle', signal.SIGKILL),
    ('busy', signal.SIGKILL),
    ('busy', signal.SIGINT),
    ('busy', signal.SIGTERM),
    # A child of the parent holds the pipes of the workers and lives on.
    ('forked', signal.SIGKILL),
    ('loading', signal.SIGKILL),
  ],
)
def test_nobody_is_left_behind(how, number):
  code = textwrap.dedent(PARENT).replace('{slow}', SLOW)
  parent = subprocess.Popen(
    [sys.executable, '-c', code, how],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  try:
    assert parent.stdout.readline() == 'started\n', parent.stderr.read()
    everybody: list[int] = []

    def complete():
      workers = [p for p in children(parent.pid) if is_worker(p)]
      everybody[:] = workers + [c for w in workers for c in children(w)]
      return len(everybody) == 4 or (how == 'loading' and len(workers) == 2)

    wait_until(complete)
    if how == 'busy':
      wait_until(lambda: any(busy(pid) for pid in everybody[2:]))
    os.kill(parent.pid, number)
    if how == 'loading':
      parent.wait()  # Buried before anybody could watch it; else it is not.
    # Busy ones end after 1 s of computing.
    wait_until(lambda: not any(map(is_running, everybody)))
    if how in ('loading', 'forked'):
      os.killpg(parent.pid, 0)  # It still lived.
  finally:
    os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate()
