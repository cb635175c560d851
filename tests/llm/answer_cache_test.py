"""What is kept survives kill -9, a cut at any byte and a full disk."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from rlpt_jax.llm.answer_cache import AnswerCache, content_key

KEYS = [content_key(prompt=str(i)) for i in range(4)]


def _open(path):
  return contextlib.closing(AnswerCache(path))


def test_what_is_put_is_there_now_and_later(tmp_path):
  path = tmp_path / 'deep' / 'answers.jsonl'
  with _open(path) as cache:
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], 'Score: 1\nand "more"\u2028 \ud800')
    assert cache.get(KEYS[0]).startswith('Score: 1')
  with _open(path) as cache:
    assert cache.get(KEYS[0]) == 'Score: 1\nand "more"\u2028 \ud800'
    assert cache.get(KEYS[1]) is None
    assert (len(cache), cache.skipped) == (1, 0)
  assert len(path.read_text().split()) > 1
  assert path.stat().st_mode & 0o077 == 0


def test_what_is_forgotten_is_so_for_good(tmp_path):
  path = tmp_path / 'answers.jsonl'
  with _open(path) as cache:
    for key, answer in zip(KEYS, ('Score: 1', 'Hm', '', 'Hm'), strict=True):
      cache.put(key, answer)
    cache.forget({'Hm', 'never said'})
    assert [cache.get(key) for key in KEYS] == ['Score: 1', None, '', None]
    cache.put(KEYS[1], 'Score: 0')
  with _open(path) as cache:
    found = [cache.get(key) for key in KEYS]
    assert found == ['Score: 1', 'Score: 0', '', None]
    assert (len(cache), cache.skipped) == (3, 0)


def test_a_key_is_of_the_content():
  assert content_key(a=1, b={'x': 1, 'y': 2}) == content_key(
    b={'y': 2, 'x': 1}, a=1
  )
  assert content_key(a=1) != content_key(a=2)
  assert content_key(a='1') != content_key(a=1)
  content_key(prompt='\ud800')  # A lone surrogate has a key too.


def test_a_file_cut_at_any_byte_loses_one_line_at_most(tmp_path):
  path = tmp_path / 'answers.jsonl'
  with _open(path) as cache:
    for key in KEYS[:3]:
      cache.put(key, 'Score: 1')
  whole = path.read_bytes()
  ends = [i + 1 for i, byte in enumerate(whole) if byte == ord('}')]
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    with _open(path) as cache:
      lines = sum(length >= end for end in ends)
      assert len(cache) == lines
      cache.put(KEYS[3], 'Score: 0')
    with _open(path) as cache:
      assert cache.get(KEYS[3]) == 'Score: 0'
      assert len(cache) == lines + 1


@pytest.mark.parametrize(
  'line',
  [
    'no json', '[]', '{}', '1', 'null', '{"key": "xy", "answer": "a"}',
    f'{{"key": "{KEYS[0]}", "answer": 1}}', f'{{"key": "{KEYS[0]}"}}',
    '{"key": 1, "answer": "a"}', '\udcff',
  ],
)  # fmt: skip
def test_a_line_that_is_none_is_skipped(line, tmp_path):
  path = tmp_path / 'answers.jsonl'
  good = json.dumps({'key': KEYS[1], 'answer': 'a'})
  path.write_bytes(f'{line}\n{good}\n'.encode(errors='surrogateescape'))
  with _open(path) as cache:
    assert (len(cache), cache.skipped) == (1, 1)
    assert cache.get(KEYS[1]) == 'a'


def test_kill_9_while_several_write(tmp_path):
  path = tmp_path / 'answers.jsonl'
  program = (
    'import sys\n'
    'from rlpt_jax.llm.answer_cache import *\n'
    'cache = AnswerCache(sys.argv[1])\n'
    'for i in range(10**9):\n'
    '  cache.put(content_key(who=sys.argv[2], i=i), "x" * 3000)\n'
    '  print(i, flush=True)\n'
  )
  writers = [
    subprocess.Popen(
      [sys.executable, '-c', program, path, str(who)], stdout=subprocess.PIPE
    )
    for who in range(2)
  ]
  last = []
  for writer in writers:
    said = b''.join(writer.stdout.readline() for _ in range(200))
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.read()
    last.append(int(said.split(b'\n')[-2]))
    writer.wait()
    writer.stdout.close()
  with _open(path) as cache:
    for who, number in enumerate(last):
      for i in range(number + 1):
        assert cache.get(content_key(who=str(who), i=i)) == 'x' * 3000
    assert cache.skipped <= 2


def test_a_full_disk_says_where_and_spoils_nothing(tmp_path, monkeypatch):
  path = tmp_path / 'answers.jsonl'
  with _open(path) as cache:
    cache.put(KEYS[0], 'a')

    room = [10]

    def full(file, data, write=os.write):
      if not room:
        raise OSError(28, 'No space left on device')
      return write(file, data[: room.pop()])

    with monkeypatch.context() as patch:
      patch.setattr(os, 'write', full)
      with pytest.raises(OSError, match=r'No space left.*answers\.jsonl'):
        cache.put(KEYS[1], 'b' * 100)
    assert cache.get(KEYS[1]) is None
    cache.put(KEYS[2], 'c')
  with _open(path) as cache:
    assert [cache.get(key) for key in KEYS[:3]] == ['a', None, 'c']
