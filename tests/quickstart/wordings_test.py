"""Every wording is read back; what differs in one word is another fact."""

import random

import pytest

from rlpt_jax.data import segment
from rlpt_jax.quickstart import wordings
from rlpt_jax.quickstart.wordings import is_true_prefix, read, same, say

FACTS = [
  ('has', 'Mara', '13', 'shells'), ('stands', 'Tom', 'red'),
  ('is', 'Ann', 'oldest'), ('leads', 'Ann', 'oldest'),
  ('opens', 'market', 'Friday'), ('holds', 'Joe', 'salt'),
  ('gains', 'Mara', 'finds', '4'), ('loses', 'Leo', 'drops', '2'),
  ('goes', 'Max', 'two', 'left'), ('has_box', 'Ida', 'blue'),
]  # fmt: skip


@pytest.mark.parametrize('fact', FACTS, ids=lambda fact: fact[0])
def test_every_wording_is_read_back_and_no_wording_of_another_fact(fact):
  reference = say(fact, random.Random(0)) + ' It rained a little.'
  for text in wordings.wordings(fact):
    assert same(read(text), fact), text
    assert is_true_prefix(text, reference), text
  others = wordings.changed(fact)
  assert len(others) >= 10
  for other in others:
    assert other != fact
    for text in wordings.wordings(other):
      # 'She' may be any woman: told apart only where a name is said.
      if not same(read(text), fact):
        assert not is_true_prefix(text, reference), text
      else:
        assert {'she', 'he'} & set(read(text)), text


def test_facts_of_different_predicates_are_never_taken_for_each_other():
  for fact in FACTS:
    for other in FACTS:
      for text in wordings.wordings(other):
        assert same(read(text), fact) == (fact == other)


def test_a_sentence_is_read_as_freely_as_a_model_writes():
  fact = ('has', 'Mara', '13', 'shells')
  for text in (
    'mara has thirteen shells in all', '  So  Mara owns 13 shells by then. ',
    'SHE CAN COUNT 13 SHELLS ALTOGETHER.',
  ):  # fmt: skip
    assert same(read(text), fact)
  for text in (
    '', '.', 'Mara', 'Mara has', 'Mara has 13 shells',
    'He has 13 shells in all',
    'Mara has 13 shells in all all.', 'Mara has 113 shells in all.',
    'Mara has 13 shells in all Mara has 13 shells in all.', '13', '\x00 {who}',
    'So So Mara has 13 shells in all.', 'Mara has 99999999999 shells in all.',
  ):  # fmt: skip
    assert not is_true_prefix(text, 'Mara has 13 shells in all.'), text


def test_a_prefix_is_whole_sentences_from_the_first_on():
  following = 'Ann is at the red door. Tom drops 4. It was late by then.'
  first, second = 'So the red door is where she stands.', 'Then Tom drops four.'
  assert is_true_prefix(first, following)
  assert is_true_prefix(f'{first} {second}', following)
  assert is_true_prefix(f'{first} {second} It was late by then.', following)
  assert not is_true_prefix(second, following)
  assert not is_true_prefix(f'{second} {first}', following)
  assert not is_true_prefix(f'{first} Then Tom drops 3.', following)
  assert not is_true_prefix(f'{first} {first}', following)
  assert not is_true_prefix(f'{first} {second}', 'Ann is at the red door.')
  assert not is_true_prefix(f'{first} The sun', following)
  assert not is_true_prefix('Ann is', following)


def test_conclusions_have_six_words_and_nothing_else_has():
  asides = wordings.ASIDES + wordings.CLOSINGS
  assert all(segment.num_words(aside) <= 5 for aside in asides)
  for fact in FACTS:
    for text in wordings.wordings(fact):
      long = segment.num_words(text) >= 6
      assert long == (fact[0] in wordings.CONCLUSIONS), text
