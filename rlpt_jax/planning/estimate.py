"""Everything that a plan says about a run, as numbers."""

import dataclasses
import functools
import math
from typing import Any

from rlpt_jax.planning import advice, costs, memory
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.advice import Proposal
from rlpt_jax.planning.costs import Cost, Lengths, Shares
from rlpt_jax.planning.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """The memory, time and price of a run.

  price: the price of one chip for an hour, in any currency.
  """

  run: Run
  lengths: Lengths = Lengths()
  shares: Shares = Shares()
  price: float | None = None

  def __post_init__(self):
    if self.price is not None and not 0 <= self.price < math.inf:
      raise ValueError(f'--price={self.price}: expected 0 or more.')
    if not run_lib.is_rl(self.run.config) and self.lengths != Lengths():
      raise ValueError(
        f'mean lengths {tuple(self.lengths)}: expected none for train_sft, '
        'whose rows are full.'
      )
    _ = self.step  # Raises now for lengths that are too long.

  @functools.cached_property
  def memory(self) -> dict[str, int]:
    """The bytes of each part on a chip that holds it."""
    return memory.of_run(self.run)

  @functools.cached_property
  def sides(self) -> dict[str, int]:
    """The bytes of all parts on a chip, as `memory.of_sides` has them."""
    sides = memory.of_sides(self.run)
    return {side: sum(parts.values()) for side, parts in sides.items()}

  @property
  def total(self) -> int:
    return max(self.sides.values())

  @property
  def room(self) -> int:
    return int(memory.ROOM * self.run.machine.memory)

  @property
  def fits(self) -> bool:
    return memory.fits(self.run)

  @functools.cached_property
  def step(self) -> dict[str, Cost]:
    return costs.of_step(self.run, self.lengths)

  @functools.cached_property
  def seconds(self) -> dict[str, tuple[float, str]]:
    """The seconds of each part of a step, and the limit that decides."""
    machine = self.run.machine
    return {
      name: cost.seconds(machine, self.shares)
      for name, cost in self.step.items()
    }

  @property
  def step_seconds(self) -> float:
    """The length of a step; NaN if the rates of the chips are unknown."""
    total = sum(seconds for seconds, _ in self.seconds.values())
    if not self.run.overlaps:
      return total
    learning = self._learning_seconds
    sampling = total - learning
    if self.run.is_in_jobs:
      sampling /= self.sampler_jobs
    return max(learning, sampling)

  @property
  def _learning_seconds(self) -> float:
    return sum(
      self.seconds[part][0] for part in costs.OF_LEARNER if part in self.seconds
    )

  @functools.cached_property
  def sampler_jobs(self) -> int:
    """The fewest jobs that sample as fast as the learner learns."""
    total = sum(seconds for seconds, _ in self.seconds.values())
    learning = self._learning_seconds
    if math.isnan(total) or not self.run.overlaps:
      return 1
    return max(1, math.ceil((total - learning) / learning))

  @property
  def chips(self) -> int:
    """The chips of all jobs."""
    run = self.run
    if not run.is_in_jobs:
      return run.machine.chips
    one = run.sampler.layout.mesh.size
    return run.learner.layout.mesh.size + self.sampler_jobs * one

  @property
  def hours(self) -> float:
    return self.run.config.num_steps * self.step_seconds / 3600

  @property
  def cost(self) -> float | None:
    if self.price is None:
      return None
    return self.hours * self.chips * self.price

  @functools.cached_property
  def num_microbatches(self) -> int | None:
    """The fewest microbatches that fit, with the other settings as they are."""
    return advice.fewest_microbatches(self.run)

  def with_fewest(self) -> 'Estimate':
    """Returns the estimate with the fewest microbatches that fit, if any do."""
    if self.num_microbatches is None:
      return self
    config = run_lib.with_microbatches(self.run.config, self.num_microbatches)
    return dataclasses.replace(
      self, run=dataclasses.replace(self.run, config=config)
    )

  @functools.cached_property
  def proposals(self) -> list[Proposal]:
    return advice.proposals(self.run)

  def notes(self) -> list[str]:
    """Returns what the numbers leave out."""
    run, notes = self.run, []
    known = [judge.model for judge, _ in memory.known_judges(run)]
    for judge in run.local_judges:
      if judge.model not in known:
        notes.append(f'the judge {judge.model} is not here, so not counted')
    if asked := costs.asked_elsewhere(run):
      notes.append(
        f'a step asks judges behind a URL {asked:,} times; their time is not '
        'counted'
      )
    if run.machine.flops is None:
      notes.append(f'no data sheet has rates of {run.machine}: no times')
    elif run.machine.links is None:
      notes.append(
        'the network between hosts is unknown: it costs no time here'
      )
    return notes

  def to_dict(self) -> dict[str, Any]:
    """Returns the numbers as JSON has them."""
    run, fewest = self.run, self.with_fewest()
    return {
      'chips': str(run.machine),
      'fits': self.fits,
      'bytes': {'all': self.total, 'room': self.room, **self.memory},
      'bytes_of_sides': self.sides,
      'microbatches': {
        'now': run_lib.num_microbatches(run.config),
        'fewest': self.num_microbatches,
        'seconds': fewest.step_seconds if fewest.fits else None,
      },
      'step': {
        name: {
          'flops_needed': cost.needed, 'flops_computed': cost.computed,
          'bytes_moved': cost.moved, 'bytes_received': cost.received,
          'seconds': self.seconds[name][0], 'limit': self.seconds[name][1],
        }
        for name, cost in self.step.items()
      },
      'shares': dataclasses.asdict(self.shares),
      'step_seconds': self.step_seconds,
      'num_steps': run.config.num_steps,
      'hours': self.hours,
      'cost': self.cost,
      'sampler_jobs': self.sampler_jobs if run.is_in_jobs else None,
      'proposals': [list(proposal.settings) for proposal in self.proposals],
      'least_chips': advice.least_chips(run),
      'notes': self.notes(),
    }  # fmt: skip


def without_nan(value: Any) -> Any:
  """Returns JSON data with None instead of NaN, because JSON has no NaN."""
  if isinstance(value, dict):
    return {name: without_nan(x) for name, x in value.items()}
  if isinstance(value, float) and math.isnan(value):
    return None
  return value
