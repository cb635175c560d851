"""Held-out text as questions, in a model's tokens."""

import pytest

from rlpt_jax import cli
from rlpt_jax.data.config import Data
from rlpt_jax.data.sources import Files
from rlpt_jax.data.tasks import Asr
from rlpt_jax.evaluation import next_segment
from rlpt_jax.evaluation.next_segment import NextSegment

TEXT = (
  'The ship left at dawn. The wind came from the north. So the captain turned '
  'it to the south. All of them were content.\n'
)


@pytest.fixture
def ships(tmp_path):
  (tmp_path / 'ships.txt').write_text(TEXT)
  return str(tmp_path / 'ships.txt')


def test_examples_of_files(ships):
  held_out = next_segment.of_files(ships)
  examples = next_segment.read(held_out, 'bytes', None)
  # Two targets, each asked for by ASR and by MSR, and once.
  assert sorted((e.kind, e.segment) for e in examples) == [
    ('asr', 1), ('asr', 2), ('msr', 1), ('msr', 2),
  ]  # fmt: skip
  again = next_segment.read(held_out, 'bytes', None)
  assert [e.id for e in again] == [e.id for e in examples]
  assert len(next_segment.read(held_out, 'bytes', 3)) == 3
  (right,) = [e for e in examples if e.id.endswith('/1/asr')]
  tags = '<|startofprediction|>{}<|endofprediction|>'
  found = held_out.reward(
    [right], [[tags.format('The wind came from the north.'), tags.format('No')]]
  )
  assert found.rewards_PG.tolist() == [[1, 0]]


def test_a_gin_file_says_more(ships, tmp_path):
  file = tmp_path / 'ships.gin'
  file.write_text(f"""
from __gin__ import dynamic_registration
from rlpt_jax.data import config
from rlpt_jax.data import sources
from rlpt_jax.data import tasks
from rlpt_jax.evaluation import next_segment
from rlpt_jax.rewards import text_match

ships/sources.Files.name = 'ships'
ships/sources.Files.files = '{ships}'
config.Data.corpora = [@ships/sources.Files()]
config.Data.task = @tasks.Asr()
next_segment.NextSegment.data = @config.Data()
next_segment.NextSegment.name = 'ships'
next_segment.NextSegment.reward = @text_match.TextMatch()
text_match.TextMatch.match = @text_match.overlap
""")
  held_out = cli.read_config(NextSegment, file)
  assert held_out.name == 'ships'
  (one, two) = next_segment.read(held_out, 'bytes', None)
  assert one.kind == two.kind == 'asr'
  half = '<|startofprediction|>the wind<|endofprediction|>'
  assert 0 < held_out.reward([one], [[half]]).rewards_PG[0, 0] < 1


def test_mistakes(ships, tmp_path):
  data = Data([Files('ships', ships)], Asr())
  with pytest.raises(ValueError, match=r'NextSegment\.samples=0: expected a '):
    NextSegment(data=data, samples=0)
  (tmp_path / 'short.txt').write_text('Too short.\n')
  short = next_segment.of_files(str(tmp_path / 'short.txt'))
  with pytest.raises(ValueError, match='the corpus held_out gives no'):
    next_segment.read(short, 'bytes', None)
