"""The benchmark that counts a step's bytes: its formula and the kernel's."""

import argparse
import importlib.util
import pathlib

import pytest

from rlpt_jax.models import zoo
from rlpt_jax.planning.hlo import Array, Instruction
from rlpt_jax.sampling.plan import Plan

PROGRAM = pathlib.Path(__file__).parents[1] / 'benchmarks/hlo_bytes.py'


@pytest.fixture(scope='module')
def program():
  spec = importlib.util.spec_from_file_location('hlo_bytes', PROGRAM)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_formula(program):
  # Qwen3 with 2 layers of width 64, 4 heads and 2 kv heads of 32, an mlp of
  # 128 and 259 tokens; 3 prompts of 16 tokens, with 4 rows of 8 each.
  options = argparse.Namespace(
    prompts=3, group=4, prompt_length=16, completion_length=8
  )
  weights = 2 * (3 * 64 * 128 + 2 * 64 * 128 + 2 * 64 * 64) * 2 + 4 * 259 * 64
  positions = 3 * 16 + 12 * 4
  found = program.formula(zoo.get('tiny_qwen3'), options)
  assert found == weights + 2 * 2 * 2 * 2 * 32 * positions


def test_the_kernel_reads_what_is_filled(program):
  plan = Plan(
    slots=12, max_prompt_tokens=257, max_new_tokens=128, block=64, chunk=32
  )
  parts, half = [], 0
  for rows, length in ((3, 256), (24, 64), (12, 32)):
    parts += [
      Array('bf16', (rows, 2, 64, length)),  # Keys, values, lengths.
      Array('bf16', (rows, 2, length, 64)),
      Array('s32', (12,)),
      *([Array('s32', (12, 2))] if length == 64 else []),  # The blocks of rows.
    ]
    half += 0 if length == 256 else 2 * 2 * rows * 2 * 64 * length // 2
  tables, queries = [Array('s32', (3, 4))] * 2, Array('bf16', (12, 4, 64))
  operands = [*tables, queries, *parts]
  everything = sum(array.num_bytes for array in operands) + queries.num_bytes
  call = Instruction('x', 'custom-call', (queries,), (), False, ')')
  assert program.read(plan, call, operands) == everything
  kernel = Instruction(
    'x', 'custom-call', (queries,), (), False, '), op_name="attend_to_filled"'
  )
  # Keys and values, of which half is read.
  assert program.read(plan, kernel, operands) == everything - half


def test_the_kernel_before_attention_writes_one_column(program):
  plan = Plan(slots=12, max_prompt_tokens=257, max_new_tokens=128, chunk=32)
  keys = Array('bf16', (12, 2, 64, 32))
  values = Array('bf16', (12, 2, 32, 64))
  joined, queries = Array('bf16', (12, 2, 4, 64)), Array('bf16', (12, 2, 2, 64))
  call = Instruction(
    'x', 'custom-call', (queries, keys, values), (), False,
    '), op_name="rotate_and_write"',
  )  # fmt: skip
  column = 2 * 2 * 12 * 2 * 64
  found = program.read(plan, call, [Array('s32', (1,)), joined, keys, values])
  assert found == 4 + joined.num_bytes + queries.num_bytes + column
