"""Speed of a layer's experts: the stage `experts` of accelerator.py.

Each row is sent to some experts at random, and its products with their matrices
are computed by jax.lax.ragged_dot ("xla") and by models/grouped.py ("auto"): in
the forward pass, and for many rows in both passes of learning. For each, a line
of JSON says

  ms           milliseconds
  tflop_s      the operations that are necessary, per second
  share        how fast the chosen experts are read, if they are read once: the
               share of a large copy's bandwidth
  differences  of the results, or of the gradients of the rows and the three
               arrays of matrices, between the two; relative

XLA takes a CPU minutes for more than a few rows, and takes several times the
memory of a GPU for 8,192; these are left out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import (
  copy_bandwidth,
  on_gpu,
  relative,
  say,
  seconds,
)
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
  ours = functools.partial(grouped_product, platform=jax.default_backend())
  for name, product in (('xla', jax.lax.ragged_dot), ('auto', ours)):
    if name == 'xla' and rows > (512 if on_gpu() else 8):
      continue
    here = jax.jit(functools.partial(run, product=product))
    took = seconds(here, x_JD, sizes_E, matrices, repeat=3)
    found.append(jax.tree.leaves(here(x_JD, sizes_E, matrices)))
    differences = None
    if len(found) == 2:
      differences = [relative(*pair) for pair in zip(*found, strict=True)]
    say(
      'experts', of=of, rows=rows, chosen=num_chosen, product=name,
      ms=round(took * 1e3, 3), tflop_s=float(f'{num_flops / took / 1e12:.3g}'),
      share=round(num_bytes / took / bandwidth, 3), differences=differences,
    )  # fmt: skip


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
