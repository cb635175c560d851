"""The model that a command samples from at the moment."""

import jax

from rlpt_jax.completions.options import EngineOptions, split_evenly
from rlpt_jax.inference import model_files
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.training import fingerprints


class CurrentModel:
  """Holds one model at a time; models with equal configs share a sampler.

  sampler: samples from the current model.
  fingerprint: 32 bits that distinguish the current weights from others.
  """

  def __init__(self, plan: Plan, options: EngineOptions):
    self._plan, self._options = plan, options
    self._files: ModelFiles | None = None
    self.sampler: Sampler | None = None
    self.fingerprint: int | None = None

  def __enter__(self) -> 'CurrentModel':
    return self

  def __exit__(self, *_):
    if self.sampler:
      self.sampler.close()

  def load(self, files: ModelFiles, about: str = ''):
    """Makes a model the current one, in place of the one before.

    about: printed before the model's description and the memory it takes.
    """
    if files is self._files:
      return
    options = self._options
    decoder = files.decoder(dtype=options.dtype, tensor=options.tensor)
    plan = split_evenly(self._plan, decoder.layout)
    memory = plan_lib.check(plan, decoder)
    if jax.process_index() == 0:
      print(
        f'{about}{model_files.describe(files.config)}; {plan.slots} slots, '
        f'{memory.total / 2**20:,.1f} MiB on each device',
        flush=True,
      )
    params = files.load_params(layout=decoder.layout, dtype=options.dtype)
    self.fingerprint = fingerprints.of_tree(params)
    if self.sampler and self.sampler.decoder.config == decoder.config:
      self.sampler.publish(params)
    else:
      if self.sampler:
        self.sampler.close()
      self.sampler = Sampler(Engine(decoder, params, plan, consume=True))
    self._files = files
