"""How tests compile, and where they keep that."""

import hashlib
import os
import pathlib
import platform


def folder() -> pathlib.Path:
  """Of programs compiled on processors like this one."""
  about, processor = pathlib.Path('/proc/cpuinfo'), platform.machine()
  if about.exists():  # What it can do is in the machine code.
    lines = about.read_text().splitlines()
    processor += next((x for x in lines if x.startswith('flags')), '')
  kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
  return pathlib.Path.home() / '.cache' / 'rlpt_jax' / 'tests' / kind


def on_one_device() -> dict[str, str]:
  """The environment of a process that is no test of sharding: it compiles fast
  too, but does not play at eight devices.
  """
  return os.environ | {
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
