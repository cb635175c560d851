"""Plans every experiment on every layout, and writes the tables of its page.

  python benchmarks/plans.py

replaces the tables in experiments/README.md. The test of that page is in
tests/experiments_test.py.
"""

import math
import pathlib
from collections.abc import Sequence

from rlpt_jax import cli
from rlpt_jax.planning import advice as advice_lib
from rlpt_jax.planning import machines
from rlpt_jax.planning import run as run_lib
from rlpt_jax.planning.estimate import Estimate
from rlpt_jax.planning.run import Run
from rlpt_jax.rewards import scores

ROOT = pathlib.Path(__file__).parents[1]
PAGE = pathlib.Path('experiments/README.md')
LAYOUTS = ('v5e_64', 'v5p_32', 'h100_8', 'h200_8_apart', 'h200_1', 'cpu')
BEGIN = '<!-- python benchmarks/plans.py -->'
GB = 10**9
COLUMNS = (
  'experiment', 'GB', 'microbatches', 'sampling, s', 'update, s', 'a step, s',
  'the run, hours',
)  # fmt: skip
HEAD = f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|'


def main():
  path = ROOT / PAGE
  head, begin, _ = path.read_text().partition(BEGIN)
  assert begin, f'{path}: has no line {BEGIN}'
  path.write_text(f'{head}{BEGIN}\n{tables(experiments())}')
  print(f'wrote {path}')


def experiments() -> list[str]:
  """Returns the names of all experiments, such as 'rl/rlpt_qwen3_8b_base'."""
  return [
    f'{folder}/{path.stem}'
    for folder in ('sft', 'rl')
    for path in sorted((ROOT / 'experiments' / folder).glob('*.gin'))
  ]


def tables(names: Sequence[str]) -> str:
  """Returns a table for each layout, with a row for each experiment."""
  parts = []
  for layout in LAYOUTS:
    found = {name: estimate(name, layout) for name in names}
    machine = found[names[0]].run.machine
    rows = [row(*item) for item in found.items() if may_fit(item[1])]
    too_large = [
      f'{name} ({each.total / GB:,.0f} GB)'
      for name, each in found.items()
      if not may_fit(each)
    ]
    parts += [
      '', f'### {layout}', '',
      f'`--chips {machine}`, {machine.memory / GB:.0f} GB on each chip.', '',
      HEAD, *rows,
    ]  # fmt: skip
    if too_large:
      parts += ['', f'Too large: {", ".join(too_large)}.']
  return '\n'.join(parts) + '\n'


def may_fit(found: Estimate) -> bool:
  return found.fits or bool(found.proposals)


def row(name: str, found: Estimate) -> str:
  """Returns the line of an experiment in the table of a layout."""
  if not found.fits:
    return f'| {name} | {found.total / GB:.1f} | {advice(found)} | | | | |'
  update = found.seconds['update'][0]
  sampling = sum(seconds for seconds, _ in found.seconds.values()) - update
  hours = shown(found.hours, '.1f')
  times = [shown(x, '.0f') for x in (update, found.step_seconds)]
  first = shown(sampling, '.0f') if run_lib.is_rl(found.run.config) else ''
  number = run_lib.num_microbatches(found.run.config)
  size = f'{found.total / GB:.1f}'
  return f'| {" | ".join([name, size, str(number), first, *times, hours])} |'


def shown(number: float, form: str) -> str:
  return '?' if math.isnan(number) else f'{number:,{form}}'


def advice(found: Estimate) -> str:
  """Returns what to change in a run that does not fit."""
  each = [
    ' and '.join(f'`{setting}`' for setting in proposal.settings)
    for proposal in found.proposals
  ]
  return f'fits with {", or with ".join(each)}'


def estimate(name: str, layout: str) -> Estimate:
  """Returns a plan of an experiment with the fewest microbatches that fit.

  If none fit, it has the most.
  """
  folder = name.split('/')[0]
  kind = {'rl': 'train_rl.Hardware', 'sft': 'train_sft.Config'}[folder]
  config, macros = cli.read_run(
    ROOT / f'experiments/{name}.gin',
    (
      str(ROOT / f'experiments/layouts/{layout}.gin'),
      f'{kind}.num_microbatches=None',
    ),
  )
  if run_lib.is_rl(config):
    scores.of(config.reward).close()  # It may have started processes.
  shape, _ = run_lib.find_shape(config, None, macros)
  machine = machines.parse(macros[run_lib.CHIPS])
  return Estimate(run=advice_lib.chosen(Run(config, shape, machine)))


if __name__ == '__main__':
  main()
