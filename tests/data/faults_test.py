"""Counting, showing and merging what could not be used."""

import json

import pytest

from rlpt_jax.data.faults import Faults, Place


def test_report_has_a_line_for_each_reason_and_the_first_few_places():
  faults = Faults(shown=2)
  for line in (3, 9, 12):
    faults.add('invalid UTF-8', f'a.jsonl line {line}')
  faults.add('not JSON, or cut', 'b.jsonl line 1', 'char 5')
  assert faults.counts == {'invalid UTF-8': 3, 'not JSON, or cut': 1}
  assert faults.report() == [
    '3 x invalid UTF-8: a.jsonl line 3, a.jsonl line 9, ...',
    '1 x not JSON, or cut: b.jsonl line 1 (char 5)',
  ]


def test_nothing_to_report():
  assert Faults().report() == []


def test_strict_makes_the_first_one_fatal_and_says_how_to_go_on():
  faults = Faults(strict=True)
  with pytest.raises(
    ValueError, match=r'^a\.txt line 3 \(why\): NUL bytes\. '
  ) as e:
    faults.add('NUL bytes', 'a.txt line 3', 'why')
  assert 'strict=False' in str(e.value)


def test_merging_by_way_of_json_is_as_if_one_had_counted_all(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'one\ntwo\nthree\nfour\n')
  places = [
    'x.parquet row 7',
    Place('a.txt', str(path), 8, 2),
    Place('a.txt', str(path), 0, 1),
  ]
  together, merged = Faults(shown=2), Faults(shown=2)
  for place in places:
    together.add('bad', place)
    alone = Faults(shown=2)
    alone.add('bad', place)
    merged.merge(json.loads(json.dumps(alone.to_json())))
  assert merged.report() == together.report()
  assert merged.report() == ['3 x bad: x.parquet row 7, a.txt line 4, ...']


def test_a_place_counts_its_lines_from_where_the_reader_began(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\n' * 5_000_000)
  assert str(Place('n', str(path), 0, 7)) == 'n line 7'
  assert str(Place('n', str(path), 3_000_000, 7)) == 'n line 3000007'


def test_a_place_that_cannot_be_counted_is_shown_all_the_same(tmp_path):
  gone = Place('n', str(tmp_path / 'gone'), 10, 7)
  assert str(gone) == 'n line 7 after byte 10'
  far = Place('n', str(tmp_path / 'far'), 1 << 40, 7)
  assert f'{far}' == f'n line 7 after byte {1 << 40}'
