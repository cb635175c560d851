"""Options of `generate`, `evaluate` and `serve`, and engine plans for them."""

import dataclasses
from typing import Any, Literal

from rlpt_jax.core.layout import Layout
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.table import Sizes

# At most this many samples of one prompt run at the same time, if there are
# enough prompts to fill the slots. With a larger number, the engine would hold
# fewer prompts. More slots would then be idle during the last samples of a
# prompt, since a new prompt can enter only after they end.
GROUP = 8


def check_options(**options):
  """Raises if a value in name=(value, least, most) is out of bounds.

  A value of None is not checked. If `most` is None, there is no upper bound.
  """
  for name, (value, least, most) in options.items():
    if value is None:
      continue
    if not least <= value <= (value if most is None else most):  # True for NaN.
      upper = '' if most is None else f' and at most {most}'
      raise ValueError(f'--{name}={value}: expected at least {least}{upper}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
  """Options for sampling completions.

  Args:
    max_new_tokens: The number of tokens after which a completion is cut.
    temperature: The sampling temperature; 0 takes the most probable token.
    top_k: Samples only from this many most probable tokens; 0 means all.
    top_p: Of these, samples only from the most probable ones that together have
      this probability.
    min_p: Drops tokens whose probability is below this share of the highest.
    stop: Ends a completion before this text, or after the special token of this
      name, in addition to EOS; may be given several times. In bash, $'\\n' is a
      line break.
    seed: The same seed gives the same completions.
  """

  max_new_tokens: int = 128
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  stop: tuple[str, ...] = ()
  seed: int = 0

  def check(self):
    """Raises if an option is out of its bounds."""
    check_options(
      max_new_tokens=(self.max_new_tokens, 1, None),
      temperature=(self.temperature, 0, 1e6),
      top_k=(self.top_k, 0, 2**31 - 1),
      top_p=(self.top_p, 1e-6, 1),
      min_p=(self.min_p, 0, 1),
      seed=(self.seed, 0, 2**32 - 1),
    )

  def settings(self) -> dict[str, Any]:
    """Returns the options as they are recorded beside completions."""
    return {**vars(self), 'stop': list(self.stop)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
  """Options for loading a model and sampling from it.

  Args:
    slots: The number of completions sampled at once.
    own_tokens: The number of tokens that the cache of these completions holds;
      by default, as many as if all reached max_new_tokens.
    tokenizer: 'bytes' or a path, instead of the model's own.
    dtype: The dtype of weights and activations; log-probabilities are float32.
    cache_dtype: The dtype of cached keys and values; by default, as dtype.
    tensor: The number of devices that share one copy of the model.
  """

  slots: int = 64
  own_tokens: int | None = None
  tokenizer: str | None = None
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
  tensor: int = 1

  def check(self):
    """Raises if an option is out of its bounds."""
    check_options(
      slots=(self.slots, 1, None), own_tokens=(self.own_tokens, 1, None)
    )

  def settings(self) -> dict[str, Any]:
    """Returns the options that completions depend on, to be recorded."""
    return {
      'tokenizer': self.tokenizer,
      'dtype': self.dtype,
      'cache_dtype': self.cache_dtype or self.dtype,
    }


def plan_for(
  options: EngineOptions,
  *,
  prompts: int,
  samples: int,
  max_prompt_tokens: int,
  max_new_tokens: int,
  stop_ids: int,
) -> Plan:
  """Returns an engine plan with as many slots as the prompts can fill.

  prompts: the number of all prompts, including those that an earlier run
    finished, so that results do not depend on where that was interrupted.
  samples: the number of samples of each prompt.
  stop_ids: the number of tokens that end a completion.
  """
  slots = min(options.slots, samples * prompts)
  group = min(samples, slots, max(GROUP, -(-slots // prompts)))
  return Plan(
    slots=slots,
    own_tokens=options.own_tokens,
    group=group,
    # A group of one sample needs its prompt only while it has a slot, so there
    # need not be more prompts than slots.
    prompts=min(prompts, slots if group == 1 else 2 * -(-slots // group)),
    max_prompt_tokens=max_prompt_tokens,
    max_new_tokens=max_new_tokens,
    cache_dtype=options.cache_dtype,
    sizes=Sizes(stops=max(1, stop_ids), stop_tokens=1, phrase_tokens=1),
  )


def split_evenly(plan: Plan, layout: Layout) -> Plan:
  """Rounds slots and prompts up, so that they split evenly over devices."""
  return dataclasses.replace(
    plan,
    slots=layout.whole_batch(plan.slots),
    prompts=layout.whole_batch(plan.prompts),
  )
