"""`rlpt prepare` end to end: reports, pictures, and kill -9."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rlpt_jax import cli

pytestmark = pytest.mark.usefixtures('tensorflow')

HEADER = """
from __gin__ import dynamic_registration
from rlpt_jax.data import config
from rlpt_jax.data import sources
from rlpt_jax.data import tasks
notes/sources.Files.name = 'notes'
notes/sources.Files.part_bytes = 50_000
config.Data.corpora = [@notes/sources.Files()]
config.Data.task = @tasks.rlpt()
config.Data.tokenizer = 'bytes'
"""


def write_corpus(folder, num_documents):
  with open(folder / 'notes.jsonl', 'w') as file:
    for n in range(num_documents):
      text = f'This is note {n}. It has four sentences. Like all others. Bye.'
      file.write(json.dumps({'text': text}) + '\n')
    file.write('{"text": "cut in ha')
  (folder / 'notes.gin').write_text(
    f"{HEADER}notes/sources.Files.files = '{folder}/notes.jsonl'\n"
    f"config.Data.cache_dir = '{folder}/cache'\n"
  )
  return str(folder / 'notes.gin')


@pytest.mark.slow
def test_what_it_reports(tmp_path, capsys):
  gin_file = write_corpus(tmp_path, 2000)
  assert cli.main(['prepare', gin_file]) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert '2,001 documents in, 2,000 kept' in out
  assert '4,000 left out: segments that begin or end a document' in out
  # 'Like all others.' is too short.
  assert '2,000 left out: segments of fewer than 4 words' in out
  assert 'notes.jsonl line 2001' in out
  assert 'notes_asr 2,000 2,000 of 2,000 notes_msr 2,000' in out
  folder = tmp_path / 'cache' / 'notes.text'
  assert (folder / 'lengths.png').read_bytes().startswith(b'\x89PNG')
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert manifest['lengths']['segments of a document'] == {'4': 2000}
  # Again, in another process, it has nothing to do.
  assert cli.main(['prepare', gin_file]) == 0
  assert json.loads((folder / 'manifest.json').read_text()) == manifest


@pytest.mark.slow
def test_killed_and_started_again(tmp_path, capsys):
  gin_file = write_corpus(tmp_path, 16_000)
  command = [sys.executable, '-m', 'rlpt_jax.cli', 'prepare', gin_file]
  process = subprocess.Popen(
    command, stdout=subprocess.DEVNULL, start_new_session=True
  )
  folder = tmp_path / 'cache' / 'notes.text'

  def done():
    return sorted(pathlib.Path(folder).glob('part-*.json'))

  while len(done()) < 5:
    assert process.poll() is None, 'over before it could be killed'
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  early = {path: path.stat().st_mtime_ns for path in done()}
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  assert {path: path.stat().st_mtime_ns for path in early} == early
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert len(early) < len(manifest['shards'])
  assert manifest['records'] == 16_000


def test_no_examples_are_an_error(tmp_path, capsys):
  gin_file = write_corpus(tmp_path, 3)
  assert cli.main(['prepare', gin_file, 'config.Data.min_words = 99']) == 2
  captured = capsys.readouterr()
  out = ' '.join(captured.out.split())
  assert '6 left out: segments of fewer than 99 words' in out
  assert 'notes_asr, notes_msr: no document gives an example' in captured.err


def test_mistakes_are_one_line(tmp_path, capsys):
  gin_file = write_corpus(tmp_path, 1)
  assert cli.main(['prepare', gin_file, "config.Data.cache_dir = ''"]) == 2
  assert 'Data.cache_dir is' in capsys.readouterr().err
  assert cli.main(['prepare', gin_file, 'config.Data.taks = 1']) == 2
  assert "has no 'taks'. Did you mean task?" in capsys.readouterr().err
  unset = 'config.Data.tokenizer = None'
  assert cli.main(['prepare', gin_file, unset]) == 2
  assert 'Data.tokenizer is not set' in capsys.readouterr().err
