"""Devices and reference models that several tests share."""

import os

# Before jax starts: eight devices for the sharding tests, and machine code that
# is compiled fast rather than fast, which halves the time of the whole suite.
os.environ['XLA_FLAGS'] = ' '.join((
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
  os.environ.get('XLA_FLAGS', ''),
))  # fmt: skip
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

import jax
import pytest

from rlpt_jax.core.layout import make_layout


@pytest.fixture(scope='session')
def one_device():
  return make_layout(devices=jax.devices()[:1])
