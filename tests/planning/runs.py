"""Runs to plan. Nothing of them is here."""

import pathlib

from rlpt_jax.core.layout import Axes
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute
from rlpt_jax.planning import machines
from rlpt_jax.planning.run import Run
from rlpt_jax.programs import train_rl
from rlpt_jax.rollout.sampling import Sampling
from tests.programs import learning_task

NOWHERE = pathlib.Path('nowhere')


def rl(**changes) -> train_rl.Config:
  """8 prompts of 32 tokens with 4 completions of 16, in 2 microbatches."""
  options = {
    'prompts': 8,
    'sampling': Sampling(samples=4, max_new_tokens=16),
    'max_prompt_tokens': 32,
    'held_out': None,
    'compute': Compute(dtype='bfloat16', remat='layer'),
    'hardware': hardware(),
  }
  return learning_task.learning(
    NOWHERE, 'random:tiny_qwen3', **options | changes
  )


def hardware(**changes) -> train_rl.Hardware:
  options = {
    'layout': Axes(), 'sampler_layout': Axes(data=-1, fsdp=1),
    'num_microbatches': 2, 'slots': 16,
  }  # fmt: skip
  return train_rl.Hardware(**options | changes)


def apart(**changes) -> train_rl.Hardware:
  """A learner on the first four of eight chips, a sampler on the others."""
  options = {
    'layout': Axes(devices=(0, 4)),
    'sampler_layout': Axes(data=2, fsdp=1, tensor=2, devices=(4, 8)),
  }
  return hardware(**options | changes)


def sft(**changes):
  options = {'layout': Axes(), 'num_microbatches': 4}
  return learning_task.cold_start(NOWHERE, **options | changes)


def run(config=None, model='tiny_qwen3', chips='h100:1') -> Run:
  return Run(config or rl(), zoo.get(model), machines.parse(chips))
