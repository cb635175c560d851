import random

from rlpt_jax.corpus import documents
from rlpt_jax.corpus.documents import Document, Dropped, Edit, Several
from rlpt_jax.corpus.tally import DOCUMENTS, Tally


def stage(document: Document):
  number = int(document.id)
  if number % 3 == 0:
    return Dropped('a third', f'number {number}')
  if number % 3 == 1:
    return documents.edited(document, [Edit('x', 0, 'a', '[A]')] * 1)
  return document


def filled(numbers) -> Tally:
  tally = Tally(samples=4)
  for number in numbers:
    tally.run(stage, Document(str(number), 'abc'))
  return tally


def without_time(tally: Tally) -> dict:
  return {**tally.to_json(), 'seconds': 0}


def test_what_happened_is_counted():
  tally = filled(range(30))
  assert (tally.documents, tally.edited) == (30, 10)
  assert tally.dropped == {'a third': 10}
  assert tally.edits == {'x': 10}
  assert {len(samples) for samples in tally.kept.values()} == {4}
  sample = next(iter(tally.kept['x'].values()))
  assert (sample['removed'], sample['added']) == ('a', '[A]')
  assert (sample['before'], sample['after']) == ('', 'bc')


def test_tallies_merge_in_any_order():
  whole = filled(range(60))
  pieces = [filled(range(i, 60, 7)).to_json() for i in range(7)]
  for seed in range(3):
    random.Random(seed).shuffle(pieces)
    merged = Tally(samples=4)
    for piece in pieces:
      merged.merge(piece)
    assert without_time(merged) == without_time(whole)


def test_a_stage_may_make_several_documents():
  tally = Tally(samples=2)
  made = Document('a#1', 'one'), Document('a#2', 'two')
  outcome = Several(made, [Dropped('wrong')] * 3, ['retried'], {'n': 1})
  tally.count(Document('a', 'x'), outcome)
  tally.count(Document('b', 'x'), Several([], [Dropped('wrong')]))
  assert (tally.documents, tally.left) == (2, 2)
  assert (tally.dropped, tally.events) == ({'wrong': 4}, {'retried': 1})
  assert list(tally.kept[DOCUMENTS].values()) == [{'n': 1}]
  assert documents.going_on(outcome) == made
  assert documents.going_on(Dropped('wrong')) == ()


def test_samples_are_short_and_can_be_switched_off():
  tally = Tally(samples=1)
  tally.count(Document('a', 'x' * 5000), Dropped('long'))
  (sample,) = tally.kept['long'].values()
  assert len(sample['text']) == 2001
  tally = Tally(samples=0)
  tally.count(Document('a', 'x'), Dropped('short'))
  assert tally.dropped == {'short': 1} and not tally.kept


def test_the_sample_of_an_edit_shows_nothing_that_another_hides():
  text = 'Write to ann@x.org or bob@y.org.'
  edits = [
    Edit('e-mail', 9, 'a••@•••••', '[EMAIL]'),
    Edit('other', 22, 'b••@•••••', '[EMAIL]'),
  ]
  before = Document('a', text)
  tally = Tally(samples=2)
  tally.count(before, documents.edited(before, edits))
  shown = str(tally.kept)
  assert 'ann@' not in shown and 'bob@' not in shown
  assert 'a••@•••••' in shown
