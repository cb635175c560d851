"""Trains on text: next-token pre-training and supervised cold start."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.completions import progress
from rlpt_jax.core import checks, compilations
from rlpt_jax.core.checks import Count, Name, NonNegative, Seed
from rlpt_jax.core.layout import Axes, Layout
from rlpt_jax.core.metrics import Writer
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.types import Rows
from rlpt_jax.data.config import Data
from rlpt_jax.data.loader import Loader
from rlpt_jax.inference import model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, moe, scoring
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.planning import start
from rlpt_jax.runs import run_folder as runs
from rlpt_jax.runs.run_folder import Saving
from rlpt_jax.training.learner import make_update
from rlpt_jax.training.optimizer import (
  AdamW,
  learning_rates,
  make_optimizer,
)
from rlpt_jax.training.preemption import preemption

SHOWN = (
  ('loss', 'loss', '.4f'),
  ('held out', 'held_out/loss', '.4f'),
  ('entropy', 'entropy', '.3f'),
  ('gradient', 'gradient_norm', '.3f'),
  ('rate', 'learning_rate', '.1e'),
  ('tokens/s', 'timing/tokens_per_s', ',.0f'),
)
# Settings that may change when a run resumes: they affect its speed, its length
# or what it keeps, but not what a step computes (except for num_microbatches:
# see Config.router_balance).
MAY_CHANGE = (
  'num_steps', 'saving', 'layout', 'num_microbatches', 'max_skipped'
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The settings of a run.

  The task of the data decides which tokens are in the loss: all of a text
  (tasks.Ntp), or what the assistant says (tasks.Sft).

  RLPT's cold start uses batches of 1,024, learning rate 2e-5, cosine, 3 epochs
  (2509.19249, section 4.1; it does not say if the batch counts rows or
  conversations).

  model: a Hugging Face directory, a checkpoint directory, or random:NAME with
    the name of a model in the zoo.
  batch_size: rows per update; each has `row_tokens` tokens, an option of the
    task.
  held_out: data that is not trained on. The loss of its first `held_out_rows`
    rows is computed before the first step, every `held_out_every` steps, and
    after the last.
  num_microbatches: the number of parts of a batch that an update computes one
    by one; None: the fewest that fit the devices (planning/start.py).
  router_balance: the weight of the load balancing loss of experts (moe.py),
    which is computed for each microbatch separately; 0.001 is Qwen3-MoE's. The
    metric `loss` includes it, `held_out/loss` does not. The metric
    `router_balance` is the loss without the weight.
  max_skipped: the run stops after this many non-finite updates in a row.
  """

  model: Name
  data: Data
  optimizer: AdamW
  num_steps: Count
  batch_size: Count = 64
  held_out: Data | None = None
  held_out_rows: Count = 64
  held_out_every: Count = 100
  compute: Compute = Compute()
  layout: Axes = Axes()
  num_microbatches: Count | None = 1
  router_balance: NonNegative = 0.001
  saving: Saving = Saving(every=100)
  max_skipped: Count = 5
  seed: Seed = 0

  def __post_init__(self):
    checks.check_fields(self)
    runs.check_microbatches(self, 'batch_size', self.batch_size)

  def make_update(self, decoder: Decoder, optimizer) -> Callable:
    """Returns the run's update(state, batch) -> (state, metrics)."""
    weight = self.router_balance / self.num_microbatches
    loss = functools.partial(loss_of_rows, decoder, balance_weight=weight)
    return make_update(
      loss, optimizer, measure, num_microbatches=self.num_microbatches
    )


def train_sft(config: Config, *, workdir: pathlib.Path):
  """Trains on text: next-token pre-training and supervised cold start.

  Started again with the same settings, the run resumes. Ctrl-C and SIGTERM save
  after the current step; SIGTERM exits with status 75.

  Args:
    workdir: The run's folder, for checkpoints and metrics.
  """
  files = model_files.find(config.model)
  config = runs.with_tokenizer(config, files)
  decoder = Decoder(files.config, config.compute, config.layout.layout())
  config = start.planned(config, decoder)
  layout = decoder.layout
  optimizer = make_optimizer(config.optimizer, decoder_lib.specs(files.config))
  rates = learning_rates(config.optimizer)
  update = config.make_update(decoder, optimizer)
  try_on = jax.jit(functools.partial(loss_of_rows, decoder))
  with contextlib.ExitStack() as stack:
    timers = stack.enter_context(Timers('data', 'update', 'held_out', 'save'))
    stack.enter_context(runs.claimed(workdir, config, MAY_CHANGE))
    store = stack.enter_context(
      runs.checkpoints(workdir, files, config.data.tokenizer, config.saving)
    )
    state, record = runs.start(
      store, files, layout, optimizer, seed=config.seed
    )
    first_step, totals = int(state.step), record.get('totals', {})
    compiled = stack.enter_context(compilations.counted())
    if first_step < config.num_steps:
      update = stack.enter_context(
        start.compiling(update, config, state, layout)
      )
    host, hosts = layout.share(config.batch_size)
    progress.waiting('reading the data')
    loader = Loader(
      config.data, config.batch_size, host=host, hosts=hosts,
      position=record.get('position'),
    )  # fmt: skip
    stack.callback(loader.close)
    position = loader.position
    batches = stack.enter_context(contextlib.closing(iter(loader)))
    held_out = read_held_out(config, layout)
    writer = stack.enter_context(
      Writer(
        workdir, first_step=first_step, num_steps=config.num_steps, shown=SHOWN
      )
    )
    preempted = stack.enter_context(preemption())

    def save(state):
      writer.sync()  # Before the checkpoint: see core/metrics.py.
      runs.save(
        store, state, files, {'position': position, 'totals': totals},
        max_skipped=config.max_skipped,
      )  # fmt: skip

    updated = None
    progress.waiting('compiling: the first step takes the longest')
    for step in range(first_step, config.num_steps):
      metrics = {'learning_rate': rates(step)}
      if held_out and step == 0:
        metrics['held_out_before/loss'] = try_on(state.params, held_out)[0]
      with timers('data'):
        loaded = next(batches, None)
        if loaded is None:
          print(f'out of data before step {step + 1}')
          break
        position = loaded.position
        batch = put(layout, loaded.examples, config.batch_size)
      with timers('update'):
        before, (state, updated) = updated, update(state, batch)
        # Check the previous update; waiting for this one would idle devices.
        if before:
          runs.check_skipped(
            config.max_skipped, step, before['skipped_in_a_row']
          )
        timers.busy('update', until=updated['loss'].block_until_ready)
      is_last = step + 1 == config.num_steps
      if held_out and (is_last or (step + 1) % config.held_out_every == 0):
        with timers('held_out'):
          metrics['held_out/loss'] = try_on(state.params, held_out)[0]
      metrics |= updated | count(files.config, config, loaded.examples, totals)
      store.check()
      is_preempted = preempted(step)
      timing = functools.partial(
        with_speed, timers.lap(), metrics['compute/tokens'],
        runs.memory() | {'timing/compilations': compiled.count},
      )  # fmt: skip
      writer.write(step, metrics, timing)
      if is_preempted or (step + 1) % config.saving.every == 0:
        with timers('save'):
          save(state)
      if is_preempted and not is_last:
        preempted.leave(step + 1)
    save(state)


def with_speed(
  lap: Callable[[], dict[str, float]], tokens: int, more: dict[str, float]
) -> dict[str, float]:
  """Waits for the end of a step; returns its times, its speed, and `more`."""
  times = lap()
  speed = {'timing/tokens_per_s': tokens / times['timing/step_s']}
  return times | speed | more


def loss_of_rows(
  decoder: Decoder, params, batch, *, balance_weight: float = 0.0
):
  """Returns (the rows' share of the batch's mean -log p, {name: values}).

  The values are log-probabilities and entropies of each token, and for a model
  with experts the load balancing loss, which is added to the share with weight
  `balance_weight`.
  """
  logprobs_BT, entropies_BT, router = scoring.in_packed_rows(
    decoder, params, batch['tokens_BT'], batch['segments_BT']
  )
  weights_BT = batch['weights_BT']
  rows = {'logprobs_BT': logprobs_BT, 'entropies_BT': entropies_BT}
  loss = -jnp.sum(jnp.where(weights_BT > 0, weights_BT * logprobs_BT, 0.0))
  if balance := moe.balance_of(decoder.config):
    rows['router_balance'] = balance(router)[None]
    loss += balance_weight * rows['router_balance'][0]
  return loss, jax.lax.stop_gradient(rows)


def measure(batch, rows) -> dict[str, jax.Array]:
  """Returns metrics of the tokens in the loss and of the experts' router."""
  weights_BT = batch['weights_BT']
  router = {}
  if 'router_balance' in rows:  # One value for each microbatch.
    router = {'router_balance': jnp.mean(rows['router_balance'])}
  return router | {
    'entropy': jnp.sum(weights_BT * rows['entropies_BT'], where=weights_BT > 0),
    'tokens_in_loss': jnp.count_nonzero(weights_BT),
  }


def put(layout: Layout, rows: Rows, batch_size: int) -> dict[str, jax.Array]:
  """Puts this host's rows into the global batch, with loss weights."""
  _, hosts = layout.share(batch_size)
  tokens_BT, segments_BT, loss_BT = (
    layout.put_share(_filled(x, batch_size // hosts), batch_size, 'batch', None)
    for x in (rows.tokens_BT, rows.segments_BT, rows.loss_BT)
  )
  return {
    'tokens_BT': tokens_BT,
    'segments_BT': segments_BT,
    'weights_BT': _weights(loss_BT),
  }


def _filled(x_BT: np.ndarray, rows: int) -> np.ndarray:
  """Pads to `rows` rows, since the last batch of the data may have fewer."""
  return np.pad(x_BT, ((0, rows - len(x_BT)), (0, 0)))


@jax.jit
def _weights(loss_BT):
  """Returns weights for the mean over the tokens in the loss on all hosts."""
  return loss_BT / jnp.maximum(loss_BT.sum(), 1)


def read_held_out(config: Config, layout: Layout):
  """Returns the batch of held-out rows, or None."""
  if config.held_out is None:
    return None
  rows = config.held_out_rows
  host, hosts = layout.share(rows)
  loader = Loader(config.held_out, rows, host=host, hosts=hosts)
  with contextlib.closing(iter(loader)) as batches:
    loaded = next(batches)
  loader.close()
  return put(layout, loaded.examples, rows)


def count(
  model, config: Config, rows: Rows, totals: dict[str, int]
) -> dict[str, int]:
  """Returns metrics: the tokens and FLOPs of an update, and of the run so far.

  Counts only the rows of this host, and adds their numbers to `totals`.
  """
  lengths = [
    length
    for segments_T in rows.segments_BT
    for length in np.bincount(segments_T)[1:].tolist()
  ]
  again = 1 if config.compute.remat == 'layer' else 0
  step = {
    'tokens': sum(lengths),
    'flops': sum(
      (3 + again) * flops.forward(model, n) + 4 * flops.head(model) * (n - 1)
      for n in lengths
    ),
  }
  for name, value in step.items():
    totals[name] = totals.get(name, 0) + value
  return {f'compute/{name}': value for name, value in step.items()} | {
    f'compute/total_{name}': value for name, value in totals.items()
  }
