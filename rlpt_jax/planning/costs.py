"""What a step costs: FLOPs, bytes of memory and of links, and seconds.

FLOPs are those of models/flops.py. `needed` counts as a run's ledger does
(rollout/ledger.py), without padding; `computed` has the padding too, and takes
the time. A part takes as long as the slowest of three: its FLOPs, the bytes
that each chip reads and writes, and the bytes that it receives from others,
each at a share of the rate in the chip's data sheet.

Lengths vary in a run, and attention to long texts costs more than their mean
says. Not counted: compilation, the host, publishing weights, held-out examples,
and the delay of each message between chips.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlpt_jax.core import weights
from rlpt_jax.inference import judges
from rlpt_jax.inference.judges import Answering
from rlpt_jax.models import attention, cache, flops
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.cache import Readers
from rlpt_jax.models.config import Decoder
from rlpt_jax.planning import memory
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.machines import Machine
from rlpt_jax.planning.run import Role, Run
from rlpt_jax.rollout import batches
from rlpt_jax.sampling import plan as plan_lib
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.training.lengths import halves

# Bytes that the head reads and writes in each chunk of positions. For a weight,
# these are its float32 value in both passes, its bfloat16 part, and its
# gradient twice; for a logit, float32 numbers in both passes and bfloat16 ones
# in one.
HEAD_WEIGHT, LOGIT = 4 + 4 + 2 + 8, 8 + 8 + 4
# The parts of a step that the learner's chips compute.
OF_LEARNER = ('reference', 'update')
# Tokens of an answer to weigh, 'Score: 0' and 'Score: 1' after what they share.
WEIGHED = 2


@dataclasses.dataclass(frozen=True)
class Shares:
  """How much of a data sheet's rates a run reaches.

  By default, what we measured on an H200 (benchmarks/README.md, "On a GPU"): an
  update of Qwen3-0.6B and 1.7B reached 37 to 47% of the peak. Decoding reached
  61% of the rate of a copy (3.8 of the data sheet's 4.8 TB/s) for weights and
  caches; with logits, which count here, it is 55% of the data sheet's.
  Links have the share of memory, which nobody has measured.
  """

  compute: float = 0.4
  memory: float = 0.55

  def __post_init__(self):
    for name, share in (
      ('share', self.compute), ('bandwidth_share', self.memory),
    ):  # fmt: skip
      if not 0 < share <= 1:
        raise ValueError(f'--{name}={share}: expected more than 0, at most 1.')


class Lengths(NamedTuple):
  """The mean lengths of prompts and completions; None is half of the longest.

  The longest are known before a run, the means are not.
  """

  prompt: int | None = None
  completion: int | None = None

  def check(self, config: Any):
    """Raises if a mean is more than any role of a train_rl.Config may have."""
    longest = max(sampling.max_new_tokens for sampling in config.samplings)
    for name, mean, most in (
      ('prompt', self.prompt, config.max_prompt_tokens),
      ('new', self.completion, longest),
    ):
      if mean is not None and not 1 <= mean <= most:
        raise ValueError(
          f'--mean_{name}_tokens={mean}: expected 1 to {most}, the most that '
          'the run allows.'
        )

  def of(self, longest_prompt: int, longest_completion: int) -> tuple[int, int]:
    """Returns the means of a role, which may have at most these lengths."""
    prompt, completion = (
      longest // 2 if mean is None else min(mean, longest)
      for mean, longest in zip(
        self, (longest_prompt, longest_completion), strict=True
      )
    )
    return max(1, prompt), max(1, completion)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one part of a step takes.

  needed, computed: FLOPs of all chips, without and with padding.
  chips: how many share these FLOPs.
  moved: bytes of memory that a chip reads or writes.
  received: bytes that a chip receives from others.
  """

  needed: float
  computed: float
  moved: float = 0.0
  received: float = 0.0
  chips: int = dataclasses.field(kw_only=True)

  def times(self, machine: Machine, shares: Shares) -> dict[str, float]:
    """Returns the seconds by each limit, as far as its rate is known."""
    times = {}
    for name, amount, rate, share in (
      ('compute', self.computed / self.chips, machine.flops, shares.compute),
      ('memory', self.moved, machine.bandwidth, shares.memory),
      ('links', self.received, machine.links, shares.memory),
    ):
      if rate is not None:
        times[name] = amount / rate / share
    return times

  def seconds(self, machine: Machine, shares: Shares) -> tuple[float, str]:
    """Returns (the seconds that the part takes, the limit that decides)."""
    times = self.times(machine, shares)
    if not times:
      return float('nan'), 'unknown'
    limit = max(times, key=times.get)
    return times[limit], limit


def of_step(run: Run, lengths: Lengths) -> dict[str, Cost]:
  """Returns the cost of each part of a step."""
  if not run_lib.is_rl(run.config):
    (role,) = run_lib.roles(run.config)
    computed = role.groups * flops.update(
      run.model, 1, [role.completion], remat=run.config.compute.remat
    )
    return {'update': _update(run, [role], computed, computed)}
  parts = {
    'prompts': _prompts(run, lengths),
    'decoding': _decoding(run, lengths),
  }
  if memory.known_judges(run):
    parts['judge'] = _judge(run)
  share_prompt = run.config.shares_prompts
  options = {
    'update': {'remat': run.config.compute.remat, 'share_prompt': share_prompt},
    'reference': {'share_prompt': share_prompt},
  }

  learned = _learned(run, lengths)

  def total(count, part: str, is_padded: bool) -> int:
    roles = _means(run, lengths)
    if is_padded:
      roles = [(role, role.prompt, role.completion) for role in learned]
    return sum(
      role.groups
      * count(run.model, prompt, [completion] * role.samples, **options[part])
      for role, prompt, completion in roles
    )

  if run.has_reference:
    parts['reference'] = Cost(
      *(
        total(flops.score, 'reference', is_padded)
        for is_padded in (False, True)
      ),
      chips=run.learner.layout.mesh.size,
    )
  parts['update'] = _update(
    run,
    learned,
    *(total(flops.update, 'update', is_padded) for is_padded in (False, True)),
  )
  return parts


def _means(run: Run, lengths: Lengths) -> list[tuple[Role, int, int]]:
  """Returns the roles, each with its mean lengths."""
  config = run.config
  lengths.check(config)
  return [
    (
      role,
      *lengths.of(config.max_prompt_tokens, sampling.max_new_tokens),
    )
    for role, sampling in zip(
      run_lib.roles(config), config.samplings, strict=True
    )
  ]


def _learned(run: Run, lengths: Lengths) -> list[Role]:
  """Returns the roles with the mean length at which an update computes them."""
  count = batches.num_lengths(run.config)
  return [
    role._replace(completion=_rounded_up(role.completion, completion, count))
    if role.parts > 1
    else role
    for role, (_, _, completion) in zip(
      run_lib.learned(run.config, run.learner.layout), _means(run, lengths),
      strict=True,
    )
  ]  # fmt: skip


def _rounded_up(longest: int, mean: int, count: int) -> int:
  """Returns the mean of lengths, each rounded up to one of `count` lengths.

  Before a run nobody knows how lengths vary: they count as spread evenly from 0
  to twice their mean. Those beyond the longest have the longest.
  """
  total, below = 0.0, 0.0
  for length in halves(longest)[:count][::-1]:
    share = 1.0 if length == longest else min(1.0, length / (2 * mean))
    total, below = total + length * (share - below), share
  return round(total)


def _prompts(run: Run, lengths: Lengths) -> Cost:
  """Returns the cost of prefill, which leaves out the last token of a prompt.

  The engine pads prompts to buckets, and computes as many at once as there are
  chips that split a batch; each time, it reads the weights of all layers.
  """
  needed = computed = groups = 0
  for role, prompt, _ in _means(run, lengths):
    groups += role.groups
    needed += role.groups * flops.forward(run.model, prompt - 1)
    padded = min(bucket(prompt - 1), run.engine.prefix_length)
    computed += role.groups * flops.forward(run.model, padded)
  passes = groups / run.sampler.layout.batch_size
  moved = passes * memory.gathered_bytes(run.sampler)
  return Cost(needed, computed, moved, chips=run.sampler.layout.mesh.size)


def _decoding(run: Run, lengths: Lengths) -> Cost:
  """Returns the cost of sampling, without prompts.

  Roles sample one after another. Each takes as many steps as its tokens fill
  the slots, but at least those of its longest completion, which one of a step's
  thousands is likely to be, unless other batches are sampled meanwhile.
  """
  needed = moved = 0.0
  for (role, prompt, completion), sampling in zip(
    _means(run, lengths), run.config.samplings, strict=True
  ):
    rows = role.groups * role.samples
    needed += role.groups * role.samples * flops.forward(
      run.model, completion, context=prompt - 1, read=completion
    )  # fmt: skip
    steps = rows * completion / run.engine.slots
    if not run.samples_ahead:
      steps = max(steps, sampling.max_new_tokens)
    busy = min(1.0, rows * completion / (steps * run.engine.slots))
    moved += steps * step_bytes(
      run, prompt=prompt, completion=completion, samples=role.samples, busy=busy
    )
  return Cost(needed, needed, moved, chips=run.sampler.layout.mesh.size)


def step_bytes(
  run: Run, *, prompt: int, completion: int, samples: int, busy: float
) -> float:
  """Returns the bytes that a chip reads to decode a token in every slot.

  These are the weights, each prompt once for its group, and the own positions
  of each row. Our kernels read filled positions only, half of a completion on
  average. XLA's attention reads all positions of a prompt's row, and of every
  slot as many as the longest completion has; before it multiplies these, it
  copies them, which moves them three times.

  busy: the share of the slots that are in use.
  """
  plan, found = run.engine, plan_lib.memory(run.engine, run.sampler)
  weights_read = max(found.weights, found.gathered) - _unread(run)
  prefixes = found.prefixes
  # All slots with a completion of max_new_tokens.
  own = found.own * plan.slots * plan.columns / plan.num_blocks
  if _reads_only_what_is_filled(run):
    groups = busy * plan.slots / min(samples, plan.group)
    filled = min(groups, plan.num_prompts) * prompt
    prefixes *= filled / (plan.num_prompts * plan.prefix_length)
    own *= busy * completion / 2 / (plan.columns * plan.block_size)
  else:
    own *= 3
  return weights_read + prefixes + own + found.recent + found.logits


def _reads_only_what_is_filled(run: Run) -> bool:
  """Returns True where the sampler uses a kernel.

  On a TPU, the kernel leaves small caches to XLA, which are counted as filled
  only too.
  """
  machine, layout = run.machine, run.sampler.layout
  # An abstract layout does not say which GPUs it has.
  if machine.platform == 'gpu' and machine.kind not in ('h100', 'h200'):
    return False
  q_B1NH, parts = _decode_inputs(run.sampler, run.engine)
  if machine.platform == 'tpu':
    parts = parts[1:2]  # It decides for each part; this is the largest.
  kernel = attention.pick_decode_kernel(
    run.sampler.compute.attention, q_B1NH, parts, layout
  )
  return kernel != 'xla'


def _decode_inputs(decoder: Decoder, plan: Plan):
  """Returns the shapes of what `attention.decode_attention` takes."""
  c, computed = decoder.config, jnp.dtype(decoder.compute.dtype)

  def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)

  def part(rows, length, dtype, **more):
    k, v = (
      jax.ShapeDtypeStruct(shape[1:], dtype)
      for shape in cache.shapes(c, rows, length)
    )
    scale = jax.ShapeDtypeStruct(v.shape[:-1], jnp.float32)
    scales = (scale, scale) if dtype == jnp.int8 else (None, None)
    return attention.Part(k, v, None, *scales, **more)

  B, P = plan.slots, plan.num_prompts
  dtype = jnp.dtype(plan.dtype(decoder))
  readers = Readers(ints(P, plan.group), ints(B))
  shape = B, 1, c.num_heads, c.head_dim
  return jax.ShapeDtypeStruct(shape, computed), [
    part(P, plan.prefix_length, dtype, readers=readers, filled_P=ints(P)),
    part(
      plan.num_blocks, plan.block_size, dtype, filled_P=ints(B),
      blocks_BM=ints(B, plan.columns),
    ),
    part(B, plan.chunk, computed, filled_P=ints(B)),
  ]  # fmt: skip


def _unread(run: Run) -> int:
  """Returns the bytes of the embedding, if it is not the head too."""
  if run.model.tied_head:
    return 0
  spec = decoder_lib.specs(run.model)['embed']
  sharding = run.sampler.layout.weight_sharding(spec.shape, spec.axes)
  rows, columns = sharding.shard_shape(spec.shape)
  return rows * columns * jnp.dtype(run.config.compute.dtype).itemsize


def _judge(run: Run) -> Cost:
  """Returns the cost of local judges, each of which reads every completion.

  Before a run, the questions are unknown: they count as half of the longest.
  """
  asked = sum(role.groups * role.samples for role in run_lib.roles(run.config))
  needed = moved = 0.0
  for judge, config in memory.known_judges(run):
    read, written = judge.max_prompt_tokens // 2, WEIGHED
    if isinstance(judge, Answering):
      written = max(1, judge.max_new_tokens // 2)
      size = jnp.dtype(judge.dtype).itemsize
      count = weights.count(decoder_lib.specs(config))
      layout = judge.layout.abstract(run.machine.chips, run.machine.platform)
      a_step = size * count / layout.mesh.shape['tensor']
      moved += asked * written / layout.whole_batch(judge.slots) * a_step
    needed += asked * flops.rollout(config, read, [written])
  return Cost(needed, needed, moved, chips=run.machine.chips)


def asked_elsewhere(run: Run) -> int:
  """Returns how many calls a step makes to judges behind a URL."""
  if not run_lib.is_rl(run.config):
    return 0
  remotes = len(judges.remotes(run.config.reward))
  sizes = [role.groups * role.samples for role in run_lib.roles(run.config)]
  # The first role's completions are judged; a game scores its chooser by them.
  return remotes * sizes[0]


def _update(
  run: Run, roles: list[Role], needed: float, computed: float
) -> Cost:
  moved = received = 0.0
  for role in roles:
    each = _of_microbatch(run, role)
    moved += role.parts * each[0]
    received += role.parts * each[1]
  # AdamW reads weights, moments and gradients, and writes all but the last.
  moved += (16 + 12) * memory.num_weights(run.learner)
  chips = run.learner.layout.mesh.size
  return Cost(needed, computed, moved, received, chips=chips)


def _of_microbatch(run: Run, role: Role) -> tuple[float, float]:
  """Returns the bytes that a chip moves and receives for one microbatch."""
  c, compute, layout = run.model, run.learner.compute, run.learner.layout
  mesh, size = layout.mesh.shape, jnp.dtype(compute.dtype).itemsize
  passes = 3 if compute.remat == 'layer' else 2
  groups, samples, S, T = role.groups_at_once, *role[1:4]
  tokens = memory.rows_of_a_chip(layout, groups * samples) * T
  prompt_tokens = memory.rows_of_a_chip(layout, groups) * S
  # The layers: weights in each pass, and their gradient added to a sum.
  layers = memory.gathered_bytes(run.learner)
  moved = passes * layers + 12 * memory.num_weights(run.learner)
  moved += (
    2 * passes * size * c.num_layers * (tokens + prompt_tokens)
    * memory.width(c, mesh['tensor'])
  )  # fmt: skip
  # The head, a chunk of positions of all rows at a time.
  chunks = -(-T // compute.head_chunk)
  head = c.vocab_size * c.embed_dim / mesh['tensor']
  moved += chunks * HEAD_WEIGHT * head
  moved += LOGIT * tokens * c.vocab_size / mesh['tensor']
  # Weights of layers are gathered for each pass, and gradients summed over
  # chips. Those of the head are gathered once, and the sum of its gradient goes
  # there and back: see head.score.
  ways = mesh['fsdp'] * mesh['expert']
  received = ((passes + 1) * layers + (1 + 2) * 4 * head) * (1 - 1 / ways)
  if mesh['data'] > 1:  # Replicas add their gradients, there and back.
    received += 2 * 4 * memory.num_weights(run.learner)
  # Attention and mlp each add up what the chips of `tensor` found, which every
  # chip sends and receives twice.
  received += (
    2 * passes * size * c.num_layers * (tokens + prompt_tokens) * c.embed_dim
    * 2 * (1 - 1 / mesh['tensor'])
  )  # fmt: skip
  return moved, received
