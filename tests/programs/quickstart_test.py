"""The newcomer's command works from nothing, and again."""

import subprocess
import sys

import pytest

from rlpt_jax import cli


@pytest.mark.parametrize(
  'model',
  ['tiny_qwen3', pytest.param('tiny_qwen3_moe', marks=pytest.mark.slow)],
)
def test_quickstart(model, tmp_path, capsys):
  for _ in range(2):
    assert cli.main(['quickstart', str(tmp_path), '--model', model]) == 0
    assert 'byte for byte' in capsys.readouterr().out
  lines = (tmp_path / 'completions.jsonl').read_text().splitlines()
  assert len(lines) == 4


@pytest.mark.slow
def test_no_corpus_no_tensorflow(tmp_path):
  # It converts, samples and writes checkpoints: all that reads no corpus.
  script = f"""
import sys
from rlpt_jax import cli
assert cli.main(['quickstart', {str(tmp_path)!r}]) == 0
heavy = {{'tensorflow', 'seqio', 'apache_beam', 'nltk', 'torch'}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
  subprocess.run([sys.executable, '-c', script], check=True)
