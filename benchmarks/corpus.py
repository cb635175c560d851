"""Recall, precision, speed and memory of `rlpt make_corpus`.

    python benchmarks/corpus.py generate FOLDER --documents 1000000
    python benchmarks/corpus.py clean FOLDER [--workers 2] [--kills 3]

`generate` writes documents of random words, as frequent as in English, among
them copies (a tenth of all exact, a tenth with 1% to 20% of their words
changed), personal data (2%) and questions of a benchmark (1%), and the truth
about each. `clean` runs `rlpt make_corpus` on them, kills it with SIGKILL if
told to, compares what is left with the truth, and prints a line of JSON. A
second run of `clean` with other options must write the same files: `checksum`
says so. Memory is that of all processes together, shared pages counted once.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from rlpt_jax.data.faults import Faults
from rlpt_jax.data.sources import Files

FILES = 16
CHUNK = 10_000
QUESTIONS = 2000
MASKED = re.compile(
  r'\[(?:EMAIL|PHONE|CARD|IBAN|IP|SSN|MAC|KEY|LOGIN|WALLET)\]'
)
VOCABULARY = 50_000
GIN = """
generated/sources.Files.name = 'generated'
generated/sources.Files.files = '{folder}/documents/*.jsonl'

cleaning.Corpus.sources = [@generated/sources.Files()]
cleaning.Corpus.folder = '{out}'
cleaning.Corpus.stages = [
  @duplicates.NearDuplicates(),
  @personal.Mask(),
  @contamination.Decontaminate(),
]
contamination.Decontaminate.data = '{folder}/benchmarks'
"""


def vocabulary(rng: random.Random) -> list[str]:
  """Returns made-up words; frequent ones are short."""
  starts, vowels = 'b c d f g h j k l m n p r s t v w'.split(), 'aeiou'
  words = {}
  while len(words) < VOCABULARY:
    syllables = 1 + int(len(words) ** 0.25 / 4 + rng.random())
    word = ''.join(
      rng.choice(starts) + rng.choice(vowels) for _ in range(syllables)
    )
    words[word + rng.choice(['', 'n', 's', 'r', 't'])] = None
  return list(words)


class Writer:
  """Makes documents."""

  def __init__(self, seed: int):
    self.rng = random.Random(seed)
    self.numpy = np.random.default_rng(seed)
    self.words = np.array(vocabulary(random.Random(0)), object)
    ranks = np.arange(1, VOCABULARY + 1)
    self.shares = np.cumsum(1 / (ranks + 2.7))
    self.shares /= self.shares[-1]

  def pick(self, count: int) -> np.ndarray:
    return self.words[np.searchsorted(self.shares, self.numpy.random(count))]

  def text(self, words: int) -> str:
    """Returns sentences of 5 to 25 words."""
    picked, sentences = self.pick(words).tolist(), []
    while picked:
      size = self.rng.randrange(5, 26)
      sentences.append(f'{" ".join(picked[:size]).capitalize()}.')
      picked = picked[size:]
    return ' '.join(sentences)

  def changed(self, text: str, share: float) -> str:
    """Replaces, removes or adds a share of the words."""
    made = []
    for word in text.split():
      if self.rng.random() >= share:
        made.append(word)
        continue
      kind = self.rng.randrange(3)
      made += [] if kind == 0 else [self.pick(1)[0]]
      made += [word] if kind == 2 else []
    return ' '.join(made)

  def personal(self) -> tuple[str, str]:
    """Returns (kind, a piece of personal data)."""
    rng = self.rng
    kind = rng.choice(['e-mail', 'phone', 'card', 'IBAN', 'IP address'])
    if kind == 'e-mail':
      name = ''.join(rng.choices('abcdefghijk', k=6))
      return kind, f'{name}.{rng.randrange(99)}@{name[::-1]}.com'
    if kind == 'phone':
      return kind, f'+1 (212) 555-{rng.randrange(10_000):04d}'
    if kind == 'card':
      return kind, with_luhn('4' + ''.join(rng.choices('0123456789', k=14)))
    if kind == 'IBAN':
      return kind, iban('DE', ''.join(rng.choices('0123456789', k=18)))
    return kind, '.'.join(str(rng.randrange(11, 99)) for _ in range(4))


def with_luhn(digits: str) -> str:
  total = sum(
    sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10))
    for i, d in enumerate(reversed(digits))
  )
  whole = digits + str(-total % 10)
  return ' '.join(whole[i : i + 4] for i in range(0, 16, 4))


def iban(country: str, account: str) -> str:
  letters = ''.join(str(ord(c) - 55) for c in country)
  check = 98 - int(f'{account}{letters}00') % 97
  return f'{country}{check:02d}{account}'


def generate(folder: pathlib.Path, documents: int):
  for name in ('documents', 'benchmarks'):
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir(parents=True)
  maker = Writer(1)
  questions = [
    maker.text(maker.rng.randrange(20, 50)) for _ in range(QUESTIONS)
  ]
  with (folder / 'benchmarks' / 'gsm8k.jsonl').open('w') as file:
    for question in questions:
      row = {'question': question, 'answer': 'So it is.\n#### 7'}
      file.write(json.dumps(row) + '\n')
  truth = (folder / 'truth.jsonl').open('w')
  files = [
    (folder / 'documents' / f'{i:02d}.jsonl').open('w') for i in range(FILES)
  ]
  for first in range(0, documents, CHUNK):
    maker, texts = Writer(first + 2), []
    for n in range(first, min(first + CHUNK, documents)):
      fact, text = _document(maker, questions, texts, n, first)
      texts.append(text)
      truth.write(json.dumps(fact) + '\n')
      # Copies are in other files, and before or after the original.
      place = files[random.Random(n).randrange(FILES)]
      place.write(json.dumps({'n': n, 'text': text}) + '\n')
  for file in (truth, *files):
    file.close()


def _document(maker, questions, texts, n: int, first: int):
  """Returns the truth about a document, and its text."""
  rng, fact = maker.rng, {'n': n, 'kind': 'plain'}
  luck = rng.random()
  if luck < 0.2 and texts:
    share = 0.0 if luck < 0.1 else rng.uniform(0.01, 0.2)
    i = rng.randrange(len(texts))
    text = maker.changed(texts[i], share) if share else texts[i]
    return {**fact, 'kind': 'copy', 'of': first + i, 'share': share}, text
  text = maker.text(rng.randrange(60, 200))
  if luck < 0.22:
    kind, data = maker.personal()
    fact = {**fact, 'kind': 'personal', 'data': data, 'is': kind}
    text = f'{text} Write to {data} about it. {maker.text(20)}'
  elif luck < 0.23:
    question = rng.choice(questions)
    if rng.random() < 0.5:  # In other cases and with other punctuation.
      question = question.upper().replace('.', ' --')
    fact = {**fact, 'kind': 'leak'}
    text = f'{text}\n\n{question}\n\n{maker.text(20)}'
  return fact, text


def clean(folder: pathlib.Path, workers: int, kills: int, keep: bool):
  out = folder / f'out-{workers}-{kills}'
  shutil.rmtree(out, ignore_errors=True)
  gin = folder / 'corpus.gin'
  gin.write_text(GIN.format(folder=folder, out=out))
  command = [
    sys.executable, '-m', 'rlpt_jax.cli', 'make_corpus', str(gin),
    f'--workers={workers}',
  ]  # fmt: skip
  size = sum(path.stat().st_size for path in (folder / 'documents').iterdir())
  # Kill at even distances of what a run took before, or of 100 MB a minute.
  expected = 60 * size / 100e6
  rng, seconds, peak, cpu = random.Random(0), 0.0, 0, 0.0
  for left in range(kills, -1, -1):
    limit = expected / (kills + 1) * rng.uniform(0.7, 1.2) if left else None
    took, memory, used = run(command, limit)
    seconds, peak, cpu = seconds + took, max(peak, memory), cpu + used
  manifest = json.loads((out / 'manifest.json').read_text())
  checksum = hashlib.blake2b(digest_size=8)
  for file in manifest['files']:
    checksum.update((out / 'documents' / file['name']).read_bytes())
  stages = json.loads((out / 'seconds.json').read_text())
  line = {
    'megabytes': round(size / 1e6),
    'documents': manifest['documents'],
    'written': manifest['written'],
    'workers': workers,
    'kills': kills,
    'seconds': round(seconds, 1),
    'cpu_seconds': round(cpu, 1),
    'documents_per_core_second': round(manifest['documents'] / cpu),
    'stage_documents_per_core_second': {
      stage['name']: round(stage['documents'] / stages[stage['name']])
      for stage in manifest['stages']
      if stages[stage['name']] > 1e-3
    },
    'peak_megabytes': round(peak / 1e6),
    'checksum': checksum.hexdigest(),
    **compared(folder, out, manifest),
  }
  print(json.dumps(line))
  if not keep:
    shutil.rmtree(out)


def run(command: list[str], limit: float | None) -> tuple[float, int, float]:
  """Returns the seconds, the peak of memory and the CPU seconds of a run.

  limit: kill all its processes after this many seconds.
  """
  since, peak = time.monotonic(), 0
  process = subprocess.Popen(
    command, start_new_session=True, stdout=subprocess.DEVNULL
  )
  over = threading.Event()

  def watch():
    nonlocal peak
    while not over.wait(0.5):
      peak = max(peak, memory_of(process.pid))

  thread = threading.Thread(target=watch)
  thread.start()
  before = os.times()
  try:
    process.wait(limit)
    if process.returncode:
      sys.exit(f'make_corpus failed with status {process.returncode}')
  except subprocess.TimeoutExpired:
    pass
  finally:
    over.set()
    thread.join()
    # Workers of a killed run, too.
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
  after = os.times()
  used = (after.children_user - before.children_user) + (
    after.children_system - before.children_system
  )
  return time.monotonic() - since, peak, used


def memory_of(session: int) -> int:
  """Returns the bytes of memory of all processes of a session."""
  total = 0
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      fields = (folder / 'stat').read_text().rpartition(')')[2].split()
      if int(fields[3]) != session:
        continue
      for line in (folder / 'smaps_rollup').read_text().splitlines():
        if line.startswith('Pss:'):
          total += int(line.split()[1]) * 1024
    except (OSError, IndexError):  # It has ended.
      continue
  return total


def share_name(share: float) -> str:
  """Returns the range of a share of changed words."""
  if not share:
    return 'exact'
  low = int(share * 20) * 5
  return f'{low:02d}-{low + 5:02d}%'


def compared(folder: pathlib.Path, out: pathlib.Path, manifest: dict) -> dict:
  """Returns recall and precision of every stage."""
  texts, kept, wrong_masks = {}, set(), 0
  facts = {}
  with (folder / 'truth.jsonl').open() as lines:
    for fact in map(json.loads, lines):
      facts[fact['n']] = fact
  root = {}
  for n, fact in facts.items():  # An original comes before its copies.
    root[n] = root[fact['of']] if fact['kind'] == 'copy' else n
  personal = {n for n, fact in facts.items() if fact['kind'] == 'personal'}
  files = Files('made', str(out / 'documents' / '*.jsonl.zst'))
  for part in files.parts():
    for document in files.read(part, Faults()):
      n = document.fields['n']
      kept.add(n)
      if root[n] not in personal:
        wrong_masks += bool(MASKED.search(document.fields['text']))
      if root[n] in personal:
        texts[n] = document.fields['text']
  families = collections.defaultdict(list)
  for n in facts:
    families[root[n]].append(n)
  # Exact copies are one text; a family is an original and what was made of it.
  same = {}
  for n, fact in facts.items():
    same[n] = n if fact.get('share', 1) else same[fact['of']]
  by_share, wrong = collections.defaultdict(lambda: [0, 0]), 0
  for first, members in families.items():
    left = {same[n] for n in members if n in kept}
    if facts[first]['kind'] == 'leak':
      continue
    wrong += not left  # The last of a family was dropped, too.
    excused = first if first in left else min(left, default=None)
    seen = set()
    for n in members:
      missed = n in kept and same[n] in seen
      if n in kept:
        seen.add(same[n])
      if n == same[n]:
        missed = n in left and n != excused
      if n != first:
        name = share_name(facts[n]['share'])
        by_share[name][0] += 1
        by_share[name][1] += missed
  leaks = [n for n in facts if facts[root[n]]['kind'] == 'leak']
  whole_leaks = [n for n in leaks if not facts[n].get('share')]
  stages = {stage['name']: stage for stage in manifest['stages']}
  edits = sum(stages['mask']['edits'].values())
  planted = [n for n in texts if not facts[n].get('share')]
  masked = [n for n in planted if facts[root[n]]['data'] not in texts[n]]
  return {
    'duplicates_recall': {
      share: round(1 - missed / count, 4)
      for share, (count, missed) in sorted(by_share.items())
    },
    'dropped_without_reason': wrong,
    'personal_recall': round(len(masked) / max(1, len(planted)), 4),
    'personal_edits': edits,
    'documents_masked_without_reason': wrong_masks,
    'personal_documents': len(texts),
    'leaks_recall': round(
      1 - len(kept.intersection(whole_leaks)) / max(1, len(whole_leaks)), 4
    ),
    'stages': {
      name: {'dropped': stage['dropped'], 'edits': stage['edits']}
      for name, stage in stages.items()
    },
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(dest='command', required=True)
  make = commands.add_parser('generate')
  make.add_argument('folder', type=pathlib.Path)
  make.add_argument('--documents', type=int, default=1_000_000)
  run_ = commands.add_parser('clean')
  run_.add_argument('folder', type=pathlib.Path)
  run_.add_argument('--workers', type=int, default=1)
  run_.add_argument('--kills', type=int, default=0)
  run_.add_argument('--keep', action='store_true')
  args = parser.parse_args()
  folder = args.folder.absolute()
  if args.command == 'generate':
    generate(folder, args.documents)
  else:
    clean(folder, args.workers, args.kills, args.keep)


if __name__ == '__main__':
  main()
