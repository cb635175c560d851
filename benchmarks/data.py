"""Speed, memory and sentences of the data pipeline, on one core.

    python benchmarks/data.py sentences GOLDEN... ends of sentences; the peers
    python benchmarks/data.py segment FILES...    from text to segments
    python benchmarks/data.py examples FILES...   from text to cache to examples
    python benchmarks/data.py memory FILES...     peak memory, two corpus sizes

Prints a line of JSON. `sentences` reads files like
tests/golden/segments_dev.txt and prints precision, recall and F1 of ours, of
Punkt untrained and with our tables only, and of syntok and pysbd if they are
installed. Boundaries count without white space, and the end of a document is
none. `flat` is the same text with each document on a single line.

In a file *.jsonl each line is a document: its values, joined by line breaks. In
other files every 200 lines are a document.
`examples` trains a tokenizer like Qwen's on the files and reads ASR and MSR
prompts of at most 1,024 tokens. `restore_seconds` is the time until a loader
that resumes after a million examples has its first batch. All other times are
CPU time.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from rlpt_jax.data import (
  pipeline,
  punkt,
  quiet_tensorflow,
  segment,
  sources,
  tasks,
)
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader

# The pattern by which Qwen's tokenizer splits text before it merges bytes.
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)

# Slow for careless regular expressions; each is repeated to five megabytes.
ADVERSARIAL = {
  'no punctuation': 'word ',
  'no blanks': 'x',
  'periods': '.',
  'spaced periods': '. ',
  'initials': 'a.b.c.',
  'sentences of a letter': 'A. ',
  'brackets': '([{"',
  'closing brackets': '.)]}"',
  'quotes': ' . " \' ',
  'open fences': '\n```x\n\n',
  'open formulas': '$$ \\[ \\begin{align} x. Y ',
  'line breaks': 'a\n',
  'blanks': ' ',
  'list items': '- a\n',
  'quotations': '> ',
  'dashes': '-',
  'exclamations': "! ' , ",
  'ideographs': '语',
}


def documents(path: pathlib.Path) -> list[str]:
  with path.open(encoding='utf-8') as lines:
    if path.suffix == '.jsonl':
      records = map(json.loads, lines)
      return ['\n'.join(map(str, record.values())) for record in records]
    parts = iter(lambda: ''.join(itertools.islice(lines, 200)), '')
    return list(parts)


def seconds(texts: list[str]) -> float:
  start = time.process_time()
  for text in texts:
    segment.sentences(text)
  return time.process_time() - start


def measure_segment(paths: list[pathlib.Path], megabytes: float) -> dict:
  segment.sentences('Load the model. Then start the clock.')
  result = {'model': segment.model_name('english'), 'megabytes_per_second': {}}
  for path in paths:
    texts = documents(path)
    size = sum(len(text.encode()) for text in texts)
    # Copies differ, so that a cache for one does not speed up the others.
    copies = range(max(1, round(megabytes * 1e6 / size)))
    texts = [
      text.replace(' the ', f' the{i} ') for i in copies for text in texts
    ]
    size = sum(len(text.encode()) for text in texts)
    speed = size / seconds(texts) / 1e6
    result['megabytes_per_second'][path.name] = round(speed, 2)
  speeds = {}
  for name, unit in ADVERSARIAL.items():
    text = unit * (5_000_000 // len(unit.encode()))
    speeds[name] = round(len(text.encode()) / seconds([text]) / 1e6, 2)
  result['adversarial'] = speeds
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  result['peak_megabytes'] = peak // 1024
  return result


def golden(path: pathlib.Path, *, flat: bool):
  """Yields a text and the ends of its sentences for each document."""
  for document in path.read_text(encoding='utf-8').split('@@@ ')[1:]:
    parts = document.partition('\n')[2].split('⏎')
    if flat:
      parts = [' '.join(part.split()) + ' ' for part in parts]
    yield ''.join(parts), list(itertools.accumulate(map(len, parts)))


def without_blanks(text: str, ends: list[int]) -> set[int]:
  counts = {len(''.join(text[:end].split())) for end in ends}
  return counts - {0, len(''.join(text.split()))}


def segmenters() -> dict:
  """Returns functions from a text to ends of sentences: ours and its peers'.

  A peer that is not installed is None.
  """
  from nltk.tokenize.punkt import PunktSentenceTokenizer

  file = pathlib.Path(punkt.__file__).with_name('punkt_english.json')
  params = punkt.read(json.loads(file.read_text(encoding='utf-8')))
  trained = PunktSentenceTokenizer(params)

  def spans(tokenizer):
    return lambda text: [end for _, end in tokenizer.span_tokenize(text)]

  def untrained(text):
    return spans(PunktSentenceTokenizer())(text)

  found = {
    'ours': segment.sentences,
    'punkt, our tables only': spans(trained),
    'punkt, untrained': untrained,
    'syntok': None,
    'pysbd': None,
  }
  if importlib.util.find_spec('syntok'):
    import syntok.segmenter

    found['syntok'] = lambda text: [
      sentence[-1].offset + len(sentence[-1].value)
      for paragraph in syntok.segmenter.analyze(text)
      for sentence in paragraph
    ]
  if importlib.util.find_spec('pysbd'):
    import pysbd

    segmenter = pysbd.Segmenter(language='en', clean=False, char_span=True)
    found['pysbd'] = lambda text: [s.end for s in segmenter.segment(text)]
  return found


def measure_sentences(paths: list[pathlib.Path], megabytes: float) -> dict:
  del megabytes
  result = {}
  for name, segmenter in segmenters().items():
    if segmenter is None:
      result[name] = 'not installed'
      continue
    result[name] = {}
    for path, flat in itertools.product(paths, (False, True)):
      right, extra, missed = 0, 0, 0
      for text, ends in golden(path, flat=flat):
        expected = without_blanks(text, ends)
        actual = without_blanks(text, segmenter(text))
        right += len(expected & actual)
        extra += len(actual - expected)
        missed += len(expected - actual)
      result[name][path.name + ', flat' * flat] = {
        'precision': round(right / (right + extra), 4),
        'recall': round(right / (right + missed), 4),
        'f1': round(2 * right / (2 * right + extra + missed), 4),
      }
  return result


def write_corpus(paths: list[pathlib.Path], path: pathlib.Path, size: float):
  """Writes about `size` bytes of different documents, as jsonl."""
  texts = [text for path in paths for text in documents(path)]
  written = 0
  with path.open('w') as file:
    for i in itertools.count():
      for text in texts:
        line = json.dumps({'text': text.replace(' the ', f' the{i} ')})
        file.write(line + '\n')
        written += len(line)
        if written >= size:
          return


def train_tokenizer(paths: list[pathlib.Path], directory: pathlib.Path):
  import tokenizers
  import transformers
  from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

  bpe = tokenizers.Tokenizer(models.BPE())
  bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  split = pre_tokenizers.Split(Regex(WORDS), 'isolated')
  bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=16_384,
    special_tokens=['<|endoftext|>'],
    initial_alphabet=bytes_of.alphabet(),
    show_progress=False,
  )
  bpe.train([str(path) for path in paths], trainer)
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token='<|endoftext|>'
  ).save_pretrained(directory)


def prepare(data: Data):
  for plan in pipeline.plans(data):
    for number in plan.missing():
      pipeline.prepare_part(number, plan)
    pipeline.write_manifest(plan)


def measure_examples(paths: list[pathlib.Path], megabytes: float) -> dict:
  quiet_tensorflow.load()
  result = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    train_tokenizer(paths, folder / 'bpe')
    write_corpus(paths, folder / 'corpus.jsonl', megabytes * 1e6)
    size = (folder / 'corpus.jsonl').stat().st_size
    files = sources.Files('corpus', str(folder / 'corpus.jsonl'))
    for tokenizer in ('bytes', str(folder / 'bpe')):
      name = os.path.basename(tokenizer)
      data = Data(
        [files],
        tasks.rlpt(),
        tokenizer=tokenizer,
        cache_dir=str(folder / f'cache_{name}'),
      )
      start = time.process_time()
      prepare(data)
      prepared = time.process_time() - start
      loader = Loader(data, 32)
      batches = iter(loader)
      next(batches)
      start, count = time.process_time(), 0
      for loaded in itertools.islice(batches, 60):
        count += len(loaded.examples)
      seconds_each = (time.process_time() - start) / count
      position = loaded.position
      for cursor in position['order']['cursors']:
        cursor['taken'] = 500_000
      batches.close()
      start = time.perf_counter()
      restored = iter(Loader(data, 32, position=position))
      next(restored)
      result[name] = {
        'prepare_megabytes_per_second': round(size / prepared / 1e6, 2),
        'examples_per_second': round(1 / seconds_each),
        'restore_seconds': round(time.perf_counter() - start, 2),
      }
      restored.close()
  return result


def measure_memory(paths: list[pathlib.Path], megabytes: float) -> dict:
  """Returns the peak memory for a tenth of the text and for all of it."""
  result = {}
  for size in (megabytes / 10, megabytes):
    command = [sys.executable, __file__, 'prepare', *map(str, paths)]
    done = subprocess.run(
      [*command, '--megabytes', str(size)], check=True, stdout=subprocess.PIPE
    )
    result[f'{size:g} MB'] = json.loads(done.stdout)
  return result


def measure_prepare(paths: list[pathlib.Path], megabytes: float) -> dict:
  quiet_tensorflow.load()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'corpus.jsonl'
    write_corpus(paths, path, megabytes * 1e6)
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    files = sources.Files('corpus', str(path))
    data = Data([files], tasks.rlpt(), cache_dir=f'{folder}/cache')
    prepare(data)
    loader = Loader(data, 32)
    for _ in itertools.islice(loader, 20):
      pass
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
  return {'megabytes_at_start': at_start, 'megabytes_at_peak': peak}


if __name__ == '__main__':
  measures = {
    'sentences': measure_sentences,
    'segment': measure_segment,
    'examples': measure_examples,
    'memory': measure_memory,
    'prepare': measure_prepare,  # Run by `memory`.
  }
  megabytes = {
    'sentences': 0,
    'segment': 5,
    'examples': 20,
    'memory': 1000,
    'prepare': 100,
  }
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('what', choices=list(measures))
  parser.add_argument('files', nargs='+', type=pathlib.Path)
  parser.add_argument('--megabytes', type=float, help='of text')
  arguments = parser.parse_args()
  size = arguments.megabytes or megabytes[arguments.what]
  print(json.dumps(measures[arguments.what](arguments.files, size)))
