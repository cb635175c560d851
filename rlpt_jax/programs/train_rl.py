"""Trains a policy by on-policy RL on groups of completions: RLPT."""

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
from rlpt_jax.completions import progress
from rlpt_jax.core import checks, compilations, settings
from rlpt_jax.core.checks import Count, Name, NonNegative, PositiveShare, Seed
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.metrics import Writer
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.types import Batch
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.inference import judges, model_files
from rlpt_jax.llm.remote import Unavailable
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import scoring
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import RewardFn
from rlpt_jax.rollout import collecting, rollout_files, unjudged
from rlpt_jax.rollout.collecting import Drawn, Judged, Sampling
from rlpt_jax.rollout.curriculum import Curriculum
from rlpt_jax.rollout.held_out import HeldOut
from rlpt_jax.rollout.ledger import Ledger
from rlpt_jax.rollout.reference import Reference, put
from rlpt_jax.rollout.verdicts import NoVerdicts, Verdicts
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.sampler import Sampler
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
# Also shown, if not 0.
ALARMS = (('no verdict', 'unjudged_share', '.2f'),)
# Settings that may change when a run resumes: they affect speed or length, but
# not what a step computes.
MAY_CHANGE = (
  'num_steps', 'save_every', 'keep_last', 'keep_every', 'layout',
  'sampler_layout', 'rollouts_last', 'rollouts_every', 'rollout_tokens',
  'max_skipped', 'max_unjudged', 'num_microbatches', 'slots',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The settings of a run.

  RLPT uses 512 prompts with 8 samples each at temperature 1, up to 8,192
  tokens, learning rate 1e-6 and no KL (2509.19249, section 4.1).

  model: a Hugging Face directory, a checkpoint directory, or random:NAME with
    the name of a model in the zoo.
  reward: (examples, completions) -> Scores.
  prompts: prompts per batch, with `sampling.samples` completions each.
  flat_groups: groups whose rewards agree teach nothing. 'keep' counts them in
    the denominators of the loss, 'drop' does not (ScaleRL), 'refill' samples
    other prompts in their place (DAPO), in at most `refill_rounds` rounds,
    including the first.
  truncated: 'drop' excludes completions cut at the length limit from their
    groups and the loss (ScaleRL); 'keep' trains on them and their reward.
  max_pass_rate: examples that reach it are not sampled again (curriculum.py).
  score: in_groups computes a prompt once for its group, in_rows for each row.
  kl: an estimator of algorithms/kl.py, added to the loss times `kl_weight`; the
    reference is the model that the run began with.
  reward_kl_weight: weight of k1 to the same reference, subtracted from the
    reward.
  held_out: data that the policy is evaluated on with the same reward: before
    the first step, every `held_out_every` steps, and after the last.
  held_out_sampling: by default `sampling` with one sample per example. Every
    slot has room for its longest completions.
  slots: completions sampled at once; None: all of a batch.
  rollout_tokens: rollout files include every token and its log-probability.
  max_skipped: non-finite updates in a row after which the run stops.
  max_unjudged: steps in a row with almost no verdicts after which the run stops
    (verdicts.py).
  """

  model: Name
  data: Data
  reward: RewardFn
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
    """The sampling settings for held-out examples."""
    once = dataclasses.replace(self.sampling, samples=1)
    return self.held_out_sampling or once


def check_alone(config: Config):
  """Raises if a completion that is alone in its group would teach nothing."""
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
  """Trains a policy by RL on groups of completions and their rewards.

  Started again with the same settings, the run resumes. Ctrl-C and SIGTERM save
  after the current step; SIGTERM exits with status 75. If a judge is
  unavailable for longer than the run waits, the run saves its samples and exits
  with status 75 too.

  Args:
    workdir: The run's folder, for checkpoints, metrics and rollouts.
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
    reward = scores.of(config.reward)
    stack.callback(reward.close)  # Ends its judges and processes.
    parts = settings.parts(reward)
    if max(store.steps(), default=0) < config.num_steps:
      judges.try_out(reward)
    state, record = runs.start(
      store, files, decoder.layout, optimizer, seed=config.seed
    )
    first_step = int(state.step)
    # The metrics of the step before, if the judge failed in its held-out
    # evaluation.
    unfinished = record.get('unfinished')
    if first_step >= config.num_steps and on_one_host(runs.has_lines)(
      workdir, first_step
    ):
      unfinished = None  # A later start has finished that step.
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
    behavior = Decoder(
      files.config, config.compute, config.sampler_layout.layout()
    )
    engine = Engine(behavior, state.params, plan_for(config, tokenizer))
    sampler = stack.enter_context(Sampler(engine))
    local = [part for part in parts if isinstance(part, judges.LocalModel)]
    # A local judge computes on all hosts, so all must call it.
    asked = on_one_host(reward, called_by_all=bool(local))
    kept = on_one_host(unjudged.read)(workdir, first_step, sampler.version)
    judge = functools.partial(
      collecting.judge, sampler, tokenizer, asked, seed=config.seed, kept=kept
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
      """Returns the record from which a run with this state resumes."""
      return {
        'position': drawn.position,
        'drawn': drawn.count,
        'ledger': dict(ledger.totals),
        'solved': curriculum.record,
        'advantages': carried.value,
        'unjudged': verdicts.in_a_row,
      }

    def save(state, record):
      writer.sync()  # Before the checkpoint: see core/metrics.py.
      runs.save(store, state, files, record)

    progress.waiting('compiling: the first step takes the longest')
    try:
      for step in range(first_step - bool(unfinished), config.num_steps):
        # The run resumes here if its judge fails during this step.
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
            sampler.publish(state.params)
          kept.clear()  # The old weights sampled these.
          metrics |= collecting.metrics(collected.judged, sampler.version - 1)
          metrics |= said | ledger.add(collected.judged, collected.learned)
          metrics |= collected.advantages() | curriculum.metrics()
          with timers('save'):
            lines = rollout_files.lines(
              collected.judged, collected.advantages_PG, tokenizer, step,
              find_answer=reward.find_answer,
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
        writer.flush()  # The step is done, so this does not wait.
        if told or (step + 1) % config.save_every == 0:
          with timers('save'):
            save(state, position())
          unjudged.remove(workdir)
        if told and not is_last:
          preempted.leave(step + 1)
    except (Unavailable, NoVerdicts) as error:
      judges.forget(parts, getattr(error, 'answers', ()))
      unjudged.write(workdir, int(state.step), kept, sampler.version)
      saved = 'saved what it has sampled'
      # Before the first step, the folder stays free for other settings.
      if state.step > 0:
        save(state, record)
        saved = f'saved after step {state.step}, with what it has sampled since'
      if jax.process_index() == 0:
        print(saved, file=sys.stderr)
      raise
    save(state, position())
    unjudged.remove(workdir)


@dataclasses.dataclass(frozen=True)
class Collected:
  """The samples of a step, and the batch it trains on."""

  judged: Judged  # Everything that was sampled.
  learned: list[bool]  # Per group, True if in the loss.
  batch: Batch
  advantages_PG: np.ndarray  # NaN where not in the loss.

  def advantages(self) -> dict[str, float]:
    """Returns the mean and standard deviation of advantages in the loss."""
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
  """Samples until there are enough groups; None if the data has ended."""
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
  # Groups in the loss come first; flat ones fill the rest of the batch, so that
  # it is never empty.
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
  """Returns the longest prompt and completion in tokens, as bucket sizes."""
  return (
    bucket(config.max_prompt_tokens),
    bucket(config.sampling.max_new_tokens),
  )


def plan_for(config: Config, tokenizer) -> Plan:
  """Returns an engine plan with room for a batch and for held-out examples."""
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
