"""Speed on one GPU: attention, the sampler, the learner, a whole step.

    python benchmarks/accelerator.py                    all stages, 8 minutes
    python benchmarks/accelerator.py STAGE [--model qwen3_17b] ...

Needs jax, flax, optax and numpy, but no TensorFlow, gin or network, and finds
this repository by itself. Prints a line of JSON for each measurement, and after
all stages a table of those that have a bar. Stages:

  attention  The attention of one layer. For a decode step (32 prompts of 1,024
             tokens; each has 8 rows with 128, 256 or 512 of 512 positions
             filled): microseconds, and the share of a large copy's bandwidth.
             For learning (4 prompts of 1,024 tokens; each has 8 rows of 512):
             milliseconds of the forward pass and of both passes. Errors are
             relative to float32.
  experts    The products of a layer of experts (Qwen3-30B-A3B's, or --model's)
             for 1 to 256 rows, or --prompts, and in both passes of learning
             from 512 and 8,192: see experts.py.
  sample     32 prompts of 1,024 tokens, with 8 completions of 512 tokens each,
             and random weights in bfloat16. share_of_limit is the least
             possible time over the measured one. The least possible time is
             that of reading the necessary bytes at the bandwidth of a large
             copy: the weights (the head in float32), each prompt's keys and
             values once, and half of each row's own. Another line, `gap`, says
             how far the sampler's log-probabilities are from the learner's.
  learn      A whole update on 8 prompts of 1,024 tokens, with 8 completions of
             512 tokens each. share_of_peak is the share of 989 TFLOP/s. It
             counts the operations that a learner without rematerialization
             needs: three times those of a forward pass.
  step       A GRPO step with 8 prompts, of the sizes of `learn`: the learner's
             weights are copied to the sampler, completions are sampled, and an
             update is made. If torch and transformers are installed, they do
             the same (torch_step.py); `times_as_fast` compares the two.

Without a stage, the program also runs `sampling.py tail`: the engine and the
static sampler at lengths of a heavy tail.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from rlpt_jax.algorithms import losses, policy
from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.types import Batch
from rlpt_jax.models import attention as lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, scoring, zoo
from rlpt_jax.models.attention import Part
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request
from rlpt_jax.training.learner import make_state, make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer

PEAK = 989e12  # Dense bfloat16 FLOP/s of an H100 or H200, by its data sheet.
FOLDER = pathlib.Path(__file__).parent
STAGES = (
  ['accelerator.py', 'attention'],
  ['accelerator.py', 'experts'],
  ['accelerator.py', 'sample'],
  ['accelerator.py', 'sample', '--model', 'qwen3_17b'],
  ['accelerator.py', 'learn', '--microbatches', '1'],
  ['accelerator.py', 'learn', '--model', 'qwen3_17b'],
  ['accelerator.py', 'step'],
  [
    'sampling.py', 'tail', '--model', 'qwen3_06b', '--dtype', 'bfloat16',
    '--prompts', '16', '--prompt_length', '1024', '--completion_length', '2048',
    '--chunk', '32', '--batches', '4', '--repeat', '1',
  ],
)  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('stage', nargs='?', choices=sorted(RUN))
  parser.add_argument('--model', default='qwen3_06b')
  parser.add_argument('--head', default='bf16_x3')
  parser.add_argument('--head_chunk', type=int, default=512)
  parser.add_argument('--remat', default='none')
  parser.add_argument(
    '--unroll', action=argparse.BooleanOptionalAction, default=True
  )
  parser.add_argument('--kernel', default='auto', help='Compute.attention')
  parser.add_argument('--microbatches', type=int, default=2)
  parser.add_argument('--prompts', type=int)
  parser.add_argument('--prompt_length', type=int, default=1024)
  parser.add_argument('--completion_length', type=int, default=512)
  options = parser.parse_args()
  if options.stage:
    RUN[options.stage](options)
    return
  # Each in its own process, so that a failure does not stop the rest.
  environment = os.environ | {'PYTHONPATH': str(FOLDER.parent)}
  lines = []
  for program, *stage in STAGES:
    command = [sys.executable, str(FOLDER / program), *stage]
    with subprocess.Popen(
      command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
      for line in process.stdout:
        print(line, end='', flush=True)
        lines += [json.loads(line)] if line.startswith('{') else []
    if process.returncode:
      lines.append({'stage': 'failed', 'command': ' '.join([program, *stage])})
  print(table(lines))


def table(lines: list[dict]) -> str:
  """Returns the figures that have a bar, and what failed."""
  rows = [('what', 'figure', 'bar'), *filter(None, map(figure, lines))]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
  )


def figure(line: dict) -> tuple[str, str, str] | None:
  """Returns (what, figure, bar) of a line; None if it has no bar."""
  model = line.get('model')
  match line.get('stage'):
    case 'sample':
      share = f'{line["share_of_limit"]:.1%} of the bandwidth limit'
      return f'decoding, {model}', share, 'at least 60%'
    case 'gap':
      return f'KL to the sampler, {model}', str(line['kl']), 'at most 1e-3'
    case 'learn':
      share = f'{line["share_of_peak"]:.1%} of 989 TFLOP/s'
      bar = {'qwen3_06b': 'at least 35%', 'qwen3_17b': 'at least 45%'}
      return f'learning, {model}', share, bar.get(model, '')
    case 'step':
      found = line['times_as_fast'] or 'torch is not here'
      return (
        f'a step, times as fast as torch, {model}',
        str(found),
        'at least 3',
      )
    case 'failed':
      return line['command'], 'failed', ''
  return None


def say(stage, **figures):
  print(json.dumps({'stage': stage, **figures}), flush=True)


def seconds(run, *arguments, repeat=5, of=statistics.median) -> float:
  """Returns the median (or `of`) of the times of `repeat` runs.

  Another run comes before them, to compile.
  """
  found = []
  for _ in range(repeat + 1):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    found.append(time.perf_counter() - start)
  return of(found[1:])


def copy_bandwidth() -> float:
  """Returns the bytes per second, read plus written, of a large copy.

  On a GPU, 4 GiB are copied. The fastest of 20 copies counts, because this is
  used as a limit, and some copies are a fifth slower.
  """
  x = jnp.zeros(2**30 if on_gpu() else 2**20, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  return 2 * x.nbytes / seconds(copy, x, repeat=20, of=min)


def on_gpu() -> bool:
  return jax.default_backend() == 'gpu'


# Attention.


def attention(options):
  layout = make_layout(devices=jax.devices()[:1])
  bandwidth = copy_bandwidth()
  say(
    'attention', device=jax.devices()[0].device_kind, jax=jax.__version__,
    copy_tb_s=round(bandwidth / 1e12, 2),
  )  # fmt: skip
  for kernel in ('xla', 'auto'):
    decode_attention(options, kernel, layout, bandwidth)
  for kernel in ('xla', 'auto'):
    learner_attention(options, kernel, layout)


def decode_attention(options, kernel, layout, bandwidth, *, layers=12, G=8):
  P, S = options.prompts or 32, options.prompt_length
  T = options.completion_length
  c = zoo.get(options.model)
  B, N, K, H = P * G, c.num_heads, c.num_kv_heads, c.head_dim
  normal = functools.partial(jax.random.normal, dtype=jnp.bfloat16)

  @jax.jit
  def caches_of_layers():  # Together larger than the chip's L2 cache.
    keys = iter(jax.random.split(jax.random.key(0), 4 * layers))
    return [
      [
        (normal(next(keys), (rows, K, H, size)),
         normal(next(keys), (rows, K, size, H)))
        for rows, size in ((P, S), (B, T))
      ]
      for _ in range(layers)
    ]  # fmt: skip

  caches, q = caches_of_layers(), normal(jax.random.key(1), (B, 1, N, H))

  def attend(q, caches, filled, *, kernel=kernel):
    parts = [
      Part(k, v, jnp.arange(v.shape[2]) < length[:, None], filled_P=length)
      for (k, v), length in zip(caches, filled, strict=True)
    ]
    return lib.decode_attention(q, parts, kernel=kernel, layout=layout)

  def all_layers(q, caches, filled):
    for one in caches:
      q = q + 1e-3 * attend(q, one, filled)
    return q

  rng = np.random.default_rng(0)
  ragged = [
    jnp.asarray(rng.integers(1, size + 1, rows), jnp.int32)
    for rows, size in ((P, S), (B, T))
  ]
  exact = jax.jit(functools.partial(attend, kernel='xla'))(
    *jax.tree.map(lambda x: x.astype(jnp.float32), (q, caches[0])), ragged
  )
  error = relative(jax.jit(attend)(q, caches[0], ragged), exact)
  times, run = {}, jax.jit(all_layers)
  for filled in (T // 4, T // 2, T):
    lengths = [jnp.full(P, S, jnp.int32), jnp.full(B, filled, jnp.int32)]
    took = seconds(run, q, caches, lengths, repeat=9) / layers
    num_bytes = 2 * 2 * K * H * (P * S + B * filled)
    times[filled] = [
      round(took * 1e6, 1), round(num_bytes / took / bandwidth, 2)
    ]  # fmt: skip
  say(
    'attention', of='decode', kernel=kernel, error=error, us_and_share=times
  )  # fmt: skip


def learner_attention(options, kernel, layout, *, P=4, G=8):
  S, T = options.prompt_length, options.completion_length
  c = zoo.get(options.model)
  B, N, K, H = P * G, c.num_heads, c.num_kv_heads, c.head_dim
  shapes = (B, T, N, H), (B, K, T, H), (B, K, T, H), (P, K, H, S), (P, K, S, H)
  inputs = [
    jax.random.normal(jax.random.key(i), shape, jnp.bfloat16)
    for i, shape in enumerate(shapes)
  ]
  segments = jnp.ones((B, T), jnp.int32)
  mask = jnp.arange(S) < jnp.linspace(S // 2, S, P).astype(int)[:, None]

  def attend(q, k, v, prefix_k, prefix_v, *, kernel=kernel):
    return lib.attention(
      q, k, v, segments, [Part(prefix_k, prefix_v, mask)],
      kernel=kernel, layout=layout, packed=False,
    )  # fmt: skip

  def loss(*inputs, kernel=kernel):
    return jnp.sum(jnp.sin(attend(*inputs, kernel=kernel).astype(jnp.float32)))

  both = jax.jit(jax.grad(loss, argnums=range(5)))
  exact = jax.jit(
    jax.grad(functools.partial(loss, kernel='xla'), argnums=range(5))
  )(*(x.astype(jnp.float32) for x in inputs))
  say(
    'attention', of='learning', kernel=kernel,
    forward_ms=round(seconds(jax.jit(attend), *inputs) * 1e3, 3),
    both_ms=round(seconds(both, *inputs) * 1e3, 3),
    errors=[relative(*pair) for pair in zip(both(*inputs), exact, strict=True)],
  )  # fmt: skip


# Experts.


def experts(options):
  from benchmarks import experts  # Which imports this module.

  experts.measure(options.model, options.prompts)


def relative(found, exact) -> float:
  found, exact = (x.astype(jnp.float32).ravel() for x in (found, exact))
  error = jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)
  return float(f'{float(error):.2g}')


# Sampling.


def make_decoder(options, dtype):
  """Returns (decoder, random parameters)."""
  layout = make_layout(devices=jax.devices()[:1])
  compute = Compute(
    dtype='bfloat16', remat=options.remat, head=options.head,
    head_chunk=options.head_chunk, unroll=options.unroll,
    attention=options.kernel,
  )  # fmt: skip
  decoder = Decoder(zoo.get(options.model), compute, layout)
  specs = decoder_lib.specs(decoder.config)
  return decoder, weights.init(
    specs, jax.random.key(0), layout=layout, dtype=dtype
  )


def random_requests(options, vocab_size, P, G, seed) -> list[Request]:
  shape = P, options.prompt_length
  tokens = np.random.default_rng(seed).integers(0, vocab_size, shape)
  return [
    Request(
      prompt_tokens=tuple(row), id=f'{seed}/{i}', samples=G,
      max_new_tokens=options.completion_length,
    )
    for i, row in enumerate(tokens.tolist())
  ]  # fmt: skip


def sample(options):
  P, G = options.prompts or 32, 8
  S, T = options.prompt_length, options.completion_length
  decoder, params = make_decoder(options, 'bfloat16')
  c, published = decoder.config, publish(decoder, params)
  times = []
  for seed in range(3):
    asked, start = (
      random_requests(options, c.vocab_size, P, G, seed), time.perf_counter()
    )  # fmt: skip
    groups = decode.sample(decoder, published, asked)
    times.append(time.perf_counter() - start)
  took = min(times[1:])
  position = 2 * 2 * c.num_layers * c.num_kv_heads * c.head_dim
  # The head counts as float32, however it is stored.
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(published['layers']))
  num_bytes += 4 * c.vocab_size * c.embed_dim
  num_bytes += position * (P * S + P * G * T / 2)
  bandwidth = copy_bandwidth()
  limit = num_bytes * T / bandwidth
  say(
    'sample', model=options.model, head=options.head,
    copy_tb_s=round(bandwidth / 1e12, 2),
    tokens_per_s=round(P * G * T / took), ms_per_step=round(took / T * 1e3, 2),
    first_s=round(times[0], 1), share_of_limit=round(limit / took, 3),
  )  # fmt: skip
  # A loop over layers compiles faster.
  compute = dataclasses.replace(decoder.compute, unroll=False)
  learner = dataclasses.replace(decoder, compute=compute)
  say('gap', model=options.model, **gap(learner, params, asked[:8], groups[:8]))


def gap(decoder, params, requests, groups) -> dict[str, float]:
  """Returns how far the learner's log-probabilities are from the sampler's."""
  prompts = jnp.asarray([request.prompt_tokens for request in requests])
  rows = [completion for group in groups for completion in group]
  tokens = jnp.asarray(np.stack([np.asarray(row.tokens) for row in rows]))
  behavior = np.stack([np.asarray(row.policy_logprobs) for row in rows])
  score = jax.jit(functools.partial(scoring.in_groups, decoder))
  scored = score(
    params, prompts, jnp.ones_like(prompts), tokens, jnp.ones_like(tokens)
  )
  ratio = np.asarray(scored.logprobs_BT) - behavior
  return {
    'mean': round(float(np.abs(ratio).mean()), 5),
    'p99': round(float(np.quantile(np.abs(ratio), 0.99)), 5),
    'kl': float(f'{np.mean(np.exp(ratio) - ratio - 1):.2g}'),
  }


# Learning.


def make_learner(options):
  """Returns (decoder, state, update), with random float32 weights."""
  decoder, params = make_decoder(options, 'float32')
  specs = decoder_lib.specs(decoder.config)
  optimizer = make_optimizer(AdamW(learning_rate=1e-6), specs)
  update = make_update(
    policy.make_loss(functools.partial(scoring.in_groups, decoder), losses.ppo),
    optimizer, policy.measure, num_microbatches=options.microbatches,
  )  # fmt: skip
  return decoder, make_state(params, optimizer), update


def learn(options):
  P, G = options.prompts or 8, 8
  S, T = options.prompt_length, options.completion_length
  decoder, state, update = make_learner(options)
  c = decoder.config
  batch = random_batch(P, G, S, T, c.vocab_size)
  times = []
  for _ in range(4):
    start = time.perf_counter()
    state, metrics = update(state, batch)
    jax.block_until_ready(metrics)
    times.append(time.perf_counter() - start)
  took = min(times[1:])
  # flops.update counts the recomputation of the logits, which is not needed.
  needed = flops.update(c, S, [T] * G) - flops.head(c) * G * T
  stats = jax.devices()[0].memory_stats() or {}
  say(
    'learn', model=options.model, head=options.head, remat=options.remat,
    unroll=options.unroll, kernel=options.kernel,
    head_chunk=options.head_chunk, microbatches=options.microbatches,
    step_s=round(took, 3), first_s=round(times[0], 1),
    tflop_s=round(P * needed / took / 1e12, 1),
    share_of_peak=round(P * needed / took / PEAK, 3),
    peak_gib=round(stats.get('peak_bytes_in_use', 0) / 2**30, 1),
    loss=float(metrics['loss']),
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


# A whole step.


def step(options):
  P, G = options.prompts or 8, 8
  S, T = options.prompt_length, options.completion_length
  # First, because JAX takes most of the memory of a GPU for itself.
  torch_s = torch_step(options, P, G)
  decoder, state, update = make_learner(options)
  vocab_size, times = decoder.config.vocab_size, []
  for seed in range(3):
    start = time.perf_counter()
    published = publish(decoder, state.params)
    groups = decode.sample(
      decoder, published, random_requests(options, vocab_size, P, G, seed)
    )
    del published
    sampled = time.perf_counter()
    tokens_PGT, behavior_PGT = (
      jnp.asarray([[getattr(row, name) for row in group] for group in groups])
      for name in ('tokens', 'policy_logprobs')
    )
    batch = dataclasses.replace(
      random_batch(P, G, S, T, vocab_size),
      tokens_PGT=tokens_PGT, behavior_PGT=behavior_PGT,
    )  # fmt: skip
    state, metrics = update(state, batch)
    jax.block_until_ready(metrics)
    times.append((sampled - start, time.perf_counter() - sampled))
  sample_s, learn_s = times[-1]  # One step after others, as of torch.
  say(
    'step', model=options.model, microbatches=options.microbatches,
    sample_s=round(sample_s, 3), learn_s=round(learn_s, 3), torch=torch_s,
    times_as_fast=torch_s and round(
      sum(torch_s.values()) / (sample_s + learn_s), 2
    ),
  )  # fmt: skip


def torch_step(options, P, G) -> dict[str, float] | None:
  """Returns the seconds that torch and transformers take; None without them."""
  if not all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    return None
  c = zoo.get(options.model)
  config = {
    'vocab_size': c.vocab_size, 'hidden_size': c.embed_dim,
    'intermediate_size': c.mlp_dim, 'num_hidden_layers': c.num_layers,
    'num_attention_heads': c.num_heads, 'head_dim': c.head_dim,
    'num_key_value_heads': c.num_kv_heads,
    'tie_word_embeddings': c.tied_head,
  }  # fmt: skip
  sizes = P, G, options.prompt_length, options.completion_length
  program = str(FOLDER / 'torch_step.py')
  done = subprocess.run(
    [sys.executable, program, json.dumps(config), *map(str, sizes)],
    capture_output=True, text=True,
  )  # fmt: skip
  if done.returncode:
    raise SystemExit(f'torch_step.py: {done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


RUN = {
  'attention': attention, 'experts': experts, 'sample': sample, 'learn': learn,
  'step': step,
}  # fmt: skip

if __name__ == '__main__':
  main()
