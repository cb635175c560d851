"""AdamW, as a run configures it. Only this module builds optax optimizers."""

import dataclasses
from typing import Literal

import jax
import optax

from rlpt_jax.core import checks
from rlpt_jax.core.checks import (
  Count,
  Natural,
  NonNegative,
  Positive,
  Share,
)
from rlpt_jax.core.weights import ParamSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
  """AdamW with a learning rate that warms up and then follows a schedule.

  The rate rises linearly over `warmup_steps`, then follows `schedule`, which
  ends at `num_steps` with `end_share` times `learning_rate`. Weight decay
  applies to matrices, not to scales and biases. ScaleRL uses eps = 1e-15: with
  gradients averaged over many tokens, 1e-8 is no longer small.
  """

  learning_rate: NonNegative
  schedule: Literal['constant', 'cosine', 'linear'] = 'constant'
  warmup_steps: Natural = 0
  num_steps: Count | None = None
  end_share: Share = 0.0
  b1: Share = 0.9
  b2: Share = 0.95
  eps: Share = 1e-8
  weight_decay: NonNegative = 0.0
  clip_norm: Positive | None = 1.0

  def __post_init__(self):
    checks.check_fields(self)
    if self.schedule != 'constant' and self.num_steps is None:
      raise self._wrong(
        'schedule', 'num_steps to be set too: the schedule ends there'
      )
    if self.num_steps is not None and self.num_steps <= self.warmup_steps:
      raise self._wrong(
        'num_steps', f'more than warmup_steps={self.warmup_steps}'
      )

  def _wrong(self, name: str, expected: str) -> ValueError:
    return checks.setting_error(type(self), name, getattr(self, name), expected)


def learning_rates(config: AdamW) -> optax.Schedule:
  """The learning rate as a function of the step, counted from 0."""
  peak, warmup = config.learning_rate, config.warmup_steps
  rest = (config.num_steps or 0) - warmup
  after = {
    'constant': lambda: optax.constant_schedule(peak),
    'cosine': lambda: optax.cosine_decay_schedule(peak, rest, config.end_share),
    'linear': lambda: optax.linear_schedule(
      peak, peak * config.end_share, rest
    ),
  }[config.schedule]()
  if not warmup:
    return after
  # Start at peak / warmup: a first step with a rate of 0 would be wasted.
  rising = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rising, after], [warmup])


def make_optimizer(config: AdamW, specs) -> optax.GradientTransformation:
  """Makes an optimizer that clips the global norm, then applies AdamW.

  specs: the ParamSpecs of the parameters, which say what is a matrix.
  """
  is_matrix = jax.tree.map(
    lambda spec: spec.fan_in is not None,
    specs,
    is_leaf=lambda x: isinstance(x, ParamSpec),
  )
  steps = [] if config.clip_norm is None else [
    optax.clip_by_global_norm(config.clip_norm)
  ]  # fmt: skip
  adamw = optax.adamw(
    learning_rates(config), b1=config.b1, b2=config.b2, eps=config.eps,
    weight_decay=config.weight_decay, mask=is_matrix,
  )  # fmt: skip
  return optax.chain(*steps, adamw)
