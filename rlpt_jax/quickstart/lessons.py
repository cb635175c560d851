"""Makes training data from documents of the small world, as lines of jsonl.

The templates of prompts and the tags of a prediction are arguments, since other
parts of the package define them.
"""

import functools
import itertools
import json
import pathlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rlpt_jax.quickstart.wordings import Fact, changed, is_true_prefix, say
from rlpt_jax.quickstart.world import Dials, Document, documents

FOLLOWING = 3  # The number of sentences that a prediction is compared with.

# How a demonstration reaches its prediction -> relative frequency. A prediction
# that is worked out is true; a guess is often wrong. RL must find out that
# working it out pays off.
MANNERS = {'guess': 2, 'work': 1}
WORKED_OUT = {'work': 1}  # The manners of clean demonstrations, all right.
MISTAKEN = 0.7  # The share of guesses that are wrong.
# If the next sentence is a conclusion too, the share of demonstrations that
# predict both.
TWO_SENTENCES_SHARE = 0.3
NOTES = 5  # The most notes in one text.
# The files that are made from held-out documents.
HELD_OUT = frozenset({'held_out', 'questions', 'held_out_pairs', 'asked'})


def prompt_of(document: Document, target: int, template: str) -> str:
  """Returns the prompt that asks for sentence number `target` of a document."""
  before = ' '.join(document.sentences[:target])
  places = {
    'context': before,
    'prompt': before,
    'next_step': document.sentences[target + 1],
  }
  for place, text in places.items():
    template = template.replace(f'{{{place}}}', text)
  return template


def references(document: Document, target: int, template: str) -> list[str]:
  """Returns the true sentences from number `target` on.

  For MSR this is one sentence, since its prompt shows the one after it.
  """
  count = 1 if '{next_step}' in template else FOLLOWING
  return list(document.sentences[target : target + count])


def demonstration(
  document: Document,
  target: int,
  template: str,
  rng: random.Random,
  *,
  tags: tuple[str, str],
  manners: Mapping[str, int] = MANNERS,
) -> dict[str, str]:
  """Returns a prompt and a response that is guessed or worked out.

  Responses are like those of people in a hurry: they have the right form, but
  are not always right. Their wording is chosen anew, not copied from the
  document.

  tags: the strings that begin and end a prediction.
  manners: how responses reach their predictions -> relative frequency.
  """
  chosen = manner(rng, manners)
  steps = [document.steps[target]]
  if target + 1 in document.targets and '{next_step}' not in template:
    steps += [document.steps[target + 1]] * (rng.random() < TWO_SENTENCES_SHARE)
  facts = [step.fact for step in steps]
  thoughts = [step.thought for step in steps]
  return {
    'prompt': prompt_of(document, target, template),
    **response(document, facts, thoughts, chosen, rng, tags=tags),
  }


def manner(rng: random.Random, manners: Mapping[str, int] = MANNERS) -> str:
  """Returns how a demonstration reaches its prediction."""
  return rng.choices(list(manners), list(manners.values()))[0]


def response(
  document: Document,
  facts: Sequence[Fact],
  thoughts: Sequence[str],
  manner: str,
  rng: random.Random,
  *,
  tags: tuple[str, str],
) -> dict[str, str]:
  """Returns a response that states facts of a document, and its manner.

  thoughts: what leads to the facts, said only if they are worked out.
  """
  worked_out = dict.fromkeys(thoughts if manner == 'work' else [])
  # Each begins with a space, as sentences within a text do.
  thought = ''.join(f' {thought}' for thought in worked_out)
  if manner == 'guess' and rng.random() < MISTAKEN:
    facts = [mistaken(document, fact, rng) for fact in facts]
  predicted = ''.join(f' {say(fact, rng)}' for fact in facts)
  start, end = tags
  return {'response': f'{thought}{start}{predicted}{end}', 'manner': manner}


def judged(
  document: Document, target: int, template: str, rng: random.Random
) -> dict[str, str]:
  """Returns a question to the judge and its true answer in this world."""
  count = rng.choice((1, FOLLOWING))
  reference = ' '.join(document.sentences[target : target + count])
  predicted, kind = _attempt(document, target, rng)
  right = is_true_prefix(predicted, reference)
  prompt = template.replace('{reference}', reference)
  return {
    'prompt': prompt.replace('{predicted}', predicted) + '\n\n',
    'response': f'Score: {int(right)}',
    'kind': kind,
  }


def worked(document: Document, rng: random.Random) -> str:
  """Returns the text, with thoughts before most conclusions to derive them."""
  sentences = []
  for sentence, step in zip(document.sentences, document.steps, strict=True):
    if step and step.thought and rng.random() < 0.7:
      sentences.append(step.thought)
    sentences.append(sentence)
  return ' '.join(sentences)


def noted(document: Document, rng: random.Random) -> str:
  """Returns the first sentence, then some of the notes in random order."""
  some = rng.sample(document.notes, min(len(document.notes), NOTES))
  return ' '.join([document.sentences[0], *some])


def reworded(document: Document, rng: random.Random) -> str:
  """Returns each conclusion in three random wordings, all in random order."""
  facts = [document.steps[i].fact for i in document.targets]
  sentences = [say(fact, rng, pronoun=rng.random() < 0.1) for fact in facts * 3]
  rng.shuffle(sentences)
  return ' '.join(sentences)


# Kinds of predictions that the judge is asked about -> relative frequency.
# About half of them are right.
ATTEMPTS = {
  'right': 9, 'right and more': 2, 'changed': 6, 'changed after': 1, 'later': 1,
  'half': 1, 'broken': 2, 'elsewhere': 1,
}  # fmt: skip


def _attempt(
  document: Document, target: int, rng: random.Random
) -> tuple[str, str]:
  """Returns (a prediction such as a policy may make, its kind in ATTEMPTS)."""
  kind = rng.choices(list(ATTEMPTS), list(ATTEMPTS.values()))[0]
  fact, after = (document.steps[i].fact for i in (target, target + 1))
  text = say(fact, rng, pronoun=rng.random() < 0.15)
  if kind == 'changed':
    text = say(mistaken(document, fact, rng), rng, pronoun=rng.random() < 0.1)
  elif kind == 'right and more':
    text = f'{text} {say(after, rng)}'
  elif kind == 'changed after':
    other = after if after[0] == 'aside' else mistaken(document, after, rng)
    first = mistaken(document, fact, rng) if other == after else fact
    text = f'{say(first, rng)} {say(other, rng)}'
  elif kind == 'later':
    later = rng.choice(document.steps[target + 1 :])
    text = say(later.fact, rng)
  elif kind == 'half':
    words = text.split()
    text = ' '.join(words[: rng.randint(len(words) // 2, len(words) - 1)])
  elif kind == 'broken':
    text = _broken(text, rng)
  elif kind == 'elsewhere':
    others = [*document.sentences[:target], document.steps[target].thought]
    text = rng.choice(others)
  return text, kind


def mistaken(document: Document, fact: Fact, rng: random.Random) -> Fact:
  """Returns a fact with one word changed, mostly to a similar one."""
  facts = changed(fact)
  if rng.random() < 0.6:
    near = [f for f in facts if _is_near(document, fact, f)]
    facts = near or facts
  return rng.choice(facts)


def _is_near(document: Document, fact: Fact, other: Fact) -> bool:
  old, new = next((a, b) for a, b in zip(fact, other, strict=True) if a != b)
  if new.isdigit():
    return abs(int(new) - int(old)) <= 2
  return new in document.text


def _broken(text: str, rng: random.Random) -> str:
  """Returns a sentence with one word lost or doubled, or words out of order."""
  words = text.split()
  i, j = rng.sample(range(len(words)), 2)
  how = rng.choice(('lost', 'twice', 'swapped', 'mixed'))
  if how == 'lost':
    del words[i]
  elif how == 'twice':
    words.insert(i, words[i])
  elif how == 'swapped':
    words[i], words[j] = words[j], words[i]
  else:
    rng.shuffle(words)
  return ' '.join(words)


def each_target(
  documents: Iterable[Document], rng: random.Random
) -> Iterator[tuple[Document, int]]:
  """Yields each document with one of its conclusions, chosen at random."""
  for document in documents:
    yield document, rng.choice(document.targets)


def write(
  folder: pathlib.Path,
  *,
  templates: dict[str, str],
  judge_template: str,
  tags: tuple[str, str],
  seed: int = 0,
  dials: Dials = Dials(),
  **counts: int,
):
  """Writes files of the world to a folder; equal arguments give equal files.

  counts: {file name without .jsonl: its number of lines}. Other files are not
    written. The files are:

  texts            documents, for next-token training and RL
  worked           documents in which conclusions are worked out, for next-token
                   training
  noted            first sentences with notes, for next-token training
  reworded         conclusions in other words, for next-token training
  demonstrations   prompts and responses for the cold start
  pairs            questions to the judge with their answers
  held_out         held-out documents
  questions        prompts from held-out documents, with the true sentences
  held_out_pairs   questions to the judge about held-out documents
  clean            demonstrations that are all worked out, and right
  prompts          prompts from documents, with the true sentences

  templates: the template of prompts for each task.
  tags: the strings that begin and end a prediction.
  dials: what the documents are like.
  """
  files = _files(templates, judge_template, tags)
  write_files(folder, files, seed=seed, dials=dials, counts=counts)


def write_files(
  folder: pathlib.Path,
  files: Mapping[str, Callable[[Iterator[Document], random.Random], Iterable]],
  *,
  seed: int,
  dials: Dials,
  counts: Mapping[str, int],
  first: int = 0,
):
  """Writes those files that have a count.

  files: {name: a function that makes the file's lines from documents}.
  first: the number of the first file; a file's number seeds its documents.
  """
  if unknown := [name for name in counts if name not in files]:
    raise TypeError(f'{unknown}: not the files of a world.')
  folder.mkdir(parents=True, exist_ok=True)
  for i, (name, make) in enumerate(files.items(), first):
    if name in counts:
      all_documents = documents(
        seed * 1000 + i, held_out=name in HELD_OUT, dials=dials
      )
      some = itertools.islice(all_documents, counts[name])
      with (folder / f'{name}.jsonl').open('w') as file:
        for line in make(some, random.Random(f'{name} {seed}')):
          file.write(json.dumps(line) + '\n')


def _files(
  templates: dict[str, str], judge_template: str, tags: tuple[str, str]
) -> dict[str, Callable[[Iterator[Document], random.Random], Iterator[dict]]]:
  """Returns {file name: a function that makes its lines from documents}."""

  def question(document: Document, target: int, task: str, rng) -> dict:
    del rng
    return {
      'prompt': prompt_of(document, target, templates[task]),
      'references': references(document, target, templates[task]),
      'task': task,
      'kind': document.kind,
      'difficulty': document.difficulty,
    }

  def pair(document: Document, target: int, task: str, rng) -> dict:
    del task
    return judged(document, target, judge_template, rng)

  def demonstrated(
    document: Document, target: int, task: str, rng, manners=MANNERS
  ) -> dict:
    return demonstration(
      document, target, templates[task], rng, tags=tags, manners=manners
    )

  def each(line, documents: Iterator[Document], rng) -> Iterator[dict]:
    for document, target in each_target(documents, rng):
      yield line(document, target, rng.choice(list(templates)), rng)

  def text(text_of) -> Callable[..., Iterator[dict]]:
    return lambda documents, rng: ({'text': text_of(d, rng)} for d in documents)

  return {
    'texts': text(lambda document, rng: document.text),
    'worked': text(worked),
    'noted': text(noted),
    'reworded': text(reworded),
    'demonstrations': functools.partial(each, demonstrated),
    'pairs': functools.partial(each, pair),
    'held_out': text(lambda document, rng: document.text),
    'questions': functools.partial(each, question),
    'held_out_pairs': functools.partial(each, pair),
    'clean': functools.partial(
      each, functools.partial(demonstrated, manners=WORKED_OUT)
    ),
    'prompts': functools.partial(each, question),
  }
