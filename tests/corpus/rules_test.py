import functools
import pickle
import sys
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from rlpt_jax.core import settings
from rlpt_jax.corpus import documents, rules
from rlpt_jax.corpus.documents import Document, Dropped, Edit

PROSE = (
  'The lighthouse was built in 1890 and burned down that winter. Nobody in the '
  'village had seen how it began. Some blamed the keeper, who liked to smoke '
  'with his feet on the stove. His wife, however, told a different story: a '
  'storm had broken the glass, and burning oil ran down the stairs. Which of '
  'them should be believed? Fishermen still argue about it when nets are dry '
  'and there is nothing else to do. A small museum stands on the rock today.'
)
QUALITY = (
  rules.gopher_quality, rules.gopher_repetition, rules.fineweb_quality,
  rules.c4_quality,
)  # fmt: skip


def _reason(stage, text, **options) -> str:
  document = Document('x', text)
  outcome = stage(document, **options)
  if isinstance(outcome, Dropped):
    return outcome.reason
  assert stage is rules.c4_quality or outcome == document
  return ''


def test_words_are_split_as_spacy_splits_them():
  # What spaCy 3.8 makes of these; see the module for what may differ.
  for text, expected in {
    "Don't say it's 3.5% of $1,000!": (
      "Do n't say it 's 3.5 % of $ 1,000 !"
    ),
    'A well-known (or so-called) "fact" ...': (
      'A well - known ( or so - called ) " fact " ...'
    ),
    'See http://a.org/b?c=d, or ann@x.org.': (
      'See http://a.org/b?c=d , or ann@x.org .'
    ),
    'Mr. J. Smith of the U.S. came 1st, in 1990-91.': (
      'Mr. J. Smith of the U.S. came 1st , in 1990 - 91 .'
    ),
    'x=3 2/3 a/b 0 @.@ 5 -- end.Start': (
      'x=3 2/3 a / b 0 @.@ 5 -- end . Start'
    ),
  }.items():  # fmt: skip
    assert rules.words(text) == expected.split()


def test_words_and_sentences_tile_the_text():
  text = 'It is 3.5.  "Is it?" "Yes!" he said. e.g. this... And\nthat'
  assert ''.join(rules.words(text)) == ''.join(text.split())
  spans = rules.sentences(text)
  assert [text[start:end].strip() for start, end in spans] == [
    'It is 3.5.  "', 'Is it?" "', 'Yes!"', 'he said.', 'e.g. this... And\nthat'
  ]  # fmt: skip
  assert spans[0][0] == 0 and spans[-1][1] == len(text)
  assert rules.sentences(' \n') == []


@pytest.mark.parametrize(
  'text',
  ['a-', '-', 'a', 'a.', "n't", "'s", '!', 'a!', '_', 'www.', 'a@', '@-'],
)
def test_words_take_linear_time(text):
  text *= 200_000 // len(text)
  started = time.monotonic()
  assert ''.join(rules.words(text)) == text
  assert time.monotonic() - started < 5


@pytest.mark.parametrize('stage', QUALITY)
def test_prose_is_kept(stage):
  assert _reason(stage, PROSE) == ''
  assert _reason(stage, '') and _reason(stage, ' \n\n ')


def test_length():
  stage = functools.partial(rules.length, min_words=3, max_words=4)
  assert _reason(stage, 'one two, three!') == ''
  assert _reason(stage, 'one two, three, four!') == ''
  assert stage(Document('x', 'one, two!')) == Dropped(
    'fewer than 3 words', '2 words'
  )
  assert stage(Document('x', '一二三 a b')).reason == 'more than 4 words'
  with pytest.raises(
    ValueError, match=r'rules\.length\.min_words=-1: expected'
  ):
    rules.length(Document('x', ''), min_words=-1, max_words=1)


@pytest.mark.parametrize(
  ('text', 'options', 'reason'),
  [
    (PROSE[:200], {}, 'fewer than 50 words'),
    (PROSE, {'min_words': 200}, 'fewer than 200 words'),
    (PROSE, {'max_words': 60}, 'more than 60 words'),
    ('a b of the ' * 50, {}, 'words of less than 3 letters'),
    ('unbelievableness ' * 60, {}, 'words of more than 10 letters'),
    (PROSE + ' #' * 40, {}, 'more than 0.1 # per word'),
    (PROSE + ' … so' * 40, {}, 'more than 0.1 ellipses per word'),
    ('- ' + PROSE.replace('. ', '.\n- '), {}, 'bullets in more than 0.9 of '
     'lines'),
    (PROSE.replace('. ', '...\n'), {'max_symbols': 0}, 'ellipses at the end of '
     'more than 0.3 of lines'),
    (PROSE + ' 1 2 3 4' * 20, {'min_word_length': 0},
     'letters in less than 0.8 of words'),
    ('green yellow purple orange ' * 20, {}, 'fewer than 2 stop words'),
    ('?! ' * 90, {'min_words': 0}, 'no words'),
  ],
)  # fmt: skip
def test_gopher_quality(text, options, reason):
  found = _reason(rules.gopher_quality, text, **options)
  assert found == f'Gopher quality: {reason}'


@pytest.mark.parametrize(
  ('text', 'options', 'reason'),
  [
    ('One.\n\nTwo.\n\n' * 3, {}, 'repeated paragraphs'),
    (f'{PROSE}\n\n' * 2 + 'A.\n\nB.\n\nC.', {}, 'characters in repeated '
     'paragraphs'),
    ('One.\nTwo.\n' * 3, {}, 'repeated lines'),
    (f'{PROSE}\n' * 2 + 'A.\nB.\nC.', {}, 'characters in repeated lines'),
    ('the house ' * 40, {}, 'a frequent 2-gram'),
    (f'{PROSE} {PROSE}', {}, 'repeated 5-grams'),
    (f'{PROSE} {PROSE}', {'ngrams': [(7, 0.2)]}, 'repeated 7-grams'),
    (f'{PROSE} {PROSE}', {'ngrams': []}, None),
  ],
)  # fmt: skip
def test_gopher_repetition(text, options, reason):
  found = _reason(rules.gopher_repetition, text, **options)
  assert found == (f'Gopher repetition: {reason}' if reason else '')


@pytest.mark.parametrize(
  ('text', 'options', 'reason'),
  [
    (
      PROSE.replace('.', ''),
      {},
      'final punctuation in less than 0.12 of lines',
    ),
    ('Home.\nAbout us.\n' * 2, {}, 'short lines, more than 0.67'),
    (f'{PROSE}\n{PROSE}', {}, 'characters in repeated lines, more than 0.01'),
    (PROSE + '\n' * 60, {}, 'more than 0.3 line breaks per word'),
    (PROSE + '\n' * 60, {'max_breaks': 1}, None),
  ],
)
def test_fineweb_quality(text, options, reason):
  found = _reason(rules.fineweb_quality, text, **options)
  assert found == (f'FineWeb: {reason}' if reason else '')


PAGE = f"""Home | About
{PROSE}

 Enable JavaScript to see this page.\r
  It was built in 1890.[12] It burned. \r
We use cookies to make this page better.
Too short.
{'x' * 1001} is long.
The end of it all.[edit]
"""


def test_c4_removes_lines():
  after = rules.c4_quality(Document('x', PAGE))
  assert after.text == (
    f'{PROSE}\nIt was built in 1890. It burned.\nThe end of it all.'
  )
  assert [edit.kind for edit in after.edits] == [
    'C4: line without final punctuation', 'C4: blank line',
    'C4: line about JavaScript', 'C4: citation',
    'C4: line about cookies or terms of use', 'C4: line of few words',
    'C4: long word', 'C4: citation',
  ]  # fmt: skip
  assert after.edits[0] == Edit(
    'C4: line without final punctuation', 0, 'Home | About\n', ''
  )
  assert after.edits[-1].before == 'The end of it all.[edit]\n'
  after = rules.c4_quality(Document('x', PAGE), final_punctuation=False)
  assert after.edits[0].kind == 'C4: blank line'
  # What a citation leaves at the ends of the text is removed too.
  text = f'[1] {PROSE}\nIt is true [2]\n'
  after = rules.c4_quality(Document('x', text), final_punctuation=False)
  assert after.text == f'{PROSE}\nIt is true'
  assert [edit.kind for edit in after.edits] == ['C4: citation'] * 2
  after = rules.c4_quality(Document('x', f' {PROSE}'))
  assert after.edits == (Edit('C4: white space', 0, f' {PROSE}', PROSE),)


@pytest.mark.parametrize(
  ('text', 'options', 'reason'),
  [
    (PROSE[:200], {}, 'fewer than 5 sentences left'),
    (PROSE[:106], {'min_sentences': 2}, None),
    (f'{PROSE}\nIt is lorem ipsum.', {}, 'lorem ipsum'),
    (f'{PROSE}\nIf x in {{1, 2}} holds.', {}, 'curly bracket'),
    (f'{PROSE}\nIf x in {{1, 2}} holds.', {'braces': True}, None),
    ('Home | About', {'min_sentences': 0}, 'no line left'),
    ('[1] [2]', {'min_sentences': 0, 'min_line_words': 0,
     'final_punctuation': False}, 'no line left'),
  ],
)  # fmt: skip
def test_c4_drops_documents(text, options, reason):
  found = _reason(rules.c4_quality, text, **options)
  assert found == (f'C4: {reason}' if reason else '')


@hypothesis.given(
  st.lists(
    st.sampled_from(
      ['\n', '\r\n', '\u2028', ' ', '[1]', '[edit]', 'One word.', 'no', '\x1c']
    )
  )
)
@hypothesis.settings(max_examples=200)
def test_the_edits_of_c4_lead_to_its_text(pieces):
  """c4_quality asserts that they do."""
  document = Document('x', ''.join(pieces))
  outcome = rules.c4_quality(
    document, min_sentences=0, min_line_words=0, final_punctuation=False
  )
  if isinstance(outcome, Document):
    assert documents.edited(document, outcome.edits) == outcome


def test_details_have_the_size():
  found = rules.gopher_quality(Document('x', 'One two.\nThree.'))
  assert found == Dropped(
    'Gopher quality: fewer than 50 words', '5 words, 2 lines'
  )


def test_words_are_split_once_for_all_rules(monkeypatch):
  split = []
  monkeypatch.setattr(rules, 'words', lambda x: split.append(x) or x.split())
  document = Document('x', f'{PROSE} Once.')
  for stage in QUALITY[:3]:
    assert stage(document) is document
  assert split == [document.text]


@pytest.mark.parametrize(
  ('stage', 'option'),
  [
    (rules.gopher_quality, {'min_words': 1.5}),
    (rules.gopher_repetition, {'ngrams': [(0, 0.1)]}),
    (rules.fineweb_quality, {'min_ended': 2}),
    (rules.c4_quality, {'braces': 1}),
  ],
)
def test_a_wrong_option_is_named(stage, option):
  (name,) = option
  with pytest.raises(ValueError, match=rf'rules\.{stage.__name__}\.{name}='):
    stage(Document('x', PROSE), **option)


def test_a_stage_with_options_is_pickled_and_described():
  stage = functools.partial(rules.gopher_quality, min_words=2)
  assert pickle.loads(pickle.dumps(stage))(Document('x', PROSE)).text == PROSE
  assert settings.describe(stage)['min_words'] == 2


def test_without_datatrove(monkeypatch):
  monkeypatch.setitem(
    sys.modules, 'datatrove.pipeline.filters.c4_filters', None
  )
  rules._recorder.cache_clear()
  with pytest.raises(ValueError, match=r"pip install 'rlpt_jax\[corpus\]'"):
    rules.c4_quality(Document('x', PROSE))
