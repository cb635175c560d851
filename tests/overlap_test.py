"""The benchmark of that name: an update runs while chunks do."""

import argparse

import pytest

from benchmarks import overlap

OPTIONS = argparse.Namespace(model='tiny_qwen3', completion_length=128)


@pytest.mark.slow
def test_chunks_end_while_an_update_runs():
  found = overlap.measure(OPTIONS, (0, 4), (4, 5))
  assert found['chunks'] >= 2
  assert found['dispatched'] < found['first'] < found['last']
  assert found['last'] < found['updated']
  # The host does not wait for the update whose weights it publishes.
  assert not found['waited']


@pytest.mark.slow
def test_one_device_does_one_thing_after_another():
  found = overlap.measure(OPTIONS, (0, 4), (0, 4))
  assert not found['chunks']
