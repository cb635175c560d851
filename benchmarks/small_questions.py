"""Makes questions by a tiny model, and compares RL on them with RLPT.

The base model of the quickstart learns from demonstrations to write and check
questions about documents of the small world. `rlpt serve` serves it to
`rlpt make_questions`, which asks about `--documents` documents, of which a
fifth are not fit. The world knows which questions are right.

A second copy of the base model, which has seen neither these documents nor
these questions, gets one cold start that shows RLPT's prompts and questions.
From there, for each seed:

  rlpt_documents      RLPT on the same documents, for `--steps` steps
  rl_questions        RL on the questions, until it has spent the same FLOPs;
                      what making the questions has cost does not count
  rl_right_questions  the same with questions of the world's generator about
                      the same documents, which are all right

Predictions are rewarded if they state the document's next facts, and answers if
they state the fact of the written answer, right or wrong. Then both are asked
for conclusions of held-out documents: by RLPT's prompts, and by questions.
Prints JSON: what became of the documents, how many questions were right before
and after the checker, and for each run the shares of right answers, with the
difference to RLPT's and its 95% interval over seeds (paired by seed).

  python benchmarks/small_questions.py --workdir /tmp/questions

What is done is not done again, so a run that was stopped continues.
"""

import argparse
import collections
import contextlib
import functools
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator

from small_world import (
  SMALL,
  accuracy,
  difference,
  is_made,
  rlpt,
  spent,
  train,
  train_to,
)

from rlpt_jax.corpus import passes, question_prompts
from rlpt_jax.corpus.documents import Document
from rlpt_jax.data import sources
from rlpt_jax.data.faults import Faults
from rlpt_jax.llm import call_records, json_replies
from rlpt_jax.llm.chat_api import Fault
from rlpt_jax.programs.quickstart import FILES
from rlpt_jax.quickstart import question_lessons, small_models

BASELINE, METHODS = 'rlpt_documents', ('rl_questions', 'rl_right_questions')
ASKED = {'predictions': 'questions', 'questions': 'asked'}


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--documents', type=int, default=400)
  parser.add_argument('--seeds', type=int, default=3, choices=range(1, 9))
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--questions', type=int, default=300)
  options = parser.parse_args()
  workdir = options.workdir
  make_world(workdir, options.documents, options.questions)
  rlpt(
    workdir, 'train_sft', SMALL / 'question_writer.gin', '--workdir', 'writer'
  )
  if not (workdir / 'questions' / 'manifest.json').exists():
    with serving(workdir) as url:
      rlpt(
        workdir, 'make_questions', SMALL / 'questions.gin',
        f"remote.Endpoint.url = '{url}'",
      )  # fmt: skip
  result = {'made': made(workdir)}
  print(json.dumps(result, indent=2), file=sys.stderr, flush=True)
  rlpt(
    workdir, 'train_sft', SMALL / 'question_cold_start.gin',
    '--workdir', 'cold_start',
  )  # fmt: skip
  result['cold_start'] = shares(workdir, 'cold_start')
  found = collections.defaultdict(list)
  for seed in range(options.seeds):
    first = f'{BASELINE}_{seed}'
    train(workdir, 'train_rl', BASELINE, first, seed, options.steps)
    budget, steps = spent(workdir / first), {BASELINE: options.steps}
    for method in METHODS:
      name = f'{method}_{seed}'
      steps[method] = train_to(
        budget,
        workdir / name,
        functools.partial(train, workdir, 'train_rl', method, name, seed),
        # A step takes up to a fifth more than RLPT's, which drops more groups.
        max(1, options.steps * 5 // 6),
      )
    for method, step in steps.items():
      run = f'{method}_{seed}'
      compute = round(spent(workdir / run, step) / budget, 3)
      found[method].append({'compute': compute, **shares(workdir, run, step)})
      print(f'{run}: {found[method][-1]}', file=sys.stderr, flush=True)
  result |= {'seeds': found, 'summary': summary(found)}
  print(json.dumps(result, indent=2))


def make_world(workdir: pathlib.Path, documents: int, questions: int):
  """Writes documents and demonstrations, and copies the base model."""
  world, new = workdir / 'world', workdir / 'new'
  if is_made(world, documents=documents, asked=questions):
    return
  shutil.copytree(FILES / 'base', workdir / 'base', dirs_exist_ok=True)
  small_models.write_world(new, demonstrations=20_000, questions=questions)
  question_lessons.write(
    new,
    replies=30_000,
    copies=30_000,
    responses=20_000,
    documents=documents,
    asked=questions,
  )
  rng = random.Random(0)
  with (new / 'right_questions.jsonl').open('w') as file:
    for document in documents_of(new / 'documents.jsonl'):
      for one in question_lessons.right(document.text, rng):
        file.write(json.dumps(one) + '\n')
  new.rename(world)


@contextlib.contextmanager
def serving(workdir: pathlib.Path) -> Iterator[str]:
  """Serves the writer in a process of its own; yields its URL."""
  command = [
    'serve', 'writer/checkpoints', '--port', '0', '--name', 'writer',
    '--max_prompt_tokens', '320', '--max_new_tokens', '128',
  ]  # fmt: skip
  print('$ rlpt', *command, file=sys.stderr, flush=True)
  process = subprocess.Popen(
    [sys.executable, '-m', 'rlpt_jax.cli', *command],
    cwd=workdir, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  try:
    for line in process.stdout:
      if match := re.fullmatch(r'serving writer at (\S+)\n', line):
        yield match[1]
        return
    sys.exit('rlpt serve ended before it was ready. See above for why.')
  finally:
    process.terminate()
    process.wait()
    process.stdout.close()


def made(workdir: pathlib.Path) -> dict:
  """Returns what became of the documents, and which questions are right."""
  folder = workdir / 'questions'
  (stage,) = json.loads((folder / 'manifest.json').read_text())['stages']
  kept = collections.Counter(
    (one.fields['source'], one.text, one.fields['answer'])
    for one in documents_of(folder / 'documents' / '*.jsonl.zst')
  )
  texts = {
    one.id: one.text
    for one in documents_of(workdir / 'world' / 'documents.jsonl')
  }
  faults = {True: collections.Counter(), False: collections.Counter()}
  for id, question, answer in written(folder):
    why = question_lessons.fault(texts[id], question, answer) or 'right'
    key = id, question, answer
    is_kept = kept[key] > 0
    kept[key] -= is_kept
    faults[is_kept][why] += 1
  accepted, rejected = faults[True], faults[False]
  all_written = accepted + rejected
  return {
    'documents': stage['documents'],
    'written': all_written.total(),
    'kept': stage['left'],
    'dropped': stage['dropped'],
    'bad_replies': stage['events'],
    'right_of_written': share(all_written['right'], all_written.total()),
    'right_of_kept': share(accepted['right'], accepted.total()),
    'kept_of_right': share(accepted['right'], all_written['right']),
    'kept_of_wrong': share(
      accepted.total() - accepted['right'],
      all_written.total() - all_written['right'],
    ),
    'faults_of_written': dict(all_written.most_common()),
    'faults_of_kept': dict(accepted.most_common()),
  }


def documents_of(path: pathlib.Path) -> Iterator[Document]:
  """Yields the documents of files, with the ids that questions refer to."""
  source = sources.Files(name='documents', files=str(path))
  for part in source.parts():
    yield from passes.read_documents(passes.Input(source, part, 0), Faults())


def written(folder: pathlib.Path) -> Iterator[tuple[str, str, str]]:
  """Yields (id of its document, question, answer) of all that was written."""
  for record in call_records.read(folder / 'calls.jsonl'):
    if record['stage'] == 'generate' and 'reply' in record:
      said = json_replies.parse(
        record['reply'], question_prompts.GENERATED,
        notes=question_prompts.NOTES,
      )  # fmt: skip
      if not isinstance(said, Fault):
        yield record['id'], said['question'].strip(), said['answer'].strip()


def shares(
  workdir: pathlib.Path, run: str, step: int | None = None
) -> dict[str, dict[str, float]]:
  """Returns the shares of right answers to both kinds of prompts."""
  return {
    kind: accuracy(workdir, run, name, step) for kind, name in ASKED.items()
  }


def share(part: int, whole: int) -> float:
  return round(part / max(whole, 1), 4)


def summary(found: dict[str, list[dict]]) -> dict[str, str]:
  """Returns the means, and the difference of RL on questions to RLPT's."""
  lines = {}
  for kind in ASKED:
    values = {
      method: [each[kind]['all'] for each in results]
      for method, results in found.items()
    }
    for method, each in values.items():
      lines[f'{kind}, {method}'] = f'{statistics.mean(each):.1%}'
      if method != BASELINE:
        compared = difference(each, values[BASELINE])
        lines[f'{kind}, {method}'] += f', {compared}'
  return lines


if __name__ == '__main__':
  main()
