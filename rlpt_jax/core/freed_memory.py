"""Returns freed memory to the operating system."""

import ctypes


def give_back():
  """Returns the memory that was freed to the system; glibc keeps it otherwise.

  Other C libraries have no such function, and nothing happens.
  """
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
    trim(0)
