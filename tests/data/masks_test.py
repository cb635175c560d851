"""Which spans are usable, and how they are hidden and chosen by chance."""

import collections
import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.data import masks
from rlpt_jax.rewards import extract, text_match
from tests import small_sentencepiece
from tests.data.conftest import text_of
from tests.rewards.scores_test import example

BYTES = ByteTokenizer()
TOWN = (
  "The town lies on the river Aare. The Aare's old bridge was built in 1850 "
  'by the bridge-builder Hans Muster, and rebuilt in 1921.'
)


def rng(seed=0):
  return np.random.default_rng(seed)


def paragraph(text, tokenizer=BYTES, entropies=None):
  def look():
    assert entropies is not None, 'looks at entropies'
    return np.array(entropies)

  return masks.Paragraph(text, tokenizer.encode(text), tokenizer, look)


def chosen(choose, seeds=range(100)):
  return {choose(rng(seed)) for seed in seeds}


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
  mask = masks.random_span(paragraph(text), rng())
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
  text = paragraph(' '.join(words) + '.')
  lengths, firsts = collections.Counter(), set()
  for seed in range(4000):
    mask = masks.random_span(text, rng(seed))
    span = mask.span.split()
    first = words.index(span[0])
    assert span == words[first : first + len(span)]
    assert mask.passage.replace(masks.MARK, mask.span) == text.text
    assert mask.following == ()
    lengths[len(span)] += 1
    firsts.add(first)
  law = 0.8 ** np.arange(10)
  wanted = 4000 * law / law.sum()
  found = np.array([lengths[i] for i in range(1, 11)])
  assert sum(lengths.values()) == found.sum()  # No other length.
  assert np.abs(found - wanted).max() < 5 * np.sqrt(wanted.max())
  mean = (found * np.arange(1, 11)).sum() / 4000
  assert mean == pytest.approx(3.8, abs=0.15)  # SpanBERT, section 3.1.
  assert {0, 39} <= firsts


@pytest.mark.parametrize('text', ['', '...', 'one', '\ud800'])
def test_a_text_of_one_word_has_no_span_to_hide(text):
  assert masks.random_span(paragraph(text), rng()) is None


def test_the_next_token_is_hidden_with_all_that_follows():
  text = paragraph('a bé, 1')
  found = chosen(functools.partial(masks.next_token, text))
  # Neither the first token, nor white space, nor the halves of the letter.
  assert found == {
    masks.Mask('b', 'a [mask]', ('é', ',', ' 1')),
    masks.Mask(',', 'a bé[mask]', (' 1',)),
    masks.Mask('1', 'a bé, [mask]'),
  }


def test_all_tokens_are_equally_likely():
  text, count = paragraph('abcde'), collections.Counter()
  for seed in range(2000):
    count[masks.next_token(text, rng(seed)).span] += 1
  assert count.keys() == {*'bcde'}
  assert max(abs(n - 500) for n in count.values()) < 5 * np.sqrt(500)


@pytest.mark.parametrize(
  'text', ['', 'x', 'x \n', ' ', '\ud800', '苏黎世', 'xé', 'x{}\\']
)
def test_a_text_without_a_token_to_predict(text):
  assert masks.next_token(paragraph(text), rng()) is None
  assert masks.uncertain_token(paragraph(text), rng()) is None


def test_following_tokens_are_bounded():
  text = 'a' + 'b' * 100
  found = chosen(functools.partial(masks.next_token, paragraph(text)))
  assert max(len(mask.following) for mask in found) == masks.FOLLOWING


def test_uncertain_tokens_are_those_with_the_highest_entropies():
  # Of a, b, c, the blank, d, the two halves of the letter, and E.
  entropies = [np.nan, 2.0, 3, 9, 4, 8, 7, 1]
  text = paragraph('abc déE', entropies=entropies)
  for share, spans in (0.25, 'd'), (0.5, 'dc'), (0.7, 'dcb'), (1.0, 'dcbE'):
    choose = functools.partial(masks.uncertain_token, text, share=share)
    assert {mask.span for mask in chosen(choose)} == {*spans}
  assert masks.uncertain_token(text, rng()) == masks.Mask(
    'd', 'abc [mask]', ('é', 'E')
  )


def test_entropies_are_asked_for_once_and_only_if_they_matter():
  looks = []
  text = masks.Paragraph(
    'abc d', BYTES.encode('abc d'), BYTES, lambda: looks.append(1) or np.ones(5)
  )
  masks.random_span(text, rng()), masks.next_token(text, rng())
  assert not looks
  masks.uncertain_token(text, rng()), masks.uncertain_token(text, rng())
  assert len(looks) == 1


def is_rpt_right(prediction, tokens):
  """RPT's reward (2506.08007), as it is written: in bytes.

  White space around the prediction and around the first tokens is left out.
  """
  prediction = prediction.strip().encode('utf-8', 'surrogatepass')
  return any(
    ''.join(tokens[:k]).strip().encode('utf-8', 'surrogatepass') == prediction
    for k in range(1, len(tokens) + 1)
  )


def test_rewards_of_next_tokens_are_those_of_rpt(bpe):
  reward = text_match.TextMatch(
    text_match.whole_segments, find=extract.boxed, split=text_match.characters
  )
  text = paragraph(text_of(6).replace('sentence', '句子 sentencé'), bpe)
  texts = [piece.text for piece in text.pieces]
  assert ''.join(texts) == text.text
  assert {' is', '.\n\n'} <= {*texts}
  rights = 0
  for seed in range(60):
    mask = masks.next_token(text, rng(seed))
    before = mask.passage.removesuffix(masks.MARK)
    assert text.text.startswith(before)
    cut = text.text[len(before) :]
    first = next(i for i in range(len(texts)) if ''.join(texts[i:]) == cut)
    predictions = [
      cut[:length] for length in range(1, 60) if cut[:length].strip()
    ] + [mask.span.upper(), mask.span + '.', mask.span]
    boxes = [rf'So \boxed{{{prediction}}}' for prediction in predictions]
    (found,) = reward([example(*mask.references)], [boxes]).rewards_PG
    wanted = [is_rpt_right(x, texts[first:]) for x in predictions]
    assert found.tolist() == wanted and wanted[-1]
    rights += sum(wanted)
  assert rights > 60 * 5


def test_a_blank_that_nobody_sees_is_not_asked_for(bpe):
  text = paragraph('The document is number 5.', bpe)
  assert ' is' in [piece.text for piece in text.pieces]
  found = chosen(functools.partial(masks.next_token, text))
  (mask,) = [mask for mask in found if mask.span == 'is']
  assert mask.passage == 'The document[mask]'
  assert mask.following[0].startswith(' ')


def test_sentencepiece_keeps_blanks_between_words(tmp_path):
  tokenizer = small_sentencepiece.train(tmp_path)
  for words in 'the ship left at dawn', 'left the  dawn ship':
    text = paragraph(words, tokenizer)
    joined = ''.join(piece.text for piece in text.pieces)
    assert joined == tokenizer.decode(text.tokens) == ' '.join(words.split())


@hypothesis.given(
  st.text(st.sampled_from('ab é苏😀\n\ud800\ufffd'), max_size=20)
)
def test_every_cut_is_one_of_the_text(text):
  entropies = np.arange(4.0 * len(text))
  for choose in masks.next_token, masks.uncertain_token:
    mask = choose(paragraph(text, entropies=entropies), rng(len(text)))
    if mask is None:
      continue
    before = mask.passage.removesuffix(masks.MARK)
    assert before.strip() and text.startswith(before)
    rest = text[len(before) :].lstrip()
    assert rest.startswith(''.join(mask.references))
    assert mask.span == mask.span.strip() != ''
    assert len(BYTES.encode(mask.span)) == 1  # A token is a byte here.


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
