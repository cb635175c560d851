"""Lessons are true, their files complete, and the same by seed."""

import collections
import itertools
import json
import random

import pytest

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
TAGS = extract.START, extract.END


def write(folder, **changes):
  counts = {
    'texts': 20, 'worked': 15, 'noted': 5, 'reworded': 6, 'demonstrations': 30,
    'held_out': 10, 'questions': 12, 'pairs': 40, 'held_out_pairs': 8,
  }  # fmt: skip
  lessons.write(
    folder, templates=TEMPLATES, judge_template=judge.PROMPT, tags=TAGS,
    **counts | changes,
  )  # fmt: skip
  return {
    path.name: [json.loads(line) for line in path.read_text().splitlines()]
    for path in sorted(folder.iterdir())
  }


def test_files_are_complete_and_follow_from_the_seed(tmp_path):
  files = write(tmp_path / 'a')
  assert {name: len(lines) for name, lines in files.items()} == {
    'demonstrations.jsonl': 30, 'held_out.jsonl': 10, 'held_out_pairs.jsonl': 8,
    'noted.jsonl': 5, 'pairs.jsonl': 40, 'questions.jsonl': 12,
    'reworded.jsonl': 6, 'texts.jsonl': 20, 'worked.jsonl': 15,
  }  # fmt: skip
  assert write(tmp_path / 'b') == files
  assert write(tmp_path / 'c', seed=1)['texts.jsonl'] != files['texts.jsonl']
  assert {line['task'] for line in files['questions.jsonl']} == set(TEMPLATES)
  with pytest.raises(TypeError, match='novels'):
    write(tmp_path / 'd', novels=3)


def test_clean_demonstrations_are_all_worked_out(tmp_path):
  files = write(tmp_path, clean=60)
  assert {line['manner'] for line in files['clean.jsonl']} == {'work'}
  manners = {line['manner'] for line in files['demonstrations.jsonl']}
  assert manners == set(lessons.MANNERS)


def test_prompts_to_train_on_are_like_the_held_out_questions(tmp_path):
  files = write(tmp_path, prompts=30)
  trained, held_out = files['prompts.jsonl'], files['questions.jsonl']
  assert {frozenset(line) for line in trained} == {frozenset(held_out[0])}
  assert {line['difficulty'] for line in [*trained, *held_out]} == {2}
  seen = [d.text for d in itertools.islice(world.documents(10), 30)]
  for line, text in zip(trained, seen, strict=True):
    assert ' '.join(line['references']) in text


def targets(count, seed=0):
  rng = random.Random(seed)
  found = itertools.islice(world.documents(seed), count)
  return list(lessons.each_target(found, rng)), rng


def test_demonstrations_predict_and_are_right_where_they_work_it_out():
  some, rng = targets(300)
  right = collections.defaultdict(list)
  for document, target in some:
    for template in TEMPLATES.values():
      line = lessons.demonstration(document, target, template, rng, tags=TAGS)
      answer = extract.prediction(line['response']).text
      following = lessons.references(document, target, template)
      is_right = is_true_prefix(answer, ' '.join(following))
      right[line['manner']].append(is_right)
      assert document.sentences[target] not in line['prompt']
      shown = document.sentences[target + 1] in line['prompt']
      assert shown == (template == prompts.MSR)
      assert '{' not in line['prompt']
      if line['manner'] == 'work':
        assert document.steps[target].thought in line['response']
  assert set(right) == set(lessons.MANNERS) and all(right['work'])
  guesses = right['guess']
  assert abs(1 - sum(guesses) / len(guesses) - lessons.MISTAKEN) < 0.06


def test_two_sentences_are_predicted_where_both_can_be_told():
  some, rng = targets(600)
  counts = collections.Counter()
  for document, target in some:
    for task, template in TEMPLATES.items():
      line = lessons.demonstration(document, target, template, rng, tags=TAGS)
      count = len(sentences(extract.prediction(line['response']).text))
      counts[task, target + 1 in document.targets, count] += 1
  assert counts['asr', True, 2] and counts['asr', True, 1]
  assert not counts['asr', False, 2] and not counts['msr', True, 2]


def test_what_is_worked_out_stands_before_its_conclusion():
  some, rng = targets(200)
  found = 0
  for document, _ in some:
    text = lessons.worked(document, rng)
    for i in document.targets:
      thought = f'{document.steps[i].thought} {document.sentences[i]}'
      found += thought in text
      text = text.replace(thought, document.sentences[i], 1)
    assert text == document.text
  assert 200 < found < 350


def test_the_same_two_facts_three_times_each():
  (document, _), *_ = targets(1)[0]
  facts = {document.steps[i].fact for i in document.targets}
  said = [
    read(s) for s in sentences(lessons.reworded(document, random.Random(0)))
  ]
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
