"""Speed of the sampler.

    python benchmarks/sampling.py spec --size tiny      groups of one length
    python benchmarks/sampling.py tail --size tiny      engine vs. static
    python benchmarks/sampling.py peers --size tiny --folder F --trl PYTHON \\
        --tunix PYTHON      the same work by transformers, TRL and Tunix
    python benchmarks/sampling.py spec --model qwen3_06b --dtype bfloat16 \\
        --prompts 32 --prompt_length 1024 --completion_length 512

Prints a line of JSON. The work is `prompts` random prompts with 8 completions
each, random weights, temperature 1; nothing stops early. tokens_per_second is
sampled tokens over the whole time, prompts included: the median of `repeat`
runs after one that compiles.

The limit of a decode step is the larger of two times; core/types.py says what
the letters mean, S and T are the tokens of a prompt and of a completion:
  arithmetic  2 B (weights of the layers + V D) + 4 B L N H (S + T / 2)
              operations, counting only chosen experts, over the rate of a
              product of two large matrices in the same process
  bandwidth   bytes of all weights (of the experts, only those that B rows are
              expected to choose; the head in float32), of the keys and values
              of each prompt once, and of T / 2 tokens of each row, over the
              bandwidth of a copy of an array larger than any cache
share_of_limit is the limit of all T steps over the measured time, which
includes the prompts. All figures are for one device.

`tail`: lengths have a heavy tail. 1 in 16 samples runs to the limit, the others
are log-normal around an eighth of it (sigma 0.5). The engine has as many slots
as the static sampler has rows in a batch, and both get the same requests. With
`slots`, a second engine, `scarce`, has this many slots, but no more positions
in its cache of completions than the first. rows_while_waiting is the mean
number of rows that sampled a new token in a step, as long as requests waited.

`peers`: F is the folder of the benchmark of the peers. It holds spec.json and
the programs peer_*.py; run its prepare.py first. For other lengths, set the
environment variable BENCH_ASSETS to the folder that was prepared for them. We
and the peers take turns, `rounds` times, and the best round of each counts.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import compilations, weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler

GROUP = 8
SIZES = {
  'tiny': zoo.qwen3(
    num_layers=4, embed_dim=192, num_heads=6, num_kv_heads=2, head_dim=32,
    mlp_dim=512, vocab_size=4096, tied_head=True,
  ),
  'small': zoo.qwen3(
    num_layers=8, embed_dim=512, num_heads=8, num_kv_heads=4, head_dim=64,
    mlp_dim=1408, vocab_size=8192, tied_head=True,
  ),
}  # fmt: skip


def make_decoder(arguments):
  """Returns (decoder, random parameters)."""
  model = arguments.model
  config = zoo.get(model) if model else SIZES[arguments.size]
  layout = make_layout(devices=jax.devices()[:1])
  decoder = Decoder(config, Compute(dtype=arguments.dtype), layout)
  params = weights.init(
    decoder_lib.specs(config), jax.random.key(0), layout=layout,
    dtype=arguments.dtype,
  )  # fmt: skip
  return decoder, params


def make_requests(arguments, config, seed, limits=None) -> list[Request]:
  rng = np.random.default_rng(seed)
  shape = (arguments.prompts, arguments.prompt_length)
  tokens = rng.integers(0, config.vocab_size, shape).tolist()
  return [
    Request(
      prompt_tokens=tuple(row), id=f'{seed}/{i}', samples=GROUP,
      max_new_tokens=limits[i] if limits else arguments.completion_length,
    )
    for i, row in enumerate(tokens)
  ]  # fmt: skip


def measure_spec(arguments) -> dict:
  decoder, params = make_decoder(arguments)
  engine = None
  if arguments.engine:
    plan = Plan(
      slots=arguments.prompts * GROUP, group=GROUP, prompts=arguments.prompts,
      max_prompt_tokens=arguments.prompt_length,
      max_new_tokens=arguments.completion_length, chunk=32,
    )  # fmt: skip
    engine = Engine(decoder, params, plan)
    sample = lambda requests: list(Sampler(engine).run(requests))  # noqa: E731
  else:
    sample = functools.partial(decode.sample, decoder, publish(decoder, params))
  del params
  with compilations.counted() as first:
    sample(make_requests(arguments, decoder.config, 0))
  times, tokens = [], 0
  with compilations.counted() as later:
    for seed in range(1, arguments.repeat + 1):
      requests = make_requests(arguments, decoder.config, seed)
      start = time.perf_counter()
      groups = sample(requests)
      times.append(time.perf_counter() - start)
      tokens = sum(len(c.tokens) for group in groups for c in group)
  seconds = statistics.median(times)
  peak = peak_megabytes()  # Before `limit` allocates its arrays.
  return {
    'sampler': 'engine' if arguments.engine else 'static',
    'tokens_per_second': round(tokens / seconds, 1),
    'seconds': [round(t, 3) for t in sorted(times)],
    **limit(arguments, decoder, seconds),
    'compilations': first.count,
    'compilations_after_the_first_batch': later.count,
    'padding': padding(arguments, engine),
    'peak_megabytes': peak,
  }


def limit(arguments, decoder, seconds) -> dict:
  """Compares the decode steps of a batch with the limit (module docstring)."""
  c, P = decoder.config, arguments.prompts
  S, T = arguments.prompt_length, arguments.completion_length
  B, itemsize = P * GROUP, jnp.dtype(decoder.compute.dtype).itemsize
  head = c.vocab_size * c.embed_dim
  layers = weights.count(decoder_lib.specs(c)['layers'])
  read = layers
  if c.num_experts:
    E, k = c.num_experts, c.experts_per_token
    expert = 3 * c.num_layers * c.embed_dim * c.mlp_dim
    layers -= expert * (E - k)
    read -= expert * E * (1 - k / E) ** B
  kv = 2 * c.num_layers * c.num_kv_heads * c.head_dim
  queries = c.num_layers * c.num_heads * c.head_dim
  operations = 2 * B * (layers + head) + 4 * B * queries * (S + T / 2)
  num_bytes = itemsize * (read + kv * (P * S + B * T / 2)) + 4 * head
  flops, bandwidth = peak_flops(arguments.dtype), peak_bandwidth()
  least = T * max(operations / flops, num_bytes / bandwidth)
  bound = (
    'arithmetic'
    if operations / flops > num_bytes / bandwidth
    else ('bandwidth')
  )
  return {
    'share_of_limit': round(least / seconds, 3),
    'limit': bound,
    'gigaflops_per_second_reached': round(T * operations / seconds / 1e9, 1),
    'gigaflops_per_second_of_a_product': round(flops / 1e9, 1),
    'gigabytes_per_second_reached': round(T * num_bytes / seconds / 1e9, 1),
    'gigabytes_per_second_of_a_copy': round(bandwidth / 1e9, 1),
  }


def padding(arguments, engine: Engine | None) -> dict:
  """Returns the shares of prompt positions and row steps that are padding."""
  if engine:
    count = engine.counts
    prompts = count['prompt_tokens'] / count['prompt_positions']
    steps = count['tokens'] / count['row_steps']
  else:  # All samples have the same length, so no row waits for another.
    P, S = arguments.prompts, arguments.prompt_length - 1
    prompts = P * S / (_rows(P) * decode.bucket(S))
    steps = P / _rows(P)
  return {'of_prompts': round(1 - prompts, 3), 'of_steps': round(1 - steps, 3)}


def _rows(prompts) -> int:
  return decode.bucket(prompts, least=1)


def peak_flops(dtype) -> float:
  # Large enough that the time of a launch does not matter.
  n = 2048 if jax.default_backend() == 'cpu' else 16_384
  x = jnp.ones((n, n), dtype)
  return 2 * n**3 / _best_seconds(jax.jit(lambda x: x @ x), x)


def peak_bandwidth() -> float:
  size = 2**26 if jax.default_backend() == 'cpu' else 2**30
  x = jnp.zeros(size, jnp.float32)  # Larger than any cache.
  return 2 * x.nbytes / _best_seconds(jax.jit(lambda x: x + 1), x)


def _best_seconds(function, x) -> float:
  times = []
  for _ in range(8):
    start = time.perf_counter()
    jax.block_until_ready(function(x))
    times.append(time.perf_counter() - start)
  return min(times)


def peak_megabytes() -> int:
  """Returns peak memory of the device if it is known, else of the process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] // 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure_tail(arguments) -> dict:
  decoder, params = make_decoder(arguments)
  rows = arguments.prompts  # Prompts in a batch of the static sampler.
  arguments.prompts = rows * arguments.batches
  limits = heavy_tail(arguments.prompts, arguments.completion_length)
  requests = make_requests(arguments, decoder.config, 0, limits)
  published = publish(decoder, params)
  plan = Plan(
    slots=rows * GROUP, group=GROUP, prompts=arguments.prefixes,
    max_prompt_tokens=arguments.prompt_length,
    max_new_tokens=arguments.completion_length, chunk=arguments.chunk,
  )  # fmt: skip
  engines = {'engine': Engine(decoder, params, plan)}
  engine = engines['engine']
  if arguments.slots:
    scarce = dataclasses.replace(
      plan, slots=arguments.slots, prompts=None,
      own_tokens=plan.num_blocks * plan.block_size,
    )  # fmt: skip
    engines['scarce'] = Engine(decoder, params, scarce)

  def static():
    for first in range(0, len(requests), rows):
      decode.sample(decoder, published, requests[first : first + rows])

  samplers = {
    name: functools.partial(_run_all, engine, requests)
    for name, engine in engines.items()
  }
  samplers['static'] = static
  for one in engines.values():  # This loop and the next line compile.
    list(Sampler(one).run(requests[:rows]))
    one.counts.clear()
  decode.sample(decoder, published, requests[:rows])
  seconds = {name: [] for name in samplers}
  for _ in range(arguments.repeat):
    for name, run in samplers.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  tokens = sum(sum(row) for row in limits)
  rate = {
    name: tokens / statistics.median(times) for name, times in seconds.items()
  }
  lengths = np.array(limits).ravel()
  return {
    'ratio': round(rate['engine'] / rate['static'], 2),
    **{f'{name}_tokens_per_second': round(r, 1) for name, r in rate.items()},
    'slots_in_use': round(
      engine.counts['tokens'] / engine.counts['row_steps'], 3
    ),
    'completions': lengths.size,
    'median_length': int(np.median(lengths)),
    'at_the_limit': int((lengths == arguments.completion_length).sum()),
    'chunk': arguments.chunk,
    'prefixes': plan.num_prompts,
    **_rows_in_memory(engines, requests),
  }


def _run_all(engine: Engine, requests: list[Request]):
  list(Sampler(engine).run(requests))


def _rows_in_memory(engines: dict[str, Engine], requests) -> dict:
  """Returns how many rows each engine ran in its memory, while some waited."""
  if len(engines) == 1:
    return {}
  found = collections.defaultdict(dict)
  for name, engine in engines.items():
    engine.counts.clear()
    counts = engine.counts
    for request in requests:
      engine.submit(request)
    while not engine.is_idle:
      engine.step()
      if engine.waiting:
        counts = dict(engine.counts)
    new = counts['tokens'] - counts['repeated']
    found['rows_while_waiting'][name] = round(new / counts['steps'], 1)
    found['repeated_share'][name] = round(
      counts['repeated'] / counts['tokens'], 3
    )
    found['times_put_back'][name] = engine.counts['put_back']
    found['slots'][name] = engine.plan.slots
    found['megabytes_of_completions'][name] = round(engine.memory.own / 1e6, 1)
  rows = found['rows_while_waiting']
  return {'rows_ratio': round(rows['scarce'] / rows['engine'], 2), **found}


def heavy_tail(prompts: int, longest: int) -> list[tuple[int, ...]]:
  """Returns lengths with a heavy tail for the samples of each prompt."""
  rng = np.random.default_rng(0)
  shape = (prompts, GROUP)
  lengths = np.exp(rng.normal(np.log(longest / 8), 0.5, shape))
  lengths = np.clip(lengths, 1, longest).astype(int)
  # Exactly one in sixteen runs to the limit, at random places.
  place = rng.permutation(lengths.size)[: lengths.size // 16]
  lengths.ravel()[place] = longest
  return [tuple(row) for row in lengths.tolist()]


def measure_peers(arguments) -> dict:
  folder, size = arguments.folder.absolute(), arguments.size
  environment = os.environ | {
    'BENCH_PROMPT_LENGTH': str(arguments.prompt_length),
    'BENCH_COMPLETION_LENGTH': str(arguments.completion_length),
    'BENCH_MEASURED_STEPS': str(arguments.repeat),
  }
  ours = [
    sys.executable, str(pathlib.Path(__file__).absolute()), 'spec',
    '--size', size, '--repeat', str(arguments.repeat),
    '--prompt_length', str(arguments.prompt_length),
    '--completion_length', str(arguments.completion_length),
    *(['--engine'] if arguments.engine else []),
  ]  # fmt: skip
  small_batch = '4' if size == 'small' else '8'
  hf = [arguments.trl, 'peer_hf_generate.py', '--size', size]
  commands = {
    'ours': (ours, 'tokens_per_second'),
    'transformers': (hf, 'tokens_per_s_with_prefill'),
    'transformers static': (
      [*hf, '--cache', 'static'], 'tokens_per_s_with_prefill'),
    'trl': (
      [arguments.trl, 'peer_trl.py', '--size', size, '--torch-compile',
       '--micro-sequences', small_batch], 'tokens_per_s_rollout'),
    'tunix': (
      [arguments.tunix, 'peer_tunix.py', '--size', size],
      'tokens_per_s_rollout'),
  }  # fmt: skip
  if arguments.only:
    kept = {'ours', *arguments.only.split(',')}
    commands = {name: x for name, x in commands.items() if name in kept}
  # Checked before anything is measured.
  for name, (command, _) in commands.items():
    if command[0] is None:
      option = '--tunix' if name == 'tunix' else '--trl'
      raise SystemExit(
        f'{name}: its python is not known: give {option}, or --only the others.'
      )
  rates = {name: [] for name in commands}
  for _ in range(arguments.rounds):
    for name, (command, field) in commands.items():
      done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
      )
      if done.returncode:
        raise SystemExit(f'{name}: {done.stderr[-2000:]}')
      start = done.stdout.rfind('\n{') + 1  # Skips what libraries print.
      rates[name].append(json.loads(done.stdout[start:])[field])
      print(name, rates[name][-1], file=sys.stderr)
  best = {name: max(found) for name, found in rates.items()}
  peer = max((name for name in best if name != 'ours'), key=best.get)
  return {
    'ratio': round(best['ours'] / best[peer], 2),
    'best_peer': peer,
    'tokens_per_second': rates,
  }


if __name__ == '__main__':
  measures = {
    'spec': measure_spec, 'tail': measure_tail, 'peers': measure_peers
  }  # fmt: skip
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('what', choices=list(measures))
  parser.add_argument('--size', choices=list(SIZES), default='tiny')
  parser.add_argument('--model', help='one of the zoo, instead of a size')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--prompts', type=int, default=8)
  parser.add_argument('--prompt_length', type=int, default=128)
  parser.add_argument('--completion_length', type=int, default=128)
  parser.add_argument('--repeat', type=int, default=5)
  parser.add_argument('--engine', action='store_true', help='of spec and peers')
  parser.add_argument('--batches', type=int, default=8, help='of tail')
  parser.add_argument('--chunk', type=int, default=8, help='of tail')
  parser.add_argument('--slots', type=int, help='of tail, of a second engine')
  parser.add_argument('--prefixes', type=int, help='of tail')
  parser.add_argument('--folder', type=pathlib.Path, help='of peers')
  parser.add_argument('--trl', help='python of TRL and transformers')
  parser.add_argument('--tunix', help='python of Tunix')
  parser.add_argument('--only', help='some of the peers, with commas between')
  parser.add_argument('--rounds', type=int, default=2, help='of peers')
  arguments = parser.parse_args()
  result = measures[arguments.what](arguments)
  shape = ('size', 'model', 'prompts', 'prompt_length', 'completion_length')
  shape = {name: getattr(arguments, name) for name in shape}
  print(json.dumps({**shape, 'group': GROUP, **result}))
