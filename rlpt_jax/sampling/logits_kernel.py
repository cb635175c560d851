"""Gumbel-max sampling of tokens and two sums of weights, in one GPU kernel.

The kernel reads the logits once. XLA would read them five times and also write
and read what it adds to them. It uses Pallas's Triton backend, and tests run it
in Pallas's interpreter.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton


class Rows(NamedTuple):
  """The inputs of the kernel for each row.

  A logit is scaled to (logit - top) / temperature, and kept unless it is below
  the border.
  """

  top_B: jax.Array
  temperature_B: jax.Array
  border_B: jax.Array
  noise_B: jax.Array  # 0 where no noise is added, which makes the row greedy.
  keys_B2: jax.Array
  position_B: jax.Array


class Sampled(NamedTuple):
  token_B: jax.Array
  kept_B: jax.Array  # The sum of exp of the scaled logits that are kept.
  all_B: jax.Array  # The sum of exp(logit - top) of all tokens.


def fits(layout) -> bool:
  """Returns True if the kernel can be used: where no row is split."""
  return layout.has_small_kernels and layout.mesh.shape['tensor'] == 1


def sample(logits_BV, rows: Rows, *, layout, **options) -> Sampled:
  """As `_on_one_device`. On several GPUs, each samples its own rows."""
  run = functools.partial(_on_one_device, **options)
  if layout.mesh.size == 1:
    return run(logits_BV, rows)
  split = layout.activation_spec(logits_BV.shape[:1], ('batch',))
  return jax.shard_map(
    run,
    mesh=layout.mesh,
    in_specs=split,
    out_specs=split,
    check_vma=False,  # The kernel declares no varying axes.
  )(logits_BV, rows)


def _on_one_device(
  logits_BV, rows, *, words, noise, block=2048, warps=8, interpret=False
) -> Sampled:
  """Samples a token of each row, among those that are kept.

  words, noise: (key, counter) -> two random words per counter, and random
    words -> noise. They are logits.py's.
  """
  B, V = logits_BV.shape
  pairs = -(-V // 2)
  blocks = pl.cdiv(pairs, block)
  shape = functools.partial(jax.ShapeDtypeStruct, (B, blocks))
  best_BI, token_BI, kept_BI, all_BI = pl.pallas_call(
    functools.partial(_kernel, words=words, noise=noise, block=block),
    grid=(blocks, B),
    out_shape=[
      shape(jnp.float32),
      shape(jnp.int32),
      shape(jnp.float32),
      shape(jnp.float32),
    ],
    compiler_params=triton.CompilerParams(num_warps=warps),
    interpret=interpret,
    name='sample',
  )(logits_BV, rows)
  is_best_BI = best_BI == best_BI.max(-1, keepdims=True)
  # The first token, of equal ones. A row with NaN has no best token.
  token_B = jnp.where(is_best_BI, token_BI, V - 1).min(-1)
  return Sampled(token_B, kept_BI.sum(-1), all_BI.sum(-1))


def _kernel(logits_ref, rows_ref, *results, words, noise, block):
  """One program: a block of pairs of tokens of a row.

  Tokens of a pair are half a vocabulary apart, and share a call of `words`.
  """
  i, b = pl.program_id(0), pl.program_id(1)
  V = logits_ref.shape[1]
  pairs = -(-V // 2)
  place_W = i * block + jax.lax.broadcasted_iota(jnp.int32, (block,), 0)
  top, border = rows_ref.top_B[b], rows_ref.border_B[b]
  temperature, has_noise = rows_ref.temperature_B[b], rows_ref.noise_B[b] > 0
  key = rows_ref.keys_B2[b, 0], rows_ref.keys_B2[b, 1]
  position = rows_ref.position_B[b].astype(jnp.uint32)
  counter = place_W.astype(jnp.uint32), position
  best, token = jnp.float32(-jnp.inf), V - 1
  kept_sum = all_sum = jnp.float32(0)
  for half, bits_W in enumerate(words(key, counter)):
    token_W = place_W + half * pairs
    exists_W = (place_W < pairs) & (token_W < V)
    logits_W = triton.load(
      logits_ref.at[b, token_W], mask=exists_W, other=-jnp.inf
    )
    above_W = logits_W - top
    scaled_W = above_W / temperature
    # A NaN is kept, and makes the sums NaN.
    scaled_W = jnp.where(scaled_W < border, -jnp.inf, scaled_W)
    kept_sum += jnp.sum(jnp.exp(scaled_W))
    all_sum += jnp.sum(jnp.exp(above_W))
    value_W = scaled_W + jnp.where(has_noise, noise(bits_W), 0.0)
    largest = jnp.max(value_W)
    first = jnp.min(jnp.where(value_W == largest, token_W, V - 1))
    # Of equal values the first half's token is the first.
    token = jnp.where(largest > best, first, token)
    best = jnp.maximum(best, largest)
  found = best, token, kept_sum, all_sum
  for result_ref, value in zip(results, found, strict=True):
    result_ref[b, i] = value
