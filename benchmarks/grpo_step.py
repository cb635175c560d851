"""Speed of a whole GRPO step.

    python benchmarks/grpo_step.py --folder F --size tiny
    python benchmarks/grpo_step.py --folder F --size tiny --trl PYTHON \\
        --tunix PYTHON      the same work by TRL and Tunix, in turn with ours

F is the folder of the benchmark of the peers, TRL and Tunix. It holds spec.json
and the programs peer_*.py; run its prepare.py first. For other lengths, set the
environment variables BENCH_PROMPT_LENGTH and BENCH_COMPLETION_LENGTH, and
BENCH_ASSETS to the folder that was prepared for them; the peers read them too.
Prints JSON with the same fields as the peers. If peers run, it adds the ratio
of their step time to ours. All figures are from the best of `rounds` processes.

A step is rollout by the engine, decoding of tokens to text, reward, advantages,
loss, backward pass, Adam, and the copy of the new weights to the engine.
models/flops.py counts its work. share_of_products is this work per second over
the rate of a product of two large matrices in the same process.
"""

import argparse
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

STARTED = time.time()  # Before the import of jax.


def main(arguments):
  folder = arguments.folder.absolute()
  ours = [
    arguments.ours, str(pathlib.Path(__file__).absolute()), '--folder',
    str(folder), '--size', arguments.size, '--one',
    '--num_microbatches', str(arguments.num_microbatches),
    '--remat', arguments.remat,
    *(['--unroll'] if arguments.unroll else []),
  ]  # fmt: skip
  compiled = ['--torch-compile', '--micro-sequences']
  small = '4' if arguments.size == 'small' else '8'
  commands = {'ours': ours}
  if arguments.trl:
    trl = [arguments.trl, 'peer_trl.py', '--size', arguments.size]
    commands['trl'] = [*trl, *compiled, small]
  if arguments.tunix:
    commands['tunix'] = [
      arguments.tunix, 'peer_tunix.py', '--size', arguments.size
    ]  # fmt: skip
  found = {name: [] for name in commands}
  for _ in range(arguments.rounds):
    for name, command in commands.items():
      done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
      if done.returncode:
        raise SystemExit(f'{name}: {done.stderr[-2000:]}')
      start = done.stdout.rfind('\n{\n') + 1  # Skips what libraries print.
      found[name].append(json.loads(done.stdout[start:]))
      step = found[name][-1]['step_s']['median']
      print(f'{name}: {step} s a step', file=sys.stderr)
  best = {
    name: min(results, key=lambda result: result['step_s']['median'])
    for name, results in found.items()
  }
  result = dict(best['ours'])
  for name in best.keys() - {'ours'}:
    result[f'times_{name}'] = round(
      best[name]['step_s']['median'] / result['step_s']['median'], 2
    )
    result[name] = {
      field: best[name][field]
      for field in (
        'step_s', 'rollout_s', 'train_s', 'tokens_per_s_rollout',
        'time_to_first_step_s', 'peak_rss_mib',
      )
    }  # fmt: skip
  print(json.dumps(result))


def measure(arguments) -> dict:
  """Measures our step; returns the same fields as the peers."""
  import jax
  import numpy as np

  from rlpt_jax.algorithms import advantages, losses, policy, reductions
  from rlpt_jax.core import tokenizer as tokenizer_lib
  from rlpt_jax.core.compiled_ahead import trimmed
  from rlpt_jax.core.layout import make_layout
  from rlpt_jax.inference import model_files
  from rlpt_jax.models import decoder as decoder_lib
  from rlpt_jax.models import flops, scoring
  from rlpt_jax.models.config import Compute, Decoder
  from rlpt_jax.sampling.decode import bucket
  from rlpt_jax.sampling.engine import Engine
  from rlpt_jax.sampling.plan import Plan
  from rlpt_jax.sampling.requests import Request
  from rlpt_jax.sampling.sampler import Sampler
  from rlpt_jax.training.experience import Group, make_batch
  from rlpt_jax.training.learner import make_state, make_update
  from rlpt_jax.training.optimizer import AdamW, make_optimizer

  spec = json.loads((arguments.folder / 'spec.json').read_text())
  grpo, steps = spec['grpo'], spec['measure']
  for name in ('prompt_length', 'completion_length'):
    grpo[name] = int(os.environ.get(f'BENCH_{name.upper()}', grpo[name]))
  assets = os.environ.get('BENCH_ASSETS', arguments.folder / 'assets')
  assets = pathlib.Path(assets) / arguments.size
  P, G = grpo['num_prompts'], grpo['group_size']
  S, T = grpo['prompt_length'], grpo['completion_length']

  files = model_files.find(assets / 'model')
  # The tokenizer's end token is not in the vocabulary of the model, so that
  # nothing stops early. A check of the tokenizer against the model would fail.
  tokenizer = tokenizer_lib.load(assets / 'tokenizer')
  decoder = Decoder(
    files.config,
    Compute(
      dtype='float32', unroll=arguments.unroll, remat=arguments.remat
    ),
    make_layout(),
  )  # fmt: skip
  adam = grpo['optimizer']
  optimizer = make_optimizer(
    AdamW(
      learning_rate=adam['lr'], b1=adam['b1'], b2=adam['b2'], eps=adam['eps'],
      clip_norm=None,
    ),
    decoder_lib.specs(files.config),
  )  # fmt: skip
  update = make_update(
    policy.make_loss(functools.partial(scoring.in_groups, decoder), losses.ppo),
    optimizer, policy.measure, num_microbatches=arguments.num_microbatches,
  )  # fmt: skip
  state = make_state(files.load_params(layout=decoder.layout), optimizer)
  engine = Engine(
    decoder, state.params,
    Plan(slots=P * G, group=G, prompts=P, max_prompt_tokens=S,
         max_new_tokens=T, chunk=32),
  )  # fmt: skip
  update = trimmed(update)  # As train_rl does: see planning/start.py.
  texts = json.loads((assets / 'prompts.json').read_text())
  seconds = {'step': [], 'rollout': [], 'train': []}
  first_step_s, warm = None, steps['warmup_steps']
  measured = arguments.repeat or steps['measured_steps']
  for step in range(warm + measured):
    start = time.perf_counter()
    some = [texts[(step * P + p) % len(texts)] for p in range(P)]
    requests = [
      Request(
        prompt_tokens=tuple(tokenizer.encode(text)), id=f'{step}/{p}',
        samples=G, max_new_tokens=T,
      )
      for p, text in enumerate(some)
    ]  # fmt: skip
    samples = list(Sampler(engine).complete(requests, tokenizer))
    sampled = time.perf_counter()
    groups = [
      Group(
        request.prompt_tokens,
        [sample.completion for sample in group],
        np.array([vowels(sample.text) for sample in group], np.float32),
      )
      for request, group in zip(requests, samples, strict=True)
    ]
    batch = make_batch(
      groups, num_prompts=P, reduction=reductions.completion_mean,
      longest=(bucket(S), bucket(T)),
    )  # fmt: skip
    rewards_PG = np.stack([group.rewards_G for group in groups])
    advantages_PG = np.asarray(advantages.group_normalized(rewards_PG))
    batch = dataclasses.replace(batch, advantages_PG=advantages_PG)
    state, said = update(state, batch)
    jax.block_until_ready(said)
    engine.publish(state.params)
    jax.block_until_ready(engine._params)
    ended = time.perf_counter()
    first_step_s = first_step_s or time.time() - STARTED
    if step >= warm:
      seconds['step'].append(ended - start)
      seconds['rollout'].append(sampled - start)
      seconds['train'].append(ended - sampled)
  lengths = [len(request.prompt_tokens) for request in requests]
  assert set(lengths) == {S}, lengths
  work = sum(
    flops.rollout(files.config, S, [T] * G)
    + flops.update(files.config, S, [T] * G)
    for _ in range(P)
  )
  step_s = statistics.median(seconds['step'])
  rollout_s = statistics.median(seconds['rollout'])
  return {
    'peer': 'rlpt_jax',
    'size': arguments.size,
    'prompt_length': S,
    'completion_length': T,
    **{f'{name}_s': summary(times) for name, times in seconds.items()},
    'tokens_per_s_rollout': round(P * G * T / rollout_s, 1),
    'time_to_first_step_s': round(first_step_s, 1),
    'peak_rss_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    'teraflop_per_step': round(work / 1e12, 3),
    'gigaflops_per_second': round(work / step_s / 1e9, 1),
    'share_of_products': round(work / step_s / peak_flops(), 3),
    'rewards': {'mean': float(np.mean([g.rewards_G for g in groups]))},
  }


def vowels(text: str) -> float:
  """Returns the spec's reward: the share of vowels."""
  return sum(c in 'aeiou' for c in text) / max(len(text), 1)


def summary(times) -> dict[str, float]:
  return {
    'median': round(statistics.median(times), 4),
    'min': round(min(times), 4),
    'max': round(max(times), 4),
  }


def peak_flops() -> float:
  """Returns the FLOP/s of a product of two large matrices."""
  import jax
  import jax.numpy as jnp

  n, times = 2048, []
  x, product = jnp.ones((n, n)), jax.jit(lambda x: x @ x)
  for _ in range(8):
    start = time.perf_counter()
    jax.block_until_ready(product(x))
    times.append(time.perf_counter() - start)
  return 2 * n**3 / min(times)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--size', choices=['tiny', 'small'], default='tiny')
  parser.add_argument(
    '--ours', help='python of ours; best one without torch, as users have it',
    default=sys.executable,
  )  # fmt: skip
  parser.add_argument('--trl', help='python of TRL')
  parser.add_argument('--tunix', help='python of Tunix')
  parser.add_argument('--rounds', type=int, default=2)
  parser.add_argument('--repeat', type=int, help='measured steps')
  parser.add_argument('--num_microbatches', type=int, default=1)
  parser.add_argument('--unroll', action='store_true')
  parser.add_argument('--remat', default='none', help='Compute.remat')
  parser.add_argument('--one', action='store_true', help='ours, this process')
  arguments = parser.parse_args()
  if arguments.one:
    print(json.dumps(measure(arguments), indent=1))
  else:
    main(arguments)
