"""Files of this machine and of a store are read alike."""

import uuid

import pytest

from rlpt_jax.data import files
from tests import lazy

tf = lazy.Module('tensorflow')


@pytest.fixture(params=['local', 'remote'])
def root(request, tmp_path):
  root = str(tmp_path) if request.param == 'local' else f'ram://{uuid.uuid4()}'
  tf.io.gfile.makedirs(f'{root}/folder')
  for name in ('a.txt', 'b.txt', '.c.txt', 'd[1].txt', 'folder/e.txt'):
    with tf.io.gfile.GFile(f'{root}/{name}', 'wb') as file:
      file.write(name.encode())
  return root


def test_a_file_is_read_from_anywhere(root):
  with files.open_file(f'{root}/folder/e.txt') as file:
    assert file.seek(0, 2) == 12
    assert file.seek(7) == 7
    assert file.read(3) == b'e.t'
    assert file.tell() == 10
    assert file.read() == b'xt'


def test_what_is_not_there_is_an_os_error(root):
  with pytest.raises(OSError):
    files.open_file(f'{root}/x.txt')
  with pytest.raises(OSError):
    files.open_file(f'{root}/folder').read()


def test_sizes(root):
  assert files.size(f'{root}/a.txt') == 5
  assert files.size(f'{root}/x.txt') is None
  assert files.size(f'{root}/x/x.txt') is None
  assert files.is_directory(f'{root}/folder')
  assert not files.is_directory(f'{root}/a.txt')


@pytest.mark.parametrize(
  ('pattern', 'names'),
  [
    ('*.txt', {'.c.txt', 'a.txt', 'b.txt', 'd[1].txt'}),
    ('[ab].txt', {'a.txt', 'b.txt'}),
    ('*/*.txt', {'folder/e.txt'}),
    ('x*', set()),
    (r'd\[1\].txt', {'d[1].txt'}),
    ('d[1].txt', {'d[1].txt'}),
    (r'\a.txt', {'a.txt'}),
  ],
)
def test_globs(root, pattern, names):
  found = files.glob(f'{root}/{pattern}')
  assert {path.removeprefix(f'{root}/') for path in found} == names


def test_written_files_are_listed_and_read(tmp_path):
  folder = str(tmp_path / 'a' / 'b')
  assert files.names(folder) == []
  files.write(f'{folder}/two', b'2')
  files.write(f'{folder}/one', b'1')
  files.write(f'{folder}/two', b'22')
  for name in ('three.tmp', '.three.new'):
    (tmp_path / 'a' / 'b' / name).write_bytes(b'')
  assert files.names(folder) == ['one', 'two']
  assert files.size(f'{folder}/two') == 2
  files.remove_folder(folder)
  files.remove_folder(folder)
  assert files.names(folder) == []


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
  files.write(str(tmp_path / 'a'), b'1')
  with pytest.raises(TypeError):
    files.write(str(tmp_path / 'a'), 'text')
  assert files.names(str(tmp_path)) == ['a']
  assert (tmp_path / 'a').read_bytes() == b'1'
  assert len(list(tmp_path.iterdir())) == 1
  with pytest.raises(ValueError, match='is a folder; expected a file'):
    files.write(str(tmp_path), b'1')


def test_remote_files_are_written_too():
  files.write('ram://made/x', b'1')
  assert files.names('ram://made') == ['x']
  with files.open_file('ram://made/x') as file:
    assert file.read() == b'1'
  files.remove_folder('ram://made')
  assert files.names('ram://made') == []


def test_frames_of_zstd_can_be_joined(tmp_path):
  import zstandard

  data = files.zstd(b'one') + files.zstd(b'') + files.zstd(b' two')
  reader = zstandard.ZstdDecompressor().stream_reader(
    data, read_across_frames=True
  )
  assert reader.read() == b'one two'
