"""What is learned from documents of the small world, as lines of jsonl.

The templates of prompts are arguments: they belong to other parts.
"""

import itertools
import json
import pathlib
import random
from collections.abc import Iterable, Iterator

from rlpt_jax.quickstart.wordings import Fact, changed, is_true_prefix, say
from rlpt_jax.quickstart.world import Document, documents

START, END = '<|startofprediction|>', '<|endofprediction|>'
FOLLOWING = 3  # Sentences that a prediction is compared with, as in ASR.

# How demonstrations come to their prediction, and how many do so. All say what
# is true; what pays is left to learn.
MANNERS = {'guess': 2, 'look': 2, 'work': 1}
LOOK = 'The text goes on like this.'


def asked(document: Document, target: int, template: str) -> str:
  """The prompt for a sentence of a document, by ASR's template or MSR's."""
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
  """What really follows; the sentence after it is shown where MSR asks."""
  count = 1 if '{next_step}' in template else FOLLOWING
  return list(document.sentences[target : target + count])


def demonstration(
  document: Document, target: int, template: str, rng: random.Random
) -> dict[str, str]:
  """A prompt and an answer in one of the manners, in words of its own."""
  step = document.steps[target]
  manner = rng.choices(list(MANNERS), list(MANNERS.values()))[0]
  thought = {'guess': '', 'look': LOOK, 'work': step.thought}[manner]
  # With a blank, as sentences begin in a text.
  predicted = f'{START} {say(step.fact, rng)}{END}'
  return {
    'prompt': asked(document, target, template),
    'response': f'\n\n{thought}{predicted}',
    'manner': manner,
  }


def judged(
  document: Document, target: int, template: str, rng: random.Random
) -> dict[str, str]:
  """A question to the judge and the answer that is true of this world."""
  count = rng.choice((1, FOLLOWING))
  following = ' '.join(document.sentences[target : target + count])
  predicted, kind = _attempt(document, target, rng)
  right = is_true_prefix(predicted, following)
  prompt = template.replace('{reference}', following)
  return {
    'prompt': prompt.replace('{predicted}', predicted) + '\n\n',
    'response': f'Score: {int(right)}',
    'kind': kind,
  }


def notes(document: Document, rng: random.Random) -> str:
  """Its conclusions in several wordings, in any order: what says the same."""
  facts = [document.steps[i].fact for i in document.targets]
  told = [say(fact, rng, pronoun=rng.random() < 0.1) for fact in facts * 3]
  rng.shuffle(told)
  return ' '.join(told)


# What the judge is asked about, and how often: about half of it is right.
ATTEMPTS = {
  'right': 9, 'right and more': 2, 'changed': 6, 'changed after': 1, 'later': 1,
  'half': 1, 'broken': 2, 'elsewhere': 1,
}  # fmt: skip


def _attempt(
  document: Document, target: int, rng: random.Random
) -> tuple[str, str]:
  """(a prediction, of which kind): like what a policy tries, or may try."""
  kind = rng.choices(list(ATTEMPTS), list(ATTEMPTS.values()))[0]
  fact, after = (document.steps[i].fact for i in (target, target + 1))
  text = say(fact, rng, pronoun=rng.random() < 0.15)
  if kind == 'changed':
    text = say(_mistaken(document, fact, rng), rng, pronoun=rng.random() < 0.1)
  elif kind == 'right and more':
    text = f'{text} {say(after, rng)}'
  elif kind == 'changed after':
    other = after if after[0] == 'aside' else _mistaken(document, after, rng)
    first = _mistaken(document, fact, rng) if other == after else fact
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


def _mistaken(document: Document, fact: Fact, rng: random.Random) -> Fact:
  """A fact that differs in one word, most often in one that stands nearby."""
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
  """A sentence with a word lost, twice or elsewhere, or all of them mixed."""
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
  found: Iterable[Document], rng: random.Random
) -> Iterator[tuple[Document, int]]:
  """One of the conclusions of each document."""
  for document in found:
    yield document, rng.choice(document.targets)


def write(
  folder: pathlib.Path,
  *,
  templates: dict[str, str],
  judge_template: str,
  texts: int,
  demonstrations: int,
  held_out: int,
  pairs: int,
  seed: int = 0,
):
  """Writes a world to a folder, the same for the same arguments:

  texts.jsonl            documents, for next-token training and RL
  notes.jsonl            the same facts in other words, for next-token training
  held_out.jsonl         other documents
  demonstrations.jsonl   prompts and responses for the cold start
  questions.jsonl        held-out prompts with what really follows
  pairs.jsonl            questions to the judge with their answers
  held_out_pairs.jsonl   the same of held-out documents

  templates: of prompts, by the name of the task.
  """
  folder.mkdir(parents=True, exist_ok=True)
  rng = random.Random(f'lessons {seed}')

  def some(count: int, offset: int) -> Iterator[Document]:
    # Odd numbers are held out.
    found = documents(seed * 1000 + offset, held_out=offset % 2 == 1)
    return itertools.islice(found, count)

  def items(count: int, offset: int) -> Iterator[tuple[Document, int, str]]:
    for document, target in each_target(some(count, offset), rng):
      yield document, target, rng.choice(list(templates))

  def question(document: Document, target: int, task: str) -> dict:
    return {
      'prompt': asked(document, target, templates[task]),
      'references': references(document, target, templates[task]),
      'task': task,
      'kind': document.kind,
    }

  lines = {
    'texts': ({'text': d.text} for d in some(texts, 0)),
    'notes': ({'text': notes(d, rng)} for d in some(texts, 6)),
    'held_out': ({'text': d.text} for d in some(held_out, 1)),
    'demonstrations': (
      demonstration(document, target, templates[task], rng)
      for document, target, task in items(demonstrations, 2)
    ),
    'questions': (question(*item) for item in items(held_out, 3)),
    'pairs': (
      judged(document, target, judge_template, rng)
      for document, target, _ in items(pairs, 4)
    ),
    'held_out_pairs': (
      judged(document, target, judge_template, rng)
      for document, target, _ in items(held_out * 4, 5)
    ),
  }
  for name, some_lines in lines.items():
    with (folder / f'{name}.jsonl').open('w') as file:
      file.writelines(json.dumps(line) + '\n' for line in some_lines)
