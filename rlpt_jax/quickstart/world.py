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

Whether a document is held out depends on its facts and how they are worked out,
not on its wording. So no held-out story is ever trained on in other words.
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from rlpt_jax.quickstart.wordings import (
  ASIDES,
  CLOSINGS,
  CONCLUSIONS,
  DAYS,
  HE,
  NUMBERS,
  SCALES,
  SHE,
  WORDS,
  Fact,
  say,
  whim,
)

HELD_OUT_SHARE = 16  # One document in 16 is held out.


@dataclasses.dataclass(frozen=True)
class Step:
  """The fact that a sentence states, and the thought that leads to this fact.

  Only conclusions have a thought.
  """

  fact: Fact
  thought: str = ''


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

  kind: str
  sentences: tuple[str, ...]
  steps: tuple[Step | None, ...]
  notes: tuple[str, ...]

  @property
  def text(self) -> str:
    return ' '.join(self.sentences)

  @property
  def targets(self) -> list[int]:
    """The indices of the conclusions, which are the sentences to predict."""
    return [
      i
      for i, step in enumerate(self.steps)
      if step and step.fact[0] in CONCLUSIONS
    ]


def documents(
  seed: int, *, held_out: bool = False, whims: int = 0
) -> Iterator[Document]:
  """Yields documents without end; held-out ones share no story with others.

  whims: the number of sentences in each document that nobody can predict.
  """
  rng = random.Random(f'{seed} {held_out}')
  while True:
    story = rng.choice(KINDS)(rng)
    if is_held_out(story) == held_out:
      yield tell(story, rng, whims)


def is_held_out(story: Story) -> bool:
  """Returns True for held-out stories; the wording does not matter."""
  content = repr([(step.fact, step.thought) for step in story.steps])
  digest = hashlib.blake2b(content.encode(), digest_size=4).digest()
  return int.from_bytes(digest) % HELD_OUT_SHARE == 0


def tell(story: Story, rng: random.Random, whims: int = 0) -> Document:
  """Puts a story into words, with an aside here and there, and some whims."""
  pairs: list[tuple[str, Step | None]] = [(rng.choice(story.setup), None)]
  asides = rng.sample(ASIDES, 2)
  for i, step in enumerate(story.steps):
    if i < 2 and rng.random() < 0.25:
      pairs.append(_plain(asides[i]))
    pronoun = story.alone and rng.random() < 0.4
    pairs.append((say(step.fact, rng, pronoun=pronoun), step))
  for _ in range(whims):
    pairs.insert(rng.randint(1, len(pairs)), _plain(whim(rng)))
  pairs.append(_plain(rng.choice(CLOSINGS)))
  sentences, steps = zip(*pairs, strict=True)
  return Document(story.kind, sentences, steps, tuple(story.notes))


def _plain(text: str) -> tuple[str, Step]:
  return f'{text}.', Step(('aside', text))


def _person(rng: random.Random) -> str:
  return rng.choice(SHE + HE)


def amounts(rng: random.Random) -> Story:
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

  for _ in range(rng.randint(3, 4)):
    _, _, verb, n = change()
    changes.append(f'{verb} {n}')
  first = conclusion()
  *some, last = changes
  listed = f'{", ".join(some)} and {last}'
  setup = [
    f'{who} has {start} {things}, {listed}.',
    f'{who} begins with {start} {things}, {listed}.',
    f'In the morning {who} has {start} {things}, and then {who} {listed}.',
  ]
  steps = [first, Step(change()), conclusion()]
  return Story('amounts', setup, steps, [first.thought], alone=True)


def doors(rng: random.Random) -> Story:
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

  moves = [' '.join(move()) for _ in range(3)]
  first = conclusion()
  listed = f'{", ".join(row[:-1])} and {row[-1]}'
  setup = [
    f'The doors in a row are {listed}, and {who} starts at {start} and goes '
    f'{moves[0]}, {moves[1]} and {moves[2]}.',
    f'{who} sees doors that are {listed}, stands at the {start} one, and goes '
    f'{moves[0]}, {moves[1]} and then {moves[2]}.',
  ]
  steps = [first, Step(('goes', who, *move())), conclusion()]
  notes = [f'{a}, right {b}.' for a, b in itertools.pairwise(row)]
  notes += [f'{b}, left {a}.' for a, b in itertools.pairwise(row)]
  return Story('doors', setup, steps, notes, alone=True)


def orders(rng: random.Random) -> Story:
  """Makes a story of three people who are compared in pairs."""
  people = rng.sample(SHE + HE, 3)
  more, most, less, least = rng.choice(SCALES)
  if rng.random() < 0.5:
    more, most, less, least = less, least, more, most
  clues = [
    f'{a} is {more} than {b}'
    if rng.random() < 0.5
    else f'{b} is {less} than {a}'
    for a, b in (people[:2], people[1:])
  ]
  rng.shuffle(clues)
  setup = [
    f'{clues[0]}, {clues[1]}, and we ask for the {most} and the {least}.',
    f'{clues[0]} and {clues[1]}, so who is the {most} and who is the {least}?',
  ]
  first, middle, last = people
  thought = (
    f'{middle} is named twice, {first} is {more} than {middle}, {last} is '
    f'{less} than {middle}.'
  )
  steps = [
    Step(('is', people[0], most), thought),
    Step(('is', people[2], least), thought),
  ]
  notes = [thought]
  for a, b in itertools.pairwise(people):
    notes += [f'{a} is {more} than {b}.', f'{b} is {less} than {a}.']
  return Story('orders', setup, steps, notes)


def days(rng: random.Random) -> Story:
  """Makes a story of a shop that opens every few days."""
  shop, at = rng.choice(WORDS['shop']), rng.randrange(7)
  every = rng.choice((2, 3, 4, 5))
  setup = [
    f'The {shop} is open every {every} days and was open on {DAYS[at]}.',
    f'On {DAYS[at]} the {shop} was open, and it opens once in {every} days.',
  ]
  steps = []
  for _ in range(2):
    counted = [f'{n} {DAYS[(at + n) % 7]}' for n in range(1, every + 1)]
    at = (at + every) % 7
    steps.append(
      Step(('opens', shop, DAYS[at]), f'count {", ".join(counted)}.')
    )
  return Story('days', setup, steps, [step.thought for step in steps])


def boxes(rng: random.Random) -> Story:
  """Makes a story of boxes: a rule tells their contents by their color."""
  colors, contents = (rng.sample(WORDS[x], 3) for x in ('color', 'content'))
  holds = list(zip(colors, contents, strict=True))
  people = rng.sample(SHE + HE, 2)
  chosen = [rng.choice(holds) for _ in people]
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
  notes = [first.thought]
  notes += [f'{color} means {content}.' for color, content in holds]
  return Story('boxes', setup, [first, event, last], notes)


KINDS: tuple[Callable[[random.Random], Story], ...] = (
  amounts, doors, orders, days, boxes,
)  # fmt: skip
