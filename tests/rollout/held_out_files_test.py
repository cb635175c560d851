"""Rewards of held-out questions, on disk."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout import held_out_files


def judged(rewards_PG, names):
  rewards_PG = np.array(rewards_PG, np.float32)
  return SimpleNamespace(
    examples=[SimpleNamespace(id=name) for name in names],
    scores=Scores(rewards_PG, np.full(rewards_PG.shape, 'x')),
  )


def test_what_is_written_is_read(tmp_path):
  names = ['a/0/asr', '\u00e9 \ud800']
  first = judged([[1, 0], [np.nan, np.nan]], names)
  later = judged([[1, 1], [0.5, np.nan]], names)
  held_out_files.write(tmp_path, 0, first)
  held_out_files.write(tmp_path, 50, later)
  path = tmp_path / 'held_out' / '00000050.jsonl'
  assert path.read_text() == (
    '{"example": "a/0/asr", "rewards": [1.0, 1.0]}\n'
    '{"example": "\u00e9 \\ud800", "rewards": [0.5, null]}\n'
  )
  found = held_out_files.read(tmp_path)
  assert [*found] == [0, 50]
  assert found[50] == dict(zip(names, [1.0, 0.5], strict=True))
  assert found[0][names[0]] == 0.5 and math.isnan(found[0][names[1]])


def test_ids_may_have_what_ends_a_line_of_text(tmp_path):
  """JSON does not escape these, and str.splitlines would split there."""
  names = ['a\u2028b', 'c\x85d', 'e\nf']
  held_out_files.write(tmp_path, 0, judged([[1], [0], [0.5]], names))
  assert held_out_files.read(tmp_path) == {
    0: dict(zip(names, [1.0, 0.0, 0.5], strict=True))
  }


def test_again_the_same_bytes_and_nothing_else_is_left(tmp_path):
  one = judged([[1], [0]], 'ab')
  held_out_files.write(tmp_path, 3, one)
  path = tmp_path / 'held_out' / '00000003.jsonl'
  before = path.read_bytes()
  (path.parent / '.killed.new').write_bytes(b'half')
  held_out_files.write(tmp_path, 3, one)
  assert path.read_bytes() == before
  assert [*path.parent.iterdir()] == [path]


def test_runs_that_recorded_none_have_none(tmp_path):
  assert held_out_files.read(tmp_path) == {}


@pytest.mark.parametrize('text', ['{', '{"example": "a"}\n', '[1]\n'])
def test_another_file_is_refused(text, tmp_path):
  (tmp_path / 'held_out').mkdir()
  (tmp_path / 'held_out' / '00000003.jsonl').write_text(text)
  with pytest.raises(ValueError, match=r'00000003.jsonl: expected lines of'):
    held_out_files.read(tmp_path)


def test_a_file_that_cannot_be_written_says_how_to_resume(tmp_path):
  (tmp_path / 'held_out').write_text('in the way')
  with pytest.raises(OSError, match='Fix this and restart: the run resumes'):
    held_out_files.write(tmp_path, 3, judged([[1]], 'a'))
