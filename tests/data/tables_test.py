"""Rows of every kind of file that benchmarks come in."""

import gzip
import json
import pathlib
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlpt_jax.data import tables

ROWS = [
  {'question': 'One\u2028line?', 'answer': 'é'},
  {'question': 'a, "b"\nc', 'answer': '2'},
]
# Without the time of day: it would be in a test's name, and no two processes
# of a run would agree on their tests.
CUT_GZIP = gzip.compress(b'{}' * 99, mtime=0)[:-9]


def _write(path: pathlib.Path):
  text = '\n\n'.join(map(json.dumps, ROWS)) + '\n'
  if '.jsonl' not in path.name:
    text = json.dumps(ROWS)
  if '.csv' in path.name:
    text = 'question,answer\r\nOne\u2028line?,é\r\n"a, ""b""\nc",2\r\n'
  data = ('\ufeff' + text).encode()
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    pq.write_table(pa.Table.from_pylist(ROWS), path)
  else:
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


@pytest.mark.parametrize('suffix', tables.SUFFIXES)
def test_every_kind_of_file_has_the_same_rows(suffix, tmp_path):
  path = _write(tmp_path / f'x{suffix}')
  found = tables.read(tables.find(path))
  assert [row.fields for row in found] == ROWS
  assert all(row.where.startswith(str(path)) for row in found)
  assert found[1].where[-1] in '23'  # Of a line, or of a row.


def test_json_may_be_lines_or_one_object(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text('{"a": 1}\n{"a": 2}\n')
  assert [row.fields for row in tables.read([str(path)])] == [
    {'a': 1}, {'a': 2},
  ]  # fmt: skip
  path.write_text('{"a": 1}')
  assert [row.fields for row in tables.read([str(path)])] == [{'a': 1}]


def test_of_a_clone_the_files_of_configuration_and_split(tmp_path):
  clone = tmp_path / 'gsm8k'
  wanted = [
    _write(clone / 'main' / f'test-0000{i}-of-00002.parquet') for i in (0, 1)
  ]
  for other in ('main/train-00000-of-00001.parquet', 'socratic/test.parquet'):
    _write(clone / other)
  (clone / '.git').mkdir()
  _write(clone / '.git' / 'main-test.json')
  (clone / 'README.md').write_text('main test')
  assert tables.find(clone, 'main', 'test') == list(map(str, wanted))
  assert len(tables.find(clone, 'main')) == 3
  assert len(tables.find(clone)) == 4
  # What no name says is no reason to find nothing.
  assert len(tables.find(clone, 'main', 'validation')) == 3
  # A word is a whole one.
  assert tables.find(clone, 'mai', 'tes') == tables.find(clone)


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('x.jsonl', b'{"a": 1}\n{"a": ', r'x\.jsonl:2: not JSON'),
    ('x.jsonl', b'[1]\n', r'x\.jsonl:1: expected an object'),
    ('x.json', b'3', r'x\.json: expected a list of objects'),
    ('x.json', b'[3]', r'x\.json row 1: expected an object'),
    ('x.jsonl', b'\xff', r'x\.jsonl: not UTF-8'),
    ('x.jsonl.gz', b'{}', r'x\.jsonl\.gz: damaged, or not gzip'),
    ('x.jsonl.gz', CUT_GZIP, 'damaged, or not gzip'),
    ('x.parquet', b'PAR1', r'x\.parquet: not parquet, or damaged'),
    ('x.txt', b'', r'x\.txt: unknown file type; expected \.jsonl, '),
  ],
)
def test_what_is_wrong_with_a_file_is_one_line(name, data, message, tmp_path):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(ValueError, match=message) as error:
    tables.read([str(tmp_path / name)])
  assert '\n' not in str(error.value)


def test_the_hub_by_its_own_library(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(ValueError, match='datasets is not installed'):
    tables.read_named('hf:openai/gsm8k:main:test')

  def load_dataset(repo, config, split):
    if repo == 'nobody/nothing':
      raise ConnectionError('no route\nto the host')
    return [{'asked': (repo, config, split)}]

  hub = types.SimpleNamespace(load_dataset=load_dataset)
  monkeypatch.setitem(sys.modules, 'datasets', hub)

  def asked(name):
    (row,) = tables.read_named(name)
    return row.fields['asked']

  assert asked('hf:openai/gsm8k:main:test') == ('openai/gsm8k', 'main', 'test')
  assert asked('hf:a/b:train') == ('a/b', None, 'train')
  assert asked('hf:a/b') == ('a/b', None, 'test')
  with pytest.raises(ValueError, match=r'ConnectionError: no route\)'):
    tables.read_named('hf:nobody/nothing')
  with pytest.raises(ValueError, match='expected hf:REPO'):
    tables.read_named('hf:')


@pytest.mark.slow
def test_tfds_that_is_prepared(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  class TinyQuestions(tfds.core.GeneratorBasedBuilder):
    """Two questions."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      text = tfds.features.Text()
      features = {
        'question': text,
        'choices': tfds.features.Sequence(text),
        'answer': tfds.features.ClassLabel(num_classes=2),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, manager):
      return {'test': self._generate_examples()}

    def _generate_examples(self):
      for i in range(2):
        row = {'question': f'é{i}', 'choices': ['a', 'b'], 'answer': i}
        yield i, row

  # As in sources_test: of no module, or TFDS looks for checksums beside it.
  TinyQuestions.__module__ = 'tiny_questions'
  TinyQuestions(data_dir=tmp_path).download_and_prepare()
  found = tables.read_named(f'tfds:{tmp_path}/tiny_questions/1.0.0')
  assert sorted(row.fields['question'] for row in found) == ['é0', 'é1']
  assert sorted(row.fields['answer'] for row in found) == [0, 1]
  assert [list(row.fields['choices']) for row in found] == [['a', 'b']] * 2
  with pytest.raises(ValueError, match='no TFDS dataset'):
    tables.read_named(f'tfds:{tmp_path}/other')
  with pytest.raises(ValueError, match='expected tfds:NAME'):
    tables.read_named('tfds:')
