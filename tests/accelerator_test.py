"""Every stage of the program runs, on a CPU and at sizes that say nothing."""

import importlib.util
import json
import pathlib
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[1] / 'benchmarks/accelerator.py'
TINY = (
  '--model tiny_qwen3 --prompts 2 --prompt_length 32 --completion_length 16 '
  '--head_chunk 8'
).split()  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stage', 'keys'),
  [
    ('attention', {'error', 'errors', 'us_and_share', 'both_ms'}),
    ('experts', {'chosen', 'ms', 'tflop_s', 'differences'}),
    ('sample', {'tokens_per_s', 'share_of_limit', 'kl'}),
    ('learn', {'step_s', 'share_of_peak', 'gradient_norm'}),
    ('step', {'sample_s', 'learn_s', 'times_as_fast'}),
  ],
)
def test_a_stage_prints_its_figures(stage, keys, monkeypatch, capsys):
  spec = importlib.util.spec_from_file_location('accelerator', PROGRAM)
  program = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(program)
  model = ['--model', 'tiny_qwen3_moe'] if stage == 'experts' else []
  monkeypatch.setattr(sys, 'argv', ['accelerator.py', stage, *TINY, *model])
  program.main()
  lines = map(json.loads, capsys.readouterr().out.splitlines())
  found = {key: value for line in lines for key, value in line.items()}
  assert keys <= set(found)
  if stage == 'sample':
    # A tiny model in bfloat16: the two are not the same to the last bit.
    assert 0 < found['kl'] < 1e-2
  if stage == 'step':
    assert found['torch'].keys() == {'sample_s', 'learn_s'}
