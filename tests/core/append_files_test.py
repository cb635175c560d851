"""Whole lines or none, whatever the disk does."""

import errno
import json
import math
import os
import pathlib
import resource
import tempfile

import pytest

from rlpt_jax.core import append_files
from rlpt_jax.core.append_files import AppendFile


def lines(steps) -> bytes:
  return b''.join(append_files.line(step, {'x': step}) for step in steps)


def test_a_line_is_json_in_the_order_of_its_keys():
  values = {'b': 1.5, 'a': 2, 'c': [math.nan, 1], 'd': math.inf, 'e': math.nan}
  text = append_files.line(7, values)
  assert text == (
    b'{"step": 7, "a": 2, "b": 1.5, "c": [null, 1], "d": null, "e": null}\n'
  )
  assert append_files.line(7, dict(reversed(values.items()))) == text
  assert json.loads(append_files.line(0, {})) == {'step': 0}
  # As exact as it is: nothing is rounded.
  value = json.loads(append_files.line(0, {'x': 0.1 + 0.2}))['x']
  assert value == 0.1 + 0.2


def test_a_file_is_cut_off_and_goes_on(tmp_path):
  path = tmp_path / 'new' / 'metrics.jsonl'
  with AppendFile(path, 0) as file:
    file.append(lines([0]), 'step 0')
    assert path.read_bytes() == lines([0])  # Seen at once.
    file.append(lines([1]), 'step 1')
  with AppendFile(path, append_files.size_before(path, 1)) as file:
    assert path.read_bytes() == lines([0])
    file.append(lines([1]), 'step 1')
  assert path.read_bytes() == lines([0, 1])


def test_size_before(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  assert append_files.size_before(path, 0) == 0
  # After what is kept, anything may have been left behind.
  path.write_bytes(lines(range(12)) + b'\0\0{"step": 5')
  for step in range(13):
    expected = len(lines(range(step)))
    assert append_files.size_before(path, step) == expected


@pytest.mark.parametrize(
  'content, missing',
  [
    (None, 0),
    (b'', 0),
    (lines([0, 1]), 2),
    (lines([0, 2, 3, 4]), 1),  # A gap.
    (lines([0, 0, 1, 2, 3]), 1),  # Twice.
    (lines([1, 2, 3, 4]), 0),
    (lines([0, 1, 2])[:-1], 2),  # Half a line.
    (lines([0, 1]) + b'{"step": 20, "x": 1}\n', 2),
    (lines([0, 1]) + b'{"step": 2, "x"\n', 2),
    (lines([0]) + b'\0' * 20 + b'\n' + lines([2, 3]), 1),
  ],
)
def test_a_missing_line_is_refused(tmp_path, content, missing):
  path = tmp_path / 'metrics.jsonl'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    append_files.size_before(path, 3)
  assert str(caught.value) == (
    f'{path}: the line of step {missing} is missing, but the run resumes at '
    f'step 3. Restore a checkpoint that resumes at step {missing} or earlier, '
    'or choose another workdir.'
  )
  if content is not None:
    assert path.read_bytes() == content


@pytest.fixture
def read_only():
  """A folder with an empty metrics.jsonl that this process cannot write to."""
  # Not below tmp_path, which only its owner may look into.
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    (path / 'metrics.jsonl').write_bytes(lines([0]))
    (path / 'metrics.jsonl').chmod(0o444)
    path.chmod(0o555)
    before = os.geteuid()
    if before == 0:
      os.seteuid(65534)  # To root nothing is read-only.
    yield path
    os.seteuid(before)
    path.chmod(0o755)


@pytest.mark.parametrize('name', ['metrics.jsonl', 'other', 'folder/other'])
def test_a_read_only_folder_is_refused(read_only, name):
  with pytest.raises(ValueError) as caught:
    AppendFile(read_only / name, 0)
  assert str(caught.value) == (
    f'{read_only / name}: cannot be used (Permission denied). Choose another '
    'workdir, or make this one readable and writable.'
  )
  assert (read_only / 'metrics.jsonl').read_bytes() == lines([0])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'workdir').write_text('')
  path = tmp_path / 'workdir' / 'metrics.jsonl'
  for use in (
    lambda: AppendFile(path, 0),
    lambda: append_files.size_before(path, 1),
  ):
    with pytest.raises(ValueError, match='workdir') as caught:
      use()
    assert '\n' not in str(caught.value)


@pytest.fixture
def limit_file_size():
  """As the disk when it is full: a write is cut short, the next one fails."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(
    resource.RLIMIT_FSIZE, (size, before[1])
  )
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_line_that_did_not_fit_is_taken_back(tmp_path, limit_file_size):
  path = tmp_path / 'metrics.jsonl'
  with AppendFile(path, 0) as file:
    file.append(lines([0, 1]), 'step 1')
    limit_file_size(len(lines([0, 1])) + 5)
    with pytest.raises(OSError) as caught:
      file.append(lines([2]), 'step 2')
    assert caught.value.errno == errno.EFBIG
    message = f'{path}: step 2 could not be written (File too large). Fix this'
    assert message in str(caught.value)
    assert path.read_bytes() == lines([0, 1])


def test_a_full_disk(tmp_path, monkeypatch):
  path = tmp_path / 'metrics.jsonl'
  with AppendFile(path, 0) as file:
    file.append(lines([0]), 'step 0')
    write = os.write

    def full(descriptor, data):
      if len(data) < 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return write(descriptor, data[:10])  # Half, then none.

    monkeypatch.setattr(os, 'write', full)
    with pytest.raises(OSError, match='No space left on device') as caught:
      file.append(lines([1]), 'step 1')
    assert caught.value.errno == errno.ENOSPC
    assert '\n' not in str(caught.value)
    assert path.read_bytes() == lines([0])
    # Short writes alone lose nothing.
    monkeypatch.setattr(os, 'write', lambda d, data: write(d, data[:10]))
    file.append(lines([1]), 'step 1')
  assert path.read_bytes() == lines([0, 1])


def test_one_write_a_record(tmp_path, monkeypatch):
  written, write = [], os.write
  with AppendFile(tmp_path / 'metrics.jsonl', 0) as file:
    monkeypatch.setattr(
      os, 'write', lambda d, data: written.append(bytes(data)) or write(d, data)
    )
    file.append(lines([0, 1]), 'step 1')
  assert written == [lines([0, 1])]


def test_what_cannot_be_synced_says_so(tmp_path, monkeypatch):
  path = tmp_path / 'metrics.jsonl'
  with AppendFile(path, 0) as file:

    def fail(descriptor):
      raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=f'{path}: the last records could'):
      file.sync()
