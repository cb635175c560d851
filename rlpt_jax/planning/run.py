"""A run to plan: its settings, the shape of its model and its machine.

Nothing of it has to be here: neither devices, nor weights, nor data.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlpt_jax.core.layout import Axes, Layout
from rlpt_jax.core.types import Batch
from rlpt_jax.inference import judges, model_files
from rlpt_jax.inference.judges import LocalModel
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Decoder, DecoderConfig
from rlpt_jax.planning import machines
from rlpt_jax.planning.machines import Here, Machine
from rlpt_jax.rollout import batches as batches_lib
from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.rollout.schedules import Ahead, Separate
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.plan import Plan

# Macros of gin files that a plan reads, and a run ignores.
CHIPS, SHAPE = 'CHIPS', 'SHAPE'


class Given(NamedTuple):
  """What gin files say of a run: its config, and macros with plain values."""

  config: Any
  macros: dict[str, Any]


class Role(NamedTuple):
  """What an update learns from in one role of the policy.

  groups: the most in a step; each has a prompt and `samples` completions.
  prompt, completion: their padded lengths.
  parts: the microbatches of the groups.
  """

  groups: int
  samples: int
  prompt: int
  completion: int
  parts: int

  @property
  def groups_at_once(self) -> int:
    return self.groups // self.parts


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of train_rl or train_sft.

  config: train_rl.Config or train_sft.Config.
  """

  config: Any
  model: DecoderConfig
  machine: Machine | Here

  def __post_init__(self):
    # Raise now for layouts and sizes that the run would refuse.
    _ = self.learner
    if is_rl(self.config):
      plan_lib.check_rows(self.engine, self.sampler.layout)

  @functools.cached_property
  def learner(self) -> Decoder:
    return self.decoder(hardware(self.config).layout)

  @functools.cached_property
  def sampler(self) -> Decoder:
    return self.decoder(self.config.hardware.sampler_layout)

  @functools.cached_property
  def engine(self) -> Plan:
    return plan_lib.fitted(plan_for(self.config), self.sampler.layout)

  def decoder(self, axes: Axes) -> Decoder:
    layout = axes.abstract(self.machine.chips, self.machine.platform)
    return Decoder(self.model, self.config.compute, layout)

  @property
  def is_apart(self) -> bool:
    """True if the learner and the sampler have separate chips."""
    if not is_rl(self.config):
      return False
    if self.is_in_jobs:
      return True
    own = self.config.hardware
    return not self.share_chips(own.layout, own.sampler_layout)

  @property
  def is_in_jobs(self) -> bool:
    """True if jobs of their own sample, each on the chips of one sampler."""
    return is_rl(self.config) and isinstance(self.config.schedule, Separate)

  @property
  def samples_ahead(self) -> bool:
    """True if slots stay full, because later batches are sampled already."""
    schedule = self.config.schedule
    return isinstance(schedule, Ahead) and schedule.max_staleness > 0

  @property
  def overlaps(self) -> bool:
    """True if the learner and the sampler work at the same time."""
    if not (self.is_apart and self.samples_ahead):
      return False
    return self.is_in_jobs or self.config.schedule.overlap

  def share_chips(self, one: Axes, other: Axes) -> bool:
    chips = (set(axes.numbers(self.machine.chips)) for axes in (one, other))
    return not set.isdisjoint(*chips)

  @property
  def has_reference(self) -> bool:
    return is_rl(self.config) and self.config.kl is not None

  @property
  def local_judges(self) -> list[LocalModel]:
    return judges.local_models(self.config.reward) if is_rl(self.config) else []


def is_rl(config: Any) -> bool:
  return hasattr(config, 'hardware')


def hardware(config: Any) -> Any:
  """Returns what has a config's layout; in train_sft that is the config."""
  return getattr(config, 'hardware', config)


def num_microbatches(config: Any) -> int | None:
  return hardware(config).num_microbatches


def possible_microbatches(config: Any) -> list[int]:
  """Returns the numbers that divide a batch, the fewest first."""
  size = config.prompts if is_rl(config) else config.batch_size
  return [number for number in range(1, size + 1) if size % number == 0]


def roles(config: Any) -> list[Role]:
  """Returns the roles of the policy; rows of train_sft are one."""
  if not is_rl(config):
    rows = max(task.row_tokens for task in _tasks(config.data))
    return [Role(config.batch_size, 1, 0, rows, config.num_microbatches)]
  sizes = config.collector.sizes(config.prompts, config.sampling)
  return [
    Role(groups, sampling.samples, *config.longest, parts)
    for groups, sampling, parts in zip(
      sizes, config.samplings, config.collector.parts(config), strict=True
    )
  ]


def learned(config: Any, layout: Layout) -> list[Role]:
  """Returns the roles as an update has them, which may split their groups."""
  found = roles(config)
  if not is_rl(config):
    return found

  def split(role: Role) -> Role:
    rows = role.groups * role.samples
    samples = batches_lib.samples_together(
      config, layout, role.parts, *role[:4]
    )
    return role._replace(groups=rows // samples, samples=samples)

  return [split(role) for role in found]


def batches(config: Any, layout: Layout) -> list[Any]:
  """Returns the shapes of the batch of each role, if it is as long as it can.

  Most batches of train_rl are (see `training.experience.padded`).
  """

  def rows(*shape, dtype=jnp.int32):
    axes = ('batch',) + (None,) * (len(shape) - 1)
    sharding = layout.sharding(shape, axes)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def of_role(role: Role):
    P, G, S, T = role[:4]
    if not is_rl(config):
      tokens = {'tokens_BT': rows(P, T), 'segments_BT': rows(P, T)}
      return tokens | {'weights_BT': rows(P, T, dtype=jnp.float32)}
    real, mask = (rows(P, G, T, dtype=dtype) for dtype in (jnp.float32, bool))
    return Batch(
      prompts_PS=rows(P, S), prompt_mask_PS=rows(P, S),
      tokens_PGT=rows(P, G, T), present_PGT=mask, mask_PGT=mask,
      behavior_PGT=real, advantages_PG=rows(P, G, dtype=jnp.float32),
      weights_PGT=real, reference_PGT=real if config.kl_in_loss else None,
    )  # fmt: skip

  return [of_role(role) for role in learned(config, layout)]


def _tasks(data: Any) -> list[Any]:
  found = []
  for source in data.corpora:
    tasks = data.task if source.task is None else source.task
    found += tasks if isinstance(tasks, list | tuple) else [tasks]
  return found


def with_microbatches(config: Any, number: int) -> Any:
  return with_hardware(config, num_microbatches=number)


def with_hardware(config: Any, **changes: Any) -> Any:
  """Returns a config with changes to what decides its speed and memory."""
  if not is_rl(config):
    return dataclasses.replace(config, **changes)
  new = dataclasses.replace(config.hardware, **changes)
  return dataclasses.replace(config, hardware=new)


def find_machine(chips: str | None, macros: dict[str, Any]) -> Machine:
  """Returns the machine of --chips, or the one that a layout's file names."""
  name = chips or macros.get(CHIPS)
  if name is None:
    raise ValueError(
      f'Which chips? Expected --chips, such as {machines.EXAMPLES}, or a '
      f"layout's file that says {CHIPS} = 'h100:8', as those of "
      'experiments/layouts do.'
    )
  return machines.parse(name)


def find_shape(
  config: Any, model: str | None, macros: dict[str, Any]
) -> tuple[DecoderConfig, str]:
  """Returns the shape of a run's model, and where it is from.

  It is that of `model`, a name of the zoo; else that of the files of the run's
  model, if they are here; else that of the macro SHAPE.
  """
  if model:
    return zoo.get(model), f'{model}, by --model'
  name = config.model
  if name.startswith(model_files.RANDOM):
    return model_files.find(name).config, name
  why = 'is not here'
  if pathlib.Path(name).is_dir():
    try:
      return model_files.find(name).config, name
    except (OSError, ValueError):
      if SHAPE not in macros:
        raise
      why = 'has no model yet'  # The download or the run is not done.
  if SHAPE in macros:
    return zoo.get(macros[SHAPE]), f'{macros[SHAPE]}, as {name} {why}'
  raise ValueError(
    f'{name}: no such directory, so the shape of the model is unknown. Set '
    f'--model to a name of the zoo, such as qwen3_8b, or {SHAPE} = '
    "'qwen3_8b' in a gin file, as those of experiments/models have."
  )
