"""How tests compile, and where they keep that."""

import ctypes
import gc
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import sys

# Machine code that is compiled in a fifth of the time, and is slower. What is
# tested is the same program; to compile it as runs do, give XLA_FLAGS of your
# own, which come last:
#   --xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true
# By the first jaxlib that does not know them: it ends the process.
FAST = {
  '--xla_backend_optimization_level=0': (1,),
  '--xla_cpu_parallel_codegen_split_count=1': (0, 12),
  '--xla_cpu_use_fusion_emitters=false': (0, 11),
}


def folder() -> pathlib.Path:
  """Of programs compiled on processors like this one."""
  about, processor = pathlib.Path('/proc/cpuinfo'), platform.machine()
  if about.exists():  # What it can do is in the machine code.
    lines = about.read_text().splitlines()
    processor += next((x for x in lines if x.startswith('flags')), '')
  kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
  return pathlib.Path.home() / '.cache' / 'rlpt_jax' / 'tests' / kind


def flags(devices: int) -> str:
  """XLA's, for so many devices."""
  version = tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2]))
  return ' '.join((
    f'--xla_force_host_platform_device_count={devices}',
    *(flag for flag, unknown in FAST.items() if version < unknown),
    os.environ.get('XLA_FLAGS', ''),
  ))  # fmt: skip


def drop():
  """Frees the memory of all compiled programs."""
  import jax

  jax.clear_caches()
  gc.collect()
  if sys.platform == 'linux':
    ctypes.CDLL(None).malloc_trim(0)


def on_one_device() -> dict[str, str]:
  """The environment of a process that is no test of sharding: it compiles fast
  too, but does not play at eight devices.
  """
  one = '--xla_force_host_platform_device_count=1'
  return os.environ | {
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {one}',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
