"""Repeated paragraphs against a plain loop."""

import random
import time

import pytest

from rlpt_jax.corpus import paragraphs
from rlpt_jax.corpus.paragraphs import RepeatedParagraphs
from tests.corpus import corpora

MENU = 'Home News Weather Sport Travel Contact About Help'


def plainly(texts: list[str], min_words: int, times: int) -> list[str]:
  def key(line):
    return ' '.join(line.lower().split())

  lines = [text.split('\n') for text in texts]
  counts = {}
  for each in (key(line) for some in lines for line in some):
    counts[each] = counts.get(each, 0) + 1
  seen, left = set(), []
  for some in lines:
    kept = []
    for line in some:
      repeated = key(line) in seen
      seen.add(key(line))
      long = len(line.split()) >= min_words
      if not (repeated and long and counts[key(line)] >= times):
        kept.append(line)
    left.append('\n'.join(kept))
  return left


# With little memory, the comparison runs in several slices.
@pytest.mark.parametrize(('times', 'held'), [(2, 64 << 20), (4, 1500)])
def test_all_but_the_first_are_removed(tmp_path, times, held):
  rng = random.Random(0)
  lines = [corpora.text(rng, 10) for _ in range(40)]
  texts = []
  for i in range(30):
    some = rng.choices(lines, k=4)
    texts.append('\n'.join([MENU, 'Short', *some, f'the end of {i}']))
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  stage = RepeatedParagraphs(times=times)
  corpora.make(path, [stage], tmp_path / 'out', held=held)
  found = [one['text'] for one in corpora.documents(tmp_path / 'out')]
  assert found == plainly(texts, 8, times)
  assert sum(text.count(MENU) for text in found) == 1


def test_a_document_without_other_paragraphs_is_dropped(tmp_path):
  texts = [f'{MENU}\nOne.', f'{MENU.lower()}\n\n', f'{MENU}\nTwo.']
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  manifest = corpora.make(path, [RepeatedParagraphs(times=2)], tmp_path / 'out')
  found = [one['text'] for one in corpora.documents(tmp_path / 'out')]
  assert found == [f'{MENU}\nOne.', 'Two.']
  (stage,) = manifest['stages']
  assert stage['dropped'] == {paragraphs.NOTHING_LEFT: 1}
  assert stage['edits'] == {paragraphs.KIND: 1}


def test_a_long_line_of_blanks_takes_little_time():
  since = time.process_time()
  text = f'{" " * 2_000_000}\n{MENU}\n{" " * 2_000_000}x'
  lines = [line.group() for line in paragraphs._lines(text)]
  assert lines[0] == f'{MENU}\n' and lines[1].endswith('x')
  assert time.process_time() - since < 2
