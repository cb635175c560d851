r"""The program that compares one answer with another, until it is killed.

It runs by its path, apart from the package: nothing of ours is imported, so a
worker starts in a second and weighs 60 MB, and nothing of a trainer's (its
devices, its threads) is in the process that reads what a policy wrote.

  stdin   a line '<number> ["gold", "answer"]'
  stdout  first 'ready', then for each line '<number> <reason>'

A line is sent when the one before it has been answered.

Two processes. The first loads math-verify and forks the second, which answers;
when that dies, of its limits or of a crash, the first answers in its place and
forks again, in milliseconds. So whatever the answer holds, a line gets a line.
What ends the second is the kernel alone: no handler of Python's runs while
9**9**9 is worked out. math-verify's own limits are alarms; they are off.

The limit is on CPU time: a busy machine must not turn right into 'timeout'. A
wall-clock limit ten times as long is there for what waits.

Verdicts depend on the pair alone: hashes and random numbers have fixed seeds,
and gold and answer have a limit each, since a gold that was read before is not
read again.
"""

import contextlib
import functools
import gc
import json
import logging
import mmap
import os
import re
import resource
import select
import signal
import struct
import sys

IDLE, GOLD, ANSWER = range(3)
EMPTY, AGAIN = 0, 1  # How the second process ends: input is over, or renew me.
# Loads what loads late, and fills the parser's tables for all forks: the first
# answer of its kind takes up to 0.2 s, later ones some milliseconds.
WARM_UP = (
  (r'\frac12', '0.5'),
  (r'\sqrt{8}', r'2\sqrt{2}'),
  ('x^2 - 1', '(x - 1)(x + 1)'),
  (r'\{1, 2\}', '2, 1'),
  ('(0, 1]', r'\left(0, 1\right]'),
  (r'50\%', '0.5'),
  ('x > 1', '1 < x'),
  (r'\text{so}', 'so'),
)
MAX_JOBS = 2000  # sympy's and antlr's caches grow.

_TEXT = re.compile(r'\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*{([^{}]*)}')
_LETTERS, _WORD = re.compile(r"(?:[^\W\d_]|[' -])+"), re.compile(r'[^\W\d_]{3}')


def main(parent: int, cpu_seconds: float, memory_mb: int) -> None:
  """Answers lines until they end, or until the process `parent` is gone."""
  replies = os.dup(1)
  logging.disable(logging.CRITICAL)
  for gold, answer in WARM_UP:
    if (found := compare(gold, answer)) != 'right':
      raise SystemExit(
        f'math-verify finds that {answer} is {found} for {gold}; expected '
        'right. Is the installed antlr4-python3-runtime one that '
        'latex2sympy2_extended takes?'
      )
  # The end of stdin is not enough: a process that the parent has forked holds
  # its other side for as long as it lives. Not os.kill(parent, 0): a parent may
  # be dead and not buried.
  watched = [0]
  with contextlib.suppress(AttributeError, OSError):  # Linux has pidfds.
    watched.append(os.pidfd_open(parent))
  if os.getppid() != parent:  # Then it went before it was watched.
    raise SystemExit(f'expected {parent} as the parent; it is gone.')
  os.write(replies, b'ready\n')
  silence = os.open(os.devnull, os.O_RDWR)
  os.dup2(silence, 1)
  os.dup2(silence, 2)
  # What is here stays shared with the forks: no collection touches it.
  gc.collect()
  gc.freeze()
  underway = mmap.mmap(-1, 16)
  while True:
    set_underway(underway, 0, IDLE)
    child = os.fork()
    if child == 0:
      status = 3
      try:
        limit(memory_mb)
        status = serve(watched, replies, underway, cpu_seconds, memory_mb)
      finally:
        os._exit(status)
    _, status = os.waitpid(child, 0)
    number, phase = struct.unpack('<qq', underway[:])
    if phase != IDLE:
      os.write(replies, b'%d %s\n' % (number, epitaph(status, phase)))
    elif os.waitstatus_to_exitcode(status) != AGAIN:
      return


def serve(watched, replies, underway, cpu_seconds, memory_mb) -> int:
  """Answers lines; returns how it wants to end."""
  for count, line in enumerate(read_lines(watched), 1):
    number, _, pair = line.partition(b' ')
    number, (gold, answer) = int(number), json.loads(pair)

    def begin(phase, number=number):
      set_alarms(cpu_seconds)
      set_underway(underway, number, phase)

    begin(GOLD)
    try:
      reason = compare(gold, answer, functools.partial(begin, ANSWER))
    except (MemoryError, RecursionError):  # Those that sympy lets through.
      _, phase = struct.unpack('<qq', underway[:])
      reason = 'gold/memory' if phase == GOLD else 'memory'
    set_alarms(0)
    # Before it is said: a line is better asked again than answered twice.
    set_underway(underway, number, IDLE)
    os.write(replies, b'%d %s\n' % (number, reason.encode()))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if count == MAX_JOBS or peak_mb > memory_mb / 2:
      return AGAIN
  return EMPTY


def compare(gold: str, answer: str, gold_is_good=lambda: None) -> str:
  """'right', 'wrong', or which cannot be read: 'unparsable' is the answer."""
  import math_verify
  from sympy.core.random import seed

  seed(0)
  gold, answer = tidy(gold), tidy(answer)
  # math-verify reads words as products of their letters: Paris == Pairs.
  words = plain(gold)
  if _LETTERS.fullmatch(words) and _WORD.search(words):
    gold_is_good()
    return 'right' if plain(answer) == words else 'wrong'
  expected = parsed_gold(gold)
  if not expected:
    return 'gold/unparsable'
  gold_is_good()
  found = parsed(answer)
  if not found:
    return 'unparsable'
  equal = math_verify.verify(expected, found, timeout_seconds=None)
  return 'right' if equal else 'wrong'


def parsed(text: str) -> list:
  """What math-verify reads in an answer; [] if that is nothing."""
  import math_verify

  return math_verify.parse(
    f'\\boxed{{{text}}}',
    [math_verify.LatexExtractionConfig(boxed_match_priority=0)],
    fallback_mode='no_fallback',
    parsing_timeout=None,
  )


@functools.lru_cache(maxsize=64)  # A group shares its gold.
def parsed_gold(text: str) -> list:
  """`parsed`, but [] also for what does not even equal itself: 1/0."""
  import math_verify
  from sympy import Integer

  expected = parsed(text)
  # If this takes for ever, so would every answer: 9^{9^{9^9}}.
  math_verify.verify(expected, Integer(0), timeout_seconds=None)
  itself = math_verify.verify(expected, expected, timeout_seconds=None)
  return expected if itself else []


def tidy(text: str) -> str:
  """The text without what surrounds an answer: blanks, $, a full stop."""
  text = text.strip().rstrip('.').rstrip()
  if len(text) > 1 and text[0] == text[-1] == '$' and text[-2] != '\\':
    text = text.strip('$').strip()
  return text


def plain(text: str) -> str:
  """The words of a text, whatever their font, case and blanks."""
  return ' '.join(_TEXT.sub(r'\1', text).casefold().split())


def epitaph(status: int, phase: int) -> bytes:
  """The reason that a process which died in this phase would have given."""
  code = os.waitstatus_to_exitcode(status)
  # From outside (the machine is out of memory, or stands still): no verdict.
  if code == -signal.SIGKILL:
    return b'killed'
  if code == -signal.SIGALRM:
    return b'stalled'
  why = b'timeout' if code == -signal.SIGPROF else b'crash'
  return b'gold/' + why if phase == GOLD else why


def set_alarms(cpu_seconds: float) -> None:
  """Ends this process after so much work, or ten times that; 0: never."""
  signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
  signal.setitimer(signal.ITIMER_REAL, 10 * cpu_seconds)


def set_underway(underway: mmap.mmap, number: int, phase: int) -> None:
  underway[:] = struct.pack('<qq', number, phase)


def limit(memory_mb: int) -> None:
  """Bounds this process in memory, and lets alarms kill it."""
  for number in (signal.SIGALRM, signal.SIGPROF):
    signal.signal(number, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_SETMASK, [])
  limits = {
    resource.RLIMIT_AS: memory_mb << 20,
    resource.RLIMIT_CORE: 0,
  }
  for what, most in limits.items():
    with contextlib.suppress(ValueError, OSError):  # macOS has no RLIMIT_AS.
      resource.setrlimit(what, (most, most))


def read_lines(watched: list[int]):
  """Lines of watched[0] until it ends, or until another speaks."""
  rest = b''
  while select.select(watched, [], [])[0] == watched[:1]:
    block = os.read(watched[0], 1 << 16)
    if not block:
      return
    *whole, rest = (rest + block).split(b'\n')
    yield from whole


if __name__ == '__main__':
  main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
