"""Small corpora for tests, with duplicates that are known."""

import json
import pathlib
import random

from rlpt_jax.corpus import cleaning
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.documents import Document, Dropped
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.sources import Files

WORDS = [f'word{i}' for i in range(2000)]


def text(rng: random.Random, words: int = 60) -> str:
  return ' '.join(rng.choices(WORDS, k=words))


def write(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps({'text': one, 'n': i}) for i, one in enumerate(texts)]
  path.write_text('\n'.join(lines) + '\n')
  return path


def source(path: pathlib.Path, **options) -> Files:
  return Files('here', str(path), **options)


def make(
  path: pathlib.Path, stages, folder: pathlib.Path, *, held=64 << 20, **options
) -> dict:
  """Makes a corpus of files in parts of two kilobytes."""
  strict = options.pop('strict', False)
  corpus = Corpus(
    [source(path, part_bytes=2000, **options)],
    stages,
    str(folder),
    strict=strict,
  )
  return cleaning.make(corpus, Runner(held_bytes=held), lambda *_: None)


def documents(folder: pathlib.Path) -> list[dict]:
  """Reads what was written, as data/ does."""
  files = Files('made', str(folder / 'documents' / '*.jsonl.zst'))
  faults = Faults()
  found = [
    document.fields
    for part in files.parts()
    for document in files.read(part, faults)
  ]
  assert not faults.counts
  return found


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the bytes of all files but those with times."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != 'seconds.json'
  }


def without_odd(document: Document):
  if document.fields['n'] % 2:
    return Dropped('odd', str(document.fields['n']))
  return document


def fails_on_seven(document: Document):
  if document.fields.get('n') == 7:
    raise KeyError('seven')
  return document
