"""Which setting to change: each proposal is planned again before it is made."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rlpt_jax.planning import memory
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.run import Run


class Proposal(NamedTuple):
  """Settings that make a run fit, as gin has them, and the run with them."""

  settings: tuple[str, ...]
  run: Run

  @property
  def num_bytes(self) -> int:
    return memory.total(self.run)


# Other values of one setting, the one that costs least first.
Lever = Callable[[Run], Iterator[Proposal]]


def fewest_microbatches(run: Run) -> int | None:
  """Returns the fewest microbatches that fit; None if none do.

  Few are fast: every microbatch reads all weights, and adds all gradients.
  """
  return next(
    (
      run_lib.num_microbatches(other.run.config)
      for other in microbatches(run)
      if memory.fits(other.run)
    ),
    None,
  )


def chosen(run: Run) -> Run:
  """Returns a run with a number of microbatches, if its number is None.

  The number is the fewest that fit, or the most if none do.
  """
  if run_lib.num_microbatches(run.config) is not None:
    return run
  most = run_lib.possible_microbatches(run.config)[-1]
  number = fewest_microbatches(run) or most
  return _with(run, run_lib.with_microbatches(run.config, number))


def proposals(run: Run) -> list[Proposal]:
  """Returns the changes that make a run fit: each alone, or all together.

  Settings that change what a run learns, such as its batch and its lengths, are
  left alone. Returns [] if the run fits or if no changes make it fit.
  """
  if memory.fits(run):
    return []
  alone = [
    other
    for lever in LEVERS
    if (other := next((x for x in lever(run) if memory.fits(x.run)), None))
  ]
  return alone or _together(run)


def _together(run: Run) -> list[Proposal]:
  """Turns one lever after another as far as it goes, until the run fits."""
  settings: tuple[str, ...] = ()
  for lever in LEVERS:
    others = list(lever(run))
    if not others:
      continue
    found = next((x for x in others if memory.fits(x.run)), None)
    if found:
      return [Proposal((*settings, *found.settings), found.run)]
    least = min(others, key=lambda other: other.num_bytes)
    if least.num_bytes < memory.total(run):
      settings, run = (*settings, *least.settings), least.run
  return []


def least_chips(run: Run) -> int:
  """Returns the chips that hold the state and gradients, and nothing else."""
  parts = memory.of_learner(run.config, run.learner)
  state = sum(parts[name] for name in ('weights', 'moments', 'gradients'))
  ways = run.learner.layout.mesh.size // run.learner.layout.mesh.shape['data']
  return math.ceil(state * ways / (memory.ROOM * run.machine.memory))


def microbatches(run: Run) -> Iterator[Proposal]:
  """Yields all numbers of microbatches, from one to a prompt or row each."""
  config = run.config
  name = 'train_rl.Hardware' if run_lib.is_rl(config) else 'train_sft.Config'
  for number in run_lib.possible_microbatches(config):
    changed = run_lib.with_microbatches(config, number)
    yield Proposal((f'{name}.num_microbatches={number}',), _with(run, changed))


def remat(run: Run) -> Iterator[Proposal]:
  """Yields rematerialization of the layers."""
  for policy in ('dots', 'layer')[run.config.compute.remat != 'none' :]:
    if policy != run.config.compute.remat:
      compute = dataclasses.replace(run.config.compute, remat=policy)
      yield _changed(run, f"models.Compute.remat='{policy}'", compute=compute)


def layout(run: Run) -> Iterator[Proposal]:
  """Yields the weights of the learner split over all of its chips."""
  axes = run_lib.hardware(run.config).layout
  if axes.data == 1:
    return
  changed = run_lib.with_hardware(
    run.config, layout=dataclasses.replace(axes, data=1, fsdp=-1)
  )
  yield Proposal(
    ('the learner: layout.Axes.data=1, fsdp=-1',), _with(run, changed)
  )


def cache(run: Run) -> Iterator[Proposal]:
  """Yields caches of int8."""
  if not run_lib.is_rl(run.config) or run.machine.platform == 'cpu':
    return
  if run.config.cache_dtype != 'int8':
    yield _changed(
      run, "train_rl.Config.cache_dtype='int8'", cache_dtype='int8'
    )


def own_tokens(run: Run) -> Iterator[Proposal]:
  """Yields less room for completions, down to the longest one for each chip.

  Chips that split the weights of the sampler count as one.
  """
  if not run_lib.is_rl(run.config):
    return
  plan = run.engine
  step = run.sampler.layout.batch_size * plan.block_size
  unit = step * plan.columns
  count = plan.num_blocks * plan.block_size
  while count > unit:
    # Whole blocks, and as many for each of the chips.
    count = max(count * 7 // 8 // step * step, unit)
    changed = run_lib.with_hardware(run.config, own_tokens=count)
    setting = f'train_rl.Hardware.own_tokens={count}'
    yield Proposal((setting,), _with(run, changed))


def slots(run: Run) -> Iterator[Proposal]:
  """Yields fewer slots, an eighth less each time, down to one for each chip.

  Chips that split the weights of the sampler count as one.
  """
  if not run_lib.is_rl(run.config):
    return
  unit, count = run.sampler.layout.batch_size, run.engine.slots
  while count > unit:
    count = max(count * 7 // 8 // unit, 1) * unit
    changed = run_lib.with_hardware(run.config, slots=count)
    yield Proposal((f'train_rl.Hardware.slots={count}',), _with(run, changed))


def sampler(run: Run) -> Iterator[Proposal]:
  """Yields samplers whose weights and caches are split over more chips."""
  if not run_lib.is_rl(run.config):
    return
  mesh, axes = run.sampler.layout.mesh, run.config.hardware.sampler_layout
  tensor = 2 * mesh.shape['tensor']
  while tensor <= mesh.size and run.model.num_heads % tensor == 0:
    if mesh.size % tensor:
      return
    changed = run_lib.with_hardware(
      run.config,
      sampler_layout=dataclasses.replace(
        axes, data=-1, fsdp=1, tensor=tensor, expert=1
      ),
    )
    try:
      other = _with(run, changed)
    except ValueError:  # Its slots are no multiple of the new batch.
      return
    data = mesh.size // tensor
    yield Proposal(
      (f'the sampler: layout.Axes.data={data}, tensor={tensor}',), other
    )
    tensor *= 2


LEVERS: tuple[Lever, ...] = (
  layout, microbatches, remat, own_tokens, cache, slots, sampler
)  # fmt: skip


def _changed(run: Run, setting: str, **changes: Any) -> Proposal:
  config = dataclasses.replace(run.config, **changes)
  return Proposal((setting,), _with(run, config))


def _with(run: Run, config: Any) -> Run:
  return dataclasses.replace(run, config=config)
