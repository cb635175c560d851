"""Every stage of the program runs, on a CPU and at sizes that say nothing."""

import importlib.util
import json
import pathlib
import re
import sys

import pytest

from rlpt_jax.planning import compilers

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


@pytest.mark.slow
def test_products_of_experts_are_counted_in_what_is_compiled(capsys):
  from benchmarks import experts

  if not compilers.is_installed(compilers.PLUGINS['gpu'][0]):
    pytest.skip("needs the CUDA plugin: pip install 'rlpt_jax[plan-cuda]'")
  experts.compile_both('tiny_qwen3_moe', rows=128)
  xla, ours = map(json.loads, capsys.readouterr().out.splitlines())
  # 256 (row, expert) pairs; 3 products of 64 x 128, each with two gradients.
  needed = 256 * 3 * 3 * 2 * 64 * 128
  assert xla['needed_tflop'] == pytest.approx(needed / 1e12, rel=1e-2)
  # XLA multiplies each row by all of 4 experts.
  assert xla['tflop'] == pytest.approx(4 * needed / 1e12, rel=1e-2)
  assert ours['tflop'] == 0


def test_the_table_has_each_bar_and_what_failed():
  spec = importlib.util.spec_from_file_location('accelerator', PROGRAM)
  program = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(program)
  lines = [
    {'stage': 'attention', 'error': 1e-3},  # Has no bar.
    {'stage': 'sample', 'model': 'qwen3_17b', 'share_of_limit': 0.606},
    {'stage': 'gap', 'model': 'qwen3_17b', 'kl': 1.7e-4},
    {'stage': 'learn', 'model': 'qwen3_06b', 'share_of_peak': 0.374},
    {'stage': 'step', 'model': 'qwen3_06b', 'times_as_fast': None},
    {'stage': 'failed', 'command': 'accelerator.py experts'},
  ]
  first, *rows = program.table(lines).splitlines()
  assert first.split() == ['what', 'figure', 'bar']
  assert [re.split(r'  +', row) for row in rows] == [
    ['decoding, qwen3_17b', '60.6% of the bandwidth limit', 'at least 60%'],
    ['KL to the sampler, qwen3_17b', '0.00017', 'at most 1e-3'],
    ['learning, qwen3_06b', '37.4% of 989 TFLOP/s', 'at least 35%'],
    ['a step, times as fast as torch, qwen3_06b', 'torch is not here',
     'at least 3'],
    ['accelerator.py experts', 'failed'],
  ]  # fmt: skip
  assert len({row.find('at ') for row in [*rows[:4]]}) == 1  # Aligned.
