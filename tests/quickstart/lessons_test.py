"""Lessons are true, their files complete, and the same by seed."""

import collections
import itertools
import json
import random

from rlpt_jax.data import prompts
from rlpt_jax.quickstart import lessons, world
from rlpt_jax.quickstart.wordings import (
  is_true_prefix,
  read,
  same,
  sentences,
)
from rlpt_jax.rewards import extract, judge

TEMPLATES = {'asr': prompts.ASR, 'msr': prompts.MSR}


def write(folder, **changes):
  counts = {'texts': 20, 'demonstrations': 30, 'held_out': 10, 'pairs': 40}
  lessons.write(
    folder, templates=TEMPLATES, judge_template=judge.PROMPT, **counts | changes
  )
  return {
    path.name: [json.loads(line) for line in path.read_text().splitlines()]
    for path in sorted(folder.iterdir())
  }


def test_files_are_complete_and_follow_from_the_seed(tmp_path):
  files = write(tmp_path / 'a')
  assert {name: len(lines) for name, lines in files.items()} == {
    'demonstrations.jsonl': 30, 'held_out.jsonl': 10,
    'held_out_pairs.jsonl': 40, 'notes.jsonl': 20, 'pairs.jsonl': 40,
    'questions.jsonl': 10, 'texts.jsonl': 20,
  }  # fmt: skip
  assert write(tmp_path / 'b') == files
  assert write(tmp_path / 'c', seed=1)['texts.jsonl'] != files['texts.jsonl']
  assert {line['task'] for line in files['questions.jsonl']} == set(TEMPLATES)


def targets(count, seed=0):
  rng = random.Random(seed)
  found = itertools.islice(world.documents(seed), count)
  return list(lessons.each_target(found, rng)), rng


def test_demonstrations_predict_what_follows_in_every_manner():
  some, rng = targets(300)
  manners = collections.Counter()
  for document, target in some:
    for template in TEMPLATES.values():
      line = lessons.demonstration(document, target, template, rng)
      answer = extract.prediction(line['response']).text
      following = lessons.references(document, target, template)
      assert is_true_prefix(answer, ' '.join(following))
      assert document.sentences[target] not in line['prompt']
      shown = document.sentences[target + 1] in line['prompt']
      assert shown == (template == prompts.MSR)
      assert '{' not in line['prompt']
      manners[line['manner']] += 1
      if line['manner'] == 'work':
        assert document.steps[target].thought in line['response']
  assert set(manners) == set(lessons.MANNERS)


def test_notes_say_two_facts_three_times_each():
  (document, _), *_ = targets(1)[0]
  facts = {document.steps[i].fact for i in document.targets}
  said = [read(s) for s in sentences(lessons.notes(document, random.Random(0)))]
  assert len(said) == 6
  for fact in facts:
    assert sum(same(fact, other) for other in said) == 3


def test_pairs_are_of_every_kind_and_half_of_them_right():
  some, rng = targets(2000)
  scores, kinds = collections.Counter(), collections.Counter()
  by_kind = collections.defaultdict(collections.Counter)
  for document, target in some:
    line = lessons.judged(document, target, judge.PROMPT, rng)
    scores[line['response']] += 1
    kinds[line['kind']] += 1
    by_kind[line['kind']][line['response']] += 1
    assert line['prompt'].endswith('- Score: 1\n\n')
  assert set(kinds) == set(lessons.ATTEMPTS)
  assert 0.4 < scores['Score: 1'] / len(some) < 0.6
  # One sentence of reference is no room for two.
  assert set(by_kind['right and more']) == {'Score: 0', 'Score: 1'}
  assert set(by_kind['right']) == {'Score: 1'}
  assert set(by_kind['half']) == {'Score: 0'}
  assert by_kind['changed']['Score: 0'] > 0.95 * by_kind['changed'].total()
