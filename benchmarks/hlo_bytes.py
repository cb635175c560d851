"""Bytes of a decode step, counted in the HLO that is compiled for an H200.

    python benchmarks/hlo_bytes.py [--model qwen3_17b] [--prompts 32] ...

Needs no GPU, but JAX's CUDA plugin: pip install 'rlpt_jax[plan-cuda]'. The
step is that of `accelerator.py sample`: 32 prompts of 1,024 tokens, with 8 rows
each, half of whose 512 positions are filled. Prints a line of JSON.

`needed` is what a step has to read: the weights (the head in float32), each
prompt's keys and values once, and half of each row's own. `planned` is what
`rlpt plan` counts: the head as it is stored, and also the keys and values of
the running chunk, and the logits. The count adds up what each instruction of
the loop's body reads and writes (planning/hlo.py).
HLO does not show what our kernels read, so for their calls their own rules are
used. Attention reads the filled positions of each part, and of a chunk's recent
tokens half; queries and results whole. The kernel before it writes one column
of the recent tokens. Two small numbers of layers are
compiled, and the rest is as many times the difference.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from rlpt_jax.core.layout import Axes
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import compilers, machines
from rlpt_jax.planning.hlo import Array, Instruction
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.plan import Plan


@dataclasses.dataclass(frozen=True)
class Hardware:
  layout: Axes = Axes()
  sampler_layout: Axes = Axes()


@dataclasses.dataclass(frozen=True)
class Config:
  compute: Compute = Compute(dtype='bfloat16')
  hardware: Hardware = Hardware()


@dataclasses.dataclass(frozen=True)
class Run:
  """As much of a planning.run.Run as a chunk of decoding needs."""

  model: object
  engine: Plan
  config: Config = Config()
  machine: machines.Machine = machines.parse('h200:1')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='qwen3_06b')
  parser.add_argument('--prompts', type=int, default=32)
  parser.add_argument('--group', type=int, default=8)
  parser.add_argument('--prompt_length', type=int, default=1024)
  parser.add_argument('--completion_length', type=int, default=512)
  parser.add_argument('--layers', type=int, nargs=2, default=(1, 3))
  print(json.dumps(compare(parser.parse_args())))


def compare(options) -> dict[str, float]:
  """Returns the bytes of a step, counted and by formulas, and their ratios."""
  model = zoo.get(options.model)
  plan = Plan(
    slots=options.prompts * options.group, group=options.group,
    prompts=options.prompts, max_prompt_tokens=options.prompt_length,
    max_new_tokens=options.completion_length, chunk=32,
  )  # fmt: skip
  counts, copies = [], []
  for layers in options.layers:
    run = Run(dataclasses.replace(model, num_layers=layers), plan)
    report = compilers.compile_chunk(run, kernel=lambda *x: read(plan, *x))
    counts.append(report.step)
    copies += report.copies
  first, second = options.layers
  each = (counts[1] - counts[0]) / (second - first)
  counted = counts[0] + (model.num_layers - first) * each
  needed = formula(model, options)
  layout = Axes().abstract(1, 'gpu')
  m = plan_lib.memory(plan, Decoder(model, Config().compute, layout))
  planned = m.weights + m.prefixes + m.own / 2 + m.recent + m.logits
  return {
    'model': options.model, 'counted_gb': round(counted / 1e9, 3),
    'needed_gb': round(needed / 1e9, 3),
    'planned_gb': round(planned / 1e9, 3),
    'by_needed': round(counted / needed, 3),
    'by_planned': round(counted / planned, 3),
    'a_layer_mb': round(each / 1e6, 1), 'copies': copies,
  }  # fmt: skip


def read(plan: Plan, call: Instruction, operands: list[Array]) -> int:
  """Returns the bytes of a custom call, with rules for two of our kernels.

  The operands of attention are two tables, the queries, and for each part of
  the keys: keys, values, lengths and, where rows are in blocks, a table. The
  kernel before it has the chunk's keys and values as its last operands, of
  which it writes one column, and returns them with the queries.
  """
  sizes = [array.num_bytes for array in operands]
  if 'rotate_and_write' in call.rest:
    caches = sum(sizes[-2:])
    queries = call.num_bytes - caches
    return sum(sizes[:-2]) + queries + caches // plan.chunk
  if 'attend_to_filled' not in call.rest:
    return sum(sizes) + call.num_bytes
  filled = {plan.prefix_length: 1.0, plan.block_size: 0.5, plan.chunk: 0.5}
  total = sum(sizes[:3]) + call.num_bytes
  is_keys = True
  for array, size in zip(operands[3:], sizes[3:], strict=True):
    if len(array.shape) == 4:  # Keys end in [H, S], values in [S, H].
      size *= filled[array.shape[3 if is_keys else 2]]
      is_keys = not is_keys
    total += size
  return int(total)


def formula(model, options) -> float:
  c, P, G = model, options.prompts, options.group
  D, F, N, K, H = (
    c.embed_dim,
    c.mlp_dim,
    c.num_heads,
    c.num_kv_heads,
    c.head_dim,
  )
  layer = 2 * (3 * D * F + 2 * D * N * H + 2 * D * K * H)
  position = 2 * 2 * c.num_layers * K * H
  own = P * G * options.completion_length / 2
  return (
    c.num_layers * layer + 4 * c.vocab_size * D
    + position * (P * options.prompt_length + own)
  )  # fmt: skip


if __name__ == '__main__':
  main()
