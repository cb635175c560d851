"""The newcomer's command works from nothing, and again."""

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
