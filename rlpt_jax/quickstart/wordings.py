"""The wordings of facts in the small world: `say` puts a fact into one of many
sentences, and `read` turns each of them back into the same fact.

A fact is a tuple of a predicate and its arguments, ('has', 'Mara', '13',
'shells'). Conclusions follow from a document and have six words or more. All
other sentences have five or fewer: events, and asides and whims, which have no
effect on the conclusions.
"""

import functools
import itertools
import random
import re
from collections.abc import Iterator

Fact = tuple[str, ...]

SHE = ('Mara', 'Ann', 'Eve', 'Lina', 'Rosa', 'Ida')
HE = ('Tom', 'Joe', 'Max', 'Otto', 'Paul', 'Leo')
DAYS = (
  'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday',
)  # fmt: skip
# Comparative, superlative, and their opposites.
SCALES = (
  ('older', 'oldest', 'younger', 'youngest'),
  ('taller', 'tallest', 'shorter', 'shortest'),
  ('faster', 'fastest', 'slower', 'slowest'),
  ('richer', 'richest', 'poorer', 'poorest'),
)
_MOST = {more: most for s in SCALES for more, most in (s[:2], s[2:])}
NUMBERS = (
  'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight',
  'nine', 'ten', 'eleven', 'twelve', 'thirteen', 'fourteen', 'fifteen',
  'sixteen', 'seventeen', 'eighteen', 'nineteen', 'twenty',
)  # fmt: skip
# Place in a sentence -> the words that may fill it.
WORDS = {
  'who': SHE + HE,
  'n': tuple(map(str, range(2, 16))),
  'step': NUMBERS[1:4],
  'things': ('shells', 'coins', 'pens', 'apples', 'cards', 'stamps'),
  'color': ('red', 'blue', 'green', 'white', 'black', 'brown'),
  'side': ('right', 'left'),
  'most': tuple(_MOST.values()),
  'shop': ('market', 'bakery', 'museum', 'library', 'pool'),
  'day': DAYS,
  'content': ('nuts', 'salt', 'tea', 'rice', 'soap', 'wool'),
  'gain': ('finds', 'gets', 'buys', 'wins'),
  'loss': ('loses', 'sells', 'drops', 'breaks'),
}

LEADS = ('', 'So ', 'Clearly ', 'It follows that ', 'This means that ')
# Predicate -> (the places of its arguments, its wordings).
CONCLUSIONS = {
  'has': (('who', 'n', 'things'), (
    '{who} has {n} {things} in all',
    '{who} owns {n} {things} by then',
    '{who} can count {n} {things} altogether',
    '{n} {things} are what {who} has',
    'there are {n} {things} in {whose} bag',
  )),
  'stands': (('who', 'color'), (
    '{who} stands at the {color} door',
    '{who} is at the {color} door',
    '{who} ends up at the {color} door',
    '{who} has come to the {color} door',
    'the {color} door is where {who} stands',
  )),
  'is': (('who', 'most'), (
    'the {most} of them is {who}',
    '{who} is the {most} of the three',
    '{who} is the {most} one of all',
    'none of them is {more} than {who}',
    'nobody of the three is {more} than {who}',
  )),
  'opens': (('shop', 'day'), (
    'the {shop} is open again on {day}',
    'the {shop} opens its doors on {day}',
    'the next day of the {shop} is {day}',
    'people can visit the {shop} on {day}',
    '{day} is when the {shop} opens again',
  )),
  # Of another number of people than three.
  'leads': (('who', 'most'), (
    'the {most} of all people here is {who}',
    'nobody else is {more} than {who} is',
    '{who} is the {most} of them all',
    'no other person is {more} than {who}',
    'among all these people {who} is the {most}',
  )),
  'holds': (('who', 'content'), (
    '{who} has a box with {content}',
    '{who} will find {content} in the box',
    '{whose} box has {content} in it',
    'there must be {content} in {whose} box',
    '{content} must be in the box of {whom}',
  )),
}  # fmt: skip
MOST_WORDINGS = len(LEADS)  # Each conclusion has as many wordings as leads.
EVENTS = {
  'gains': (('who', 'gain', 'n'), (
    '{who} {gain} {n} more', 'then {who} {gain} {n}',
  )),
  'loses': (('who', 'loss', 'n'), (
    '{who} {loss} {n}', 'then {who} {loss} {n}',
  )),
  'goes': (('who', 'step', 'side'), (
    '{who} goes {step} {side}', 'then {who} moves {step} {side}',
  )),
  'has_box': (('who', 'color'), (
    '{whose} box is {color}', '{who} has a {color} box',
  )),
}  # fmt: skip
ASIDES = (
  'It rained a little', 'The sun was out', 'A dog barked', 'The wind was cold',
  'Nobody said a word', 'It was a quiet day', 'Someone was singing',
  'The street was empty',
)  # fmt: skip
CLOSINGS = (
  'Then everybody went home', 'That was all', 'It was late by then',
  'Nothing else happened', 'The day was over',
)  # fmt: skip
# Nobody can predict their words, which have no effect on the conclusions. They
# name no person, or else a pronoun that follows would be unclear.
WHIMS = (
  'Somebody dreamt of {n} {things}', 'It had snowed on {day}',
  'A {color} dog ate {content}', '{n} {things} were {color}',
  'Many people like {color} {things}',
)  # fmt: skip
_WORDINGS = CONCLUSIONS | EVENTS
_GAP = re.compile(r'(?<=[.!?])\s+')


def say(
  fact: Fact,
  rng: random.Random,
  *,
  pronoun: bool = False,
  most: int = MOST_WORDINGS,
) -> str:
  """Returns a random wording of a fact.

  pronoun: says he or she instead of the name.
  most: uses only so many of the wordings and leads of a conclusion.
  """
  if fact[0] == 'aside':
    return f'{fact[1]}.'
  _, cores = _WORDINGS[fact[0]]
  lead = rng.choice(LEADS[:most]) if fact[0] in CONCLUSIONS else ''
  return _sentence(lead, rng.choice(cores[:most]), fact, pronoun)


def wordings(fact: Fact) -> Iterator[str]:
  """Yields all sentences that `say` could return; `fact` is no aside."""
  _, cores = _WORDINGS[fact[0]]
  leads = LEADS if fact[0] in CONCLUSIONS else ('',)
  for lead, core, pronoun in itertools.product(leads, cores, (False, True)):
    yield _sentence(lead, core, fact, pronoun)


def whim(rng: random.Random) -> str:
  """Returns a short sentence of random words, without its period."""
  words = {place: rng.choice(words) for place, words in WORDS.items()}
  return rng.choice(WHIMS).format(**words)


def changed(fact: Fact) -> list[Fact]:
  """Returns every fact that differs from `fact` in exactly one argument."""
  places, _ = _WORDINGS[fact[0]]
  return [
    (*fact[:i], word, *fact[i + 1 :])
    for i, place in enumerate(places, 1)
    for word in WORDS[place]
    if word != fact[i]
  ]


@functools.lru_cache(2**14)
def read(sentence: str) -> Fact | None:
  """Returns the fact that a sentence states, or None if it states none.

  The fact may have 'he' or 'she' in place of a name. Capitals, white space,
  the final period, and the choice of '13' or 'thirteen' make no difference.
  """
  text = ' '.join(sentence.lower().split()).removesuffix('.').rstrip()
  if aside := _asides().get(text):
    return 'aside', aside
  for predicate, pattern in _patterns():
    if match := pattern.fullmatch(text):
      words = {k: _word(k, v) for k, v in match.groupdict().items()}
      words = {_PLACE_OF.get(k, k): v for k, v in words.items()}
      return predicate, *(words[place] for place in _WORDINGS[predicate][0])
  return None


def same(one: Fact, other: Fact) -> bool:
  """Returns True for equal facts; 'she' may be any woman, 'he' any man."""
  return len(one) == len(other) and all(
    a == b or _is_pronoun_of(a, b) or _is_pronoun_of(b, a)
    for a, b in zip(one, other, strict=True)
  )


def sentences(text: str) -> list[str]:
  """Splits a text of this world into sentences."""
  return [s for s in _GAP.split(text.strip()) if s]


def is_true_prefix(predicted: str, following: str) -> bool:
  """Returns True if a prediction states the first facts of the following text.

  This is the ground truth. A prediction may have one sentence or several, each
  whole and in any wording, and in the order of the text.
  """
  claims = [read(sentence) for sentence in sentences(predicted)]
  truths = [read(sentence) for sentence in sentences(following)]
  if not claims or None in claims or len(claims) > len(truths):
    return False
  return all(
    b is not None and same(a, b) for a, b in zip(claims, truths, strict=False)
  )


# A place that shows an argument in another form -> the place of the argument.
_PLACE_OF = {'whose': 'who', 'whom': 'who', 'more': 'most'}


def _sentence(lead: str, core: str, fact: Fact, pronoun: bool) -> str:
  shown = dict(zip(_WORDINGS[fact[0]][0], fact[1:], strict=True))
  if who := shown.get('who'):
    shown |= {'whose': f"{who}'s", 'whom': who}
    if pronoun:
      is_she = who in SHE
      shown |= {'who': _pronoun(who), 'whose': 'her' if is_she else 'his'}
      shown |= {'whom': 'her' if is_she else 'him'}
  if most := shown.get('most'):
    shown['more'] = next(more for more, m in _MOST.items() if m == most)
  text = lead + core.format(**shown)
  return f'{text[0].upper()}{text[1:]}.'


def _pronoun(name: str) -> str:
  return 'she' if name in SHE else 'he'


def _is_pronoun_of(pronoun: str, name: str) -> bool:
  return (pronoun, name in SHE, name in HE) in (
    ('she', True, False), ('he', False, True),
  )  # fmt: skip


def _word(place: str, text: str) -> str:
  """Converts an argument from its form in a sentence to its form in facts."""
  if place == 'n':
    return str(NUMBERS.index(text)) if text in NUMBERS else str(int(text))
  if place == 'step':
    return NUMBERS[int(text)] if text.isdigit() else text
  if place == 'more':
    return _MOST[text]
  if place in ('whose', 'whom'):
    text = {'her': 'she', 'his': 'he', 'him': 'he'}.get(text, text)
    text = text.removesuffix("'s")
  is_name = place in ('who', 'whose', 'whom', 'day')
  return text.capitalize() if is_name and text not in ('he', 'she') else text


@functools.cache
def _asides() -> dict[str, str]:
  return {aside.lower(): aside for aside in ASIDES + CLOSINGS}


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern]]:
  """Returns (predicate, pattern) of every wording; places are named groups."""
  names = [name.lower() for name in SHE + HE]
  shapes = {place: '|'.join(words).lower() for place, words in WORDS.items()}
  shapes |= {
    'who': '|'.join([*names, 'she', 'he']),
    'whose': '|'.join([*(f"{name}'s" for name in names), 'her', 'his']),
    'whom': '|'.join([*names, 'her', 'him']),
    'more': '|'.join(_MOST),
    'n': '|'.join([r'\d{1,3}', *NUMBERS]),
    'step': '|'.join([*NUMBERS[1:4], '[1-3]']),
  }
  leads = '|'.join(lead.lower() for lead in LEADS)
  patterns = []
  for predicate, (_, cores) in _WORDINGS.items():
    lead = f'(?:{leads})' if predicate in CONCLUSIONS else ''
    for core in cores:
      body = re.sub(r'\{(\w+)\}', lambda m: f'(?P<{m[1]}>{shapes[m[1]]})', core)
      patterns.append((predicate, re.compile(lead + body)))
  return patterns
