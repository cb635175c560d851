"""Learns from groups of completions and their rewards: RLPT, on-policy."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from rlpt_jax.algorithms import advantages, losses, policy, reductions
from rlpt_jax.core import checks, compilations, settings
from rlpt_jax.core.checks import Count, Name, NonNegative, PositiveShare, Seed
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.metrics import Writer
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.types import Batch
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import scoring
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.programs import (
  collecting,
  judges,
  model_files,
  progress,
  rollout_files,
  runs,
  unjudged,
)
from rlpt_jax.programs.collecting import Drawn, Judged, Sampling
from rlpt_jax.programs.curriculum import Curriculum
from rlpt_jax.programs.held_out import HeldOut
from rlpt_jax.programs.ledger import Ledger
from rlpt_jax.programs.one_host import on_one_host
from rlpt_jax.programs.reference import Reference, put
from rlpt_jax.programs.verdicts import NoVerdicts, Verdicts
from rlpt_jax.rewards.remote import Unavailable
from rlpt_jax.rewards.scores import Reward
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.table import Sizes
from rlpt_jax.training.experience import make_batch
from rlpt_jax.training.learner import make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer
from rlpt_jax.training.preemption import preemption

SHOWN = (
  ('reward', 'reward/mean', '.3f'),
  ('held out', 'held_out/reward', '.3f'),
  ('pass', 'pass_rate', '.3f'),
  ('flat', 'flat_group_share', '.2f'),
  ('length', 'length/mean', '.0f'),
  ('truncated', 'truncated_share', '.2f'),
  ('too short', 'short_share', '.2f'),
  ('entropy', 'entropy', '.3f'),
  ('gradient', 'gradient_norm', '.3f'),
  ('tokens/s', 'timing/tokens_per_s', ',.0f'),
)
# Beside them where they are not 0.
ALARMS = (('no verdict', 'unjudged_share', '.2f'),)
# Settings that may change between starts: they change speed or length, and not
# what a step computes.
MAY_CHANGE = (
  'num_steps', 'save_every', 'keep_last', 'keep_every', 'layout',
  'sampler_layout', 'rollouts_last', 'rollouts_every', 'rollout_tokens',
  'max_skipped', 'max_unjudged', 'num_microbatches', 'slots',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A run. Papers: RLPT is 512 prompts of 8 samples at temperature 1, up to
  8,192 tokens, learning rate 1e-6, no KL (2509.19249, section 4.1).

  model: a Hugging Face directory, a directory of checkpoints, or random:NAME
    with a name of the zoo.
  reward: (examples, completions) -> Scores.
  prompts: of a batch, with `sampling.samples` completions each.
  flat_groups: groups whose rewards agree teach nothing. 'keep' counts them in
    the denominators of the loss, 'drop' does not (ScaleRL), 'refill' samples
    other prompts in their place (DAPO), up to `refill_rounds` times.
  truncated: 'drop' leaves completions without an end out of their groups and of
    the loss (ScaleRL); to 'keep' them teaches with their reward.
  max_pass_rate: examples that reach it are not sampled again (curriculum.py).
  score: in_groups computes a prompt once for its group, in_rows for each row.
  kl: an estimate from algorithms/kl.py, times `kl_weight` in the loss; the
    reference is the model that the run began with.
  reward_kl_weight: of k1 to the same reference, in the reward.
  held_out: what the policy is tried on before the first step and after every
    `held_out_every` of them, with the same reward.
  held_out_sampling: None: once an example, and else as it is sampled to learn.
    Its longest completions have room in every slot.
  slots: completions that run at the same time; None: all of a batch.
  rollout_tokens: the files of rollouts have every token and its probability.
  max_skipped: updates that are not finite, in a row, before the run stops.
  max_unjudged: steps in a row with as good as no verdict of the reward, before
    the run stops (verdicts.py).
  """

  model: Name
  data: Data
  reward: Reward
  optimizer: AdamW
  num_steps: Count
  prompts: Count = 64
  sampling: Sampling = Sampling()
  max_prompt_tokens: Count = 1024
  advantages: Callable = advantages.group_normalized
  loss: Callable = losses.ppo
  reduction: Callable = reductions.completion_mean
  flat_groups: Literal['keep', 'drop', 'refill'] = 'keep'
  refill_rounds: Count = 4
  truncated: Literal['keep', 'drop'] = 'keep'
  max_pass_rate: PositiveShare | None = None
  score: Callable = scoring.in_groups
  kl: Callable | None = None
  kl_weight: NonNegative = 0.0
  reward_kl_weight: NonNegative = 0.0
  held_out: Data | None = None
  held_out_examples: Count = 64
  held_out_every: Count = 50
  held_out_sampling: Sampling | None = None
  compute: Compute = Compute()
  layout: Axes = Axes()
  sampler_layout: Axes = Axes(data=-1, fsdp=1)
  num_microbatches: Count = 1
  slots: Count | None = None
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
  save_every: Count = 50
  keep_last: Count = 2
  keep_every: Count | None = None
  rollouts_last: Count = 100
  rollouts_every: Count | None = 50
  rollout_tokens: bool = False
  max_skipped: Count = 5
  max_unjudged: Count = 3
  seed: Seed = 0

  def __post_init__(self):
    checks.check_fields(self)
    self.sampling.check_learnable()
    if self.sampling.samples == 1:
      check_alone(self)
    if bool(self.kl) != bool(self.kl_weight):
      raise ValueError(
        f'Config.kl={self.kl} with kl_weight={self.kl_weight}: expected both '
        'or neither; without the other, each does nothing.'
      )
    if self.kl and self.reward_kl_weight:
      raise ValueError(
        f'Config.kl and reward_kl_weight={self.reward_kl_weight}: expected one '
        'of the two, the KL in the loss or in the reward.'
      )
    runs.check_microbatches(self, 'prompts')

  @property
  def tried(self) -> Sampling:
    """How the policy is sampled on held-out examples."""
    once = dataclasses.replace(self.sampling, samples=1)
    return self.held_out_sampling or once


def check_alone(config: Config):
  """Raises where one completion of a prompt would teach nothing."""
  if advantages.needs_groups(config.advantages):
    why = f'{settings.described(config.advantages)} compares it with its group'
  elif config.flat_groups != 'keep':
    why = f'flat_groups={config.flat_groups!r} takes it for a flat group'
  else:
    return
  raise ValueError(
    'Config.sampling: samples=1: a completion alone teaches nothing, since '
    f'{why}; expected at least 2.'
  )


def train_rl(config: Config, *, workdir: pathlib.Path):
  """Learns from groups of completions and their rewards.

  Started again with the same settings it goes on where it was. Ctrl-C and
  SIGTERM save after the step that runs; SIGTERM exits with status 75. So does a
  judge that is gone for longer than the run waits; what was sampled is kept.

  Args:
    workdir: The run's folder; it gets checkpoints, metrics and rollouts.
  """
  files = model_files.find(config.model)
  config = runs.with_tokenizer(config, files)
  decoder = Decoder(files.config, config.compute, config.layout.layout())
  optimizer = make_optimizer(config.optimizer, decoder_lib.specs(files.config))
  score = functools.partial(
    config.score, decoder, temperature=config.sampling.temperature
  )
  loss = policy.make_loss(
    score, config.loss, kl=config.kl, kl_weight=config.kl_weight
  )
  update = make_update(
    loss, optimizer, policy.measure, num_microbatches=config.num_microbatches
  )
  timers = Timers('rollout', 'reward', 'update', 'publish', 'held_out', 'save')
  with contextlib.ExitStack() as stack:
    stack.enter_context(runs.claimed(workdir, config, MAY_CHANGE))
    store = stack.enter_context(
      runs.checkpoints(
        workdir,
        files,
        config.data.tokenizer,
        keep_last=config.keep_last,
        keep_every=config.keep_every,
      )
    )
    parts = list(settings.objects(config.reward))
    for part in parts:  # Judges, and pools of processes.
      if hasattr(part, 'close') and not isinstance(part, type):
        stack.callback(part.close)
    if max(store.steps(), default=0) < config.num_steps:
      judges.try_out(config.reward)
    state, record = runs.start(
      store, files, decoder.layout, optimizer, seed=config.seed
    )
    first_step = int(state.step)
    # Metrics of a step before it, whose held-out examples had no verdict yet.
    unfinished = record.get('unfinished')
    if first_step >= config.num_steps and on_one_host(runs.has_lines)(
      workdir, first_step
    ):
      unfinished = None  # A later start has finished it: nothing is left.
    reference = None
    if config.kl or config.reward_kl_weight:
      reference = Reference(
        files.load_params(layout=decoder.layout, seed=config.seed),
        score, decoder.layout, num_microbatches=config.num_microbatches,
      )  # fmt: skip

    progress.waiting('reading the data')
    loader = Loader(config.data, 1, position=record.get('position'))
    stack.callback(loader.close)
    tokenizer = loader.tokenizer
    examples = stack.enter_context(contextlib.closing(iter(loader)))
    curriculum = Curriculum(config.max_pass_rate, record.get('solved', ''))
    drawn = Drawn(
      curriculum.unsolved(examples),
      count=record.get('drawn', 0),
      position=loader.position,
    )
    carried = advantages.Carried(config.advantages, record.get('advantages'))
    verdicts = Verdicts(config.max_unjudged, record.get('unjudged', 0))
    held_out = None
    if config.held_out:
      held_out = HeldOut(
        config.held_out, config.held_out_examples, config.tried
      )
    sampler = Decoder(
      files.config, config.compute, config.sampler_layout.layout()
    )
    engine = stack.enter_context(
      Engine(sampler, state.params, plan_for(config, tokenizer))
    )
    local = [part for part in parts if isinstance(part, judges.LocalModel)]
    # A local judge computes on all hosts.
    reward = on_one_host(config.reward, called_by_all=bool(local))
    kept = on_one_host(unjudged.read)(workdir, first_step, engine.version)
    judge = functools.partial(
      collecting.judge, engine, tokenizer, reward, seed=config.seed, kept=kept
    )
    ledger = Ledger(
      files.config,
      record.get('ledger', {}),
      remat=config.compute.remat,
      share_prompt=config.score is scoring.in_groups,
      has_reference=reference is not None,
      judges=local,
    )
    writer = stack.enter_context(
      Writer(
        workdir,
        first_step=first_step - bool(unfinished),
        num_steps=config.num_steps,
        shown=SHOWN,
        alarms=ALARMS,
      )
    )
    compiled = stack.enter_context(compilations.counted())
    preempted = stack.enter_context(
      preemption(lambda: judges.stop_waiting(parts))
    )

    def position() -> dict[str, Any]:
      """Where a run that goes on with this state is."""
      return {
        'position': drawn.position,
        'drawn': drawn.count,
        'ledger': dict(ledger.totals),
        'solved': curriculum.record,
        'advantages': carried.value,
        'unjudged': verdicts.in_a_row,
      }

    def save(state, record):
      writer.sync()  # In this order: core/metrics.py.
      runs.save(store, state, files, record)

    progress.waiting('compiling: the first step takes the longest')
    try:
      for step in range(first_step - bool(unfinished), config.num_steps):
        # Where the run goes on if its judge fails during this step.
        record, metrics = position(), unfinished
        if not unfinished:
          metrics = {}
          if held_out and step == 0:
            metrics |= held_out.metrics('held_out_before', judge, timers)
          collected = collect(
            config, judge, drawn, curriculum, carried, reference, timers
          )
          if collected is None:
            examples = f'{drawn.count:,} examples'
            print(f'the data ended before step {step + 1}: {examples}')
            break
          verdicts.check(step + 1, collected.judged)
          with timers('update'):
            batch = put(decoder.layout, collected.batch)
            if config.kl:
              batch = reference.beside(batch)
            state, said = update(state, batch)
            jax.block_until_ready(said['loss'])
          runs.check_skipped(config.max_skipped, step, said)
          with timers('publish'):
            engine.publish(state.params)
          kept.clear()  # The old weights sampled these.
          metrics |= collecting.metrics(collected.judged, engine.version - 1)
          metrics |= said | ledger.add(collected.judged, collected.learned)
          metrics |= collected.advantages() | curriculum.metrics()
          with timers('save'):
            lines = rollout_files.lines(
              collected.judged, collected.advantages_PG, tokenizer, step,
              with_tokens=config.rollout_tokens,
            )  # fmt: skip
            rollout_files.write(workdir, step, lines)
            rollout_files.prune(
              workdir, step,
              last=config.rollouts_last, every=config.rollouts_every,
            )  # fmt: skip
        is_last = step + 1 == config.num_steps
        if held_out and (is_last or (step + 1) % config.held_out_every == 0):
          numbers = {k: np.asarray(v).tolist() for k, v in metrics.items()}
          record = position() | {'unfinished': numbers}
          metrics |= held_out.metrics('held_out', judge, timers)
          metrics |= ledger.add_held_out(metrics)
          kept.clear()
        store.check()
        told = preempted(step)
        timing = timers.lap()
        if not unfinished:
          timing |= collecting.speed(collected.judged, timing)
        unfinished = None
        writer.write(
          step,
          metrics,
          timing
          | runs.memory()
          | judges.counts(parts)
          | {'timing/compilations': compiled.count},
        )
        writer.flush()  # All of it is there.
        if told or (step + 1) % config.save_every == 0:
          with timers('save'):
            save(state, position())
          unjudged.remove(workdir)
        if told and not is_last:
          preempted.leave(step + 1)
    except (Unavailable, NoVerdicts) as error:
      judges.forget(parts, getattr(error, 'answers', ()))
      unjudged.write(workdir, int(state.step), kept, engine.version)
      saved = 'saved what it has sampled'
      if state.step > 0:  # Before it the folder is free for other settings.
        save(state, record)
        saved = f'saved after step {state.step}, with what it has sampled since'
      if jax.process_index() == 0:
        print(saved, file=sys.stderr)
      raise
    save(state, position())
    unjudged.remove(workdir)


@dataclasses.dataclass(frozen=True)
class Collected:
  """What a step learns from."""

  judged: Judged  # All that was sampled.
  learned: list[bool]  # Which groups are in the loss.
  batch: Batch
  advantages_PG: np.ndarray  # Of all; NaN: not in the loss.

  def advantages(self) -> dict[str, float]:
    """The mean and the standard deviation of those in the loss."""
    there = self.advantages_PG[~np.isnan(self.advantages_PG)]
    there = there.astype(np.float64) if there.size else np.zeros(1)
    return {
      'advantage/mean': float(there.mean()),
      'advantage/std': float(there.std()),
    }


def collect(
  config: Config,
  judge,
  drawn: Drawn,
  curriculum: Curriculum,
  carried: advantages.Carried,
  reference: Reference | None,
  timers: Timers,
) -> Collected | None:
  """Samples until there are groups enough; None where the data has ended."""
  keeps_flat = config.flat_groups == 'keep'
  rounds = config.refill_rounds if config.flat_groups == 'refill' else 1
  parts, missing = [], config.prompts
  while missing and len(parts) < rounds:
    examples, names = drawn.take(missing)
    if not examples:
      break
    part = judge(config.sampling, examples, names, timers)
    curriculum.note(examples, part.scores.rewards_PG)
    if config.truncated == 'drop':
      part = part.without(part.truncated_PG)
    parts.append(part)
    missing -= len(examples) if keeps_flat else int((~part.flat).sum())
  if not parts:
    return None
  judged = collecting.together(parts)
  learned = [keeps_flat or not flat for flat in judged.flat]
  judged = judged.without(~np.array(learned)[:, None])
  if config.reward_kl_weight:
    with timers('reward'):
      judged = reference.penalized(
        judged, config.reward_kl_weight, config.prompts, longest(config)
      )
  # Groups in the loss come first; flat ones fill the places that are left, so
  # that a batch is never empty.
  order = sorted(range(len(learned)), key=lambda p: not learned[p])
  del order[config.prompts :]
  batch = make_batch(
    [judged.group(p) for p in order],
    num_prompts=config.prompts,
    advantages=carried,
    reduction=config.reduction,
    longest=longest(config),
    share_prompt=config.score is scoring.in_groups,
  )
  advantages_PG = np.full_like(judged.rewards_PG, np.nan)
  advantages_PG[order] = batch.advantages_PG[: len(order)]
  advantages_PG[np.isnan(judged.rewards_PG)] = np.nan
  return Collected(judged, learned, batch, advantages_PG)


def longest(config: Config) -> tuple[int, int]:
  """Tokens of the longest prompt and completion, as kernels take them."""
  return (
    bucket(config.max_prompt_tokens),
    bucket(config.sampling.max_new_tokens),
  )


def plan_for(config: Config, tokenizer) -> Plan:
  """Room for a batch and for what is held out."""
  tried = (config.sampling, config.tried)
  forced = [x for s in tried if (x := s.interrupted(tokenizer))]
  return Plan(
    slots=config.slots or config.prompts * config.sampling.samples,
    group=max(sampling.samples for sampling in tried),
    max_prompt_tokens=config.max_prompt_tokens,
    max_new_tokens=max(sampling.max_new_tokens for sampling in tried),
    cache_dtype=config.cache_dtype,
    sizes=Sizes(
      stops=max(1, len(tokenizer.eos_ids)),
      stop_tokens=max([1, *(len(x.unless) for x in forced)]),
      phrase_tokens=max([1, *(len(x.phrase) for x in forced)]),
    ),
  )
