"""Files of what was sampled."""

import errno
import pathlib

import pytest

from rlpt_jax.programs import rollout_files

LINES = [
  {'example': 'a/1/0/asr', 'completion': 'né \ud800 "x"\n', 'reward': None},
  {'example': 'a/1/0/asr', 'completion': '', 'reward': 0.5},
]


def test_what_is_written_is_read(tmp_path):
  rollout_files.write(tmp_path, 12, LINES)
  (path,) = (tmp_path / 'rollouts').iterdir()
  assert path.name == '00000012.jsonl.gz'
  assert rollout_files.read(path) == LINES
  # Again, and it is the same file.
  before = path.read_bytes()
  rollout_files.write(tmp_path, 12, LINES)
  assert path.read_bytes() == before


def test_the_last_are_kept_and_every_so_many(tmp_path):
  for step in range(13):
    rollout_files.write(tmp_path, step, LINES)
    rollout_files.prune(tmp_path, step, last=3, every=5)
  names = sorted(path.name[:8] for path in (tmp_path / 'rollouts').iterdir())
  assert [int(name) for name in names] == [0, 5, 10, 11, 12]
  rollout_files.prune(tmp_path, 12, last=1, every=None)
  assert len(list((tmp_path / 'rollouts').iterdir())) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
  write = pathlib.Path.write_bytes

  def some(path, data):
    write(path, data[:5])
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_bytes', some)
  with pytest.raises(OSError) as caught:
    rollout_files.write(tmp_path, 12, LINES)
  path = tmp_path / 'rollouts' / '00000012.jsonl.gz'
  assert caught.value.strerror == (
    f'{path}: could not be written (No space left on device). Mend that and '
    'start again: the run goes on at its newest checkpoint.'
  )
  assert not list(path.parent.iterdir())
