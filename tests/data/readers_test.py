"""Records from bytes: any cut of a file, any compression, any damage."""

import gzip
import io
import itertools
import json
import re
import tracemalloc
import uuid
from unittest import mock

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import strategies as st

from rlpt_jax.data import readers
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.sources import Files, text_of
from tests import lazy

tf = lazy.Module('tensorflow')

COMPRESS = {
  '': lambda data: data,
  '.gz': gzip.compress,
  '.zst': zstandard.ZstdCompressor(write_checksum=True).compress,
}
LINES = [{'id': i, 'text': f'Text {i}: día, 日.\r\n'} for i in range(50)]
JSONL = b''.join(json.dumps(line).encode() + b'\n' for line in LINES)


def read(path, *, faults=None, content=None, **options):
  """([(id, text), ...], faults) of a file, all of its parts in a row."""
  if content is not None:
    path.write_bytes(content)
  source = Files('corpus', str(path), **options)
  faults = faults or Faults()
  found = []
  for part in source.parts():
    for document in source.read(part, faults):
      text = text_of(document, source.text, faults)
      if text is not None:
        found.append((document.id, text))
  return found, faults


def texts(path, **options):
  return [text for _, text in read(path, **options)[0]]


@pytest.mark.parametrize('suffix', COMPRESS)
def test_jsonl(tmp_path, suffix):
  path = tmp_path / f'a.jsonl{suffix}'
  found, faults = read(path, content=COMPRESS[suffix](JSONL), part_bytes=100)
  assert [text for _, text in found] == [line['text'] for line in LINES]
  starts = [0, *(m.end() for m in re.finditer(b'\n', JSONL))]
  expected = [f'a.jsonl{suffix}@{start}' for start in starts[:-1]]
  assert [i for i, _ in found] == expected
  assert not faults.counts


@pytest.mark.parametrize('suffix', COMPRESS)
def test_txt(tmp_path, suffix):
  data = b'# One\r\nfirst\r\n\r\n# Two\nsecond'
  path = tmp_path / f'a.txt{suffix}'
  path.write_bytes(COMPRESS[suffix](data))
  name = path.name
  assert read(path)[0] == [(f'{name}@0', data.decode())]
  assert read(path, document='line')[0] == [
    (f'{name}@0', '# One'),
    (f'{name}@7', 'first'),
    (f'{name}@16', '# Two'),
    (f'{name}@22', 'second'),
  ]
  assert read(path, document='^# ', part_bytes=3)[0] == [
    (f'{name}@0', '# One\r\nfirst\r\n\r\n'),
    (f'{name}@16', '# Two\nsecond'),
  ]


@pytest.mark.parametrize('codec', ['none', 'gzip', 'zstd'])
def test_parquet(tmp_path, codec):
  path = tmp_path / 'a.parquet'
  table = pa.Table.from_pylist(LINES)
  pq.write_table(table, path, row_group_size=7, compression=codec)
  found, faults = read(path, part_bytes=1)
  assert found == [(f'a.parquet@{i}', x['text']) for i, x in enumerate(LINES)]
  assert not faults.counts
  source = Files('corpus', str(path), part_bytes=1)
  assert len(source.parts()) == 8  # 50 rows by 7.
  assert len(Files('corpus', str(path)).parts()) == 1
  [first, *_] = source.read(source.parts()[1], faults)
  assert first.fields == LINES[7]
  assert first.where == 'a.parquet row 7'


def test_wikitext_is_cut_at_the_headings_of_articles(tmp_path):
  one = ' = One = \n \n = = Part = = \n Text . \n \n'
  two = ' = Two = \n \n Text . \n'
  path = tmp_path / 'wiki.txt'
  path.write_text(' \n' + one + two)
  assert texts(path, document='^ = [^=].* = $') == [one, two]


def test_what_a_file_has_before_its_first_heading_is_not_lost(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\npreface\n# One\ntext\n')
  expected = ['\npreface\n', '# One\ntext\n']
  assert texts(path, document='^# ') == expected
  assert texts(path, document='^# ', part_bytes=1) == expected


def test_a_byte_order_mark_is_no_text(tmp_path):
  for name, content in {
    'a.jsonl': b'\xef\xbb\xbf{"text": "x"}\n',
    'a.txt': b'\xef\xbb\xbfx',
  }.items():
    found = read(tmp_path / name, content=content)
    assert found[0] == [(f'{name}@0', 'x')]
    assert not found[1].counts


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_several_compressed_streams_in_a_row_are_one(tmp_path, suffix):
  compress = COMPRESS[suffix]
  # Many small ones, cut in the middle of lines; zeros pad a tape's last block.
  content = b''.join(
    compress(JSONL[i : i + 33]) for i in range(0, len(JSONL), 33)
  )
  found, faults = read(
    tmp_path / f'a.jsonl{suffix}', content=content + bytes(512)
  )
  assert len(found) == len(LINES)
  assert not faults.counts


# Any cut of a file. What is expected, in the plainest terms.


def lines_of(data: bytes, limit: int):
  """(offset, text) of the lines of a file that are not blank."""
  found, offset = [], 0
  for line in re.findall(rb'[^\n]*\n|[^\n]+', data):
    text = line.removesuffix(b'\n').removesuffix(b'\r')
    if line.strip() or len(line) > limit:
      found.append((offset, text.decode() if len(line) <= limit else None))
    offset += len(line)
  return found


def texts_of(data: bytes, limit: int):
  """(offset, text) of the texts that begin with a line like '#...'."""
  lines = re.finditer(rb'^#[^\n]*\n?', data, re.M)
  starts = [m.start() for m in lines if len(m[0]) <= limit]
  preface = data[: starts[0] if starts else None]
  if preface.strip() or len(preface) > limit:
    starts = [0, *starts]
  pieces = itertools.pairwise([*starts, len(data)])
  return [
    (a, data[a:b].decode() if b - a <= limit else None) for a, b in pieces
  ]


content = st.lists(
  st.sampled_from(['#', 'a', 'é', ' ', '\r', '\n', '\n', '\n#', 'bcdefghi']),
  max_size=60,
).map(lambda pieces: ''.join(pieces).encode())
small = st.integers(1, 40)
quick = hypothesis.settings(max_examples=300)


def in_parts(data, part_bytes, block, **options):
  """[(offset, text or None), ...] by way of parts and of small blocks."""
  root = f'ram://{uuid.uuid4()}'
  tf.io.gfile.makedirs(root)
  with tf.io.gfile.GFile(f'{root}/a.txt', 'wb') as file:
    file.write(data)
  source = Files('c', f'{root}/*.txt', part_bytes=part_bytes, **options)
  parts = source.parts()
  size = max(1, len(data))
  assert len(parts) <= -(-size // part_bytes)
  faults, found, wheres = Faults(shown=1000), [], []
  with (
    mock.patch.object(readers, 'BLOCK', block),
    mock.patch.object(readers, 'SEARCH_BYTES', block),
  ):
    for part in parts:
      for document in source.read(part, faults):
        found.append((document.id, document.fields['text']))
        wheres.append(str(document.where))
  wheres += [where for places in faults.first.values() for where in places]
  tf.io.gfile.rmtree(root)
  return found, sorted(wheres), sum(faults.counts.values())


def agrees(data, expected, actual):
  found, wheres, faults = actual
  assert found == [(f'a.txt@{o}', t) for o, t in expected if t is not None]
  assert faults == sum(text is None for _, text in expected)
  assert wheres == sorted(
    f'a.txt line {1 + data[:offset].count(10)}' for offset, _ in expected
  )


@quick
@hypothesis.given(content, small, small, st.integers(1, 30))
def test_any_parts_give_the_same_lines(data, part_bytes, block, limit):
  actual = in_parts(
    data, part_bytes, block, document='line', max_document_bytes=limit
  )
  agrees(data, lines_of(data, limit), actual)


@quick
@hypothesis.given(content, small, small, st.integers(1, 60))
def test_any_parts_give_the_same_texts(data, part_bytes, block, limit):
  actual = in_parts(
    data, part_bytes, block, document='^#', max_document_bytes=limit
  )
  agrees(data, texts_of(data, limit), actual)


@pytest.mark.slow
@quick
@hypothesis.given(st.lists(st.text(min_size=1)), small)
def test_any_parts_give_the_same_records(values, part_bytes):
  rows = [json.dumps({'text': value}) for value in values]
  root = f'ram://{uuid.uuid4()}'
  tf.io.gfile.makedirs(root)
  with tf.io.gfile.GFile(f'{root}/a.jsonl', 'w') as file:
    file.write('\n'.join(rows))
  source = Files('c', f'{root}/a.jsonl', part_bytes=part_bytes)
  documents = [d for p in source.parts() for d in source.read(p, Faults())]
  assert [d.fields['text'] for d in documents] == values
  assert len({d.id for d in documents}) == len(values)
  tf.io.gfile.rmtree(root)


# Bad input.

GOOD = b'{"text": "good"}\n'
BAD_LINES = {
  'invalid UTF-8': b'{"text": "\xff"}',
  'NUL bytes': b'{"text": "a\0b"}',
  'NUL bytes ': b'{"text": "a\\u0000b"}',
  'not JSON, or cut': b'{"text": "cut in ha',
  'not JSON, or cut ': b'[' * 100_000,
  'not a JSON object': b'["text"]',
  "no field 'text'": b'{"body": "x"}',
  "no field 'text' ": b'{"text": null}',
  "empty field 'text'": b'{"text": " \\n"}',
  "field 'text' is not text": b'{"text": 1}',
  'invalid UTF-8 ': b'{"text": "half: \\ud83d"}',
  'longer than max_document_bytes=200000': b'"%s"' % (b'x' * 200_000),
}


@pytest.mark.parametrize('suffix', COMPRESS)
@pytest.mark.parametrize('reason', BAD_LINES)
def test_a_bad_line_is_counted_and_the_rest_goes_on(tmp_path, reason, suffix):
  bad = BAD_LINES[reason]
  content = COMPRESS[suffix](GOOD * 20 + bad + b'\n' + GOOD * 20)
  path = tmp_path / f'a.jsonl{suffix}'
  options = {'part_bytes': 50, 'max_document_bytes': 200_000}
  found, faults = read(path, content=content, **options)
  assert [text for _, text in found] == ['good'] * 40
  assert faults.counts == {reason.strip(): 1}
  [where] = faults.first[reason.strip()]
  assert re.fullmatch(rf'{re.escape(path.name)} line 21( \(.*\))?', where)
  with pytest.raises(
    ValueError, match=f'line 21.*: {re.escape(reason.strip())}'
  ):
    read(path, faults=Faults(strict=True), **options)


def test_a_field_that_is_missing_shows_which_there_are(tmp_path):
  content = b'{"id": 1, "body": "x"}'
  _, faults = read(tmp_path / 'a.jsonl', content=content)
  assert faults.report() == [
    "1 x no field 'text': a.jsonl line 1 (fields: id, body)"
  ]


def test_a_last_line_cut_in_half_is_counted_a_whole_one_is_not(tmp_path):
  path = tmp_path / 'a.jsonl'
  found, faults = read(path, content=GOOD + GOOD[:-1])
  assert len(found) == 2 and not faults.counts
  found, faults = read(path, content=GOOD + GOOD[:-2])
  assert len(found) == 1
  assert faults.counts == {'not JSON, or cut': 1}


def test_blank_lines_are_nothing(tmp_path):
  found, faults = read(
    tmp_path / 'a.jsonl', content=b'\n\r\n' + GOOD + b' \n\n'
  )
  assert len(found) == 1 and not faults.counts


@pytest.mark.parametrize('suffix', COMPRESS)
def test_bad_txt_is_counted_where_it_is_bad(tmp_path, suffix):
  path = tmp_path / f'a.txt{suffix}'
  data = b'# One\nfine\n# Two\nfine\nb\xffd\n# Three\nN\0L\n# Four\nfine\n'
  path.write_bytes(COMPRESS[suffix](data))
  found, faults = read(path, document='^# ', part_bytes=20)
  assert [text[:5] for _, text in found] == ['# One', '# Fou']
  assert faults.first == {
    'invalid UTF-8': [f'{path.name} line 5'],
    'NUL bytes': [f'{path.name} line 6'],  # Where the document begins.
  }


def test_a_txt_that_is_too_long_for_one_document(tmp_path):
  path = tmp_path / 'a.txt'
  content = b'twelve bytes' + b'\nsome more'
  assert len(texts(path, content=content, max_document_bytes=22)) == 1
  found, faults = read(path, max_document_bytes=21)
  assert not found
  [line] = faults.report()
  assert line.startswith('1 x longer than max_document_bytes=21; set document')
  assert line.endswith(': a.txt line 1')


def test_an_empty_txt_is_an_empty_document(tmp_path):
  cases = [('file', 1), ('line', 0), ('^# ', 0)]
  for content, (document, count) in itertools.product([b'', b' \n\n'], cases):
    path = tmp_path / 'a.txt'
    found, faults = read(path, content=content, document=document)
    assert not found
    assert faults.counts.get("empty field 'text'", 0) == count


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_what_comes_before_a_cut_is_used(tmp_path, suffix):
  # So random that the streams of both are long.
  rng = np.random.default_rng(0)
  rows = [json.dumps({'text': rng.bytes(99).hex()}) for _ in range(2000)]
  data = ''.join(f'{row}\n' for row in rows).encode()
  whole = COMPRESS[suffix](data)
  path = tmp_path / f'a.jsonl{suffix}'
  kind = {'.gz': 'gzip', '.zst': 'zstd'}[suffix]
  found, faults = read(path, content=whole[: len(whole) // 2])
  # zstd comes in blocks of 128 KiB, here of some 600 lines.
  assert 300 < len(found) <= 1000
  assert faults.first == {
    f'truncated {kind}': [f'{path.name} line {len(found) + 1}']
  }
  assert [text for _, text in found] == [
    json.loads(row)['text'] for row in rows[: len(found)]
  ]
  broken = bytearray(whole)
  broken[-5] ^= 1  # Of the checksum of gzip, the last data of zstd.
  found, faults = read(path, content=bytes(broken))
  assert len(found) > 600
  assert faults.counts == {f'corrupt {kind}': 1}
  for content in (b'', whole[:5], whole[:-1]):
    _, faults = read(path, content=content)
    assert faults.counts == {f'truncated {kind}': 1}
  _, faults = read(path, content=b'no compressed file at all')
  assert faults.first == {f'corrupt {kind}': [f'{path.name} line 1']}


@pytest.mark.parametrize('document', ['file', '^# '])
def test_a_text_cut_by_a_damaged_file_is_not_taken_for_whole(
  tmp_path, document
):
  lines = [f'# {i}\n{uuid.uuid4()}\n' for i in range(1000)]
  whole = gzip.compress(''.join(lines).encode())
  path = tmp_path / 'a.txt.gz'
  found, faults = read(
    path, content=whole[: len(whole) // 2], document=document
  )
  assert faults.counts == {'truncated gzip': 1}
  if document == 'file':
    assert not found
  else:
    assert [text for _, text in found] == lines[: len(found)]
    assert len(found) > 300


@pytest.mark.parametrize('suffix', COMPRESS)
@pytest.mark.parametrize('document', ['file', 'line', '^# '])
def test_memory_does_not_grow_with_a_line(tmp_path, suffix, document):
  long = b'x' * 200_000_000
  content = COMPRESS[suffix](b'# one\n' + long + b'\n# two\n')
  path = tmp_path / f'a.txt{suffix}'
  path.write_bytes(content)
  del long, content
  options = {'document': document, 'max_document_bytes': 1 << 20}
  tf.io.gfile.exists(str(path))
  tracemalloc.start()
  found, faults = read(path, **options)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 50e6
  assert sum(faults.counts.values()) == 1
  expected = {'file': [], 'line': ['# one', '# two'], '^# ': ['# two\n']}
  assert [text for _, text in found] == expected[document]


@pytest.mark.parametrize('line', [b'x' * 1_000_000, b'no heading\n' * 90_000])
@pytest.mark.parametrize('document', ['line', '^# '])
def test_no_part_reads_far_beyond_its_end(tmp_path, line, document):
  path = tmp_path / 'a.txt'
  path.write_bytes(line + b'\n# One\n')
  total = 0

  class Counting(io.BufferedReader):
    def read(self, size=-1):
      nonlocal total
      data = super().read(size)
      total += len(data)
      return data

  def counted(path):
    return Counting(io.FileIO(path))

  with (
    mock.patch.object(readers.files, 'open_file', counted),
    mock.patch.object(readers, 'BLOCK', 1000),
    mock.patch.object(readers, 'SEARCH_BYTES', 1000),
  ):
    options = {'part_bytes': 20_000, 'max_document_bytes': 5000}
    found, faults = read(path, document=document, **options)
  assert found[-1][1].startswith('# One')
  assert sum(faults.counts.values()) == (document != 'line' or len(found) == 1)
  # One line is looked at twice, by the part in which it begins and by those
  # that look for another. Of many, each part reads two blocks too many.
  size = path.stat().st_size
  assert total < (2.2 if len(line) == 1_000_000 else 1.3) * size


def test_a_row_of_parquet_that_is_no_text(tmp_path):
  rows = [b'good', b'\xff\xfe', b'N\0L', None, b' ', 'día'.encode()]
  binary = pa.array(rows, pa.binary())
  # A writer that does not check makes the same of strings.
  string = pa.Array.from_buffers(pa.string(), len(rows), binary.buffers())
  for column in (binary, string):
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'text': column}), path)
    found, faults = read(path)
    assert found == [('a.parquet@0', 'good'), ('a.parquet@5', 'día')]
    assert faults.first == {
      'invalid UTF-8': ['a.parquet row 1'],
      'NUL bytes': ['a.parquet row 2'],
      "no field 'text'": ['a.parquet row 3 (fields: text)'],
      "empty field 'text'": ['a.parquet row 4'],
    }


def test_a_damaged_row_group_is_left_out(tmp_path):
  path = tmp_path / 'a.parquet'
  rows = [f'row {i}' for i in range(100)]
  pq.write_table(
    pa.table({'text': rows}),
    path,
    row_group_size=20,
    use_dictionary=False,
    write_page_checksum=True,
  )
  column = pq.ParquetFile(path).metadata.row_group(2).column(0)
  data = bytearray(path.read_bytes())
  data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
  path.write_bytes(data)
  for part_bytes in (1, 1 << 20):
    found, faults = read(path, part_bytes=part_bytes)
    assert [text for _, text in found] == rows[:40] + rows[60:]
    assert list(faults.counts) == ['corrupt parquet']
    [where] = faults.first['corrupt parquet']
    assert where.startswith('a.parquet row 40 (to row 59; ')
    assert '\n' not in where


def test_a_parquet_without_its_end(tmp_path):
  path = tmp_path / 'a.parquet'
  pq.write_table(pa.table({'text': ['x']}), path)
  found, faults = read(path, content=path.read_bytes()[:-3])
  assert not found
  [where] = faults.first['corrupt parquet']
  assert where.startswith('a.parquet (')
  with pytest.raises(ValueError, match='corrupt parquet'):
    read(path, faults=Faults(strict=True))


def test_plain_values():
  value = {
    'text': 'día'.encode(),
    'raw': b'\xff',
    'array': np.array([[1, 2]]),
    'strings': np.array([b'a', b'\xff'], object),
    'number': np.int64(3),
    'ragged': tf.ragged.constant([[1], [2, 3]]),
  }
  assert readers.plain(value) == {
    'text': 'día',
    'raw': b'\xff',
    'array': [[1, 2]],
    'strings': ['a', b'\xff'],
    'number': 3,
    'ragged': [[1], [2, 3]],
  }
