"""A file is written whole, where it may be; what is no file stays."""

import os
import socket
import stat

import pytest

from rlpt_jax.core import output_files


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A socket's path must be short.
  os.mkfifo('pipe')
  (tmp_path / 'link').symlink_to('pipe')
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind('socket')
    for name, kind in {
      'pipe': 'pipe', 'link': 'pipe', 'socket': 'socket', '.': 'folder',
      '/dev/null': 'device', '/dev/full': 'device',
    }.items():  # fmt: skip
      path = tmp_path / name
      with pytest.raises(ValueError, match=f': is a {kind}; expected a file'):
        output_files.check(path, b'')
      with pytest.raises(ValueError, match=f': is a {kind}; expected a file'):
        output_files.replace(path, [b'x'])
  assert stat.S_ISFIFO(os.stat('link').st_mode) and os.path.islink('link')


def test_only_a_file_of_the_same_kind_may_be_replaced(tmp_path):
  path = tmp_path / 'page'
  output_files.check(path, b'<html>')
  for content in (b'', b'<html>', b'<html> more'):
    path.write_bytes(content)
    output_files.check(path, b'<html>')
  for content in (b'<', b'<htm', b'{"a": 1}'):
    path.write_bytes(content)
    with pytest.raises(
      ValueError, match='page: exists, and this program may not'
    ):
      output_files.check(path, b'<html>')


def test_a_file_is_made_and_replaced(tmp_path):
  path = tmp_path / 'new' / 'file'
  output_files.replace(path, [b'a', b'b'])
  assert path.read_bytes() == b'ab'
  umask = os.umask(0)
  os.umask(umask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
  path.chmod(0o600)
  output_files.replace(path, iter([b'c']))
  assert path.read_bytes() == b'c'
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert [p.name for p in path.parent.iterdir()] == ['file']


def test_what_only_its_owner_may_read_nobody_else_ever_may(tmp_path):
  path = tmp_path / 'secret'
  path.touch(mode=0o600)

  def parts():
    modes = {stat.S_IMODE(x.stat().st_mode) for x in tmp_path.iterdir()}
    assert modes == {0o600}
    yield b'while it is written'

  output_files.replace(path, parts())
  assert path.read_bytes() == b'while it is written'


def test_of_a_link_the_file_it_points_to_is_written(tmp_path):
  (tmp_path / 'there').mkdir()
  link, target = tmp_path / 'link', tmp_path / 'there' / 'target'
  link.symlink_to(target)
  for content in (b'first', b'second'):  # The first time it points to nothing.
    output_files.replace(link, [content])
    assert link.is_symlink() and target.read_bytes() == content
  assert len([*tmp_path.rglob('*')]) == 3


def test_a_failure_leaves_what_was_there(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def parts():
    yield b'half'
    raise ValueError('no more')

  with pytest.raises(ValueError, match='no more'):
    output_files.replace(path, parts())
  assert path.read_bytes() == b'old'
  assert [p.name for p in tmp_path.iterdir()] == ['file']
  with pytest.raises(OSError) as caught:
    output_files.replace(path / 'below', [b'x'])
  assert caught.value.filename == str(path / 'below')
