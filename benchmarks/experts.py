"""A layer's experts: the stage `experts` of accelerator.py, and their programs.

    python benchmarks/experts.py

compiles both passes of learning from 8,192 rows for an H200 that need not be
here (pip install 'rlpt_jax[plan-cuda]'), and prints the operations of its
products, what they move and the temporary memory. Operations of our kernels are
not in the HLO; their tiles have up to twice the rows that are necessary.

The stage times them. Each row is sent to some experts at random. Its products
with their matrices are computed by jax.lax.ragged_dot ("xla") and by
models/grouped.py ("auto"), in the forward pass, and for many rows also in both
passes of learning. For each, a line of JSON says

  ms           milliseconds
  tflop_s      the operations that are necessary, per second
  share        how fast the chosen experts are read, if they are read once: the
               share of a large copy's bandwidth
  differences  of the results, or of the gradients of the rows and the three
               arrays of matrices, between the two; relative

XLA copies all rows once per expert. Where these copies take too much time or
memory, it is left out.
"""

import dataclasses
import functools
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.accelerator import (
  copy_bandwidth,
  on_gpu,
  relative,
  say,
  seconds,
)
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import zoo
from rlpt_jax.models.grouped import grouped_product


def measure(model: str, rows: int | None):
  """Measures a model's experts, or those of Qwen3-30B-A3B if it has none.

  rows: how many rows; None for several numbers of rows.
  """
  c = zoo.get(model)
  if not c.num_experts:
    c = zoo.get('qwen3_30b_a3b')
  E, D, F = c.num_experts, c.embed_dim, c.mlp_dim
  matrices = [
    random(i, shape)
    for i, shape in enumerate([(E, D, F), (E, D, F), (E, F, D)])
  ]
  bandwidth = copy_bandwidth()
  many = [512, 8192] if on_gpu() else [512]
  for each in [rows] if rows else [1, 8, 64, 256, *many]:
    compare(c, each, layer, matrices, bandwidth, of='forward')
  both = jax.grad(loss, argnums=(0, 2))
  for each in [rows] if rows else many:
    compare(c, each, both, matrices, bandwidth, of='both')


def compare(c, rows, run, matrices, bandwidth, *, of):
  E, C = c.num_experts, c.experts_per_token
  rng, found = np.random.default_rng(rows), []
  chosen = [rng.choice(E, C, replace=False) for _ in range(rows)]
  sizes_E = jnp.bincount(jnp.asarray(chosen).reshape(-1), length=E)
  x_JD = 32 * random(rows, (rows * C, c.embed_dim))
  num_chosen = int((sizes_E > 0).sum())
  num_bytes = num_chosen * sum(w[0].nbytes for w in matrices)
  passes = 1 if of == 'forward' else 3
  num_flops = passes * 2 * x_JD.size * 3 * c.mlp_dim
  layout = make_layout(devices=jax.devices()[:1])
  ours = functools.partial(grouped_product, layout=layout)
  for name, product in (('xla', jax.lax.ragged_dot), ('auto', ours)):
    if name == 'xla' and E * x_JD.nbytes > (4e9 if on_gpu() else 3e8):
      continue
    here = jax.jit(functools.partial(run, product=product))
    took = seconds(here, x_JD, sizes_E, matrices, repeat=3)
    found.append(jax.tree.leaves(here(x_JD, sizes_E, matrices)))
    differences = None
    if len(found) == 2:
      differences = [relative(*pair) for pair in zip(*found, strict=True)]
    say(
      'experts', of=of, rows=rows, chosen=num_chosen, product=name,
      ms=round(took * 1e3, 3), tflop_s=shown(num_flops / took / 1e12),
      share=round(num_bytes / took / bandwidth, 3), differences=differences,
    )  # fmt: skip


def shown(number) -> float:
  return float(f'{number:.3g}')


def layer(x_JD, sizes_E, matrices, *, product):
  gate, up, down = matrices
  hidden_JF = jax.nn.silu(product(x_JD, gate, sizes_E))
  hidden_JF *= product(x_JD, up, sizes_E)
  return product(hidden_JF, down, sizes_E)


def loss(*arrays, product):
  y_JD = layer(*arrays, product=product)
  return jnp.sum(jnp.sin(y_JD.astype(jnp.float32)))


def random(seed, shape):
  """Numbers of the size that a model's weights have."""
  dtype = jnp.bfloat16 if on_gpu() else jnp.float32
  return jax.random.normal(jax.random.key(seed), shape, dtype) / 32


# Compiled without a GPU.


def compile_both(model='qwen3_30b_a3b', rows=8192):
  # They need libraries that a machine with a GPU may lack.
  from rlpt_jax.planning import compilers, hlo, machines

  c = zoo.get(model)
  E, J, D, F = c.num_experts, rows * c.experts_per_token, c.embed_dim, c.mlp_dim
  jax.config.update('jax_enable_compilation_cache', False)
  chips = compilers.devices(machines.parse('h200:1'))
  layout = make_layout(devices=chips[:1])

  def shaped(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.replicated())

  layout = dataclasses.replace(layout, platform='gpu')
  ours = functools.partial(grouped_product, layout=layout)
  for name, product in (('xla', jax.lax.ragged_dot), ('auto', ours)):
    both = jax.grad(functools.partial(loss, product=product), argnums=(0, 2))
    with compilers.lowering_for(layout):
      lowered = jax.jit(both).lower(
        shaped(J, D), shaped(E, dtype=jnp.int32),
        [shaped(E, D, F), shaped(E, D, F), shaped(E, F, D)],
      )  # fmt: skip
    compiled = lowered.compile(compiler_options=compilers.OPTIONS['gpu'])
    program = hlo.parse(compiled.as_text())
    temporary = compiled.memory_analysis().temp_size_in_bytes
    say(
      'experts', compiled='both', model=model, rows=rows, product=name,
      tflop=shown(dot_flops(program, program.entry) / 1e12),
      needed_tflop=shown(3 * 2 * J * D * 3 * F / 1e12),
      moved_gb=shown(hlo.step_bytes(program, program.entry) / 1e9),
      temporary_gb=shown(temporary / 1e9),
    )  # fmt: skip


def dot_flops(program, computation: str) -> int:
  """Returns the operations of all products that XLA computes."""
  here, total = program.computations[computation], 0
  for x in here.values():
    if x.opcode == 'dot':
      axes = re.search(r'lhs_contracting_dims=\{([\d,]+)\}', x.rest)[1]
      (left,) = here[x.operands[0]].arrays
      contracted = math.prod(left.shape[int(i)] for i in axes.split(','))
      total += 2 * contracted * sum(array.size for array in x.arrays)
    elif x.opcode in ('fusion', 'call'):
      total += sum(
        dot_flops(program, name)
        for names in x.called.values()
        for name in names
      )
  return total


if __name__ == '__main__':
  compile_both()
