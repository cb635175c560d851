"""What takes time in proportion to its input ends soon; what does not, never.

Not a measurement, which a busy machine would spoil: a test gives so much input
that quadratic time is a hundred times what is allowed here, and linear time a
small part of it.
"""

import contextlib
import signal


@contextlib.contextmanager
def ends_soon(cpu_seconds: float = 60.0):
  """Fails when the body has used this much of the processor."""

  def give_up(number, frame):
    del number, frame
    raise AssertionError(f'not at its end after {cpu_seconds} s of processor')

  before = signal.signal(signal.SIGVTALRM, give_up)
  signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
