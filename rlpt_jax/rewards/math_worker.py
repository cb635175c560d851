r"""The program that compares answers with golds until its input ends.

It is run by its path and imports nothing from this package. So a worker starts
in a second and takes 60 MB, and the process that parses a policy's text holds
none of the trainer's devices or threads.

  stdin   lines '<number> ["gold", "answer"]'
  stdout  first 'ready', then for each line '<number> <reason>'

A line is sent only when the one before it has been answered.

There are two processes. The first loads math-verify and forks the second, which
answers. If the second dies, from a limit or a crash, the first answers in
its place and forks again within milliseconds, so every line gets an answer.
Only the kernel can end the second, because no Python signal handler runs while
9**9**9 is computed. math-verify's own limits need such handlers, so they are
off.

The limit is on CPU time, so that a busy machine cannot turn 'right' into
'timeout'. A wall-clock limit ten times as long ends a process that hangs.

Verdicts depend on the pair alone: hashes and random numbers have fixed seeds.
A gold that was parsed before is cached and takes no time. If gold and answer
shared a limit, the answer would then have more of it; so each has its own.
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
EMPTY, AGAIN = 0, 1  # The fork's exit status: input ended, or fork again.
# (gold, answer) pairs that are compared before forking, to run lazy imports and
# fill the parser's tables. Without that, the first answer of a kind takes up to
# 0.2 s, later ones a few milliseconds.
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
MAX_JOBS = 2000  # Then fork again, because caches in sympy and antlr grow.

_TEXT = re.compile(r'\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*{([^{}]*)}')
_LETTERS, _WORD = re.compile(r"(?:[^\W\d_]|[' -])+"), re.compile(r'[^\W\d_]{3}')


def main(parent: int, cpu_seconds: float, memory_mb: int) -> None:
  """Answers lines of stdin until it ends or the process `parent` has ended."""
  replies = os.dup(1)
  logging.disable(logging.CRITICAL)
  for gold, answer in WARM_UP:
    if (verdict := compare(gold, answer)) != 'right':
      raise SystemExit(
        f'math-verify judges {answer} as {verdict} for {gold}; expected right. '
        'Is the installed version of antlr4-python3-runtime one that '
        'latex2sympy2_extended supports?'
      )
  # It is not enough to wait for the end of stdin: a process that the parent has
  # forked keeps the pipe open for as long as it lives. os.kill(parent, 0) would
  # not help: it still succeeds for a zombie.
  watched = [0]
  with contextlib.suppress(AttributeError, OSError):  # Only Linux has pidfds.
    watched.append(os.pidfd_open(parent))
  if os.getppid() != parent:  # The parent ended before it was watched.
    raise SystemExit(
      f'expected {parent} as the parent process, which has ended.'
    )
  os.write(replies, b'ready\n')
  silence = os.open(os.devnull, os.O_RDWR)
  os.dup2(silence, 1)
  os.dup2(silence, 2)
  # Keeps this memory shared with the forks: garbage collection skips it.
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
      os.write(replies, b'%d %s\n' % (number, death_reason(status, phase)))
    elif os.waitstatus_to_exitcode(status) != AGAIN:
      return


def serve(watched, replies, underway, cpu_seconds, memory_mb) -> int:
  """Answers lines; returns the exit status of this process."""
  for count, line in enumerate(read_lines(watched), 1):
    number, _, pair = line.partition(b' ')
    number, (gold, answer) = int(number), json.loads(pair)

    def begin(phase, number=number):
      set_alarms(cpu_seconds)
      set_underway(underway, number, phase)

    begin(GOLD)
    try:
      reason = compare(gold, answer, functools.partial(begin, ANSWER))
    except (MemoryError, RecursionError):  # If sympy lets them through.
      _, phase = struct.unpack('<qq', underway[:])
      reason = 'gold/memory' if phase == GOLD else 'memory'
    set_alarms(0)
    # Do this before replying. If this process dies in between, the pool asks
    # again; in the other order, `main` would reply a second time.
    set_underway(underway, number, IDLE)
    os.write(replies, b'%d %s\n' % (number, reason.encode()))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if count == MAX_JOBS or peak_mb > memory_mb / 2:
      return AGAIN
  return EMPTY


def compare(gold: str, answer: str, gold_is_good=lambda: None) -> str:
  """Returns 'right', 'wrong', 'gold/unparsable' or 'unparsable'.

  Calls `gold_is_good` when the gold has been read.
  """
  import math_verify
  from sympy.core.random import seed

  seed(0)
  gold, answer = tidy(gold), tidy(answer)
  # math-verify reads a word as the product of its letters: Paris == Pairs.
  words = plain(gold)
  if _LETTERS.fullmatch(words) and _WORD.search(words):
    gold_is_good()
    return 'right' if plain(answer) == words else 'wrong'
  expected = parsed_gold(gold)
  if not expected:
    return 'gold/unparsable'
  gold_is_good()
  actual = parsed(answer)
  if not actual:
    return 'unparsable'
  equal = math_verify.verify(expected, actual, timeout_seconds=None)
  return 'right' if equal else 'wrong'


def parsed(text: str) -> list:
  """Returns the expressions that math-verify finds in an answer, or []."""
  import math_verify

  return math_verify.parse(
    f'\\boxed{{{text}}}',
    [math_verify.LatexExtractionConfig(boxed_match_priority=0)],
    fallback_mode='no_fallback',
    parsing_timeout=None,
  )


@functools.lru_cache(maxsize=64)  # A group shares its gold.
def parsed_gold(text: str) -> list:
  """Returns `parsed(text)`; [] if the gold does not equal itself, like 1/0."""
  import math_verify
  from sympy import Integer

  expected = parsed(text)
  # A gold that can never be compared, like 9^{9^{9^9}}, must reach the CPU
  # limit here, so that the time-out is blamed on the gold, not on the answer.
  math_verify.verify(expected, Integer(0), timeout_seconds=None)
  itself = math_verify.verify(expected, expected, timeout_seconds=None)
  return expected if itself else []


def tidy(text: str) -> str:
  """Returns the text without outer white space, outer $ or final full stop."""
  text = text.strip().rstrip('.').rstrip()
  if len(text) > 1 and text[0] == text[-1] == '$' and text[-2] != '\\':
    text = text.strip('$').strip()
  return text


def plain(text: str) -> str:
  """Returns the words of a text, ignoring font, case and white space."""
  return ' '.join(_TEXT.sub(r'\1', text).casefold().split())


def death_reason(status: int, phase: int) -> bytes:
  """Returns the reason for a line whose process died in this phase."""
  code = os.waitstatus_to_exitcode(status)
  # Caused by the machine (out of memory, or hanging): no verdict.
  if code == -signal.SIGKILL:
    return b'killed'
  if code == -signal.SIGALRM:
    return b'stalled'
  why = b'timeout' if code == -signal.SIGPROF else b'crash'
  return b'gold/' + why if phase == GOLD else why


def set_alarms(cpu_seconds: float) -> None:
  """Limits CPU time, and wall time to ten times that; 0 lifts both limits."""
  signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
  signal.setitimer(signal.ITIMER_REAL, 10 * cpu_seconds)


def set_underway(underway: mmap.mmap, number: int, phase: int) -> None:
  underway[:] = struct.pack('<qq', number, phase)


def limit(memory_mb: int) -> None:
  """Limits the memory of this process and lets alarms kill it."""
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
  """Yields lines of watched[0] until it ends or the parent process ends.

  watched[1], if given, is the parent's pidfd, which becomes readable when the
  parent ends.
  """
  rest = b''
  while select.select(watched, [], [])[0] == watched[:1]:
    block = os.read(watched[0], 1 << 16)
    if not block:
      return
    *whole, rest = (rest + block).split(b'\n')
    yield from whole


if __name__ == '__main__':
  main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
