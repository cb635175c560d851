"""Shows whether an update and chunks of decoding run at the same time.

    python benchmarks/overlap.py

The learner has the first half of the devices. The sampler has one of the other
half, all of it, or the learner's own. Without accelerators, there are eight
virtual devices that share the cores of the CPU, so the order of events counts,
not the speed. Prints a line of JSON for each, with seconds after the dispatch
of an update, and counts:

  dispatched    the host goes on
  chunks        the number of chunks that end before the update does
  first, last   the first and the last of them
  updated       the update ends
  published     the host goes on, if after the dispatch it publishes the weights
                that the update computes; `waited` if the update has ended then

On a CPU, XLA runs one program of several devices at a time, because each of
them waits for the others in a thread, and there may be too few threads
(PjRtCpuLoadedExecutable::Execute: "We conservatively run only one collective at
a time"). So half of the devices and one overlap, and two halves do not.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.accelerator import random_batch
from rlpt_jax.algorithms import losses, policy
from rlpt_jax.core import weights
from rlpt_jax.core.layout import Axes
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import scoring, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rollout.reference import put
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.requests import Request
from rlpt_jax.training.learner import make_state, make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer

PROMPTS, SAMPLES, PROMPT, LONGEST = 16, 8, 32, 2048


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default='tiny_qwen3')
  parser.add_argument('--completion_length', type=int, default=256)
  options = parser.parse_args()
  count = jax.device_count()
  learner = 0, count // 2
  for sampler in ((learner[1], learner[1] + 1), (learner[1], count), learner):
    found = measure(options, learner, sampler)
    line = {'learner': learner, 'sampler': sampler, **found}
    print(json.dumps(line), flush=True)


def measure(options, learner, sampler) -> dict[str, float | bool]:
  """Returns the figures of two ranges of devices."""
  decoder, sampling = (
    Decoder(zoo.get(options.model), Compute(dtype='float32'), axes.layout())
    for axes in (Axes(devices=learner), Axes(data=-1, fsdp=1, devices=sampler))
  )
  state, update, batch = make_learner(decoder, options)
  with make_engine(sampling, state.params) as engine:
    # Compiles.
    state, _ = jax.block_until_ready(update(state, batch))
    engine.publish(state.params)
    engine.step()
    engine.step()

    start = time.perf_counter()
    state, metrics = update(state, batch)
    dispatched, ends = time.perf_counter() - start, []
    while not metrics['loss'].is_ready():
      engine.step()
      if not metrics['loss'].is_ready():
        ends.append(time.perf_counter() - start)
    updated = time.perf_counter() - start

    start = time.perf_counter()
    state, metrics = update(state, batch)
    engine.publish(state.params)
    published = time.perf_counter() - start
    waited = metrics['loss'].is_ready()
    jax.block_until_ready((state, engine.params))
  figures = {
    'dispatched': dispatched, 'chunks': len(ends),
    'first': min(ends, default=0), 'last': max(ends, default=0),
    'updated': updated, 'published': published,
  }  # fmt: skip
  figures = {name: round(x, 4) for name, x in figures.items()}
  return figures | {'waited': waited}


def make_learner(decoder: Decoder, options):
  """Returns (state, update, batch), with random weights and tokens."""
  specs = decoder_lib.specs(decoder.config)
  params = weights.init(specs, jax.random.key(0), layout=decoder.layout)
  optimizer = make_optimizer(AdamW(learning_rate=1e-6), specs)
  score = functools.partial(scoring.in_groups, decoder)
  update = make_update(
    policy.make_loss(score, losses.ppo), optimizer, policy.measure
  )
  batch = random_batch(
    PROMPTS, SAMPLES, PROMPT, options.completion_length,
    decoder.config.vocab_size,
  )  # fmt: skip
  return make_state(params, optimizer), update, put(decoder.layout, batch)


def make_engine(decoder: Decoder, params) -> Engine:
  """Returns an engine with more to sample than this program needs."""
  plan = Plan(
    slots=16, group=SAMPLES, max_prompt_tokens=PROMPT,
    max_new_tokens=LONGEST,
  )  # fmt: skip
  engine = Engine(decoder, params, plan)
  tokens = np.random.default_rng(0).integers(
    0, decoder.config.vocab_size, (64, PROMPT)
  )
  for i, row in enumerate(tokens.tolist()):
    engine.submit(
      Request(
        prompt_tokens=tuple(row), id=str(i), samples=SAMPLES,
        max_new_tokens=LONGEST,
      )
    )  # fmt: skip
  return engine


if __name__ == '__main__':
  main()
