"""Makes the world of benchmarks/methods.py: texts, lessons and questions."""

import dataclasses
import itertools
import json
import pathlib
import random
import shutil
from collections.abc import Iterable, Iterator

from rlpt_jax.quickstart import (
  mask_lessons,
  question_lessons,
  small_models,
  world,
)
from rlpt_jax.quickstart.world import Dials

DIALS = Dials(difficulty=(0, 2, 2), whims=1)
# Each file of questions -> the dials of its documents.
ASKED = {
  'questions': DIALS,
  'longer': dataclasses.replace(DIALS, stories=2),
  'noisier': dataclasses.replace(DIALS, whims=3),
  'harder': dataclasses.replace(DIALS, difficulty=(3,)),
}
COLD = 1  # The seed of what the cold start learns, which nothing else shows.
# The questions that a model of the quickstart's size wrote, of those that its
# checker let pass or not, by their flaw (benchmarks/README.md): of 612, 178
# were right, 313 misquoted, 86 had a wrong answer and 35 lacked their context.
WRITTEN = {
  None: 178, question_lessons.ALTERED: 313, question_lessons.WRONG: 86,
  question_lessons.CONTEXT_MISSING: 35,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """How many lines the files of the world have."""

  texts: int = 20_000
  demonstrations: int = 8_000
  questions: int = 400
  others: int = 200  # Questions in each file of other dials.
  held_out: int = 500


def write(folder: pathlib.Path, sizes: Sizes):
  """Writes world/ and cold/ in a folder.

  world/
    texts             documents
    prompts           prompts from other documents, with the true sentences
    demonstrations    sloppy ones, half of them of predictions, half of answers
    clean             the same, but all worked out and right
    made_questions    about the texts, with the flaws of a small writer
    right_questions   about other documents, all right
    held_out          held-out documents
    questions, longer, noisier, harder      about held-out documents: half of
                      them ask by RLPT's prompts, half by questions
    asked             all of these four in a row
  cold/               what the cold start learns
  """
  made = folder / 'world'
  half = sizes.demonstrations // 2
  small_models.write_world(
    made, texts=sizes.texts, held_out=sizes.held_out, demonstrations=half,
    clean=half, prompts=sizes.texts, dials=DIALS,
  )  # fmt: skip
  question_lessons.write(
    made, responses=half, clean_responses=half, dials=DIALS
  )
  mix(made, 'demonstrations', 'responses')
  mix(made, 'clean', 'clean_responses')
  write_lines(made / 'made_questions.jsonl', made_questions(sizes.texts))
  write_lines(made / 'right_questions.jsonl', right_questions(sizes.texts))
  for name, dials in ASKED.items():
    count = sizes.questions if name == 'questions' else sizes.others
    new = folder / 'new'
    small_models.write_world(new, questions=count // 2, dials=dials)
    question_lessons.write(new, asked=count // 2, dials=dials)
    mix(new, 'questions', 'asked')
    (new / 'questions.jsonl').rename(made / f'{name}.jsonl')
    shutil.rmtree(new)
  texts = [(made / f'{name}.jsonl').read_text() for name in ASKED]
  (made / 'asked.jsonl').write_text(''.join(texts))
  count = {'dials': DIALS, 'seed': COLD}
  cold, each = folder / 'cold', sizes.demonstrations
  small_models.write_world(cold, demonstrations=each, **count)
  question_lessons.write(cold, responses=each, **count)
  mask_lessons.write(cold, choices=each, predictions=each, **count)


def mix(folder: pathlib.Path, name: str, other: str):
  """Puts the lines of another file between those of a file."""
  files = [folder / f'{each}.jsonl' for each in (name, other)]
  both = zip(*(file.read_text().splitlines() for file in files), strict=True)
  files[0].write_text(''.join(f'{a}\n{b}\n' for a, b in both))
  files[1].unlink()


def made_questions(count: int) -> Iterator[dict]:
  """Yields a question about each of the texts, with a small writer's flaws."""
  rng = random.Random('made questions')
  for document in itertools.islice(world.documents(0, dials=DIALS), count):
    flaw = rng.choices(list(WRITTEN), list(WRITTEN.values()))[0]
    target = rng.choice(document.targets)
    asked, answer = question_lessons.flawed(document, target, flaw, rng)
    yield {'text': asked, 'answer': answer}


def right_questions(count: int) -> Iterator[dict]:
  """Yields questions about documents of their own, all of them right."""
  rng = random.Random('right questions')
  for document in world.documents(900, dials=DIALS):
    for one in question_lessons.right(document.text, rng):
      if not count:
        return
      count -= 1
      yield one


def write_lines(path: pathlib.Path, lines: Iterable[dict]):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def about(folder: pathlib.Path) -> dict[str, list[dict]]:
  """Returns what there is to know of each question, for statistics."""
  return {
    name: [
      {key: line[key] for key in ('kind', 'task', 'difficulty')}
      for line in map(
        json.loads, (folder / 'world' / f'{name}.jsonl').open(encoding='utf-8')
      )
    ]
    for name in ASKED
  }
