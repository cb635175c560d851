"""Files of what was sampled."""

import dataclasses
import errno
import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.core.types import Example
from rlpt_jax.rewards.extract import Answer
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout import rollout_files
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.sampling.requests import Completion

LINES = [
  {'example': 'a/1/0/asr', 'completion': 'né \ud800 "x"\n', 'reward': None},
  {'example': 'a/1/0/asr', 'completion': '', 'reward': 0.5},
]


def test_what_is_written_is_read(tmp_path):
  rollout_files.write(tmp_path, 12, LINES)
  (path,) = (tmp_path / 'rollouts').iterdir()
  assert path.name == '00000012.jsonl.gz'
  assert rollout_files.read(path) == LINES
  # Again, and it is the same file.
  before = path.read_bytes()
  rollout_files.write(tmp_path, 12, LINES)
  assert path.read_bytes() == before


def test_the_last_are_kept_and_every_so_many(tmp_path):
  for step in range(13):
    rollout_files.write(tmp_path, step, LINES)
    rollout_files.prune(tmp_path, step, last=3, every=5)
  names = sorted(path.name[:8] for path in (tmp_path / 'rollouts').iterdir())
  assert [int(name) for name in names] == [0, 5, 10, 11, 12]
  # What a kill in the middle of a write leaves behind goes too.
  (tmp_path / 'rollouts' / '.0123.new').write_bytes(b'half')
  rollout_files.prune(tmp_path, 12, last=1, every=None)
  assert len(list((tmp_path / 'rollouts').iterdir())) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
  def full(fresh, path):
    assert fresh.exists() and not path.exists()
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'replace', full)
  with pytest.raises(OSError) as caught:
    rollout_files.write(tmp_path, 12, LINES)
  path = tmp_path / 'rollouts' / '00000012.jsonl.gz'
  assert caught.value.strerror == (
    f'{path}: could not be written (No space left on device). Fix this and '
    'restart: the run resumes from its newest checkpoint.'
  )
  assert not list(path.parent.iterdir())


def example(number, kind):
  tokens = np.array(list(f'Q{number}?'.encode()), np.int32)
  return Example(tokens, (' Yes.',), kind, 'corpus', f'd{number}', 3)


def sample(text, forced=0):
  data = text.encode()
  T = len(data)
  completion = Completion(
    tokens=np.array(list(data), np.int32),
    logprobs=-np.arange(T, dtype=np.float32) / 3,
    policy_logprobs=np.zeros(T, np.float32),
    is_own=np.arange(T) >= forced,
    versions=np.zeros(T, np.int32),
    finish_reason='stop',
  )
  return SimpleNamespace(completion=completion, text=text, finish_reason='stop')


def scores(rewards_PG, reason, **parts):
  rewards_PG = np.array(rewards_PG, np.float32)
  return Scores(rewards_PG, np.full(rewards_PG.shape, reason), parts)


def judged():
  found = scores(
    [[1, 0], [0.5, np.nan]], 'scored',
    msr=scores([[0.25, 0.75]], 'partly'),  # Of its kind alone.
    length=scores([[0, 1], [2, 3]], 'long'),
  )  # fmt: skip
  samples = [[sample('ab'), sample('c')], [sample('\u00e9!', 1), sample('')]]
  return Judged(
    [example(1, 'asr'), example(2, 'msr')], samples, found, found.rewards_PG
  )


ADVANTAGES_PG = np.array([[0.5, -0.5], [np.nan, np.nan]], np.float32)


def test_a_line_says_what_was_asked_said_and_thought_of_it():
  lines = list(
    rollout_files.lines(judged(), ADVANTAGES_PG, ByteTokenizer(), 12)
  )
  assert json.loads(json.dumps(lines)) == lines
  assert lines[0] == {
    'step': 12,
    'example': 'corpus/d1/3/asr',
    'kind': 'asr',
    'sample': 0,
    'prompt': 'Q1?',
    'completion': 'ab',
    'references': [' Yes.'],
    'reward': 1.0,
    'reason': 'scored',
    'components': {'length': {'reward': 0.0, 'reason': 'long'}},
    'advantage': 0.5,
    'finish_reason': 'stop',
    'tokens': 2,
    'interrupted': False,
  }
  assert [line['advantage'] for line in lines] == [0.5, -0.5, None, None]
  assert [line['reward'] for line in lines] == [1.0, 0.0, 0.5, None]
  assert [line['interrupted'] for line in lines] == [False, False, True, False]
  assert lines[3]['components'] == {
    'msr': {'reward': 0.75, 'reason': 'partly'},
    'length': {'reward': 3.0, 'reason': 'long'},
  }


def test_a_line_has_what_the_judge_answered():
  step = judged()
  answers_PG = np.array([['Score: 1', ''], [None, 'Dunno']], object)
  msr = dataclasses.replace(
    step.scores.parts['msr'], answers_PG=np.array([[None, 'Hm']], object)
  )
  parts = {**step.scores.parts, 'msr': msr}
  found = dataclasses.replace(step.scores, answers_PG=answers_PG, parts=parts)
  step = dataclasses.replace(step, scores=found)
  lines = list(rollout_files.lines(step, ADVANTAGES_PG, ByteTokenizer(), 12))
  assert [line.get('judge_answer') for line in lines] == [
    'Score: 1', '', None, 'Dunno'
  ]  # fmt: skip
  # Who was not asked has no answer, and that of a part is with the part.
  assert 'judge_answer' not in lines[2]
  assert lines[3]['components']['msr'] == {
    'reward': 0.75, 'reason': 'partly', 'judge_answer': 'Hm'
  }  # fmt: skip


def test_a_line_has_the_notes_of_its_example():
  step = judged()
  noted = dataclasses.replace(step.examples[0], notes={'paragraph': 7})
  step = dataclasses.replace(step, examples=[noted, step.examples[1]])
  lines = rollout_files.lines(step, ADVANTAGES_PG, ByteTokenizer(), 12)
  assert [line.get('paragraph') for line in lines] == [7, 7, None, None]


def test_a_line_has_the_place_of_what_was_judged():
  places = {'ab': (1, 'b'), 'c': (None, 'c'), '': (0, '')}
  lines = rollout_files.lines(
    judged(), ADVANTAGES_PG, ByteTokenizer(), 12,
    find_answer=lambda text: (
      Answer(places[text][1], start=places[text][0]) if text in places else None
    ),
  )  # fmt: skip
  assert [line.get('answer') for line in lines] == [[1, 2], None, None, None]


def test_a_line_has_its_tokens_where_they_are_asked_for():
  lines = list(
    rollout_files.lines(
      judged(), ADVANTAGES_PG, ByteTokenizer(), 12, with_tokens=True
    )
  )
  assert lines[0]['token_texts'] == ['a', 'b']
  assert lines[0]['logprobs'] == [0.0, -0.3333]
  # Two bytes are one character; the first of them was not sampled.
  assert ''.join(lines[2]['token_texts']) == '\u00e9!'
  assert len(lines[2]['token_texts']) == len(lines[2]['logprobs']) == 3
  assert lines[2]['logprobs'] == [None, -0.3333, -0.6667]
  assert lines[3]['token_texts'] == lines[3]['logprobs'] == []
