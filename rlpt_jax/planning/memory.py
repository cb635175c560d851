"""The bytes that a run takes on each chip, by part, in plain arithmetic.

Parts are added as if all were there at once, which holds while an update runs:
the sampler keeps its weights and caches meanwhile. If the learner and the
sampler have separate chips, each side has its own sum. benchmarks/README.md has
measurements of the learner's part on an H200. This arithmetic is within 6% of
them (tests/planning/memory_test.py).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rlpt_jax.core import weights
from rlpt_jax.core.layout import Layout
from rlpt_jax.inference import model_files
from rlpt_jax.inference.judges import Answering, LocalModel
from rlpt_jax.models import attention, cache, head
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Compute, Decoder, DecoderConfig
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.run import Role, Run
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.plan import Plan

# The share of a chip that a plan fills. The rest is for the compiler's copies,
# the runtime, and memory that is free but in pieces.
ROOM = 0.9
# The parts of a sampler; all others but judges are the learner's.
OF_SAMPLER = ('sampler', 'caches', 'logits')
# Bytes of a token in a batch: in the batch's arrays, in their copies that are
# split into microbatches, and in what an update returns for its metrics.
BATCH = 2 * (4 + 1 + 1 + 4 + 4) + (4 + 4 + 1)
# Bytes of a logit in the head's loss. Accelerators hold float32 logits, and
# gradients with their inputs in bfloat16; exact heads, four arrays in float32.
LOGIT, EXACT_LOGIT = 8, 16
# Bytes of a pair of tokens and a head, where attention has no kernel: four
# float32 arrays in the layer at work, and without rematerialization one and a
# half that each layer keeps (measured on a CPU).
SCORES, KEPT_SCORES = 4 * 4, 4 * 1.5


def of_run(run: Run) -> dict[str, int]:
  """Returns the bytes of each part of a run on a chip."""
  parts = of_learner(run.config, run.learner)
  if run.has_reference:
    parts['reference'] = 4 * num_weights(run.learner)
  if run_lib.is_rl(run.config):
    sampler = plan_lib.memory(run.engine, run.sampler)
    parts |= {
      'sampler': sampler.weights + sampler.gathered,
      'caches': sampler.prefixes + sampler.completions,
      'logits': sampler.logits,
    }  # fmt: skip
  if found := known_judges(run):
    parts['judge'] = sum(
      _of_judge(judge, config, run) for judge, config in found
    )
  return parts


def of_sides(run: Run) -> dict[str, dict[str, int]]:
  """Returns the bytes of each part, by the chips that hold it.

  All chips hold all parts, unless the learner and the sampler are apart. If
  other jobs sample, the learner still tries held-out examples with a sampler of
  its own, and asks local judges.
  """
  parts = of_run(run)
  if not run.is_apart:
    return {'all': parts}
  sampler = {name: parts.pop(name) for name in OF_SAMPLER}
  judge, learner = parts.pop('judge', 0), parts
  if run.is_in_jobs:
    if judge:
      learner['judge'] = judge
    if run.config.held_out:
      learner |= sampler
    return {'learner': learner, 'sampler': sampler}
  own = run.config.hardware
  for side, axes in ((learner, own.layout), (sampler, own.sampler_layout)):
    judges = [
      _of_judge(judge, config, run)
      for judge, config in known_judges(run)
      if run.share_chips(judge.layout, axes)
    ]
    if judges:
      side['judge'] = sum(judges)
  return {'learner': learner, 'sampler': sampler}


def total(run: Run) -> int:
  """Returns the bytes on the fullest chip."""
  return max(sum(parts.values()) for parts in of_sides(run).values())


def fits(run: Run) -> bool:
  return total(run) <= ROOM * run.machine.memory


def num_weights(decoder: Decoder) -> int:
  """Returns the number of weights that a chip stores."""
  return sum(
    math.prod(
      decoder.layout.weight_sharding(spec.shape, spec.axes).shard_shape(
        spec.shape
      )
    )
    for _, spec in weights.named(decoder_lib.specs(decoder.config))
  )


def of_learner(config: Any, decoder: Decoder) -> dict[str, int]:
  """Returns the bytes of an update on each chip, by part.

  config: train_rl.Config or train_sft.Config.
  """
  count = num_weights(decoder)
  roles = run_lib.learned(config, decoder.layout)
  # Microbatches add theirs to a sum.
  gradients = 1 if sum(role.parts for role in roles) == 1 else 2
  # Parts of all roles are computed one after another.
  of_parts = [_of_microbatch(config, decoder, role) for role in roles]
  largest = max(of_parts, key=lambda parts: sum(parts.values()))
  return {
    'weights': 4 * count,
    'moments': 8 * count,
    'gradients': 4 * gradients * count,
    'batch': sum(_of_batch(role, decoder.layout) for role in roles),
    **{name: round(size) for name, size in largest.items()},
  }


def _of_batch(role: Role, layout: Layout) -> int:
  groups = rows_of_a_chip(layout, role.groups)
  return BATCH * groups * role.samples * role.completion + (
    2 * 8 * groups * role.prompt
  )


def _of_microbatch(
  config: Any, decoder: Decoder, role: Role
) -> dict[str, float]:
  """Returns the bytes of a microbatch's forward and backward pass."""
  c, compute, layout = decoder.config, decoder.compute, decoder.layout
  itemsize, tensor = _itemsize(compute), layout.mesh.shape['tensor']
  groups, samples, S, T = role.groups_at_once, *role[1:4]
  rows = rows_of_a_chip(layout, groups * samples)
  if getattr(config, 'shares_prompts', True):
    length, prompt_tokens = T, rows_of_a_chip(layout, groups) * S
  else:
    length, prompt_tokens = S + T, 0
  tokens = rows * length
  kv = 2 * c.num_kv_heads * c.head_dim / tensor
  kept = (tokens + prompt_tokens) * _kept_width(decoder)
  # A prompt's keys and values, and their gradients, which its group adds up.
  kept += 2 * prompt_tokens * kv
  parts = {
    'activations': itemsize * c.num_layers * kept,
    'layer': itemsize * (tokens * width(c, tensor) + _experts(c, tensor)),
    # Its weights in use, their gradient, and the embedding's.
    'head': 12 * c.vocab_size * c.embed_dim / tensor
    + _logit(decoder) * rows * min(compute.head_chunk, T) * c.vocab_size
    / tensor,
  }  # fmt: skip
  keys = S if prompt_tokens else 0
  if holds_scores(decoder, (groups, keys), (groups * samples, length)):
    each = SCORES + KEPT_SCORES * c.num_layers * (compute.remat == 'none')
    pairs = tokens * (length + keys) * c.num_heads
    parts['scores'] = each * pairs / tensor
  return parts


def holds_scores(
  decoder: Decoder, prompts: tuple[int, int], rows: tuple[int, int]
) -> bool:
  """True if attention has no kernel, and holds the scores of all pairs.

  prompts, rows: how many there are, and their length.
  """
  c, dtype = decoder.config, jnp.dtype(decoder.compute.dtype)

  def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, dtype)

  P, S = prompts
  keys = shaped(P, c.num_kv_heads, c.head_dim, S)
  kernel = attention.pick_kernel(
    decoder.compute.attention,
    shaped(*rows, c.num_heads, c.head_dim),
    [attention.Part(keys, None, None)] if S else [],
    decoder.layout,
  )
  return attention.KERNELS[kernel] is attention.xla_attention


def _kept_width(decoder: Decoder) -> float:
  """Returns the numbers that each layer keeps of a token for its gradient."""
  c, tensor = decoder.config, decoder.layout.mesh.shape['tensor']
  remat = decoder.compute.remat
  if decoder.layout.platform == 'cpu' and decoder.compute.unroll:
    remat = 'none'  # See models.Compute.
  if remat == 'layer':
    return c.embed_dim
  queries, kv = (n * c.head_dim for n in (c.num_heads, 2 * c.num_kv_heads))
  mlp = 0 if c.num_experts else 2 * c.mlp_dim
  # The layer's input, and what attention and mlp add to it; queries, keys,
  # values and what attention finds; two products of the mlp.
  width = 3 * c.embed_dim + (2 * queries + kv + mlp) / tensor
  if remat == 'dots':
    return width
  # Normalized inputs, rotated queries and keys, and the mlp's nonlinearity;
  # a token is there once for each of its experts.
  width += 2 * c.embed_dim + (queries + kv / 2) / tensor
  if c.num_experts:
    return width + c.experts_per_token * (
      2 * c.embed_dim + 4 * c.mlp_dim / tensor
    )
  return width + 2 * c.mlp_dim / tensor


def width(c: DecoderConfig, tensor: int) -> float:
  """Returns the numbers of a token in the layer at work."""
  numbers = (3 * c.mlp_dim + 4 * c.num_heads * c.head_dim) / tensor
  if c.num_experts:
    # A token is there once for each of its experts.
    numbers += (c.experts_per_token - 1) * 3 * c.mlp_dim / tensor
    numbers += c.experts_per_token * 3 * c.embed_dim
  return numbers


def _experts(c: DecoderConfig, tensor: int) -> float:
  """Returns a layer's gathered weights of experts, with their gradient.

  No layout of experiments/ splits them by `expert`, and this counts them all.
  """
  return 6 * c.num_experts * c.embed_dim * c.mlp_dim / tensor


def _logit(decoder: Decoder) -> int:
  is_exact = (
    decoder.compute.dtype == 'float32' or decoder.layout.platform == 'cpu'
  )
  return EXACT_LOGIT if is_exact else LOGIT


def _itemsize(compute: Compute) -> int:
  return jnp.dtype(compute.dtype).itemsize


def rows_of_a_chip(layout: Layout, rows: int) -> int:
  """Returns how many rows of a batch a chip has."""
  return layout.sharding((rows,), ('batch',)).shard_shape((rows,))[0]


def known_judges(run: Run) -> list[tuple[LocalModel, DecoderConfig]]:
  """Returns the local judges whose files are here, with their shapes."""
  found = []
  for judge in run.local_judges:
    try:
      found.append((judge, model_files.find(judge.model).config))
    except ValueError:  # The plan says that it leaves it out.
      continue
  return found


def _of_judge(judge: LocalModel, config: DecoderConfig, run: Run) -> int:
  layout = judge.layout.abstract(run.machine.chips, run.machine.platform)
  decoder = Decoder(config, Compute(dtype=judge.dtype), layout)
  if isinstance(judge, Answering):
    plan = Plan(
      slots=layout.whole_batch(judge.slots), group=1,
      max_prompt_tokens=judge.max_prompt_tokens,
      max_new_tokens=judge.max_new_tokens,
    )  # fmt: skip
    return plan_lib.memory(plan_lib.fitted(plan, layout), decoder).total
  # It reads questions: weights, and a batch of them in the cache and a layer.
  itemsize = _itemsize(decoder.compute)
  rows = layout.whole_batch(judge.rows)
  tokens = rows_of_a_chip(layout, rows) * judge.max_prompt_tokens
  tensor = layout.mesh.shape['tensor']
  return round(
    itemsize * num_weights(decoder)
    + cache.num_bytes(
      config, rows, judge.max_prompt_tokens, dtype=judge.dtype
    ) / (layout.batch_size * tensor)
    + itemsize * tokens * width(config, tensor)
  )  # fmt: skip


def gathered_bytes(decoder: Decoder) -> int:
  """Returns the bytes of all weights of the layers where they are used.

  A chip gathers them from the others, if they are split along `embed`.
  """
  itemsize, total = _itemsize(decoder.compute), 0
  for name, spec in weights.named(decoder_lib.specs(decoder.config)):
    if name in ('embed', head.name_of_weights(decoder)):
      continue
    sharding = decoder.layout.gathered_weight_sharding(spec.shape, spec.axes)
    total += itemsize * math.prod(sharding.shard_shape(spec.shape))
  return total
