import dataclasses
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpt_jax.analysis import views

ASR = views.View(
  'asr',
  'wiki.txt@0',
  (('template', '### Context\n\n'), ('context', 'One.'), ('template', '<end>')),
  'Two.',
  ('Two.', 'Three.'),
  {'prompt tokens': 5},
)


def test_asr_target_comes_after_the_context():
  assert views.with_target(ASR) == [
    ('template', '### Context\n\n'),
    ('context', 'One.'),
    ('target', 'Two.'),
    ('template', '<end>'),
  ]


def test_msr_target_comes_after_the_mask_and_its_line_end():
  pieces = (
    ('context', 'One.'),
    ('template', '\n'),
    ('mask', '<MASK>'),
    ('template', '\n\nThen: '),
    ('shown', 'Three.'),
  )
  assert views.with_target(dataclasses.replace(ASR, pieces=pieces)) == [
    *pieces[:3],
    ('template', '\n'),
    ('target', 'Two.'),
    ('template', '\nThen: '),
    ('shown', 'Three.'),
  ]


def test_without_a_target_the_pieces_are_all():
  view = dataclasses.replace(ASR, pieces=(('loss', 'One.'),), target='')
  assert views.with_target(view) == [('loss', 'One.')]


def test_a_target_without_a_context_comes_last():
  view = dataclasses.replace(ASR, pieces=(('plain', 'Say: '),))
  assert views.with_target(view) == [('plain', 'Say: '), ('target', 'Two.')]


def test_a_reference_that_is_the_target_is_not_repeated():
  assert views.later_references(ASR) == [(2, 'Three.')]
  other = dataclasses.replace(ASR, references=('Zwei.', 'Three.'))
  assert views.later_references(other) == [(1, 'Zwei.'), (2, 'Three.')]


def test_an_unknown_role_is_named():
  with pytest.raises(ValueError, match=r"'lost'.*expected one of template"):
    dataclasses.replace(ASR, pieces=(('lost', 'text'),))


def test_spelled_marks_what_would_not_be_seen():
  assert list(views.spelled('a\x1b[1m\u202eb\ud800\n\t\U000e0041')) == [
    ('a', False),
    (r'\x1b', True),
    ('[1m', False),
    (r'\u202e', True),
    ('b', False),
    (r'\ud800', True),
    ('\n\t', False),
    (r'\U000e0041', True),
  ]


def test_spelled_knows_every_character_that_acts():
  """By Unicode's own tables: controls, halves of pairs, line separators, and
  whatever overrides, embeds or isolates a reading direction.
  """
  acting = {'LRE', 'RLE', 'PDF', 'LRO', 'RLO', 'LRI', 'RLI', 'FSI', 'PDI'}
  for c in map(chr, range(sys.maxunicode + 1)):
    if (
      unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp')
      or unicodedata.bidirectional(c) in acting
    ) and c not in '\n\t':
      [(_, unseen)] = views.spelled(c)
      assert unseen, hex(ord(c))


@pytest.mark.parametrize(
  'text', ['Größe 10 µm', '日本', 'שלום', '👩\u200d👧', 'e\u0301']
)
def test_spelled_leaves_what_is_written(text):
  assert list(views.spelled(text)) == [(text, False)]


@given(st.text(), st.sampled_from(list(views.ROLES)), st.integers(1, 40))
def test_fold_loses_nothing(text, role, limit):
  assert ''.join(views.fold(role, text, limit)) == text


@pytest.mark.parametrize(
  'role, expected',
  [
    ('context', ('', 'a b c d e f g h i ', 'j k')),
    ('shown', ('a b c ', 'd e f g h i j k', '')),
    ('loss', ('a b ', 'c d e f g h i j ', 'k')),
  ],
)
def test_fold_keeps_the_side_of_the_target(role, expected):
  assert views.fold(role, 'a b c d e f g h i j k', 4) == expected


def test_fold_prefers_to_cut_where_a_line_starts():
  text = 'word ' * 30 + '\n' + 'last ' * 20
  assert views.fold('context', text, 120)[2] == 'last ' * 20


def test_fold_leaves_what_is_hardly_too_long():
  assert views.fold('context', 'x' * 125, 100) == ('x' * 125, '', '')
  assert views.fold('context', 'x' * 126, 100) == ('', 'x' * 26, 'x' * 100)
