"""Freed memory goes back to the system, where the C library can."""

import ctypes
import platform
import types

import psutil
import pytest

from rlpt_jax.core import freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_freed_memory_is_returned():
  process = psutil.Process()
  # So small that the library would keep it, behind one that is still in use.
  blocks = [bytearray(60_000) for _ in range(4000)]
  before, blocks = process.memory_info().rss, blocks[-1:]
  freed_memory.give_back()
  assert before - process.memory_info().rss > 100e6
  assert len(blocks) == 1


def test_other_c_libraries_are_left_alone(monkeypatch):
  monkeypatch.setattr(ctypes, 'CDLL', lambda _: types.SimpleNamespace())
  freed_memory.give_back()
