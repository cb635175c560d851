"""Lines are found again by their places; kill -9 is in answer_cache_test.py."""

import contextlib
import json

from rlpt_jax.llm.line_file import LineFile

ENTRIES = ['a', {'text': '水\n\u2028'}, '\ud800', 'x' * 200_000, '', 'z']


def test_a_line_is_found_by_its_place(tmp_path):
  path = tmp_path / 'deep' / 'lines.jsonl'
  with contextlib.closing(LineFile(path, 'nothing')) as lines:
    places = [lines.append(entry) for entry in ENTRIES]
  with contextlib.closing(LineFile(path, 'nothing')) as lines:
    places.append(lines.append('last'))
    found = [json.loads(lines.line_at(place)) for place in places]
    assert found == [*ENTRIES, 'last']
    assert [place for place, _ in lines.lines()] == places
    assert [json.loads(line) for _, line in lines.lines()] == found
    lines.close()  # And again.
  assert path.stat().st_mode & 0o077 == 0


def test_text_of_all_scripts_is_readable(tmp_path):
  path = tmp_path / 'lines.jsonl'
  with contextlib.closing(LineFile(path, 'nothing')) as lines:
    lines.append('水')
  assert path.read_text() == '\n"水"'


def test_an_unfinished_line_does_not_touch_the_next(tmp_path):
  path = tmp_path / 'lines.jsonl'
  path.write_bytes(b'\n"whole"\n"unfin')
  with contextlib.closing(LineFile(path, 'nothing')) as lines:
    place = lines.append('next')
    assert json.loads(lines.line_at(place)) == 'next'
    assert [line for _, line in lines.lines()] == [
      b'"whole"\n', b'"unfin\n', b'"next"'
    ]  # fmt: skip
