"""Which files a corpus has, what they are called, and TFDS."""

import dataclasses
import gzip
import json
import pickle
import re
import subprocess
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlpt_jax.data import sources
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.sources import Document, Files, Part, Tfds, text_of
from tests import lazy

tf = lazy.Module('tensorflow')
tfds = lazy.Module('tensorflow_datasets')
tiny_corpus = lazy.Module('tests.data.tiny_corpus')


def write(root, files):
  for name, text in files.items():
    tf.io.gfile.makedirs(f'{root}/{name}'.rpartition('/')[0])
    with tf.io.gfile.GFile(f'{root}/{name}', 'w') as file:
      file.write(text)


def documents(source, faults=None):
  faults = faults or Faults(strict=True)
  return [d for part in source.parts() for d in source.read(part, faults)]


def test_importing_loads_no_heavy_library():
  heavy = '{"tensorflow", "tensorflow_datasets", "pyarrow", "zstandard"}'
  code = f"""
import sys
import rlpt_jax.data.sources
print({heavy} & set(sys.modules))
"""
  command = [sys.executable, '-c', code]
  assert subprocess.check_output(command, text=True) == 'set()\n'


@pytest.fixture(params=['local', 'remote'])
def root(request, tmp_path):
  if request.param == 'local':
    return str(tmp_path)
  return f'ram://{uuid.uuid4()}'


def test_names_begin_where_globs_have_no_directory_in_common(root):
  write(root, {'x/a/1.txt': '1', 'x/b/1.txt': '2', 'y/1.txt': '3'})

  def ids(*globs):
    source = Files('c', [f'{root}/{glob}' for glob in globs])
    return [d.id for d in documents(source)]

  assert ids('x/a/*.txt') == ids('x/a/1.txt') == ['1.txt@0']
  assert ids('x/*/*.txt') == ['a/1.txt@0', 'b/1.txt@0']
  assert ids('x/b/*.txt', 'x/a/1.txt') == ['a/1.txt@0', 'b/1.txt@0']
  assert ids('y/*.txt', 'x/?/1.txt') == [
    'x/a/1.txt@0',
    'x/b/1.txt@0',
    'y/1.txt@0',
  ]


def test_a_file_under_brackets_is_named_as_it_is(root):
  write(root, {'run[1]/a.txt': '1', 'run[1]/b.txt': '2'})
  source = Files('c', [f'{root}/run[1]/a.txt'])
  assert [d.id for d in documents(source)] == ['a.txt@0']


def test_a_file_that_two_globs_match_is_read_once(root):
  write(root, {'a.txt': '1', 'b.txt': '2'})
  source = Files('c', (f'{root}/*.txt', f'{root}/a.*'))
  assert [d.fields['text'] for d in documents(source)] == ['1', '2']


def test_remote_files_of_every_kind(root):
  write(root, {'a.jsonl': '{"body": "1"}\n', 'b.txt': '2'})
  with tf.io.gfile.GFile(f'{root}/c.jsonl.gz', 'wb') as file:
    file.write(gzip.compress(b'{"body": "3"}\n'))
  with tf.io.gfile.GFile(f'{root}/d.parquet', 'wb') as file:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({'body': ['4']}), sink)
    file.write(sink.getvalue().to_pybytes())
  source = Files('c', f'{root}/*', text='body')
  found = documents(source)
  assert [text_of(d, 'body', Faults(strict=True)) for d in found] == [*'1234']


def test_relative_paths_are_those_of_whoever_made_the_parts(
  tmp_path, monkeypatch
):
  write(tmp_path, {'here/a.txt': 'x'})
  monkeypatch.chdir(tmp_path)
  source = Files('c', ['here/*.txt', './here/../here/a.txt'])
  [part] = source.parts()
  monkeypatch.chdir('/')
  [document] = source.read(part, Faults(strict=True))
  assert (document.id, str(document.where)) == ('a.txt@0', 'a.txt line 1')


@pytest.mark.parametrize(
  ('glob', 'message'),
  [
    ('none*.jsonl', r'corpus c: no file matches .*none\*\.jsonl'),
    ('a.csv', r'a\.csv: unknown file type; expected \.jsonl, \.txt'),
    ('a.parquet.gz', r'a\.parquet\.gz: unknown file type'),
    ('', r"is a directory; expected files, like '.*/\*\.jsonl'"),
    ('d.jsonl', r'd\.jsonl: is a directory; expected files'),
  ],
)
def test_globs_that_give_no_files(root, glob, message):
  write(root, {'a.csv': '', 'a.parquet.gz': '', 'd.jsonl/x.jsonl': ''})
  with pytest.raises(ValueError, match=message):
    Files('c', f'{root}/{glob}'.rstrip('/')).parts()


def test_a_store_that_is_not_known():
  with pytest.raises(ValueError, match=r'nosuch://x/\*\.txt cannot be listed'):
    Files('c', 'nosuch://x/*.txt').parts()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'name': 'my corpus'}, "'my corpus': expected a name made of letters"),
    ({'files': ''}, 'expected non-empty text, or a list'),
    ({'files': []}, 'expected a glob'),
    ({'text': ''}, 'expected non-empty text, or a list'),
    ({'weight': 0.0}, r'weight=0\.0: expected a number above 0'),
    ({'weight': float('nan')}, 'weight=nan'),
    ({'document': 'lines'}, "document='lines'; expected 'file', 'line'"),
    ({'document': '^('}, 'or a regular expression'),
    (
      {'max_document_bytes': 0},
      'max_document_bytes=0: expected a whole number of',
    ),
    ({'part_bytes': 0}, 'part_bytes=0: expected a whole number of at least 1'),
  ],
)
def test_a_config_that_cannot_work_is_an_error_of_one_line(change, message):
  with pytest.raises(ValueError, match=message) as error:
    Files(**{'name': 'c', 'files': 'x', **change})
  assert '\n' not in str(error.value)


def test_parts_travel(tmp_path):
  write(tmp_path, {'a.jsonl': '{"text": "x"}\n' * 9, 'b.txt': 'y'})
  source = Files('c', [f'{tmp_path}/*'], part_bytes=50)
  parts = source.parts()
  assert [(p.name, p.start, p.end) for p in parts] == [
    ('a.jsonl', 0, 50),
    ('a.jsonl', 50, 100),
    ('a.jsonl', 100, 126),
    ('b.txt', 0, None),
  ]
  assert pickle.loads(pickle.dumps(parts)) == parts
  as_json = json.dumps([dataclasses.asdict(part) for part in parts])
  assert [Part(**part) for part in json.loads(as_json)] == parts
  assert len(set(parts)) == 4 and hash(source)
  found = documents(pickle.loads(pickle.dumps(source)))
  assert len(pickle.loads(pickle.dumps(found))) == 10


def test_every_record_is_read_whatever_the_text_field(tmp_path):
  # Chats and questions have fields of their own, and no text.
  write(tmp_path, {'a.jsonl': '{"question": "?"}\n'})
  [document] = documents(Files('c', f'{tmp_path}/*'))
  assert document.fields == {'question': '?'}


@pytest.mark.parametrize(
  'name', ['a.jsonl', 'a.jsonl.gz', 'a.txt', 'a.txt.zst', 'a.parquet']
)
def test_a_file_that_vanishes_is_counted(tmp_path, name):
  path = tmp_path / name
  path.write_bytes(b'anything')
  source = Files('c', f'{tmp_path}/*')
  [part] = source.parts()
  path.unlink()
  faults = Faults()
  assert list(source.read(part, faults)) == []
  assert faults.counts == {'cannot be read': 1}
  [where] = faults.first['cannot be read']
  assert where.startswith(f'{name} (') and 'No such file' in where
  with pytest.raises(ValueError, match='cannot be read'):
    list(source.read(part, Faults(strict=True)))


def test_every_part_of_a_file_that_vanishes_is_counted(tmp_path):
  write(tmp_path, {'a.jsonl': '{"text": 1}\n' * 2})
  source = Files('c', f'{tmp_path}/*', part_bytes=12)
  first, second = source.parts()
  faults = Faults()
  assert len(list(source.read(first, faults))) == 1
  (tmp_path / 'a.jsonl').unlink()
  assert not list(source.read(second, faults))
  [where] = faults.first['cannot be read']
  assert where.startswith('a.jsonl from byte 12 (')


def test_a_text_that_is_too_long_in_any_format(tmp_path):
  table = pa.table({'text': ['é' * 11, 'é' * 10]})
  pq.write_table(table, tmp_path / 'a.parquet')
  faults = Faults()
  source = Files('c', f'{tmp_path}/*', max_document_bytes=20)
  assert [d.id for d in documents(source, faults)] == ['a.parquet@1']
  assert faults.report() == [
    '1 x longer than max_document_bytes=20: a.parquet row 0'
  ]


def test_text_of_says_what_is_wrong_with_a_field():
  faults = Faults()
  fields = {'good': 'día \U0001f600', 'half': '\ud83d', 'raw': b'\xff'}
  document = Document('a@1', 'a line 1', fields)
  assert text_of(document, 'good', faults) == 'día \U0001f600'
  for field in ('half', 'raw', 'none'):
    assert text_of(document, field, faults) is None
  assert faults.first == {
    'invalid UTF-8': ['a line 1 (half of a surrogate pair)', 'a line 1'],
    "no field 'none'": ['a line 1 (fields: good, half, raw)'],
  }


def test_the_fingerprint_of_a_corpus_is_the_same_anywhere(tmp_path):
  for place in ('x', 'y'):
    write(tmp_path / place, {'d/a.txt': 'some text', 'd/b.jsonl': '{}\n'})
  first, second = (
    Files('c', f'{tmp_path}/{place}/*/*').fingerprint() for place in 'xy'
  )
  assert first == second
  assert list(first) == ['d/a.txt', 'd/b.jsonl']
  assert first['d/a.txt'][0] == 9
  assert re.fullmatch('[0-9a-f]{16}', first['d/a.txt'][1])
  assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize('where', [0, 150_000, 299_999])
def test_the_fingerprint_notices_one_byte(tmp_path, where):
  path = tmp_path / 'a.txt'
  data = bytearray(b'x' * 300_000)
  path.write_bytes(data)
  source = Files('c', str(path))
  before = source.fingerprint()
  data[where] = ord('y')
  path.write_bytes(data)
  assert source.fingerprint() != before


def test_the_fingerprint_of_a_large_file_is_of_blocks_everywhere(
  tmp_path, monkeypatch
):
  # 65 blocks of 64 KiB, the first, the last and 62 others being looked at.
  monkeypatch.setattr(sources, 'CHECKED_BYTES', 1 << 20)
  monkeypatch.setattr(sources, 'CHECKED_BLOCKS', 64)
  path = tmp_path / 'a.txt'
  size = 65 << 16
  source = Files('c', str(path))

  def fingerprint(changed=None, size=size):
    data = bytearray(size)
    if changed is not None:
      data[changed] = 1
    path.write_bytes(data)
    return source.fingerprint()['a.txt']

  before = fingerprint()
  assert fingerprint() == before
  for changed in (0, size - 1, 20 * size // 63):
    assert fingerprint(changed) != before
  assert fingerprint(size=size + 1) != before


def test_the_fingerprint_of_a_file_that_is_gone(tmp_path):
  assert sources._checksum(str(tmp_path / 'gone')) == [-1, '']


# TensorFlow Datasets.


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('tfds'))
  config = tfds.download.DownloadConfig(num_shards=2)
  tiny_corpus.TinyCorpus(data_dir=path).download_and_prepare(
    download_config=config
  )
  return path


@pytest.fixture
def tiny(data_dir):
  return Tfds('tiny', 'tiny_corpus', data_dir=data_dir)


def numbers(source, faults=None):
  return [d.fields['number'] for d in documents(source, faults)]


def test_a_tfds_by_name_and_by_directory(tiny, data_dir):
  directory = f'{data_dir}/tiny_corpus/1.0.0'
  for source in (tiny, Tfds('tiny', directory)):
    found = documents(source)
    assert sorted(d.fields['number'] for d in found) == [*range(40)]
    assert [d.id for d in found] == [f'train@{i}' for i in range(40)]
    assert found[3].where == 'tiny_corpus/1.0.0 train row 3'
    fields = next(d.fields for d in found if d.fields['number'] == 5)
    assert fields == {'text': 'día 5', 'number': 5, 'tags': ['a', 'b']}
    faults = Faults()
    assert sum(text_of(d, 'text', faults) is not None for d in found) == 39
    assert faults.counts == {'NUL bytes': 1}


def test_parts_of_a_tfds_are_read_alone(tiny):
  for part_bytes in (300, 1 << 30):
    small = dataclasses.replace(tiny, part_bytes=part_bytes)
    assert documents(small) == documents(tiny)
  assert len(dataclasses.replace(tiny, part_bytes=1).parts()) == 40
  parts = tiny.parts()
  assert pickle.loads(pickle.dumps(parts)) == parts


def test_splits_of_a_tfds(tiny):
  def split(split):
    found = documents(dataclasses.replace(tiny, split=split))
    return [d.id for d in found]

  everything = split('train')
  assert split('train[:25%]') == everything[:10]
  assert split('train[5:]') == everything[5:]
  assert split('test+train[:2]') == [
    'test@0', 'test@1', 'train@0', 'train@1'
  ]  # fmt: skip
  with pytest.raises(ValueError, match=r'some rows twice'):
    split('train[:10]+train[5:]')
  with pytest.raises(ValueError, match=r"'dev' of tiny_corpus.* train"):
    split('dev')


def test_a_tfds_that_is_not_there(data_dir, tmp_path):
  for builder, directory, message in [
    ('no_such_corpus', data_dir, 'no_such_corpus: no TFDS dataset'),
    ('tiny_corpus', str(tmp_path), 'tiny_corpus: known to TFDS but not prep'),
    (f'{tmp_path}/none', None, 'none: no TFDS dataset'),
  ]:
    with pytest.raises(ValueError, match=message) as error:
      Tfds('x', builder, data_dir=directory).parts()
    assert '\n' not in str(error.value)


def test_the_config_of_a_tfds_is_checked():
  with pytest.raises(ValueError, match='expected a name'):
    Tfds('a b', 'tiny_corpus')


def test_a_tfds_that_is_damaged(tmp_path):
  tiny_corpus.TinyCorpus(data_dir=str(tmp_path)).download_and_prepare()
  source = Tfds('tiny', f'{tmp_path}/tiny_corpus/1.0.0')
  before, fingerprint = numbers(source), source.fingerprint()
  [path] = tmp_path.glob('**/*train.tfrecord*')
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  faults = Faults()
  found = numbers(source, faults)
  assert 0 < len(found) < 40 and found == before[: len(found)]
  assert faults.counts == {'cannot be read': 1}
  [where] = faults.first['cannot be read']
  start = f'tiny_corpus/1.0.0 train row {len(found)} to 39 '
  assert re.fullmatch(rf'{start}\(corrupted record at \d+\)', where)
  assert source.fingerprint() != fingerprint
  assert len(fingerprint) == 1
