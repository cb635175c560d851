"""Duplicates against a plain comparison of all pairs."""

import itertools
import random
import shutil

import numpy as np
import pytest

from rlpt_jax.corpus import duplicates, signatures
from rlpt_jax.corpus.documents import Document
from rlpt_jax.corpus.duplicates import ExactDuplicates, NearDuplicates
from tests.corpus import corpora
from tests.corpus.components_test import union_find
from tests.corpus.signatures_test import changed


def family(seed: int = 0) -> list[str]:
  """Documents with exact and near copies, some of them copies of copies."""
  rng = random.Random(seed)
  texts = [corpora.text(rng) for _ in range(60)]
  for i in range(25):
    copy = changed(texts[rng.randrange(len(texts))], 0.03 * (i % 5), rng)
    texts.append(f'{copy} {"more " * (i % 3)}'.strip())
  rng.shuffle(texts)
  return texts


def plainly_kept(texts: list[str], threshold: float) -> list[int]:
  """The documents to keep, by a comparison of all pairs."""
  minima = signatures.minima(texts)
  keys, bytes_ = signatures.keys(minima), minima.astype(np.uint8)
  edges = [
    (a, b)
    for a, b in itertools.combinations(range(len(texts)), 2)
    if np.any(keys[a] == keys[b])
    and signatures.similarity(bytes_[a], bytes_[b]) >= threshold
  ]
  roots = union_find(np.array(edges))
  groups = {}
  for i in range(len(texts)):
    groups.setdefault(roots.get(i, i), []).append(i)
  return sorted(
    max(group, key=lambda i: (len(texts[i]), -i)) for group in groups.values()
  )


# With little memory, all steps run in several slices.
@pytest.mark.parametrize('held', [64 << 20, 12_000])
def test_near_duplicates_are_those_of_all_pairs(tmp_path, held):
  texts = family()
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  manifest = corpora.make(path, [NearDuplicates()], tmp_path / 'out', held=held)
  kept = [document['n'] for document in corpora.documents(tmp_path / 'out')]
  assert kept == plainly_kept(texts, 0.3)
  assert len(manifest['files']) > 5
  (stage,) = manifest['stages']
  assert sum(stage['dropped'].values()) == len(texts) - len(kept) > 15
  assert set(stage['dropped']) == {duplicates.EXACT, duplicates.NEAR}


def test_of_exact_duplicates_the_first_is_kept(tmp_path):
  texts = ['a b c', 'b', 'a  b\nc', 'B', 'b', 'a b c d']
  path = corpora.write(tmp_path / 'in.jsonl', texts)
  manifest = corpora.make(path, [ExactDuplicates()], tmp_path / 'out')
  kept = [document['n'] for document in corpora.documents(tmp_path / 'out')]
  assert kept == [0, 1, 3, 5]
  assert manifest['stages'][0]['dropped'] == {duplicates.EXACT: 2}


def test_documents_of_an_earlier_corpus_are_dropped(tmp_path):
  rng = random.Random(1)
  old, new = ([corpora.text(rng) for _ in range(20)] for _ in range(2))
  stage = NearDuplicates()
  first = corpora.write(tmp_path / 'old.jsonl', old)
  corpora.make(first, [stage], tmp_path / 'old')
  texts = [*new[:10], changed(old[3], 0.05, rng), old[4], *new[10:]]
  second = corpora.write(tmp_path / 'new.jsonl', [f'{t} more' for t in texts])
  stage = NearDuplicates(earlier=[str(tmp_path / 'old')])
  manifest = corpora.make(second, [stage], tmp_path / 'new')
  # Even though the new ones are longer.
  kept = [document['n'] for document in corpora.documents(tmp_path / 'new')]
  assert kept == [i for i in range(22) if i not in (10, 11)]
  assert manifest['stages'][0]['dropped'] == {duplicates.EARLIER_NEAR: 2}


def test_an_earlier_corpus_may_not_change(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a b c'])
  stage = ExactDuplicates(earlier=[str(tmp_path / 'old')])
  corpora.make(path, [ExactDuplicates()], tmp_path / 'old')
  corpora.make(path, [stage], tmp_path / 'new')
  shutil.rmtree(tmp_path / 'old')
  other = corpora.write(tmp_path / 'other.jsonl', ['a', 'b'])
  corpora.make(other, [ExactDuplicates()], tmp_path / 'old')
  with pytest.raises(ValueError, match=r'earlier\..*old was'):
    corpora.make(path, [stage], tmp_path / 'new')


def test_an_earlier_corpus_needs_the_same_shingles(tmp_path):
  path = corpora.write(tmp_path / 'in.jsonl', ['a b c'])
  corpora.make(path, [ExactDuplicates()], tmp_path / 'old')
  stage = NearDuplicates(earlier=[str(tmp_path / 'old')])
  with pytest.raises(ValueError, match='not made with a stage like this one'):
    corpora.make(path, [stage], tmp_path / 'new')


def test_ranks_travel_as_integers_of_the_same_order():
  ranks = np.array([-np.inf, -2.5, -1e-300, -0.0, 0.0, 1e-300, 3.0, np.inf])
  ordered = duplicates._ordered(ranks)
  assert ordered[3] == ordered[4]
  assert np.all(np.diff(ordered)[[0, 1, 2, 4, 5, 6]] > 0)


def test_what_is_kept_is_a_function():
  assert duplicates.longest(Document('a', 'abc')) == 3
  assert duplicates.first(Document('a', 'abc')) == 0
