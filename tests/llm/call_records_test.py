"""Records are found by their keys; bad lines are skipped and counted."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from rlpt_jax.llm import call_records as lib
from rlpt_jax.llm.answer_cache import content_key

KEYS = [content_key(prompt=str(i)) for i in range(3)]


def _open(path, **options):
  return contextlib.closing(lib.CallRecords(path, **options))


def _record(key, **changes):
  usage = {'prompt_tokens': 1, 'completion_tokens': 2}
  return {
    'key': key, 'stage': 's', 'id': 'd', 'model': 'm', 'reply': 'yes',
    'usage': usage, **changes,
  }  # fmt: skip


def test_a_reply_is_found_again_and_a_fault_is_not(tmp_path):
  path, seen = tmp_path / 'calls.jsonl', []
  fault = _record(KEYS[1], fault='timeout')
  del fault['reply']
  with _open(path) as records:
    records.put(_record(KEYS[0]))
    records.put(fault)
    assert records.get(KEYS[0]) == _record(KEYS[0])
    assert records.get(KEYS[1]) is records.get(KEYS[2]) is None
    assert len(records) == 1
  with _open(path, see=seen.append) as records:
    assert seen == [_record(KEYS[0]), fault] == list(lib.read(path))
    assert records.get(KEYS[0]) == _record(KEYS[0])
    assert records.get(KEYS[1]) is None
    records.put(_record(KEYS[1]))
    assert (len(records), records.skipped) == (2, 0)
    assert len(seen) == 2


def _without(name):
  return {k: v for k, v in _record(KEYS[0]).items() if k != name}


@pytest.mark.parametrize(
  'line',
  [
    'no json', '[]', '1', 'null', '{}', '\udcff', json.dumps(_record('xy')),
    json.dumps(_record(KEYS[0], usage=None)),
    json.dumps(_record(KEYS[0], usage={'prompt_tokens': 1})),
    json.dumps(_record(KEYS[0], reply=3)), json.dumps(_without('id')),
    json.dumps(_without('key')), json.dumps(_without('stage')),
    json.dumps(_record(KEYS[0]))[:-1],
  ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_skipped(line, tmp_path):
  path = tmp_path / 'calls.jsonl'
  good = json.dumps(_record(KEYS[1]))
  path.write_bytes(f'{line}\n{good}\n'.encode(errors='surrogateescape'))
  with _open(path) as records:
    assert (len(records), records.skipped) == (1, 1)
    assert records.get(KEYS[1]) == _record(KEYS[1])
  assert list(lib.read(path)) == [_record(KEYS[1])]


def test_two_processes_do_not_share_a_file(tmp_path):
  path = tmp_path / 'calls.jsonl'
  program = (
    'import sys\n'
    'from rlpt_jax.llm.call_records import CallRecords\n'
    'records = CallRecords(sys.argv[1])\n'
    'print("open", flush=True)\n'
    'sys.stdin.read()\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program, path],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
  ) as other:  # fmt: skip
    assert other.stdout.readline() == b'open\n'
    files = len(os.listdir('/proc/self/fd'))
    with pytest.raises(ValueError, match=r'calls\.jsonl: another process is'):
      lib.CallRecords(path)
    assert len(os.listdir('/proc/self/fd')) == files
    other.stdin.close()
    other.wait()
  with _open(path) as records:
    assert len(records) == 0
