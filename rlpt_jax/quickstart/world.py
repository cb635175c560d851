"""Generates documents of the small world, without end, from a seed.

A document begins with a long sentence that tells how things are and how they
change. Short events and asides follow, and between them the conclusions, which
can only be predicted by working them out:

  amounts   Mara has 9 shells, finds 4, loses 2 and wins 3, so she has 14
  doors     Tom goes left and right along a row of doors, so he is at the red
            door
  orders    Eve is older than Max, and Max than Ida, so Eve is the oldest
  days      the pool opens every third day and was open on Monday, so it will
            open on Thursday
  boxes     red boxes hold nuts, and Ann has a red box, so she has nuts

`Dials` say how hard, how long and how noisy documents are.

Whether a document is held out depends on its facts and how they are worked out,
not on its wording. So no held-out story is ever trained on in other words.
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Natural, Share
from rlpt_jax.quickstart.wordings import (
  ASIDES,
  CLOSINGS,
  CONCLUSIONS,
  DAYS,
  HE,
  MOST_WORDINGS,
  NUMBERS,
  SCALES,
  SHE,
  WORDS,
  Fact,
  say,
  whim,
)

HELD_OUT_SHARE = 16  # One document in 16 is held out.
HARDEST = 4
KIND_NAMES = ('amounts', 'doors', 'orders', 'days', 'boxes')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dials:
  """What the documents of a world are like.

  difficulty: how much there is to work out. Each document has one of these
    levels, by chance. 0: the first sentence states the conclusions, so it does
    not pay to reason. 1 to 4: more and more changes, steps from door to door,
    people, days or boxes. (0, 2) makes half of the documents easy.
  whims: the number of sentences in a document that nobody can predict.
  repeated: the share of conclusions that the document states twice.
  stories: the number of stories in a document, whose sentences are mixed.
  wordings: the number of ways to say each conclusion.
  kinds: the kinds of stories.
  """

  difficulty: tuple[int, ...] = (2,)
  whims: Natural = 0
  repeated: Share = 0.0
  stories: int = 1
  wordings: int = MOST_WORDINGS
  kinds: tuple[str, ...] = KIND_NAMES

  def __post_init__(self):
    checks.check_fields(self)
    if not self.difficulty or not {*self.difficulty} <= {*range(HARDEST + 1)}:
      raise self._error('difficulty', f'levels from 0 to {HARDEST}')
    if not self.kinds or not {*self.kinds} <= {*KIND_NAMES}:
      raise self._error('kinds', f'some of {", ".join(KIND_NAMES)}')
    if not 1 <= self.stories <= len(set(self.kinds)):
      raise self._error(
        'stories', f'1 to {len(set(self.kinds))}, one of a kind'
      )
    if not 1 <= self.wordings <= MOST_WORDINGS:
      raise self._error('wordings', f'1 to {MOST_WORDINGS}')

  def _error(self, name: str, expected: str) -> ValueError:
    return checks.setting_error(type(self), name, getattr(self, name), expected)


@dataclasses.dataclass(frozen=True)
class Step:
  """The fact that a sentence states, and the thought that leads to this fact.

  Only conclusions that must be worked out have a thought.
  kind: that of the story; an aside is of none.
  """

  fact: Fact
  thought: str = ''
  kind: str = ''


@dataclasses.dataclass(frozen=True)
class Story:
  """The content of a document, before it is put into words."""

  kind: str
  setup: Sequence[str]  # Wordings of the first sentence, all with one meaning.
  steps: Sequence[Step]
  notes: Sequence[str]  # Other true sentences on how things are.
  alone: bool = False  # True if only one person occurs: a pronoun is clear.


@dataclasses.dataclass(frozen=True)
class Document:
  """A document: its sentences, and for each of them its step.

  The step of the first sentence is None, since this sentence states many facts.
  """

  difficulty: int
  sentences: tuple[str, ...]
  steps: tuple[Step | None, ...]
  notes: tuple[str, ...]

  @property
  def text(self) -> str:
    return ' '.join(self.sentences)

  @property
  def kind(self) -> str:
    """The kind of its only story, or those of all its stories."""
    return ' '.join(sorted({step.kind for step in self.steps if step} - {''}))

  @property
  def targets(self) -> list[int]:
    """The indices of the conclusions, which are the sentences to predict."""
    return [
      i
      for i, step in enumerate(self.steps)
      if step and step.fact[0] in CONCLUSIONS
    ]


def documents(
  seed: int, *, held_out: bool = False, dials: Dials = Dials()
) -> Iterator[Document]:
  """Yields documents without end; held-out ones share no story with others."""
  rng = random.Random(f'{seed} {held_out}')
  while True:
    difficulty = _one_of(dials.difficulty, rng)
    stories, kinds = [], list(dials.kinds)
    while len(stories) < dials.stories:
      story = KINDS[rng.choice(kinds)](rng, difficulty)
      if is_held_out(story) == held_out:
        stories.append(story)
        kinds.remove(story.kind)
    yield tell(stories, difficulty, rng, dials)


def _one_of(levels: Sequence[int], rng: random.Random) -> int:
  """Returns one of the levels; without a choice, without chance."""
  return levels[0] if len(levels) == 1 else rng.choice(levels)


def is_held_out(story: Story) -> bool:
  """Returns True for held-out stories; the wording does not matter."""
  content = repr([(step.fact, step.thought) for step in story.steps])
  digest = hashlib.blake2b(content.encode(), digest_size=4).digest()
  return int.from_bytes(digest) % HELD_OUT_SHARE == 0


def tell(
  stories: Sequence[Story],
  difficulty: int,
  rng: random.Random,
  dials: Dials = Dials(),
) -> Document:
  """Puts stories into words, with an aside here and there, and some whims."""
  setups = [rng.choice(story.setup) for story in stories]
  # The last may be a question.
  setup = '; '.join([*(each[:-1] for each in setups[:-1]), setups[-1]])
  pairs: list[tuple[str, Step | None]] = [(setup, None)]
  asides = rng.sample(ASIDES, 2)
  alone = len(stories) == 1 and stories[0].alone
  for i, step in enumerate(_mixed(stories, rng)):
    if i < 2 and rng.random() < 0.25:
      pairs.append(_plain(asides[i]))
    said = [step]
    is_conclusion = step.fact[0] in CONCLUSIONS
    if is_conclusion and dials.repeated and rng.random() < dials.repeated:
      said.append(dataclasses.replace(step, thought=''))
    for each in said:
      pronoun = alone and rng.random() < 0.4
      text = say(each.fact, rng, pronoun=pronoun, most=dials.wordings)
      pairs.append((text, each))
  for _ in range(dials.whims):
    pairs.insert(rng.randint(1, len(pairs)), _plain(whim(rng)))
  pairs.append(_plain(rng.choice(CLOSINGS)))
  sentences, steps = zip(*pairs, strict=True)
  notes = tuple(note for story in stories for note in story.notes)
  return Document(difficulty, sentences, steps, notes)


def _mixed(stories: Sequence[Story], rng: random.Random) -> Iterator[Step]:
  """Yields the steps of all stories; those of one story keep their order."""
  order = [i for i, story in enumerate(stories) for _ in story.steps]
  if len(stories) > 1:
    rng.shuffle(order)
  steps = [iter(story.steps) for story in stories]
  for i in order:
    yield dataclasses.replace(next(steps[i]), kind=stories[i].kind)


def _plain(text: str) -> tuple[str, Step]:
  return f'{text}.', Step(('aside', text))


def _person(rng: random.Random) -> str:
  return rng.choice(SHE + HE)


def _listed(items: Sequence[str], word: str = 'and') -> str:
  *some, last = items
  return f'{", ".join(some)} {word} {last}' if some else last


def amounts(rng: random.Random, difficulty: int) -> Story:
  """Makes a story that counts things: a total, one change, a new total."""
  who, things = _person(rng), rng.choice(WORDS['things'])
  start = total = rng.randint(3, 10)
  changes, sums = [], [str(start)]

  def change() -> Fact:
    nonlocal total
    n = rng.randint(2, 4)
    gains = total - n < 2 or (total + n <= 15 and rng.random() < 0.5)
    total += n if gains else -n
    kind, place = ('gains', 'gain') if gains else ('loses', 'loss')
    verb = rng.choice(WORDS[place])
    sums.append(f'{verb} {n} makes {total}')
    return kind, who, verb, str(n)

  def conclusion() -> Step:
    thought = f'{", ".join(sums)}.'
    sums[:] = [str(total)]
    return Step(('has', who, str(total), things), thought)

  if not difficulty:
    said = Step(('has', who, str(start), things))
    setup = [
      f'{who} has {start} {things} and keeps all of them.',
      f'In the morning {who} has {start} {things}, and so it stays.',
    ]
    return Story('amounts', setup, [said, said], [], alone=True)
  for _ in range(rng.randint(2 * difficulty - 1, 2 * difficulty)):
    _, _, verb, n = change()
    changes.append(f'{verb} {n}')
  first, listed = conclusion(), _listed(changes)
  setup = [
    f'{who} has {start} {things}, {listed}.',
    f'{who} begins with {start} {things}, {listed}.',
    f'In the morning {who} has {start} {things}, and then {who} {listed}.',
  ]
  steps = [first, Step(change()), conclusion()]
  return Story('amounts', setup, steps, [first.thought], alone=True)


def doors(rng: random.Random, difficulty: int) -> Story:
  """Makes a story of somebody who goes from door to door."""
  who, row = _person(rng), rng.sample(WORDS['color'], 5)
  at = rng.randrange(5)
  start, passed = row[at], [row[at]]

  def move() -> tuple[str, str]:
    nonlocal at
    reachable = [
      (n, side)
      for n in (1, 2)
      for side, sign in (('right', 1), ('left', -1))
      if 0 <= at + sign * n < 5
    ]
    n, side = rng.choice(reachable)
    for _ in range(n):
      at += 1 if side == 'right' else -1
      passed.append(f'{side} {row[at]}')
    return NUMBERS[n], side

  def conclusion() -> Step:
    thought = f'{", ".join(passed)}.'
    passed[:] = [row[at]]
    return Step(('stands', who, row[at]), thought)

  notes = [f'{a}, right {b}.' for a, b in itertools.pairwise(row)]
  notes += [f'{b}, left {a}.' for a, b in itertools.pairwise(row)]
  if not difficulty:
    said = Step(('stands', who, start))
    setup = [
      f'The doors in a row are {_listed(row)}, and {who} stays at {start}.',
      f'{who} sees doors that are {_listed(row)}, and stays at {start}.',
    ]
    return Story('doors', setup, [said, said], notes, alone=True)
  moves = [' '.join(move()) for _ in range(difficulty + 1)]
  first = conclusion()
  setup = [
    f'The doors in a row are {_listed(row)}, and {who} starts at {start} and '
    f'goes {_listed(moves)}.',
    f'{who} sees doors that are {_listed(row)}, stands at the {start} one, and '
    f'goes {_listed(moves, "and then")}.',
  ]
  steps = [first, Step(('goes', who, *move())), conclusion()]
  return Story('doors', setup, steps, notes, alone=True)


def orders(rng: random.Random, difficulty: int) -> Story:
  """Makes a story of people who are compared in pairs."""
  people = rng.sample(SHE + HE, difficulty + 1 if difficulty else 3)
  more, most, less, least = rng.choice(SCALES)
  if rng.random() < 0.5:
    more, most, less, least = less, least, more, most
  first, *between, last = people
  pairs = list(itertools.pairwise(people))
  said = 'is' if len(people) == 3 else 'leads'
  facts = (said, first, most), (said, last, least)
  asked = [
    f', and we ask for the {most} and the {least}.',
    f', so who is the {most} and who is the {least}?',
  ]
  if not difficulty:
    (middle,) = between
    told = f'{first} is the {most}, {middle} is next and {last} is the {least}'
    setup = [f'{told}{asked[0]}', f'We know that {told}{asked[0]}']
    return Story('orders', setup, [Step(fact) for fact in facts], [])
  clues = [
    f'{a} is {more} than {b}'
    if rng.random() < 0.5
    else f'{b} is {less} than {a}'
    for a, b in pairs
  ]
  rng.shuffle(clues)
  setup = [f'{", ".join(clues)}{asked[0]}', f'{_listed(clues)}{asked[1]}']
  if len(people) == 3:
    thought = (
      f'{between[0]} is named twice, {first} is {more} than {between[0]}, '
      f'{last} is {less} than {between[0]}.'
    )
  else:
    thought = ', '.join(f'{a} is {more} than {b}' for a, b in pairs) + '.'
  notes = [thought]
  for a, b in pairs:
    notes += [f'{a} is {more} than {b}.', f'{b} is {less} than {a}.']
  return Story('orders', setup, [Step(fact, thought) for fact in facts], notes)


# Difficulty -> the fewest and the most days from one opening to the next.
EVERY = {0: (2, 5), 1: (2, 3), 2: (2, 5), 3: (4, 7), 4: (6, 9)}


def days(rng: random.Random, difficulty: int) -> Story:
  """Makes a story of a shop that opens every few days."""
  shop, at = rng.choice(WORDS['shop']), rng.randrange(7)
  every = rng.randint(*EVERY[difficulty])
  opens = [DAYS[(at + every * n) % 7] for n in range(3)]
  if not difficulty:
    setup = [
      f'The {shop} was open on {opens[0]}, and next it opens on {opens[1]} and '
      f'then on {opens[2]}.',
      f'{opens[0]}, {opens[1]} and {opens[2]} are the days of the {shop}.',
    ]
    steps = [Step(('opens', shop, day)) for day in opens[1:]]
    return Story('days', setup, steps, [])
  setup = [
    f'The {shop} is open every {every} days and was open on {opens[0]}.',
    f'On {opens[0]} the {shop} was open, and it opens once in {every} days.',
  ]
  steps = []
  for day in opens[1:]:
    counted = [f'{n} {DAYS[(at + n) % 7]}' for n in range(1, every + 1)]
    at += every
    steps.append(Step(('opens', shop, day), f'count {", ".join(counted)}.'))
  return Story('days', setup, steps, [step.thought for step in steps])


def boxes(rng: random.Random, difficulty: int) -> Story:
  """Makes a story of boxes: a rule tells their contents by their color."""
  count = difficulty + 1 if difficulty else 3
  colors, contents = (rng.sample(WORDS[x], count) for x in ('color', 'content'))
  holds = list(zip(colors, contents, strict=True))
  people = rng.sample(SHE + HE, 2)
  chosen = [rng.choice(holds) for _ in people]
  notes = [f'{color} means {content}.' for color, content in holds]
  if not difficulty:
    first, last = (
      Step(('holds', who, content))
      for who, (_, content) in zip(people, chosen, strict=True)
    )
    a, b = (
      f'the box of {who} has {content}'
      for who, (_, content) in zip(people, chosen, strict=True)
    )
    setup = [f'We know that {a} and {b}.', f'It is said that {a} and {b}.']
    return Story('boxes', setup, [first, last], [])
  rule = ', '.join(f'{color} boxes hold {content}' for color, content in holds)
  rule = rule[0].upper() + rule[1:]
  setup = [
    f'{rule}, and {people[0]} has a {chosen[0][0]} box.',
    f"{rule}, and {people[0]}'s box is {chosen[0][0]}.",
  ]
  first, last = (
    Step(
      ('holds', who, content),
      f'{who} has {color}, and {color} means {content}.',
    )
    for who, (color, content) in zip(people, chosen, strict=True)
  )
  event = Step(('has_box', people[1], chosen[1][0]))
  return Story('boxes', setup, [first, event, last], [first.thought, *notes])


KINDS: dict[str, Callable[[random.Random, int], Story]] = {
  'amounts': amounts, 'doors': doors, 'orders': orders, 'days': days,
  'boxes': boxes,
}  # fmt: skip
