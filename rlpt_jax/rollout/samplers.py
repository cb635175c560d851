"""Opens the sampler that a run's schedule needs."""

import pathlib
from typing import Any

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.models.config import Decoder
from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.rollout.jobs.sampler_jobs import SamplerJobs
from rlpt_jax.rollout.schedules import Separate
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.sampler import Sampler


def open_sampler(
  config: Any, files: ModelFiles, params, tokenizer: Tokenizer, *,
  workdir: pathlib.Path, version: int,
) -> Sampler | SamplerJobs:  # fmt: skip
  """Returns the sampler of the policy that a run's schedule needs.

  config: that of train_rl.
  version: the number of updates that the weights have seen.
  """
  if not isinstance(config.schedule, Separate):
    return open_own_sampler(config, files, params, tokenizer, version)
  own = None
  if config.held_out:
    own = open_own_sampler(config, files, params, tokenizer, version)
  layout = config.hardware.layout.layout()
  return SamplerJobs(
    workdir, Decoder(files.config, config.compute, layout), params,
    contact=config.hardware.contact, samples=config.sampling.samples,
    num_steps=config.num_steps, version=version, own=own,
  )  # fmt: skip


def open_own_sampler(
  config: Any, files: ModelFiles, params, tokenizer: Tokenizer, version: int
) -> Sampler:
  """Returns a sampler of the policy on the devices of this process."""
  layout = config.hardware.sampler_layout.layout()
  decoder = Decoder(files.config, config.compute, layout)
  plan = plan_for(config, tokenizer)
  return Sampler(Engine(decoder, params, plan, version=version))
