"""Completions that wait for a verdict, on the disk."""

import logging

import numpy as np
import pytest

from rlpt_jax.core import run_files
from rlpt_jax.rollout import unjudged
from rlpt_jax.rollout.unjudged import SavedSample
from rlpt_jax.sampling.requests import Completion


def sample(text: str, version: int, finish_reason='stop') -> SavedSample:
  T = len(text.encode('utf-8', 'surrogatepass'))
  rng = np.random.default_rng(T)
  completion = Completion(
    tokens=np.arange(T, dtype=np.int32),
    logprobs=-rng.random(T, np.float32) / 3,
    policy_logprobs=np.full(T, -np.inf, np.float32),
    is_own=np.arange(T) % 2 == 0,
    versions=np.full(T, version, np.int32),
    finish_reason=finish_reason,
    prompt_version=version,
  )
  return SavedSample(text, finish_reason, completion)


def check_equal(found, expected):
  assert list(found) == list(expected)
  for name, group in expected.items():
    for a, b in zip(found[name], group, strict=True):
      assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
      for field in (*unjudged.ARRAYS, 'versions'):
        x, y = getattr(a.completion, field), getattr(b.completion, field)
        assert x.dtype == y.dtype, field
        np.testing.assert_array_equal(x, y)
      for field in ('finish_reason', 'prompt_version'):
        assert getattr(a.completion, field) == getattr(b.completion, field)


def groups(version: int):
  return {
    '0/a': [sample('né \ud800\n', version), sample('', version, 'length')],
    '1/b': [sample('x' * 40, version), sample('y', version)],
  }


@pytest.fixture
def workdir(tmp_path):
  (tmp_path / run_files.CONFIG).write_text('{"seed": 0, "reward": "a"}')
  return tmp_path


def test_what_waits_is_there_for_its_step_alone(workdir):
  unjudged.write(workdir, 7, groups(3))
  # The same weights have another number in another engine.
  check_equal(unjudged.read(workdir, 7, version=0), groups(0))
  assert unjudged.read(workdir, 8, version=0) == {}
  unjudged.write(workdir, 8, {})
  assert unjudged.read(workdir, 8, version=0) == {}
  names = {path.name for path in workdir.iterdir()}
  assert names == {run_files.UNJUDGED, run_files.CONFIG}
  for _ in range(2):
    unjudged.remove(workdir)
    assert unjudged.read(workdir, 8, version=0) == {}


def test_what_waits_is_there_for_its_settings_alone(workdir):
  unjudged.write(workdir, 0, groups(0))
  # A judge that is asked in another way is asked about the same.
  (workdir / run_files.CONFIG).write_text('{"seed": 0, "reward": "another"}')
  check_equal(unjudged.read(workdir, 0, version=0), groups(0))
  (workdir / run_files.CONFIG).write_text('{"seed": 1, "reward": "a"}')
  assert unjudged.read(workdir, 0, version=0) == {}


def test_what_cannot_be_read_is_sampled_again(workdir, caplog):
  caplog.set_level(logging.WARNING)
  unjudged.write(workdir, 7, groups(0))
  path = workdir / run_files.UNJUDGED
  whole = path.read_bytes()
  for damaged in (b'', whole[:100], whole[:-30], b'x' + whole[1:], b'PK\3\4'):
    path.write_bytes(damaged)
    caplog.clear()
    assert unjudged.read(workdir, 7, version=0) == {}
    (record,) = caplog.records
    assert record.getMessage().endswith('sampling again.')


def test_the_record_of_a_source_comes_back(workdir):
  record = {'position': 3, 'stream': {'taken': 8, 'groups': [{'name': 'a'}]}}
  tokens = {'tokens': np.arange(5, dtype=np.int32)}
  unjudged.write(workdir, 7, {}, record, tokens)
  found = unjudged.read_record(workdir, 7)
  np.testing.assert_array_equal(
    found['stream'].pop('arrays')['tokens'], tokens['tokens']
  )
  assert found == record
  assert unjudged.read_record(workdir, 8) == {}
  unjudged.write(workdir, 7, {})
  assert unjudged.read_record(workdir, 7) == {}
