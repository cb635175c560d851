"""What runs have logged."""

import json

import numpy as np
import pytest

from rlpt_jax.runs import logs

NAN = np.nan


def write(folder):
  """Writes a run of three steps, and a line that is being written."""
  lines = [
    {'step': 0, 'reward/mean': 0.25, 'held_out_before/reward': 0.1},
    {'step': 1, 'reward/mean': None, 'skipped': True, 'array': [1, 2]},
    {'step': 2, 'reward/mean': 0.75, 'held_out/reward': 0.6},
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text + '{"step": 3, "rew')
  (folder / 'timing.jsonl').write_text(
    '{"step": 0, "timing/step_s": 2.0}\n{"step": 3, "timing/step_s": 1.0}\n'
  )
  return folder


@pytest.fixture
def workdir(tmp_path):
  return write(tmp_path)


def test_columns_of_whole_lines(workdir):
  found = logs.read_columns(workdir)
  expected = {
    'step': [0, 1, 2],
    'reward/mean': [0.25, NAN, 0.75],
    'held_out_before/reward': [0.1, NAN, NAN],
    'held_out/reward': [NAN, NAN, 0.6],
    'skipped': [NAN, 1, NAN],
    'array/0': [NAN, 1, NAN],
    'array/1': [NAN, 2, NAN],
    'timing/step_s': [2, NAN, NAN],
  }
  assert found.keys() == expected.keys()
  for key, values in expected.items():
    np.testing.assert_array_equal(found[key], values)


def test_names_tell_runs_apart(tmp_path):
  paths = [tmp_path / 'x' / 'run', tmp_path / 'y' / 'run']
  assert logs.distinct_names(paths) == ['x/run', 'y/run']
  assert logs.distinct_names([*paths[:1], tmp_path / 'z']) == ['run', 'z']


def test_settings_are_read_if_there_are_any(workdir):
  assert logs.read_config(workdir) == {}
  (workdir / 'config.json').write_text('{"seed": 1}')
  assert logs.read_config(workdir) == {'seed': 1}
  (workdir / 'config.json').write_text('{')
  with pytest.raises(ValueError, match=r'config.json: not JSON'):
    logs.read_config(workdir)


def test_spans_are_those_of_the_last_start(tmp_path):
  """They are in no column, and a clock begins at 0 with each start."""
  write(tmp_path)
  spans = [
    {
      'step': 0,
      'timing/spans/save': [[4, 5]],
      'timing/spans/update': [[5, 6]],
    },
    {'step': 1, 'timing/spans/update': [[1, 2]]},
    {'step': 2, 'timing/spans/update': [[3, 4], [5, 6]]},
  ]
  (tmp_path / 'timing.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in spans)
  )
  found = logs.read_spans(tmp_path)
  assert {part: x.tolist() for part, x in found.items()} == {
    'update': [[1, 2], [3, 4], [5, 6]]
  }
  assert not any('spans' in key for key in logs.read_columns(tmp_path))
