"""Speed of an update, by the number of lengths that it is compiled for.

    python benchmarks/lengths.py --lengths tail
    python benchmarks/lengths.py --lengths equal

Updates the tiny model of asynchronous.py, on completions of the lengths that it
has, for some values of Hardware.lengths in turn. Prints a line of JSON. Times
are medians of CPU seconds; compile_s has the first update too. computed is the
number of tokens of prompts and completions that an update computes, with
padding; real is without.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from types import SimpleNamespace

import jax
import numpy as np

from benchmarks import asynchronous
from rlpt_jax.inference import model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Decoder
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.batches import make_batches
from rlpt_jax.training import lengths as lengths_lib
from rlpt_jax.training.experience import Group, make_batch
from rlpt_jax.training.learner import make_state
from rlpt_jax.training.optimizer import make_optimizer


def main(arguments) -> dict:
  options = argparse.Namespace(**vars(arguments) | {'compiled': 1})
  first = asynchronous.make_config(
    options, pathlib.Path('none'), schedules.synchronous, slots=None
  )
  files = model_files.find(first.model)
  layout = first.hardware.layout.layout()
  decoder = Decoder(files.config, first.compute, layout)
  optimizer = make_optimizer(first.optimizer, decoder_lib.specs(files.config))
  found = {}
  for lengths in arguments.compiled:
    hardware = dataclasses.replace(first.hardware, lengths=lengths)
    config = dataclasses.replace(first, hardware=hardware)
    found[lengths] = SimpleNamespace(
      config=config,
      update=config.make_update(decoder, optimizer),
      state=make_state(
        files.load_params(layout=layout, seed=0), optimizer
      ),
      seconds=[],
    )  # fmt: skip
  for step in range(arguments.steps):
    batch, real = _batch(first, step, arguments.prompt)
    experience = SimpleNamespace(roles=[SimpleNamespace(batch=batch)])
    for each in found.values():
      start = time.process_time()
      batches = make_batches(each.config, layout, experience, None)
      each.state, metrics = each.update(each.state, *batches)
      jax.block_until_ready(metrics)
      each.seconds.append(time.process_time() - start)
      each.computed = _computed(each.config, *batches)
      each.metrics = jax.device_get(metrics)
  base = found[arguments.compiled[0]]
  return {
    'results': {
      lengths: {
        'update_s': round(statistics.median(each.seconds[1:]), 3),
        'ratio': round(
          statistics.median(
            a / b
            for a, b in zip(base.seconds[1:], each.seconds[1:], strict=True)
          ), 2,
        ),
        'compile_s': round(each.seconds[0], 1),
        'computed': each.computed, 'real': real,
        'loss': float(each.metrics['loss']),
        'gradient_norm': float(each.metrics['gradient_norm']),
      }
      for lengths, each in found.items()
    },
    'arguments': vars(arguments),
  }  # fmt: skip


def _batch(config, step: int, prompt: int):
  """Returns a batch of random tokens, and its number of tokens."""
  rng, G = np.random.default_rng(step), config.sampling.samples

  def completion(name):
    length = config.sampling._length(name)
    return SimpleNamespace(
      tokens=rng.integers(3, 100, length),
      logprobs=np.full(length, -4.6, np.float32), is_own=np.ones(length, bool),
    )  # fmt: skip

  groups = [
    Group(
      rng.integers(3, 100, prompt),
      [completion(f'{step}/{p}/{g}') for g in range(G)],
      np.zeros(G, np.float32),
    )
    for p in range(config.prompts)
  ]
  batch = make_batch(
    groups, num_prompts=config.prompts, reduction=config.reduction,
    longest=config.longest,
  )  # fmt: skip
  advantages_PG = rng.normal(size=(config.prompts, G)).astype(np.float32)
  real = batch.present_PGT.sum() + batch.prompt_mask_PS.sum()
  return dataclasses.replace(batch, advantages_PG=advantages_PG), int(real)


def _computed(config, batch) -> int:
  (P, G, T), S = batch.mask_PGT.shape, batch.prompts_PS.shape[1]
  M, lengths = config.hardware.num_microbatches, config.hardware.lengths
  some = lengths_lib.halves(T)[:lengths]
  total = 0
  for m in range(M):
    longest = np.asarray(batch.present_PGT)[m::M].sum(-1).max()
    length = min(length for length in some if length >= longest)
    total += P // M * (S + G * length)
  return total


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--lengths', choices=('tail', 'equal'), default='tail')
  parser.add_argument('--compiled', type=int, nargs='+', default=[1, 2, 3, 4])
  parser.add_argument('--model', default='random:tiny_qwen3')
  parser.add_argument('--prompts', type=int, default=16)
  parser.add_argument('--samples', type=int, default=8)
  parser.add_argument('--prompt', type=int, default=13)
  parser.add_argument('--longest', type=int, default=512)
  parser.add_argument('--microbatches', type=int, default=4)
  parser.add_argument('--steps', type=int, default=7)
  print(json.dumps(main(parser.parse_args())))
