"""Says what a run needs before it starts: memory, time and price."""

import dataclasses
import json as json_lib
import math

import rich.console
import rich.table

from rlpt_jax.planning import advice, compilers
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.compilers import Report
from rlpt_jax.planning.costs import Lengths, Shares
from rlpt_jax.planning.estimate import Estimate, without_nan
from rlpt_jax.planning.run import Given, Run

SHARES = Shares()
GB = 10**9
# Part of the memory -> what is in it.
WHAT = {
  'weights': 'float32',
  'moments': "AdamW's two",
  'gradients': "a microbatch's, and their sum",
  'batch': 'tokens, masks, log-probabilities',
  'activations': 'kept for the backward pass',
  'layer': 'the layer at work',
  'head': 'its weights, gradient and logits',
  'scores': 'of attention without a kernel',
  'reference': 'the frozen policy',
  'sampler': 'weights',
  'caches': 'of prompts and completions',
  'logits': 'of a decoding step',
  'judge': 'local',
}


def plan(
  run: Given,
  *,
  chips: str | None = None,
  model: str | None = None,
  mean_prompt_tokens: int | None = None,
  mean_new_tokens: int | None = None,
  share: float = SHARES.compute,
  bandwidth_share: float = SHARES.memory,
  price: float | None = None,
  json: bool = False,
  compile: bool = False,
):
  """Says what a run needs before it starts: memory, time and price.

  Needs neither the chips nor the weights nor the data. The arithmetic is in
  rlpt_jax/planning/, and docs/planning.md says what it leaves out.

  Args:
    chips: Such as tpu:v5e:8x8, tpu:v5p:2x2x4, h100:8 or cpu:1. By default, what
      the layout's file says.
    model: A name of the zoo, such as qwen3_8b. By default, the shape of the
      run's model if it is here, or else what the model's file says.
    mean_prompt_tokens: The mean length of a prompt; half of the longest, if not
      set.
    mean_new_tokens: The mean length of a completion; half of the longest, if
      not set.
    share: The share of the chip's peak FLOPs that the run reaches.
    bandwidth_share: The share of its memory's bandwidth.
    price: The price of one chip for an hour, in any currency.
    json: Print JSON, with all numbers.
    compile: Compile the update and a chunk of decoding with the compiler of the
      chips, which takes minutes, and say what it reports. Needs pip install
      'rlpt_jax[plan-tpu]' or 'rlpt_jax[plan-cuda]', but no chips.
  """
  shape, origin = run_lib.find_shape(run.config, model, run.macros)
  machine = run_lib.find_machine(chips, run.macros)
  estimate = Estimate(
    run=advice.chosen(Run(run.config, shape, machine)),
    lengths=Lengths(mean_prompt_tokens, mean_new_tokens),
    shares=Shares(share, bandwidth_share),
    price=price,
  )
  reports = compilers.compile_run(estimate.run) if compile else ()
  if json:
    found = {'model': origin, **estimate.to_dict()}
    if compile:
      found['compiled'] = {
        name: dataclasses.asdict(report) for name, report in reports
      }
    print(json_lib.dumps(without_nan(found), indent=2, allow_nan=False))
    return
  console = rich.console.Console(highlight=False)
  console.print(f'model: {origin}; chips: {machine}', markup=False)
  console.print(memory_table(estimate))
  console.print(f'\n{verdict(estimate)}', markup=False)
  if estimate.num_microbatches:
    console.print(microbatches(estimate), markup=False)
  console.print()
  console.print(step_table(estimate))
  for line in (*assumptions(estimate), *estimate.notes()):
    console.print(f'- {line}', markup=False)
  if not math.isnan(estimate.hours):
    console.print(f'\n{whole_run(estimate)}', markup=False)
  for name, report in reports:
    console.print(f'\n{compiled(name, report, estimate)}', markup=False)


def compiled(name: str, report: Report, estimate: Estimate) -> str:
  """Says what the compiler reports of the update or the chunk of decoding."""
  planned = compilers.planned(estimate.run, name)
  lines = [
    f'{name}, compiled in {report.compile_seconds:,.0f} s: '
    f'{report.total / GB:.2f} GB on each chip, {planned / GB:.2f} GB by the '
    'arithmetic',
    f'  arguments {report.arguments / GB:.2f} GB, temporary arrays '
    f'{report.temporaries / GB:.2f} GB',
  ]
  for kind, (count, size) in sorted(report.collectives.items()):
    lines.append(f'  {count:,} x {kind}: {size / GB:,.2f} GB')
  if report.step is not None:
    lines.append(f'  a step of decoding moves {report.step / GB:,.2f} GB')
    lines += [f'  copies {array}: {name}' for name, array in report.copies]
    lines += [] if report.copies else ['  no cache is copied']
  return '\n'.join(lines)


def _table(*columns: str) -> rich.table.Table:
  table = rich.table.Table(*columns, box=None, pad_edge=False)
  for column in table.columns[1:-1]:
    column.justify = 'right'
  return table


def memory_table(estimate: Estimate) -> rich.table.Table:
  table = _table('on each chip', 'GB', '')
  for name, size in estimate.memory.items():
    table.add_row(name, f'{size / GB:.2f}', WHAT[name])
  memory, room = estimate.run.machine.memory, estimate.room
  for side, size in estimate.sides.items():
    name = side if side == 'all' else f"all on the {side}'s chips"
    table.add_row(
      name, f'{size / GB:.2f}',
      f'of {room / GB:.1f} (90% of {memory / GB:.0f})',
      style='bold',
    )  # fmt: skip
  return table


def verdict(estimate: Estimate) -> str:
  """Says if the run fits, and what to change if it does not."""
  if estimate.fits:
    return 'It fits.'
  lines = ['It does not fit. What would make it fit:']
  for proposal in estimate.proposals:
    settings = ' '.join(proposal.settings)
    lines.append(f'  {settings}  ({proposal.num_bytes / GB:.2f} GB)')
  if not estimate.proposals:
    least = advice.least_chips(estimate.run)
    is_few = least > estimate.run.learner.layout.mesh.size
    chips = (
      f'at least {least} chips, which its weights, moments and gradients take'
      if is_few else 'more chips'
    )  # fmt: skip
    lines = [
      'It does not fit, and settings of its speed and memory alone do not '
      f'change that. Use {chips}, a smaller model, or shorter texts.'
    ]
  return '\n'.join(lines)


def microbatches(estimate: Estimate) -> str:
  """Says which number of microbatches is best."""
  now = run_lib.num_microbatches(estimate.run.config)
  fewest = estimate.num_microbatches
  if fewest == now:
    return f'num_microbatches={now} is the fewest that fit.'
  if fewest > now:
    return f'num_microbatches={now} does not fit; {fewest} would.'
  updates = []
  for each in (estimate.with_fewest(), estimate):
    moved, (seconds, _) = each.step['update'].moved, each.seconds['update']
    updates.append(f'{moved / GB:,.0f} GB moved, {shown(seconds)} s')
  return (
    f'num_microbatches={now}, but {fewest} would be enough (an update: '
    f'{updates[0]}; as it is: {updates[1]}).'
  )


def step_table(estimate: Estimate) -> rich.table.Table:
  table = _table(
    'a step', 'FLOPs', 'with padding', 'GB moved', 'seconds', 'limit'
  )
  for name, cost in estimate.step.items():
    seconds, limit = estimate.seconds[name]
    table.add_row(
      name, f'{cost.needed:.2e}', f'{cost.computed:.2e}',
      f'{cost.moved / GB:,.0f}', shown(seconds), limit,
    )  # fmt: skip
  total = estimate.step.values()
  table.add_row(
    'all', f'{sum(x.needed for x in total):.2e}',
    f'{sum(x.computed for x in total):.2e}',
    f'{sum(x.moved for x in total) / GB:,.0f}',
    shown(estimate.step_seconds), '', style='bold',
  )  # fmt: skip
  return table


def shown(seconds: float) -> str:
  return '?' if math.isnan(seconds) else f'{seconds:,.1f}'


def assumptions(estimate: Estimate) -> list[str]:
  """Returns the assumptions behind the times."""
  lines, shares = [], estimate.shares
  if estimate.run.machine.flops is not None:
    lines.append(
      f'{shares.compute:.0%} of the peak FLOPs and {shares.memory:.0%} of the '
      "memory's bandwidth (--share, --bandwidth_share)"
    )
  if run_lib.is_rl(estimate.run.config):
    config = estimate.run.config
    prompt, completion = estimate.lengths.of(
      config.max_prompt_tokens, config.sampling.max_new_tokens
    )
    lines.append(
      f'mean lengths: {prompt:,} tokens of a prompt, {completion:,} of a '
      'completion (--mean_prompt_tokens, --mean_new_tokens)'
    )
  if estimate.run.is_in_jobs:
    jobs, one = estimate.sampler_jobs, estimate.run.sampler.layout.mesh.size
    lines.append(
      f'other jobs sample: {jobs} of them, on {one} such chips each, keep up '
      'with the learner'
    )
  elif estimate.run.overlaps:
    lines.append(
      'learner and sampler have separate chips: a step takes as long as the '
      'slower of them'
    )
  elif estimate.run.is_apart:
    lines.append(
      'learner and sampler have separate chips, but wait for each other; with '
      'schedules.Pipelined.overlap=True they would not'
    )
  return lines


def whole_run(estimate: Estimate) -> str:
  """Says how long the run takes, and what it costs."""
  steps, hours = estimate.run.config.num_steps, estimate.hours
  chip_hours = hours * estimate.chips
  text = (
    f'{steps:,} steps of {estimate.step_seconds:,.0f} s take {hours:,.1f} '
    f'hours ({hours / 24:,.1f} days), {chip_hours:,.0f} chip hours'
  )
  if estimate.cost is None:
    return f'{text} (--price for what they cost).'
  return f'{text}, which cost {estimate.cost:,.0f} at {estimate.price:g} each.'
