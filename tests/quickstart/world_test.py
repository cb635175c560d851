"""Documents are what they say: cut right, true, held out, the same by seed."""

import collections
import itertools
import statistics

import pytest

from rlpt_jax.data import segment
from rlpt_jax.quickstart import wordings, world
from rlpt_jax.quickstart.wordings import EVENTS
from rlpt_jax.quickstart.world import Dials


def some(count, seed=0, **options):
  return list(itertools.islice(world.documents(seed, **options), count))


def test_sentences_are_those_of_our_segmenter_and_targets_are_the_long_ones():
  for document in some(600):
    ends = segment.sentences(document.text)
    starts = [0, *ends[:-1]]
    cut = [
      document.text[a:b].strip() for a, b in zip(starts, ends, strict=True)
    ]
    assert cut == list(document.sentences)
    assert 4 <= len(cut) <= 7
    inner = range(1, len(cut) - 1)
    long = [i for i in inner if segment.num_words(cut[i]) >= 6]
    assert long == document.targets and len(long) == 2
    for text, step in zip(cut[1:], document.steps[1:], strict=True):
      assert wordings.same(wordings.read(text), step.fact)


def test_every_kind_is_there_about_as_often():
  counts = collections.Counter(d.kind for d in some(1200))
  assert set(counts) == {*world.KINDS} == {*world.KIND_NAMES}
  assert min(counts.values()) > 140


def test_a_seed_tells_the_same_and_another_seed_something_else():
  assert some(50, seed=3) == some(50, seed=3)
  assert not set(some(50, seed=3)) & set(some(50, seed=4))


def test_held_out_stories_are_told_nowhere_else():
  def stories(documents):
    return {
      tuple((s.fact, s.thought) for s in d.steps if s and s.fact[0] != 'aside')
      for d in documents
    }

  unseen = stories(some(400, seed=1, held_out=True))
  assert not unseen & stories(some(4000, seed=1))
  assert not unseen & stories(some(4000, seed=2))


def test_whims_are_short_sentences_that_state_no_fact():
  for document in some(200, seed=5, dials=Dials(whims=3)):
    whims = [
      i
      for i, sentence in enumerate(document.sentences[1:-1], 1)
      if wordings.read(sentence) is None
    ]
    assert len(whims) == 3
    assert all(segment.num_words(document.sentences[i]) <= 5 for i in whims)
    assert not set(whims) & set(document.targets)
    assert len(document.targets) == 2


def test_easy_documents_state_their_conclusions_first():
  """So nothing is to be thought, and events change nothing."""
  for document in some(600, dials=Dials(difficulty=(0,))):
    first = document.sentences[0].lower()
    for i in document.targets:
      step = document.steps[i]
      _, *words = step.fact
      assert not step.thought and all(word.lower() in first for word in words)
    assert not {step.fact[0] for step in document.steps[1:]} & {*EVENTS}


def test_harder_documents_think_longer():
  def lengths(difficulty):
    found = collections.defaultdict(list)
    for document in some(1500, dials=Dials(difficulty=(difficulty,))):
      thought = document.steps[document.targets[0]].thought
      found[document.kind].append(len(thought))
      # Only how long a box's rule is makes it harder.
      if document.kind == 'boxes':
        found['boxes'][-1] = len(document.sentences[0])
    return {kind: statistics.mean(each) for kind, each in found.items()}

  levels = [lengths(difficulty) for difficulty in range(1, world.HARDEST + 1)]
  for kind in world.KINDS:
    means = [level[kind] for level in levels]
    assert means == sorted(set(means)), kind


def test_levels_are_mixed():
  found = some(900, dials=Dials(difficulty=(0, 2, 2)))
  easy = [document for document in found if document.difficulty == 0]
  assert 250 < len(easy) < 350
  assert all(not d.steps[d.targets[0]].thought for d in easy)


def test_facts_are_stated_twice():
  count = again = 0
  for document in some(400, dials=Dials(repeated=0.5)):
    facts = [document.steps[i].fact for i in document.targets]
    assert len(facts) - 2 == sum(a == b for a, b in itertools.pairwise(facts))
    count, again = count + 2, again + len(facts) - 2
  assert 0.45 < again / count < 0.55


def test_several_stories_are_told_in_one_document():
  for document in some(300, dials=Dials(stories=3)):
    assert len(document.targets) == 6
    kinds = document.kind.split()
    assert len(kinds) == 3
    for kind in kinds:
      own = [i for i in document.targets if document.steps[i].kind == kind]
      assert len(own) == 2
    # A pronoun could be anybody.
    said = [wordings.read(sentence) for sentence in document.sentences[1:]]
    assert not any({'he', 'she'} & {*fact} for fact in said)


def test_few_wordings():
  def ways(count):
    return {
      tuple(word for word in words_of(sentence) if word.islower())
      for document in some(300, dials=Dials(wordings=count, kinds=('days',)))
      for sentence in document.sentences[1:]
      if wordings.read(sentence)[0] == 'opens'
    }

  assert len(ways(1)) < len(ways(2)) < len(ways(5))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'difficulty': (5,)}, r'difficulty=\(5,\): expected levels from 0 to 4'),
    ({'difficulty': ()}, 'expected levels'),
    ({'kinds': ('amounts', 'cars')}, 'expected some of amounts, doors'),
    ({'stories': 6}, 'stories=6: expected 1 to 5'),
    ({'stories': 2, 'kinds': ('days',)}, 'stories=2: expected 1 to 1'),
    ({'wordings': 0}, 'wordings=0: expected 1 to 5'),
    ({'repeated': 2.0}, 'repeated=2.0'),
  ],
)
def test_wrong_dials(changes, message):
  with pytest.raises(ValueError, match=message):
    Dials(**changes)


def words_of(text):
  return text.replace(',', ' ').replace('.', ' ').replace('?', ' ').split()


def before(document, i):
  """What is said between the conclusion before i, if there is one, and i."""
  first = document.targets[0]
  return ' '.join(document.sentences[first + 1 if i > first else 0 : i])


def an_amount(document, i):
  _, who, _, things = document.steps[i].fact
  first = document.targets[0]
  total = int(document.steps[first].fact[2]) if i > first else None
  for verb, n in itertools.pairwise(words_of(before(document, i))):
    if n.isdigit() and total is None:
      total = int(n)
    elif n.isdigit():
      total += int(n) if verb in wordings.WORDS['gain'] else -int(n)
  return 'has', who, str(total), things


def a_door(document, i):
  colors = [
    word
    for word in words_of(document.sentences[0])
    if word in wordings.WORDS['color']
  ]
  row, first = colors[:5], document.targets[0]
  start = document.steps[first].fact[2] if i > first else colors[5]
  at = row.index(start)
  for n, side in itertools.pairwise(words_of(before(document, i))):
    if side in ('left', 'right'):
      at += {'one': 1, 'two': 2}[n] * (1 if side == 'right' else -1)
  return 'stands', document.steps[i].fact[1], row[at]


def an_order(document, i):
  _, _, most = document.steps[i].fact
  words = words_of(document.sentences[0])
  losers, people = set(), set()
  for k, word in enumerate(words):
    if word == 'than':
      a, more, b = words[k - 3], words[k - 1], words[k + 1]
      people |= {a, b}
      losers.add(b if (more, most) in PAIRS else a)
  (winner,) = people - losers
  return 'is' if len(people) == 3 else 'leads', winner, most


PAIRS = {pair for scale in wordings.SCALES for pair in (scale[:2], scale[2:])}


def a_day(document, i):
  words = words_of(document.sentences[0])
  every = next(int(word) for word in words if word.isdigit())
  day = next(word for word in words if word in wordings.DAYS)
  times = document.targets.index(i) + 1
  later = (wordings.DAYS.index(day) + every * times) % 7
  return 'opens', document.steps[i].fact[1], wordings.DAYS[later]


def a_box(document, i):
  who = document.steps[i].fact[1]
  rule = words_of(document.sentences[0].lower())
  holds = {
    rule[k - 1]: rule[k + 2] for k, word in enumerate(rule) if word == 'boxes'
  }
  (said,) = (s for s in document.sentences[:i] if who in s)
  colors = [word for word in words_of(said.lower()) if word in holds]
  return 'holds', who, holds[colors[-1]]


SOLVERS = {
  'amounts': an_amount, 'doors': a_door, 'orders': an_order, 'days': a_day,
  'boxes': a_box,
}  # fmt: skip


@pytest.mark.parametrize('difficulty', range(1, world.HARDEST + 1))
def test_conclusions_follow_from_what_is_said_before(difficulty):
  checked = collections.Counter()
  for document in some(900, seed=5, dials=Dials(difficulty=(difficulty,))):
    for i in document.targets:
      found = SOLVERS[document.kind](document, i)
      assert found == document.steps[i].fact, document.text
      checked[document.kind] += 1
  assert set(checked) == set(SOLVERS)


def worked_out(document, i):
  """What the thought of a step comes to: its last word that counts."""
  thought = words_of(document.steps[i].thought)
  if document.kind != 'orders':
    return thought[-1]
  most = document.steps[i].fact[2]
  if document.steps[i].fact[0] == 'is':
    # 'B is named twice, A is older than B, C is younger than B.'
    more = [k for k, word in enumerate(thought) if (word, most) in PAIRS]
    return thought[more[0] - 2]
  # 'A is older than B, B is older than C.': one is the oldest, one not so.
  return thought[0] if (thought[2], most) in PAIRS else thought[-1]


@pytest.mark.parametrize('difficulty', range(1, world.HARDEST + 1))
def test_thoughts_lead_to_their_conclusions(difficulty):
  for document in some(900, seed=6, dials=Dials(difficulty=(difficulty,))):
    for i in document.targets:
      fact = document.steps[i].fact
      place = {'amounts': 2, 'orders': 1}.get(document.kind, -1)
      assert worked_out(document, i) == fact[place], document.text


def test_notes_say_what_is_so():
  for document in some(300, seed=7):
    first = words_of(document.sentences[0].lower())
    for note in document.notes:
      words = words_of(note)
      if document.kind == 'boxes' and 'means' in words[:2]:
        color, _, content = words
        assert f'{color} boxes hold {content}' in ' '.join(first)
      if document.kind == 'doors':
        a, side, b = words
        row = [w for w in first if w in wordings.WORDS['color']][:5]
        assert row.index(b) - row.index(a) == {'right': 1, 'left': -1}[side]
