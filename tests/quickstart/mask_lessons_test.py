"""The game with sentences: what is hidden, who chooses, and demonstrations."""

import collections
import itertools
import json
import random

import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import masks
from rlpt_jax.data.masks import MARK
from rlpt_jax.quickstart import mask_lessons, world
from rlpt_jax.rewards import extract

BYTES = ByteTokenizer()
TEXT = 'Tom has 9 pens. So he owns 9 pens by then. 7 cards were red.'
LATER = ['So he owns 9 pens by then.', '7 cards were red.']


def some(count):
  documents = world.documents(0, dials=world.Dials(whims=2))
  return itertools.islice(documents, count), random.Random(0)


def paragraph(text=TEXT, surprising=''):
  """A paragraph in which the words of one sentence have a high entropy."""
  start = text.index(surprising)
  entropies = np.zeros(len(text))
  entropies[start : start + len(surprising)] = 1.0
  return masks.Paragraph(text, BYTES.encode(text), BYTES, lambda: entropies)


def test_a_choice_is_a_sentence_of_its_document_but_the_first():
  documents, rng = some(200)
  places = collections.Counter()
  for document in documents:
    line = mask_lessons.choice(document, rng)
    assert line['prompt'] == f'{document.text}\n\n'
    sentence, reason, start = mask_lessons.chosen(line['response'])
    places[document.sentences.index(sentence)] += 1
    assert not reason and line['response'][start:].startswith(sentence)
    passage = mask_lessons.before(document.text, sentence, None)
    assert passage.endswith(f' {MARK}')
    shown = passage.removesuffix(MARK)
    assert document.text.startswith(shown + sentence)
  assert 0 not in places and len(places) > 4
  assert mask_lessons.chosen('Tom has 9 pens.').text is None


def test_a_prediction_is_of_a_sentence_that_is_no_conclusion():
  documents, rng = some(200)
  kinds = collections.Counter()
  for document in documents:
    line = mask_lessons.prediction(document, rng)
    _, shown = line['prompt'].split('### Context\n\n')
    predicted = extract.prediction(line['response']).text
    assert document.text.startswith(f'{shown} {predicted.strip()}')
    kinds[mask_lessons.sentence_kind(predicted.strip())] += 1
  assert set(kinds) == {'event', 'aside', 'whim'}
  assert min(kinds.values()) > 20


@pytest.mark.parametrize(
  ('sentence', 'kind'),
  [
    ('So he owns 9 pens by then.', 'conclusion'), ('Tom loses 4.', 'event'),
    ('That was all.', 'aside'), ('7 cards were red.', 'whim'), ('9', 'whim'),
  ],
)  # fmt: skip
def test_the_kind_of_a_sentence(sentence, kind):
  assert mask_lessons.sentence_kind(sentence) == kind


def test_a_random_sentence_is_any_but_the_first():
  rng = np.random.default_rng(0)
  chosen = [mask_lessons.random_sentence(paragraph(), rng) for _ in range(40)]
  assert {mask.span for mask in chosen} == set(LATER)
  for mask in chosen:
    assert TEXT.startswith(mask.passage.removesuffix(MARK) + mask.span)
    prompt = mask_lessons.PredictSentence().prompt(mask, BYTES)
    before, _ = TEXT.split(f' {mask.span}')
    assert BYTES.decode(prompt).endswith(f'### Context\n\n{before}')
  alone = paragraph('Tom has 9 pens.')
  assert mask_lessons.random_sentence(alone, rng) is None
  assert mask_lessons.uncertain_sentence(alone, rng) is None


def test_only_sentences_after_the_first_are_usable():
  for span, reason in {
    LATER[0]: None, LATER[1]: None, TEXT: 'not_a_sentence',
    'Tom has 9 pens.': 'not_a_sentence', 'he owns 9': 'not_a_sentence',
  }.items():  # fmt: skip
    assert mask_lessons.later_sentence(TEXT, span) == reason


def test_a_fact_in_other_words_is_the_sentence_that_states_it():
  for text in ('9 pens are what Tom has.', 'Clearly Tom owns 9 pens by then.'):
    assert mask_lessons.same_fact(TEXT, text) == LATER[0]
  for text in ('8 pens are what Tom has.', 'Tom has 9 pens.', LATER[1], 'x'):
    assert mask_lessons.same_fact(TEXT, text) == text
  documents, _ = some(300)
  for document in documents:
    for sentence in document.sentences[1:]:
      assert mask_lessons.same_fact(document.text, sentence) == sentence


@pytest.mark.parametrize('sentence', LATER)
def test_an_uncertain_sentence_has_the_highest_entropies(sentence):
  rng = np.random.default_rng(0)
  looked_at = paragraph(surprising=sentence)
  chosen = {
    mask_lessons.uncertain_sentence(looked_at, rng).span for _ in range(20)
  }
  assert chosen == {sentence}
  chosen = {
    mask_lessons.uncertain_sentence(looked_at, rng, share=1.0).span
    for _ in range(20)
  }
  assert chosen == set(LATER)


def test_files_follow_from_the_seed(tmp_path):
  counts = {'choices': 5, 'predictions': 6}
  for name in 'ab':
    mask_lessons.write(
      tmp_path / name, seed=1, dials=world.Dials(whims=1), **counts
    )
  for name, count in counts.items():
    text = (tmp_path / 'a' / f'{name}.jsonl').read_text()
    assert text == (tmp_path / 'b' / f'{name}.jsonl').read_text()
    assert len([json.loads(line) for line in text.splitlines()]) == count
