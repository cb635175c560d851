"""The shapes of the engine that a run samples with."""

from typing import Any

from rlpt_jax.core.tokenizer import Tokenizer
from rlpt_jax.rollout.sampling import sizes
from rlpt_jax.rollout.schedules import Ahead
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.table import SIZES


def plan_for(config: Any, tokenizer: Tokenizer | None = None) -> Plan:
  """Returns an engine plan with room for a run's training and held-out samples.

  config: that of train_rl.
  tokenizer: without it, the plan has the memory of the run's, but no room for
    the words that end or interrupt a completion.
  """
  # In a stream, groups never end together: more of them have stragglers only,
  # the more samples they have. (With one in sixteen as long as eight others, 6
  # keep all slots full for groups of 16 and 32, and 4 for groups of 8.)
  samplings = (*config.samplings, config.held_out_sampling)
  group = max(sampling.samples for sampling in samplings)
  is_stream = isinstance(config.schedule, Ahead)
  spread = min(6, max(3, group // 2)) if is_stream else 2
  return Plan(
    slots=config.hardware.slots or config.prompts * config.sampling.samples,
    own_tokens=config.hardware.own_tokens,
    group=group,
    max_prompt_tokens=config.max_prompt_tokens,
    max_new_tokens=max(sampling.max_new_tokens for sampling in samplings),
    cache_dtype=config.cache_dtype,
    spread=spread,
    sizes=sizes(samplings, tokenizer) if tokenizer else SIZES,
  )
