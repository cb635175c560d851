"""Questions about documents of the small world, for `rlpt make_questions`.

A model of this size follows no instructions. So its prompts are short
(`prompts`), and it learns from demonstrations to give the replies of the four
stages. A question quotes the sentences that it needs, and asks for a conclusion
of its document. Its answer is a sentence, as RLPT's predictions are:

  Mara has 9 shells, finds 4 and loses 2. Then she wins 3. How many shells has
  Mara?

  Mara has 14 shells in all.

`fault` says what is wrong with a question, by the facts of its document. The
checker learns from demonstrations of all faults, and its thought repeats the
document's sentence about the answer, so that it has only to compare the two.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import random
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rlpt_jax.core.checks import Count, Name
from rlpt_jax.corpus import question_prompts as to
from rlpt_jax.data import tasks
from rlpt_jax.quickstart import lessons
from rlpt_jax.quickstart.wordings import (
  CONCLUSIONS,
  EVENTS,
  SCALES,
  WORDS,
  Fact,
  read,
  same,
  say,
  sentences,
  wordings,
)
from rlpt_jax.quickstart.world import Dials, Document
from rlpt_jax.rewards import extract

FIRST = 200  # Seeds start here, so no document is shared with lessons.py.
TAGS = extract.START, extract.END
QUESTION = '{question}\n\n'
# (predicate, number of the conclusion if several differ in nothing else) ->
# questions.
ASKED = {
  ('has', None): (
    'How many {things} has {who}?', 'How many {things} can {who} count?',
  ),
  ('stands', None): ('Where does {who} stand?', 'At which door is {who}?'),
  ('is', None): (
    'Who is the {most} of the three?', 'Who of them is the {most}?',
  ),
  ('leads', None): (
    'Who is the {most} of all people here?', 'Who of them all is the {most}?',
  ),
  ('opens', 0): (
    'When is the {shop} open again?', 'What is the next day of the {shop}?',
  ),
  ('opens', 1): (
    'When is the {shop} open the second time?',
    'What is the next day but one of the {shop}?',
  ),
  ('holds', None): (
    'What has {who} in the box?', 'What will {who} find in the box?',
  ),
}  # fmt: skip
DOMAINS = {
  'amounts': 'Math', 'doors': 'Travel & Lifestyle', 'orders': 'Social Science',
  'days': 'Commerce & Economics', 'boxes': 'Other',
}  # fmt: skip
# One asks for the first conclusion, the other for the last.
PERSONAS = 'an early guest', 'a late guest'
STRAY_SHARE = 0.2  # Of the documents to ask about, so many are not fit.

# The faults of a question.
NO_QUESTION = 'no question about the document'
CONTEXT_MISSING = 'context missing'
GIVEN_AWAY = 'answer given away'
ALTERED = 'background differs from the document'
WRONG = 'wrong answer'
# Flaws of demonstrated questions -> relative frequency.
FLAWS = {
  None: 6, WRONG: 3, ALTERED: 2, GIVEN_AWAY: 2, CONTEXT_MISSING: 2,
}  # fmt: skip
# How often each reply is demonstrated, relatively.
STAGES = {'filter': 1, 'identify': 1, 'generate': 5, 'check': 5}


def prompts() -> to.Prompts:
  """Returns prompts for a model that has learned these replies."""
  return to.Prompts(
    filter='{text}\n\nIs it fit?\n\n',
    identify='{text}\n\nWho asks?\n\n',
    generate='{text}\n\nWhat does {persona} ask?\n\n',
    check='{text}\n\n{question}\n\n{answer}\n\nIs it right?\n\n',
  )


@dataclasses.dataclass(frozen=True)
class Question(tasks.Rlvr):
  """A question that `rlpt make_questions` has made."""

  max_prompt_tokens: Count = 160
  question: Name = 'text'
  template: str = QUESTION


# What is true of a question.


def fault(text: str, question: str, answer: str) -> str | None:
  """Returns what is wrong with a question about a document, or None.

  Its background must be sentences of the document, in any wording of their
  facts, from which the answer follows.
  """
  told, facts = sentences(text), _facts(text)
  *background, last = sentences(question) or ['']
  ask = _asks().get(_plain(last))
  targets = _targets(ask, facts) if ask else []
  if not targets:
    return NO_QUESTION
  quoted = [read(sentence) for sentence in background]
  asked = [
    t for t in targets if not any(_are_same(facts[t], q) for q in quoted)
  ]
  places = [_place(sentence, told) for sentence in background]
  if None in places:
    return ALTERED if asked else GIVEN_AWAY
  settled = [t for t in asked if _settles({*places}, t, facts)]
  if not settled:
    return CONTEXT_MISSING if asked == targets else GIVEN_AWAY
  claims = [read(sentence) for sentence in sentences(answer)]
  is_right = len(claims) == 1 and _are_same(facts[settled[0]], claims[0])
  return None if is_right else WRONG


def question(
  text: str, target: int, rng: random.Random, *, background: bool = True
) -> str:
  """Returns a question for the conclusion that is sentence `target`.

  background: whether it quotes the sentences that it needs.
  """
  told, facts = sentences(text), _facts(text)
  predicate, *words = facts[target]
  known = dict(zip(CONCLUSIONS[predicate][0], words, strict=True))
  nth = None
  if predicate == 'opens':
    nth = sum(other == 'opens' for other, *_ in filter(None, facts[:target]))
  asked = rng.choice(ASKED[predicate, nth]).format(**known)
  quoted = _needed(facts, target) if background else []
  return ' '.join([*(told[i] for i in quoted), asked])


def right(text: str, rng: random.Random) -> list[dict[str, str]]:
  """Returns a right question for each conclusion of a document.

  Nothing follows without its beginning, the only sentence that states no one
  fact.
  """
  facts = _facts(text)
  if facts[0]:
    return []
  return [
    {'text': question(text, i, rng), 'answer': answer(text, i)}
    for i, fact in enumerate(facts)
    if fact and fact[0] in CONCLUSIONS
  ]


def answer(text: str, target: int) -> str:
  """Returns the conclusion that is sentence `target`, in its plainest words."""
  return next(wordings(_facts(text)[target]))


class _Ask(NamedTuple):
  predicate: str
  known: dict[str, str]  # Place -> word.
  nth: int | None


@functools.cache
def _asks() -> dict[str, _Ask]:
  """Returns what each question asks for."""
  asks = {}
  for (predicate, nth), shapes in ASKED.items():
    for shape in shapes:
      places = re.findall(r'\{(\w+)\}', shape)
      for words in itertools.product(*(WORDS[place] for place in places)):
        known = dict(zip(places, words, strict=True))
        asks[_plain(shape.format(**known))] = _Ask(predicate, known, nth)
  return asks


def _plain(sentence: str) -> str:
  return ' '.join(sentence.lower().split())


def _targets(ask: _Ask, facts: Sequence[Fact | None]) -> list[int]:
  """Returns which sentences are conclusions that a question may ask for."""
  places, _ = CONCLUSIONS[ask.predicate]
  found = []
  for i, fact in enumerate(facts):
    if fact and fact[0] == ask.predicate:
      words = zip(places, fact[1:], strict=True)
      wanted = ask.predicate, *(ask.known.get(place, x) for place, x in words)
      if same(wanted, fact):
        found.append(i)
  return found if ask.nth is None else found[ask.nth : ask.nth + 1]


def _place(sentence: str, told: Sequence[str]) -> int | None:
  """Returns where a document says a sentence, in these or other words."""
  fact, meaning = read(sentence), _meaning(sentence)
  for i, other in enumerate(told):
    is_told = (
      _are_same(fact, read(other))
      if fact
      else (read(other) is None and meaning == _meaning(other))
    )
    if is_told:
      return i
  return None


def _meaning(sentence: str) -> Hashable:
  """Returns what a first sentence tells, equal for all of its wordings."""
  clues = re.findall(r'(\w+) is (\w+) than (\w+)', sentence)
  if clues:
    ups = {more: less for more, _, less, _ in SCALES}
    downs = {less: more for more, less in ups.items()}
    return frozenset(
      (a, more, b) if more in ups else (b, downs.get(more), a)
      for a, more, b in clues
    )
  sentence = re.sub(r'\bthe (\w+) one\b', r'the \1', sentence)
  words = [
    word for word in re.findall(r'\w+', sentence.lower()) if word in _content()
  ]
  # Wordings differ in where they name a person or a day, and how often.
  first = {word.lower() for word in WORDS['who'] + WORDS['day']}
  return (
    frozenset(first.intersection(words)),
    tuple(word for word in words if word not in first),
  )


@functools.cache
def _content() -> frozenset[str]:
  """Returns the words on which a first sentence depends."""
  places = WORDS.keys() - {'most'}
  return frozenset(word.lower() for place in places for word in WORDS[place])


def _are_same(one: Fact | None, other: Fact | None) -> bool:
  return bool(one and other and same(one, other))


def _needed(facts: Sequence[Fact | None], target: int) -> list[int]:
  """Returns the sentences from which a conclusion follows."""
  events = [
    i
    for i, fact in enumerate(facts[:target])
    if fact and fact[0] in EVENTS and same(fact[1:2], facts[target][1:2])
  ]
  return [0, *events]


def _settles(
  places: Collection[int], target: int, facts: Sequence[Fact | None]
) -> bool:
  """Returns whether a conclusion, and no later one, follows from sentences."""
  predicate = facts[target][0]
  needed = _needed(facts, target)
  if predicate in ('has', 'stands'):
    # An earlier state is as good as what led to it.
    states = [
      i for i in places if i < target and facts[i] and facts[i][0] == predicate
    ]
    needed = [i for i in needed if i > max(states, default=-1)]
    later = [i for i in places if i > target and facts[i]]
    if any(facts[i][0] in EVENTS for i in later):
      return False
  return {*needed} <= {*places}


def _facts(text: str) -> list[Fact | None]:
  """Returns the fact of each sentence of a document, with names.

  A pronoun stands for the only person of a document, who is named first.
  """
  names = (word for word in re.findall(r'\w+', text) if word in WORDS['who'])
  name = next(names, None)
  return [
    (fact[0], name, *fact[2:]) if fact and fact[1] in ('he', 'she') else fact
    for fact in map(read, sentences(text))
  ]


# Demonstrations of the four replies.


def reply(document: Document, rng: random.Random) -> dict[str, str]:
  """Returns a prompt of one of the stages, and a reply."""
  stage = rng.choices(list(STAGES), list(STAGES.values()))[0]
  return {
    'filter': _filter, 'identify': _identify, 'generate': _generate,
    'check': _check,
  }[stage](document, rng)  # fmt: skip


def stray(document: Document, rng: random.Random) -> str:
  """Returns a text that is not fit: it lacks its beginning or conclusions."""
  if rng.random() < 0.5:
    return ' '.join(document.sentences[1:])
  kept = (
    sentence
    for i, sentence in enumerate(document.sentences)
    if i not in document.targets
  )
  return ' '.join(kept)


def _filter(document: Document, rng: random.Random) -> dict[str, str]:
  is_fit = rng.random() < 0.5
  text = document.text if is_fit else stray(document, rng)
  said = {'qualified': 'Y' if is_fit else 'N'}
  return _demonstration(to.to_filter(prompts(), text), said)


def _identify(document: Document, rng: random.Random) -> dict[str, str]:
  del rng
  said = {'domain': DOMAINS[document.kind], 'personas': PERSONAS}
  return _demonstration(to.to_identify(prompts(), document.text), said)


def _generate(document: Document, rng: random.Random) -> dict[str, str]:
  text, i = document.text, rng.randrange(len(PERSONAS))
  target = document.targets[i]
  prompt = to.to_generate(prompts(), text, PERSONAS[i], [])
  said = {
    'thought': document.sentences[target],
    'question': question(text, target, rng),
    'answer': answer(text, target),
  }
  return _demonstration(prompt, said)


def _check(document: Document, rng: random.Random) -> dict[str, str]:
  flaw = rng.choices(list(FLAWS), list(FLAWS.values()))[0]
  target = rng.choice(document.targets)
  asked, answered = flawed(document, target, flaw, rng)
  prompt = to.to_check(prompts(), document.text, asked, answered, [])
  found = fault(document.text, asked, answered)
  said = {
    'thought': document.sentences[target],
    'has_context': 'N' if found in (CONTEXT_MISSING, NO_QUESTION) else 'Y',
    'answer_correctness': 'N' if found in (WRONG, ALTERED) else 'Y',
    'info_leakage': 'Y' if found == GIVEN_AWAY else 'N',
  }
  return _demonstration(prompt, said)


def flawed(
  document: Document, target: int, flaw: str | None, rng: random.Random
) -> tuple[str, str]:
  """Returns a question and an answer with a flaw, or with none."""
  text, fact = document.text, document.steps[target].fact
  asked = question(text, target, rng, background=flaw != CONTEXT_MISSING)
  answered = answer(text, target)
  if flaw == WRONG:
    answered = next(wordings(lessons.mistaken(document, fact, rng)))
  elif flaw == GIVEN_AWAY:
    *background, last = sentences(asked)
    asked = ' '.join([*background, say(fact, rng), last])
  elif flaw == ALTERED:
    asked = _altered(asked, rng)
  return asked, answered


def _altered(asked: str, rng: random.Random) -> str:
  """Returns a question with one word of its background changed."""
  *background, last = sentences(asked)
  words = ' '.join(background).split(' ')
  changes = [
    (i, other)
    for i, word in enumerate(words)
    for place in ('who', 'n', 'step', 'color', 'side', 'day', 'content')
    if word.strip('.,') in WORDS[place]
    for other in WORDS[place]
    if other != word.strip('.,')
  ]
  i, other = rng.choice(changes)
  words[i] = words[i].replace(words[i].strip('.,'), other)
  return ' '.join([*words, last])


def _demonstration(prompt: str, said: dict) -> dict[str, str]:
  return {'prompt': prompt, 'response': json.dumps(said)}


# Files.


def response(
  document: Document,
  rng: random.Random,
  *,
  manners: Mapping[str, int] = lessons.MANNERS,
) -> dict[str, str]:
  """Returns a question and a response that is guessed or worked out."""
  i = rng.randrange(len(document.targets))
  target = document.targets[i]
  steps = [document.steps[t] for t in document.targets[: i + 1]]
  if document.kind in ('orders', 'boxes'):
    steps = steps[-1:]  # The others lead to the last of them.
  said = lessons.response(
    document, [document.steps[target].fact],
    [step.thought for step in steps], lessons.manner(rng, manners), rng,
    tags=TAGS,
  )  # fmt: skip
  asked = question(document.text, target, rng)
  return {'prompt': QUESTION.replace('{question}', asked), **said}


def held_out(document: Document, rng: random.Random) -> dict:
  """Returns a question with the true sentence, for `truth.accuracy`."""
  target = rng.choice(document.targets)
  asked = question(document.text, target, rng)
  return {
    'prompt': QUESTION.replace('{question}', asked),
    'references': [answer(document.text, target)],
    'task': 'question',
    'kind': document.kind,
    'difficulty': document.difficulty,
  }


def to_ask_about(document: Document, rng: random.Random) -> dict[str, str]:
  """Returns a document, or now and then one that is not fit."""
  is_stray = rng.random() < STRAY_SHARE
  return {'text': stray(document, rng) if is_stray else document.text}


def write(
  folder: pathlib.Path, *, seed: int = 0, dials: Dials = Dials(), **counts: int
):
  """Writes files of questions to a folder; arguments as for `lessons.write`.

  replies    prompts of the four stages, and replies
  responses  questions, and responses that are guessed or worked out
  documents  documents to ask about
  asked      questions about held-out documents, with the true sentences
  clean_responses   questions, and responses that are worked out, and right
  """
  lines = {
    'replies': reply, 'responses': response, 'documents': to_ask_about,
    'asked': held_out,
    'clean_responses': functools.partial(
      response, manners=lessons.WORKED_OUT
    ),
  }  # fmt: skip

  def each(line, documents: Iterator[Document], rng) -> Iterator[dict]:
    return (line(document, rng) for document in documents)

  files = {name: functools.partial(each, line) for name, line in lines.items()}
  lessons.write_files(
    folder, files, seed=seed, dials=dials, counts=counts, first=FIRST
  )
