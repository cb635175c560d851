"""Speed on one GPU: decode attention, the sampler, the learner.

    python benchmarks/accelerator.py                    all stages, 5 minutes
    python benchmarks/accelerator.py STAGE [--model qwen3_17b] ...

Needs jax, optax and numpy, and this repository on the path; no TensorFlow, gin
or network. Prints a line of JSON for each figure. Stages:

  attention  one layer's attention in a decode step, by each candidate of
             decode_kernels.py, over completions (256 rows of 512) and prompts
             (32 rows of 1,024) filled to different lengths: microseconds, and
             the share of a large copy's bandwidth. A few microseconds of each
             layer are launches.
  sample     32 prompts x 8, 1,024 + 512 tokens, random weights in bfloat16.
             share_of_limit is the least time over the measured one. The least
             time is the bytes read over the copy's bandwidth: the weights (the
             head in float32), each prompt's keys and values once, and half of
             each row's own. The gap is between the log-probabilities of the
             sampler and those of the learner.
  learn      8 prompts x 8, 1,024 + 512 tokens: a whole update. The share is of
             989 TFLOP/s and counts the operations of a learner without
             rematerialisation: three times a forward pass.
"""

import argparse
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from rlpt_jax.algorithms import losses, policy
from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.types import Batch
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, scoring, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request
from rlpt_jax.training.learner import make_state, make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer

PEAK = 989e12  # Dense bfloat16 products of an H100 or H200, by its data sheet.
FULL_CHUNKS = ['learn', '--microbatches', '2', '--head_chunk', '512']
STAGES = (
  ['attention'],
  ['sample'],
  ['sample', '--model', 'qwen3_17b'],
  FULL_CHUNKS,
  [*FULL_CHUNKS, '--model', 'qwen3_17b'],
)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('stage', nargs='?', choices=sorted(RUN))
  parser.add_argument('--model', default='qwen3_06b')
  parser.add_argument('--head', default='bf16_x3')
  parser.add_argument('--head_chunk', type=int, default=128)
  parser.add_argument('--remat', default='layer')
  parser.add_argument('--microbatches', type=int, default=8)
  parser.add_argument('--prompts', type=int)
  parser.add_argument('--prompt_length', type=int, default=1024)
  parser.add_argument('--completion_length', type=int, default=512)
  options = parser.parse_args()
  if options.stage:
    RUN[options.stage](options)
    return
  for stage in STAGES:  # Processes, so that a failure does not stop the others.
    subprocess.run([sys.executable, __file__, *stage])


def say(stage, **figures):
  print(json.dumps({'stage': stage, **figures}), flush=True)


def seconds(run, *arguments, repeat=5) -> float:
  """Returns the median time of a run, after one that compiles."""
  found = []
  for _ in range(repeat + 1):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    found.append(time.perf_counter() - start)
  return statistics.median(found[1:])


def copy_bandwidth() -> float:
  """Returns the bytes a second, read plus written, of a copy of 4 GB."""
  x = jnp.zeros(2**30 if on_gpu() else 2**20, jnp.float32)
  return 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)


def on_gpu() -> bool:
  return jax.default_backend() == 'gpu'


# Decode attention.


def attention(options):
  del options
  import decode_kernels as kernels

  candidates = {
    'xla': kernels.xla,
    'mosaic': kernels.mosaic,
    'triton': kernels.triton,
  }
  bandwidth = copy_bandwidth()
  say(
    'attention', device=jax.devices()[0].device_kind, jax=jax.__version__,
    copy_tb_s=round(bandwidth / 1e12, 2),
  )  # fmt: skip
  for part, rows, M, S in (('own', 256, 2, 512), ('prefix', 32, 16, 1024)):
    inputs = attention_inputs(rows, M, S)
    for name, kernel in candidates.items():
      try:
        error = attention_error(kernel, inputs, S)
        times = {}
        for filled in (S // 4, S // 2, S):
          length_P = jnp.full((rows,), filled, jnp.int32)
          q, k_L, v_L = inputs
          took = seconds(jax.jit(layers_of(kernel)), q, k_L, v_L, length_P)
          took /= len(k_L)
          num_bytes = 2 * rows * k_L[0].shape[1] * filled * 128 * 2
          times[filled] = [
            round(took * 1e6, 1), round(num_bytes / took / bandwidth, 2)
          ]  # fmt: skip
        say(
          'attention', part=part, kernel=name, relative_error=error,
          us_and_share=times,
        )  # fmt: skip
      except Exception as error:  # A missing backend is reported as well.
        say('attention', part=part, kernel=name, error=str(error)[:200])


def attention_inputs(rows, M, S, *, layers=24, K=8, H=128):
  """Returns queries, and keys and values of more layers than a cache holds."""
  keys = jax.random.split(jax.random.key(0), 1 + 2 * layers)
  normal = functools.partial(jax.random.normal, dtype=jnp.bfloat16)
  k_L, v_L = (
    tuple(normal(key, (rows, K, S, H)) for key in keys[1 + i :: 2])
    for i in range(2)
  )
  return normal(keys[0], (rows, K, M, H)), k_L, v_L


def layers_of(kernel):
  """Returns a function that runs layers in sequence, as in a model."""

  def run(q, k_L, v_L, length_P):
    for k, v in zip(k_L, v_L, strict=True):
      values, lse = kernel(q, k, v, length_P)
      q = q + (1e-3 * values + 1e-6 * lse[..., None]).astype(q.dtype)
    return q

  return run


def attention_error(kernel, inputs, S) -> float:
  """Returns the relative error of ragged rows against float32."""
  import decode_kernels as kernels

  q, k, v = inputs[0][:8], inputs[1][0][:8], inputs[2][0][:8]
  length_P = jnp.asarray(np.random.default_rng(0).integers(1, S + 1, 8), int)
  with jax.default_matmul_precision('highest'):
    exact, _ = kernels.xla(
      *(x.astype(jnp.float32) for x in (q, k, v)), length_P
    )
  found, _ = jax.jit(kernel)(q, k, v, length_P.astype(jnp.int32))
  error = jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)
  return float(f'{float(error):.2g}')


# Sampling.


def make_decoder(options, dtype):
  """Returns (decoder, random parameters)."""
  layout = make_layout(devices=jax.devices()[:1])
  compute = Compute(
    dtype='bfloat16', remat=options.remat, head=options.head,
    head_chunk=options.head_chunk,
  )  # fmt: skip
  decoder = Decoder(zoo.get(options.model), compute, layout)
  specs = decoder_lib.specs(decoder.config)
  return decoder, weights.init(
    specs, jax.random.key(0), layout=layout, dtype=dtype
  )


def sample(options):
  P, G = options.prompts or 32, 8
  S, T = options.prompt_length, options.completion_length
  decoder, params = make_decoder(options, 'bfloat16')
  c, published = decoder.config, publish(decoder, params)

  def requests(seed):
    tokens = np.random.default_rng(seed).integers(0, c.vocab_size, (P, S))
    return [
      Request(
        prompt_tokens=tuple(row), id=f'{seed}/{i}', samples=G, max_new_tokens=T
      )
      for i, row in enumerate(tokens.tolist())
    ]

  times = []
  for seed in range(3):
    asked, start = requests(seed), time.perf_counter()
    groups = decode.sample(decoder, published, asked)
    times.append(time.perf_counter() - start)
  took = min(times[1:])
  position = 2 * 2 * c.num_layers * c.num_kv_heads * c.head_dim
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(published))
  num_bytes += position * (P * S + P * G * T / 2)
  limit = num_bytes * T / copy_bandwidth()
  say(
    'sample', model=options.model, head=options.head,
    tokens_per_s=round(P * G * T / took), ms_per_step=round(took / T * 1e3, 2),
    first_s=round(times[0], 1), share_of_limit=round(limit / took, 3),
    gap=gap(decoder, params, asked[:8], groups[:8]),
  )  # fmt: skip


def gap(decoder, params, requests, groups) -> dict[str, float]:
  """Compares the learner's log-probabilities with the sampler's."""
  prompts = jnp.asarray([request.prompt_tokens for request in requests])
  rows = [completion for group in groups for completion in group]
  tokens = jnp.asarray(np.stack([np.asarray(row.tokens) for row in rows]))
  behavior = np.stack([np.asarray(row.policy_logprobs) for row in rows])
  score = jax.jit(functools.partial(scoring.in_groups, decoder))
  logprobs, _ = score(
    params, prompts, jnp.ones_like(prompts), tokens, jnp.ones_like(tokens)
  )
  ratio = np.asarray(logprobs) - behavior
  return {
    'mean': round(float(np.abs(ratio).mean()), 5),
    'p99': round(float(np.quantile(np.abs(ratio), 0.99)), 5),
    'kl': float(f'{np.mean(np.exp(ratio) - ratio - 1):.2g}'),
  }


# Learning.


def learn(options):
  P, G = options.prompts or 8, 8
  S, T = options.prompt_length, options.completion_length
  decoder, params = make_decoder(options, 'float32')
  c = decoder.config
  optimizer = make_optimizer(AdamW(learning_rate=1e-6), decoder_lib.specs(c))
  update = make_update(
    policy.make_loss(functools.partial(scoring.in_groups, decoder), losses.ppo),
    optimizer, policy.measure, num_microbatches=options.microbatches,
  )  # fmt: skip
  state = make_state(params, optimizer)
  del params
  batch = random_batch(P, G, S, T, c.vocab_size)
  times = []
  for _ in range(4):
    start = time.perf_counter()
    state, metrics = update(state, batch)
    jax.block_until_ready(metrics)
    times.append(time.perf_counter() - start)
  took = min(times[1:])
  # Recomputed logits do not count as needed either.
  needed = flops.update(c, S, [T] * G) - flops.head(c) * G * T
  stats = jax.devices()[0].memory_stats() or {}
  say(
    'learn', model=options.model, head=options.head, remat=options.remat,
    head_chunk=options.head_chunk, microbatches=options.microbatches,
    step_s=round(took, 3), first_s=round(times[0], 1),
    tflop_s=round(P * needed / took / 1e12, 1),
    share_of_peak=round(P * needed / took / PEAK, 3),
    peak_gib=round(stats.get('peak_bytes_in_use', 0) / 2**30, 1),
    gradient_norm=float(metrics['gradient_norm']),
  )  # fmt: skip


def random_batch(P, G, S, T, vocab_size) -> Batch:
  """Returns full rows of random tokens, with advantages of both signs."""
  rng, ones_PGT = np.random.default_rng(0), np.ones((P, G, T), np.float32)
  batch = Batch(
    prompts_PS=rng.integers(0, vocab_size, (P, S)).astype(np.int32),
    prompt_mask_PS=np.ones((P, S), np.int32),
    tokens_PGT=rng.integers(0, vocab_size, (P, G, T)).astype(np.int32),
    present_PGT=ones_PGT.astype(np.int32),
    mask_PGT=ones_PGT,
    behavior_PGT=-np.log(vocab_size) * ones_PGT,
    advantages_PG=rng.normal(size=(P, G)).astype(np.float32),
    weights_PGT=ones_PGT / ones_PGT.size,
  )
  return jax.tree.map(jnp.asarray, batch)


RUN = {'attention': attention, 'sample': sample, 'learn': learn}

if __name__ == '__main__':
  main()
