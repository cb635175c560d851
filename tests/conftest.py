"""Devices and reference models that several tests share."""

import hashlib
import os
import pathlib
import platform

# Before jax starts: eight devices for the sharding tests, and machine code that
# is compiled fast rather than fast, which halves the time of the whole suite.
os.environ['XLA_FLAGS'] = ' '.join((
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
  os.environ.get('XLA_FLAGS', ''),
))  # fmt: skip


def _compiled() -> pathlib.Path:
  """Where programs compiled on processors like this one are kept.

  Many tests, processes of their own too, compile the same ones: once is enough,
  and the next run finds them, in another clone too.
  """
  about, processor = pathlib.Path('/proc/cpuinfo'), platform.machine()
  if about.exists():  # What it can do is in the machine code.
    lines = about.read_text().splitlines()
    processor += next((x for x in lines if x.startswith('flags')), '')
  kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
  return pathlib.Path.home() / '.cache' / 'rlpt_jax' / 'tests' / kind


os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_compiled()))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

import jax
import pytest

from rlpt_jax.core.layout import make_layout


@pytest.fixture(scope='session')
def one_device():
  return make_layout(devices=jax.devices()[:1])


@pytest.fixture(scope='session')
def browser():
  """A browser that tests of pages share; see tests/browser.py."""
  from tests.browser import Browser, found

  opened = Browser(found())
  yield opened
  opened.close()
