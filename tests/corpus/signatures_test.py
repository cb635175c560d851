"""Signatures against sets of shingles that are written out."""

import random

import numpy as np
import pytest

from rlpt_jax.corpus import signatures

# The first minima of the text below. Renew them when the hashes change.
GOLDEN = [3587933151, 3977725623, 3732303449]
VOCABULARY = [f'word{i}' for i in range(3000)]


def texts(count: int, words: int, seed: int = 0) -> list[str]:
  rng = random.Random(seed)
  return [' '.join(rng.choices(VOCABULARY, k=words)) for _ in range(count)]


def changed(text: str, share: float, rng: random.Random) -> str:
  return ' '.join(
    rng.choice(VOCABULARY) if rng.random() < share else word
    for word in text.split()
  )


def jaccard(one: set, other: set) -> float:
  return len(one & other) / len(one | other)


def sets(shingles, texts: list[str], **options) -> list[set]:
  hashes, offsets = shingles(texts, **options)
  return [
    set(hashes[a:b].tolist())
    for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
  ]


def runs(units, size: int) -> set:
  return {tuple(units[i : i + size]) for i in range(len(units) - size + 1)}


def test_word_shingles_are_runs_of_three_words():
  some = [*texts(20, 40), 'a b c a b c', 'A, b! C']
  mine = sets(signatures.words, some, whole_below=0)
  plain = [runs(text.split(), 3) for text in some[:-1]]
  assert [len(one) for one in mine[:-1]] == [len(one) for one in plain]
  # Case and punctuation do not count, and neither does the text before it.
  assert mine[-1] < mine[-2]
  assert mine[-1] == sets(signatures.words, ['a b c'], whole_below=0)[0]


def test_character_shingles_are_runs_of_characters():
  some = ['Many  words,\nmany characters', 'many words, many characters']
  one, other = sets(signatures.characters, some, whole_below=0)
  assert one == other
  assert len(one) == len(runs('many words, many characters', 9))


def test_an_ideograph_is_a_word():
  one, other = sets(
    signatures.words, ['你好吗 a1 你', '你 好 吗, a1你'], whole_below=0
  )
  assert one == other and len(one) == 3


def test_an_underscore_and_signs_separate_words():
  one, other = sets(signatures.words, ['a_b c-d', 'a b c d'], whole_below=0)
  assert one == other and len(one) == 2


def test_texts_shorter_than_a_shingle_have_one():
  for shingles in (signatures.words, signatures.characters):
    some = sets(shingles, ['', 'a', 'a b', 'b a', '!'])
    assert [len(one) for one in some] == [1] * 5
    assert some[1] != some[2] != some[3]
  # Titles that differ in a word are as different as any others.
  titles = 'The road from here to there, 1', 'The road from here to there, 2'
  one, other = sets(signatures.words, titles)
  assert len(one) == len(other) == 1 and one != other
  signs = 'What is 3 + 4?', 'What is 3 - 4?', 'what  is 3 + 4?', '★ ★', '∀ ∃'
  plus, minus, spaced, *others = sets(signatures.words, signs)
  assert plus == spaced != minus and others[0] != others[1]


@pytest.mark.parametrize('share', [0.02, 0.1, 0.2])
def test_similarity_estimates_the_jaccard_index(share):
  rng = random.Random(1)
  one = texts(200, 150)
  other = [changed(text, share, rng) for text in one]
  a, b = signatures.minima(one), signatures.minima(other)
  estimated = signatures.similarity(a.astype(np.uint8), b.astype(np.uint8))
  exact = np.array(
    [
      jaccard(runs(x.split(), 3), runs(y.split(), 3))
      for x, y in zip(one, other, strict=True)
    ]
  )
  # One estimate has a standard deviation of about 0.04.
  assert abs(np.mean(estimated - exact)) < 0.01
  assert np.std(estimated - exact) < 0.06


def test_similarity_of_unrelated_texts_is_about_zero():
  minima = signatures.minima(texts(200, 150)).astype(np.uint8)
  assert np.mean(signatures.similarity(minima[:-1], minima[1:])) < 0.02


def test_keys_are_shared_as_often_as_the_formula_says():
  rng = random.Random(2)
  one = texts(400, 150)
  other = [changed(text, 0.2, rng) for text in one]
  a, b = map(signatures.keys, map(signatures.minima, (one, other)))
  found = np.mean(np.any(a == b, axis=1))
  s = 0.8**3
  expected = 1 - (1 - (s / (2 - s)) ** 3) ** 42
  assert abs(found - expected) < 0.1
  # Equal minima of different bands are different keys.
  same = signatures.keys(np.zeros((1, signatures.MINIMA), np.uint32))
  assert len(set(same[0].tolist())) == signatures.BANDS


def test_signatures_do_not_depend_on_what_came_before():
  some = texts(10, 30)
  together = signatures.minima(some)
  alone = np.concatenate([signatures.minima([text]) for text in some])
  np.testing.assert_array_equal(together, alone)
  # A change of these values makes earlier corpora useless for comparison.
  assert signatures.minima(['To be, or not to be.'])[0, :3].tolist() == GOLDEN


def test_text_hash_ignores_kinds_of_white_space():
  assert signatures.text_hash('a  b\n') == signatures.text_hash(' a\tb')
  assert signatures.text_hash('a b') != signatures.text_hash('ab')
  assert 0 <= signatures.text_hash('\ud800') < 2**63
