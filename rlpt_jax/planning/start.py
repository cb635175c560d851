"""Plans a run's memory and compiles its update before it starts."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import jax

from rlpt_jax.core.compiled_ahead import CompiledAhead, trimmed
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning import advice, memory
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.machines import Here
from rlpt_jax.planning.run import Run
from rlpt_jax.sampling import plan as plan_lib

logger = logging.getLogger(__name__)
GIB = 2**30
IN_BACKGROUND = ('tpu',)  # Platforms.


def planned(config: Any, decoder: Decoder) -> Any:
  """Returns a config with its number of microbatches; raises as `check` does.

  If the number is None, it becomes the fewest that fit the devices, or the most
  if none do.
  """
  if run_lib.num_microbatches(config) is None:
    # On one host, since the memory of devices may differ a little.
    number = on_one_host(_choose)(config, decoder)
    config = run_lib.with_microbatches(config, number)
    if jax.process_index() == 0:
      print(f'num_microbatches={number}, chosen for the memory of the devices')
  # On one host, or one would raise while the others wait for it.
  on_one_host(check)(config, decoder)
  return config


@contextlib.contextmanager
def compiling(update: Callable, config: Any, state, layout: Layout):
  """Yields the update; on a TPU, it is compiled from now on, in a thread.

  Not on a GPU: there the compiler tries kernels and measures their time, which
  is longer while others run. Nor on a CPU, where compiling and sampling compete
  for the cores (benchmarks/README.md).
  """
  if layout.platform not in IN_BACKGROUND:
    yield trimmed(update) if layout.platform == 'cpu' else update
    return
  ahead = CompiledAhead(update, state, *run_lib.batches(config, layout))
  try:
    yield ahead
  finally:
    if ahead.is_compiling:
      logger.warning('Waiting for the compiler, which cannot be stopped.')


def _choose(config: Any, decoder: Decoder) -> int:
  limit = plan_lib.capacity(decoder.layout)
  if limit is None:
    raise ValueError(
      'num_microbatches=None: the devices do not report their memory. Expected '
      'a number; `rlpt plan` proposes one.'
    )
  here = Here(jax.device_count(), decoder.layout.platform, limit)
  run = advice.chosen(Run(config, decoder.config, here))
  return run_lib.num_microbatches(run.config)


def check(config: Any, decoder: Decoder):
  """Raises if an update cannot fit the devices; warns if it probably does not.

  Raises only for what is certain. Weights, two moments and one gradient of each
  weight are in float32 and there at once, because the gradient's norm is known
  before the first weight changes; a frozen reference is there too. The rest of
  the arithmetic depends on the compiler, and may be a tenth too high.

  config: train_rl.Config or train_sft.Config.
  """
  limit = plan_lib.capacity(decoder.layout)
  if limit is None:
    return
  parts = memory.of_learner(config, decoder)
  state = {
    'weights': parts['weights'],
    'moments': parts['moments'],
    'gradients': parts['weights'],
  }
  if run_lib.is_rl(config) and config.kl is not None:
    parts['reference'] = state['reference'] = parts['weights']
  if sum(state.values()) > limit:
    raise ValueError(
      f'The run does not fit: on each device {_listed(state)}, of '
      f'{_gib(limit)}. Split the weights over more devices '
      f'({_setting(config)} with a larger fsdp or tensor), or train a smaller '
      'model; `rlpt plan` says more.'
    )
  if sum(parts.values()) > limit:
    logger.warning(
      'The run will probably not fit: on each device %s, of %s. %s; '
      '`rlpt plan` says more.',
      _listed(parts), _gib(limit), _change(config, decoder, limit),
    )  # fmt: skip


def _setting(config: Any) -> str:
  is_rl = run_lib.is_rl(config)
  return 'train_rl.Hardware.layout' if is_rl else 'train_sft.Config.layout'


def _change(config: Any, decoder: Decoder, limit: int) -> str:
  """Names the setting that makes the learner's part fit, if there is one."""
  name = _setting(config).replace('layout', 'num_microbatches')
  for number in run_lib.possible_microbatches(config):
    parts = memory.of_learner(
      run_lib.with_microbatches(config, number), decoder
    )
    if sum(parts.values()) <= limit:
      return f'Set {name}={number}'
  if decoder.compute.remat != 'layer':
    return "Set models.Compute.remat='layer', with more microbatches"
  return 'Use more devices, or shorter texts'


def _listed(parts: dict[str, int]) -> str:
  return ', '.join(f'{name} {_gib(size)}' for name, size in parts.items())


def _gib(num_bytes: int) -> str:
  return f'{num_bytes / GIB:.2f} GiB'
