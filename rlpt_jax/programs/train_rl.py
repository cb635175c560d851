"""Trains a policy by RL on groups of completions: RLPT."""

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
from rlpt_jax.algorithms.kl import InLoss, InReward
from rlpt_jax.completions import progress
from rlpt_jax.core import checks, compilations
from rlpt_jax.core.checks import Count, Name, NonNegative, PositiveShare, Seed
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.metrics import Writer
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.core.timeline import Timeline
from rlpt_jax.core.timers import Timers
from rlpt_jax.data.config import Data
from rlpt_jax.inference import judges, model_files
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.llm.remote import Unavailable
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import moe, scoring
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import start
from rlpt_jax.rewards import scores
from rlpt_jax.rewards.scores import Reward, RewardFn
from rlpt_jax.rollout import (
  collect,
  judged,
  rollout_files,
  samplers,
  schedules,
  unjudged,
)
from rlpt_jax.rollout.batches import make_batches, shorten
from rlpt_jax.rollout.collect import Collect, Exclude
from rlpt_jax.rollout.collector import Collector, make_collect
from rlpt_jax.rollout.consumer import Consumer, make_consumer
from rlpt_jax.rollout.experience import Experience
from rlpt_jax.rollout.held_out import HeldOut, Trial
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.prompts import open_prompts
from rlpt_jax.rollout.reference import Reference
from rlpt_jax.rollout.rollout_files import Kept
from rlpt_jax.rollout.rollouts import Rollouts
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.stream import Source
from rlpt_jax.rollout.verdicts import NoVerdicts
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.sampling.decode import bucket
from rlpt_jax.sampling.sampler import Sampler
from rlpt_jax.training.checkpoints import Store
from rlpt_jax.training.learner import State, make_update
from rlpt_jax.training.optimizer import AdamW, make_optimizer
from rlpt_jax.training.preemption import Preemption, preemption

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
# Shown only while they are not 0.
ALARMS = (('no verdict', 'unjudged_share', '.2f'),)
PARTS = ('rollout', 'reward', 'update', 'publish', 'held_out', 'save')
# Settings that may change when a run resumes: they affect its speed, its length
# or what it keeps, but not what a step computes (except for some of Hardware).
MAY_CHANGE = (
  'num_steps', 'hardware', 'saving', 'rollouts', 'max_skipped', 'max_unjudged'
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
  """How a run is spread over its devices; affects its speed and memory.

  If the schedule samples ahead, the slots, own_tokens and devices that split
  the sampler's batch also decide which weights sample a token.

  num_microbatches: the number of parts of a batch that an update computes one
    by one; None: the fewest that fit the devices (planning/start.py). This also
    affects the load balancing loss of experts (see Config.router_balance).
  lengths: the number of lengths that an update is compiled for, each half of
    the one before. Completions of similar length share a microbatch, which is
    computed at the shortest length that holds them (training/lengths.py). This
    affects the load balancing loss too.
  slots: completions sampled at once; None: Config.prompts * sampling.samples.
  own_tokens: positions of their cache (sampling/plan.py); None: room for all.
  contact: how samplers of other processes reach the learner, if the schedule
    is schedules.Separate.
  """

  layout: Axes = Axes()
  sampler_layout: Axes = Axes(data=-1, fsdp=1)
  num_microbatches: Count | None = 1
  lengths: Count = 1
  slots: Count | None = None
  own_tokens: Count | None = None
  contact: Contact = Contact()

  def __post_init__(self):
    checks.check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The settings of a run.

  RLPT uses 512 prompts with 8 samples each at temperature 1, up to 8,192
  tokens, learning rate 1e-6 and no KL (2509.19249, section 4.1).

  model: a Hugging Face directory, a checkpoint directory, or random:NAME with
    the name of a model in the zoo.
  reward: (examples, completions) -> Scores.
  prompts: prompts per batch, with `sampling.samples` completions each.
  collector: makes an experience from the next prompts; Game gives the policy a
    second role, in which it chooses what is hidden (game.py).
  collect: what to do with groups that teach nothing: keep, drop or Refill
    (rollout/collect.py).
  exclude: rules that choose completions to leave out of their groups and of the
    loss, such as [@collect.truncated].
  max_pass_rate: examples with this pass rate or a higher one are not sampled
    again (curriculum.py).
  score: computes log-probabilities. in_groups runs the model on a prompt once
    for its group, in_rows once for each completion.
  kl: a KL penalty against the model that the run began with (reference.py).
  schedule: when the policy samples, and with which weights (schedules.py).
  router_balance: the weight of the load balancing loss of experts (moe.py),
    which is computed for each microbatch separately. 0 by default, because a
    pretrained router is balanced already, and this loss would work against the
    reward. The metric `router_balance` is the loss without the weight.
  held_out: examples that the policy is tried on (held_out.py).
  max_skipped: the run stops after this many non-finite updates in a row.
  max_unjudged: the run stops after this many steps in a row with almost no
    verdicts (verdicts.py).
  """

  model: Name
  data: Data
  reward: RewardFn
  optimizer: AdamW
  num_steps: Count
  prompts: Count = 64
  sampling: Sampling = Sampling()
  max_prompt_tokens: Count = 1024
  collector: Collector = Collector()
  collect: Collect = collect.keep
  exclude: tuple[Exclude, ...] = ()
  max_pass_rate: PositiveShare | None = None
  advantages: Callable = advantages.group_normalized
  loss: Callable = losses.ppo
  reduction: Callable = reductions.completion_mean
  score: Callable = scoring.in_groups
  kl: InLoss | InReward | None = None
  router_balance: NonNegative = 0.0
  held_out: HeldOut | None = None
  schedule: Callable = schedules.synchronous
  compute: Compute = Compute()
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
  hardware: Hardware = Hardware()
  saving: Saving = Saving()
  rollouts: Kept = Kept()
  max_skipped: Count = 5
  max_unjudged: Count = 3
  seed: Seed = 0

  def __post_init__(self):
    checks.check_fields(self)
    self.collector.check(self)
    schedules.check(self)
    for sampling in self.samplings:
      sampling.check_learnable()
    if any(sampling.samples == 1 for sampling in self.samplings):
      collect.check_single_sample(self)
    runs.check_microbatches(self.hardware, 'Config.prompts', self.prompts)

  @property
  def held_out_sampling(self) -> Sampling:
    """The sampling settings for held-out examples."""
    once = dataclasses.replace(self.samplings[0], samples=1)
    return (self.held_out and self.held_out.sampling) or once

  @property
  def kl_in_loss(self) -> InLoss | None:
    return self.kl if isinstance(self.kl, InLoss) else None

  @property
  def longest(self) -> tuple[int, int]:
    """The most tokens of a prompt and a completion, rounded up by `bucket`."""
    longest = max(sampling.max_new_tokens for sampling in self.samplings)
    return bucket(self.max_prompt_tokens), bucket(longest)

  @property
  def samplings(self) -> tuple[Sampling, ...]:
    """The sampling settings of all roles."""
    return self.collector.samplings(self.sampling)

  @property
  def shares_prompts(self) -> bool:
    return self.score is scoring.in_groups

  def score_with(self, decoder: Decoder) -> Callable:
    temperature = self.sampling.temperature
    return functools.partial(self.score, decoder, temperature=temperature)

  def make_update(self, decoder: Decoder, optimizer) -> Callable:
    """Returns the run's update(state, *batches) -> (state, metrics)."""
    parts = self.collector.parts(self)
    return make_update(
      policy.make_loss(
        self.score_with(decoder), self.loss, kl=self.kl_in_loss,
        balance=moe.balance_of(decoder.config),
        balance_weight=self.router_balance / sum(parts),
      ),
      optimizer, policy.of_roles(self.collector.roles), num_microbatches=parts,
      shorten=shorten(self),
    )  # fmt: skip


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
  layout = config.hardware.layout.layout()
  decoder = Decoder(files.config, config.compute, layout)
  config = start.planned(config, decoder)
  optimizer = make_optimizer(config.optimizer, decoder_lib.specs(files.config))
  update = config.make_update(decoder, optimizer)
  with contextlib.ExitStack() as stack:
    opened = stack.enter_context
    timers = opened(Timers(*PARTS, timeline=Timeline()))
    opened(runs.claimed(workdir, config, MAY_CHANGE))
    store = opened(
      runs.checkpoints(workdir, files, config.data.tokenizer, config.saving)
    )
    reward = opened(contextlib.closing(scores.of(config.reward)))
    if max(store.steps(), default=0) < config.num_steps:
      judges.try_out(reward)
    state, record = runs.start(
      store, files, layout, optimizer, seed=config.seed
    )
    first_step, unfinished = int(state.step), record.pop('unfinished', None)
    record |= on_one_host(unjudged.read_record)(workdir, first_step)
    has_lines = on_one_host(runs.has_lines)
    if first_step >= config.num_steps and has_lines(workdir, first_step):
      unfinished = None  # An earlier start has already finished it.
    reference = config.kl and Reference(
      files.load_params(layout=layout, seed=config.seed),
      config.score_with(decoder), layout, shorten=shorten(config),
      prompts=config.prompts // config.hardware.num_microbatches,
    )  # fmt: skip
    judges.load(reward)  # Before the sampler, which uses the memory left.
    progress.waiting('reading the data')
    prompts = open_prompts(config.data, config.max_pass_rate, record)
    opened(contextlib.closing(prompts))
    sampler = opened(
      samplers.open_sampler(
        config, files, state.params, prompts.tokenizer, workdir=workdir,
        version=first_step,
      )
    )  # fmt: skip
    compiled = opened(compilations.counted())
    if first_step < config.num_steps:
      update = opened(start.compiling(update, config, state, layout))
    rollouts = Rollouts(
      sampler, prompts.tokenizer, reward, timers, seed=config.seed
    )
    rollouts.load(workdir, first_step)
    source = schedules.open_source(config, prompts, rollouts, record)
    collect_next = make_collect(config, prompts, rollouts, source, reference)
    consumer = make_consumer(config, files.config, reward, record)
    held_out = config.held_out and Trial(
      config.held_out, config.held_out_sampling
    )
    writer = opened(
      Writer(
        workdir, first_step=first_step - bool(unfinished),
        num_steps=config.num_steps, shown=SHOWN, alarms=ALARMS,
      )
    )  # fmt: skip
    preempted = opened(preemption(source.stop_waiting))
    run = Run(
      config=config, workdir=workdir, files=files, store=store, writer=writer,
      timers=timers, reward=reward, sampler=sampler, rollouts=rollouts,
      source=source, consumer=consumer, held_out=held_out, compiled=compiled,
      preempted=preempted, state=state, record=record,
    )  # fmt: skip
    progress.waiting('compiling: the first step takes the longest')
    try:
      if unfinished:
        run.finish(first_step - 1, unfinished)
      metrics, updated = {}, None
      if held_out and first_step == 0:
        metrics = held_out.metrics('held_out_before', rollouts, workdir, 0)
      experiences = opened(
        contextlib.closing(config.schedule(collect_next, run.publish, source))
      )
      for step in range(first_step, config.num_steps):
        if (experience := next(experiences, None)) is None:
          examples = f'{prompts.count:,} examples'
          print(f'out of data before step {step + 1}: {examples}')
          break
        experience = consumer(step, experience)
        with timers('update'):
          batches = make_batches(config, layout, experience, reference)
          before, (state, updated) = updated, update(run.state, *batches)
          # Check the previous update; waiting for this one would idle devices.
          if before:
            runs.check_skipped(
              config.max_skipped, step, before['skipped_in_a_row']
            )
          timers.busy(
            'update', until=updated['loss'].block_until_ready,
            elsewhere=sampler.is_apart_from(layout),
          )  # fmt: skip
        metrics |= experience.rollout_metrics(sampler.version)
        metrics |= updated | consumer.metrics(experience)
        run.state, run.step = state, step + 1
        run.record = consumer.record(experience)
        run.finish(step, metrics, experience)
        metrics = {}
    except (Unavailable, NoVerdicts) as error:
      run.rescue(error)
      raise
    run.save()
    store.wait()  # Before samplers hear that the run is over.


@dataclasses.dataclass(kw_only=True)
class Run:
  """The state of a run, and what happens between its updates.

  record: saved with each checkpoint of `state`; a run resumes from both.
  """

  config: Config
  workdir: pathlib.Path
  files: ModelFiles
  store: Store
  writer: Writer
  timers: Timers
  reward: Reward
  sampler: Sampler
  rollouts: Rollouts
  source: Source
  consumer: Consumer
  held_out: Trial | None
  compiled: compilations.Compilations
  preempted: Preemption
  state: State
  record: dict[str, Any]

  def __post_init__(self):
    self._published = self.state.params
    # A number of the host: reading that of the state waits for the update.
    self.step = int(self.state.step)

  def publish(self):
    """Gives the newest weights to the sampler, if it has older ones."""
    if self._published is not self.state.params:
      with self.timers('publish'):
        self.sampler.publish(self.state.params)
      self._published = self.state.params

  def save(self):
    """Saves a checkpoint of the last step, unless it is saved already."""
    with self.timers('save'):
      self._save_state()
    unjudged.remove(self.workdir)

  def _save_state(self):
    if self.step < self.config.num_steps:
      self.source.catch_up(self.publish)
    record, stream = self.source.resume()
    self.writer.sync()  # Before the checkpoint: see core/metrics.py.
    runs.save(
      self.store, self.state, self.files, self.record | record,
      max_skipped=self.config.max_skipped, stream=stream,
    )  # fmt: skip

  def finish(
    self,
    step: int,
    metrics: dict[str, Any],
    experience: Experience | None = None,
  ):
    """Writes a step's rollouts and metrics; leaves if the run is preempted.

    Evaluates held-out examples and saves a checkpoint in steps where these are
    due.

    experience: None if an earlier start of the run has written the rollouts.
    """
    config, is_last = self.config, step + 1 == self.config.num_steps
    if experience:
      with self.timers('save'):
        rollout_files.keep(
          self.workdir, step, config.rollouts, experience, self.rollouts
        )
      self.source.forget(experience.names)
    else:  # Of an earlier start, read from JSON.
      metrics = {name: np.asarray(value) for name, value in metrics.items()}
    if self.held_out and (is_last or (step + 1) % config.held_out.every == 0):
      metrics |= self._try_held_out(metrics)
    self.store.check()
    is_preempted = self.preempted(step)
    lap, more = self.timers.lap(), runs.memory() | judges.counts(self.reward)
    more['timing/compilations'] = self.compiled.count
    more['timing/slots_in_use'] = self.sampler.take_slots_in_use()

    def timing() -> dict[str, float]:  # Called once the update has ended.
      parts = lap() | self.timers.timeline.take()
      if experience:
        parts |= judged.speed([x.judged for x in experience.roles], parts)
      return parts | more

    self.writer.write(step, metrics, timing)
    if is_preempted or (step + 1) % config.saving.every == 0:
      self.save()
    if is_preempted and not is_last:
      self.preempted.leave(step + 1)

  def _try_held_out(self, metrics: dict[str, Any]) -> dict[str, float]:
    """Tries the policy on the held-out examples; returns their metrics.

    If the judge fails, the run's next start continues here with `metrics`,
    those that the step has so far.
    """
    numbers = {k: np.asarray(v).tolist() for k, v in metrics.items()}
    record, self.record = self.record, self.record | {'unfinished': numbers}
    self.publish()
    held_out_metrics = self.held_out.metrics(
      'held_out', self.rollouts, self.workdir, self.step
    )
    self.rollouts.forget(self.held_out.names)
    held_out_metrics |= self.consumer.ledger.add_held_out(metrics)
    self.record = record | {'ledger': dict(self.consumer.ledger.totals)}
    return held_out_metrics

  def rescue(self, error: Unavailable | NoVerdicts):
    """Saves the samples not learned from yet, after the judge has failed."""
    judges.forget(self.reward, getattr(error, 'answers', ()))
    saved = 'saved the completions sampled so far'
    # Before the first step, no more is saved, so that the next start may still
    # use this folder with other settings.
    if self.step > 0:
      self._save_state()
      saved = (
        f'saved after step {self.step}, with the completions sampled since'
      )
    self.rollouts.save(self.workdir, self.step, *self.source.resume())
    if jax.process_index() == 0:
      print(saved, file=sys.stderr)
