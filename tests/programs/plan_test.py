"""`rlpt plan`: what it says of the experiments, and of bad input."""

import json
import pathlib
import subprocess
import sys

import pytest

from rlpt_jax import cli
from rlpt_jax.planning import compilers
from rlpt_jax.programs import plan as plan_lib
from tests.planning.advice_test import large

ROOT = pathlib.Path(__file__).parents[2]
RL = 'experiments/rl/rlpt_qwen3_8b_base.gin'
SFT = 'experiments/sft/sft_qwen3_8b_base.gin'


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def said(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')

  def run(*arguments):
    status = cli.main(['plan', *arguments])
    out, err = capsys.readouterr()
    return status, out, err

  return run


def layout(name):
  return f'experiments/layouts/{name}.gin'


def test_a_run_that_fits(said):
  status, out, _ = said(RL, layout('v5p_32'), '--price', '2')
  assert status == 0
  assert 'qwen3_8b, as runs/sft_qwen3_8b_base/checkpoints is not here' in out
  assert 'chips: tpu:v5p:2x2x4' in out
  assert 'It fits.' in out
  assert 'num_microbatches=64 is the fewest that fit.' in out
  for part in ('weights', 'activations', 'caches', 'decoding', 'update'):
    assert f'\n{part} ' in out, part
  words = ' '.join(out.split())
  assert '40% of the peak FLOPs and 55% of the memory' in words
  assert '1,024 tokens of a prompt, 4,096 of a completion' in words
  assert 'asks judges behind a URL 4,096 times' in words
  assert 'chip hours, which cost' in words
  assert max(map(len, out.splitlines())) <= 100


def test_separate_chips(said):
  _, out, _ = said(RL, layout('h200_8_apart'))
  assert "\nall on the learner's chips " in out
  assert "\nall on the sampler's chips " in out
  assert 'chips, but wait for each other' in ' '.join(out.split())
  assert max(map(len, out.splitlines())) <= 100
  _, out, _ = said(RL, layout('v5p_32'))
  assert '\nall ' in out and 'separate' not in out


def test_a_run_that_does_not(said):
  status, out, _ = said(RL, layout('h200_1'))
  assert status == 0
  words = ' '.join(out.split())
  assert 'It does not fit, and settings of its speed and memory alone' in words
  assert 'at least 2 chips, which its weights, moments and gradients' in words
  assert 'num_microbatches' not in out
  smaller = 'experiments/models/smollm3_3b_base.gin'
  _, out, _ = said(RL, layout('v5e_64'), smaller)
  assert 'What would make it fit:' in out
  assert "train_rl.Config.cache_dtype='int8'  (" in out
  assert 'train_rl.Hardware.slots=' in out
  # As it says.
  _, out, _ = said(
    RL, layout('v5e_64'), smaller, "train_rl.Config.cache_dtype='int8'"
  )
  assert 'It fits.' in out


def test_rows_of_text(said):
  _, out, _ = said(SFT, layout('h100_8'))
  assert 'It fits.' in out
  assert 'num_microbatches=64, but 8 would be enough' in out
  _, out, _ = said(SFT, layout('h100_8'), 'train_sft.Config.num_microbatches=1')
  assert 'It does not fit.' in out
  assert 'num_microbatches=1 does not fit; 8 would.' in out
  assert 'sampler' not in out
  assert 'mean lengths' not in out


def test_chips_and_shapes_by_name(said):
  _, out, _ = said(
    RL, layout('v5e_64'), '--chips', 'tpu:v6e:8x8', '--model', 'qwen3_06b'
  )
  assert 'model: qwen3_06b, by --model; chips: tpu:v6e:8x8' in out


def test_a_laptop(said):
  tiny = 'experiments/rl/pretrain_zero_tiny.gin'
  status, out, _ = said(tiny, '--chips', 'cpu:1')
  assert status == 0
  assert 'random:tiny_qwen3' in out
  assert 'no data sheet has rates of cpu:1' in ' '.join(out.split())
  assert 'nan' not in out
  assert ' hours' not in out


def test_json(said):
  arguments = RL, layout('h100_8'), '--mean_new_tokens', '1000', '--json'
  status, out, _ = said(*arguments)
  found = json.loads(out)
  assert status == 0
  assert found['fits']
  assert found['chips'] == 'h100:8'
  assert found['num_steps'] == 1000
  assert found['cost'] is None
  total = found['bytes'].pop('all')
  room = found['bytes'].pop('room')
  assert total == sum(found['bytes'].values()) <= room
  seconds = sum(part['seconds'] for part in found['step'].values())
  assert found['step_seconds'] == pytest.approx(seconds)


@pytest.mark.parametrize(
  ('arguments', 'error'),
  [
    ((RL,), 'Which chips? Expected --chips'),
    ((RL, '--chips', 'v5e:8x8'), "chips 'v5e:8x8': expected one of"),
    ((RL, layout('v5e_64'), '--chips', 'h100:8'), 'Layout '),
    ((RL, layout('v5e_64'), '--model', 'qwen9'), 'qwen9'),
    ((RL, layout('v5e_64'), '--share', '0'), '--share=0.0: expected'),
    ((RL, layout('v5e_64'), '--price', '-1'), '--price=-1'),
    (
      (RL, layout('v5e_64'), '--mean_new_tokens', '9000'),
      'mean_new_tokens=9000: expected 1 to 8192',
    ),
    (('experiments/rl/nothing.gin',), 'no such gin file'),
    (
      (layout('v5e_64'),),
      'one of train_rl.Config, train_sft.Config, found none',
    ),
    (
      (SFT, layout('v5e_64'), '--mean_new_tokens', '9'),
      'expected none for train_sft',
    ),
    (
      ('experiments/rl/pretrain_zero_qwen3_4b_base.gin', layout('v5e_64')),
      'num_microbatches=512: expected a divisor of Config.prompts=32',
    ),
  ],
)
def test_bad_input_is_one_line(said, arguments, error):
  status, out, err = said(*arguments)
  assert status == 2
  assert out == ''
  line, hint = err.strip().splitlines()[-2:]
  assert line.startswith('rlpt plan: ')
  assert error in line
  assert hint == '(add --traceback to see where)'


def test_it_starts_no_device():
  code = f"""
import sys
from rlpt_jax import cli
assert cli.main(['plan', '{RL}', '{layout('h100_8')}', '--json']) == 0
from jax._src import xla_bridge
assert not xla_bridge._backends
loaded = {{'tensorflow', 'seqio', 'transformers', 'matplotlib'}}
assert not loaded & set(sys.modules)
"""
  subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_every_part_has_a_description():
  from rlpt_jax.planning import memory

  assert memory.of_run(large()).keys() <= plan_lib.WHAT.keys()


def test_what_a_compiler_reports(said, monkeypatch):
  reports = {
    name: compilers.Report(
      arguments=2 * 10**9, outputs=10**9, aliased=10**9, temporaries=5 * 10**8,
      peak=0, collectives={'all-gather': (7, 3 * 10**9)}, copies=copies,
      step=step, lower_seconds=1, compile_seconds=61,
    )
    for name, copies, step in (
      ('update', (), None),
      ('chunk', (('copy.1', 'bf16[4,64]'),), 2 * 10**8),
    )
  }  # fmt: skip
  monkeypatch.setattr(compilers, 'compile_run', lambda run: reports.items())
  _, out, _ = said(RL, layout('v5p_32'), '--compile')
  words = ' '.join(out.split())
  assert 'update, compiled in 61 s: 2.50 GB on each chip' in words
  assert 'arguments 2.00 GB, temporary arrays 0.50 GB' in words
  assert '7 x all-gather: 3.00 GB' in words
  assert 'a step of decoding moves 0.20 GB copies bf16[4,64]: copy.1' in words
  assert max(map(len, out.splitlines())) <= 100
  found = json.loads(said(RL, layout('v5p_32'), '--compile', '--json')[1])
  assert found['compiled']['chunk']['copies'] == [['copy.1', 'bf16[4,64]']]


def test_a_compiler_that_is_not_installed(said, monkeypatch):
  monkeypatch.setattr(compilers, 'is_installed', lambda module: False)
  status, out, err = said(RL, layout('v5p_32'), '--compile')
  assert status and "pip install 'rlpt_jax[plan-tpu]'" in out + err
