"""Which spans are usable, and how they are hidden and chosen by chance."""

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.data import masks
from rlpt_jax.rewards import extract

TOWN = (
  "The town lies on the river Aare. The Aare's old bridge was built in 1850 "
  'by the bridge-builder Hans Muster, and rebuilt in 1921.'
)


def rng(seed=0):
  return np.random.default_rng(seed)


@pytest.mark.parametrize(
  ('span', 'fault'),
  [
    ('river Aare', None),
    ('1850', None),
    ('Aare', None),  # Twice.
    ('ridge', None),  # Cuts words, as the main method may.
    (' by the ', None),
    ('river  Aare', 'not_found'),  # White space as written.
    ('RIVER', 'not_found'),
    ('Paris', 'not_found'),
    ('', 'not_found'),
    ('. ', 'no_word'),
    (TOWN, 'whole'),
    (' '.join(TOWN.split()[:11]), 'long'),
    (' '.join(TOWN.split()[:10]), None),
    ('e', 'frequent'),
    ('[mask]', 'not_found'),
    ('.*', 'not_found'),
    ('(', 'not_found'),
  ],
)
def test_which_spans_are_usable(span, fault):
  assert masks.fault(TOWN, span, [masks.limits]) == fault


def test_fewer_than_eight_occurrences():
  for times, fault in (7, None), (8, 'frequent'):
    text = 'A stone lay there, and grass grew around. ' * 9 + 'moss ' * times
    assert masks.limits(text, 'moss') == fault


def test_no_more_than_half_of_a_paragraph_is_hidden():
  assert masks.limits('alpha beta alpha', 'alpha') == 'long'
  assert masks.limits('alpha beta gamma', 'alpha') is None
  assert masks.limits('alpha beta gamma', 'alpha', max_share=0.2) == 'long'


def test_a_mark_in_the_paragraph_would_be_a_second_one():
  assert masks.fault('A [mask] is a mark, he said.', 'he', []) == 'mark'


@pytest.mark.parametrize(
  ('span', 'fault'),
  [
    ('river Aare', None),
    ('1850', None),
    ('ridge', 'cut'),
    ('bridge', None),  # 'bridge-builder' is two words.
    ('built', 'cut'),  # Also in 'rebuilt'.
    ("'s old", 'cut'),
    ("Aare's", None),
    (' old ', None),
  ],
)
def test_whole_words(span, fault):
  assert masks.whole_words(TOWN, span) == fault


def test_whole_words_are_asked_of_the_places_that_are_hidden():
  assert masks.whole_words('xab ab ab', 'ab ab') == 'cut'
  assert masks.everywhere('xab ab ab', 'ab ab', rng()) == 'x[mask] ab'


def test_each_chinese_character_is_a_word():
  text = '苏黎世位于利马特河畔，是瑞士最大的城市。'
  rules = masks.limits, masks.whole_words
  assert masks.fault(text, '利马特河', rules) is None
  assert masks.limits(text + text, '位于利马特河畔，是瑞士最大的城市') == 'long'
  mask = masks.random_span(text, rng())
  assert mask.span in text and mask.passage != masks.MARK


def test_a_span_must_be_there_whatever_the_rules():
  for rules in [], [masks.whole_words]:
    assert masks.fault(TOWN, 'Paris', rules) == 'not_found'
    assert masks.fault(TOWN, '', rules) == 'not_found'


def test_the_first_fault_is_the_reason():
  rules = masks.limits, masks.whole_words
  assert masks.fault(TOWN, 'Paris', rules) == 'not_found'
  assert masks.fault(TOWN, 'ridge', rules) == 'cut'
  assert masks.fault(TOWN, 'ridge', rules[:1]) is None


def test_all_occurrences_are_hidden():
  assert masks.everywhere('a b a b', 'a', rng()) == '[mask] b [mask] b'


def test_one_occurrence_is_hidden_and_each_may_be():
  found = {masks.once('a b a b a', 'a', rng(seed)) for seed in range(50)}
  assert found == {'[mask] b a b a', 'a b [mask] b a', 'a b a b [mask]'}
  assert masks.once('a b', 'a', rng()) == '[mask] b'


def test_random_spans_follow_the_law():
  words = [f'w{i}' for i in range(40)]
  paragraph = ' '.join(words) + '.'
  lengths, firsts = collections.Counter(), set()
  for seed in range(4000):
    mask = masks.random_span(paragraph, rng(seed))
    chosen = mask.span.split()
    first = words.index(chosen[0])
    assert chosen == words[first : first + len(chosen)]
    assert mask.passage.replace(masks.MARK, mask.span) == paragraph
    lengths[len(chosen)] += 1
    firsts.add(first)
  law = 0.8 ** np.arange(10)
  wanted = 4000 * law / law.sum()
  found = np.array([lengths[i] for i in range(1, 11)])
  assert sum(lengths.values()) == found.sum()  # No other length.
  assert np.abs(found - wanted).max() < 5 * np.sqrt(wanted.max())
  mean = (found * np.arange(1, 11)).sum() / 4000
  assert mean == pytest.approx(3.8, abs=0.15)  # SpanBERT, section 3.1.
  assert {0, 39} <= firsts


def test_the_next_word_is_hidden_with_all_that_follows():
  found = {masks.next_word('one two, three', rng(seed)) for seed in range(30)}
  assert found == {
    masks.Mask('two', 'one [mask]'), masks.Mask('three', 'one two, [mask]')
  }  # fmt: skip


@pytest.mark.parametrize('choose', [masks.random_span, masks.next_word])
@pytest.mark.parametrize('text', ['', '...', 'one', '\ud800'])
def test_a_text_of_one_word_has_nothing_to_hide(choose, text):
  assert choose(text, rng()) is None


def test_random_numbers_depend_on_name_and_seed_alone():
  def numbers(name, seed):
    return masks.generator(name, seed).integers(1000, size=4).tolist()

  assert numbers('0/a', 1) == numbers('0/a', 1)
  found = [numbers('0/a', 1), numbers('1/a', 1), numbers('0/a', 2)]
  assert len(set(map(str, [*found, numbers('\ud800', 1)]))) == 4


PIECES = [
  r'\mask{', '{', '}', '\\', '[mask]', '.*', '(', '[', ')', '^', '$', '|',
  'Aare', 'river ', 'river Aare', '1850', ' ', '\n', '\ud800', '\x00', 'e',
  TOWN,
  'Generate a mask to mask important words', '<think>', '</think>',
]  # fmt: skip


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=12).map(''.join))
def test_no_answer_stops_the_game(answer):
  text = extract.masked(rf'\mask{{{answer}}}').text
  if text is None:
    return
  for rules in [], [masks.limits], [masks.limits, masks.whole_words]:
    reason = masks.fault(TOWN, text, rules)
    if reason is None:
      for hide in masks.everywhere, masks.once:
        passage = hide(TOWN, text, rng())
        assert masks.MARK in passage and passage != TOWN
    else:
      assert reason.isidentifier()
