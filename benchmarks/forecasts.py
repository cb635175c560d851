"""Forecasts the ends of six runs in the small world from their first halves.

From the cold start of the quickstart, three methods train with two seeds each
(see staleness.py for their names) and are tried on held-out documents every 10
steps. Then `rlpt fit` forecasts the end of each run from the half of its
compute, and compares the forecast with what was measured. Prints JSON: for each
run the reward before the first step, the forecast with its 90% interval, what
was measured, and whether the interval holds it; and for all runs the mean
absolute error, that of the best guess without a curve (the mean of the last
three measurements of the first half), and how many were covered.

  python benchmarks/forecasts.py --workdir /tmp/forecasts

Writes the picture of the forecasts to the workdir, too. A run that is done is
not run again, so a benchmark that was stopped continues.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import staleness

from rlpt_jax.runs import logs

METHODS = ('cispo_0', 'cispo_8', 'ppo_0')
SEEDS = (0, 1)
# 200 held-out documents with two predictions each: a noise of some 2 points.
HELD_OUT = (
  'held_out.HeldOut.every = 10',
  'held_out.HeldOut.examples = 200',
  'held_out.HeldOut.sampling = @twice/sampling.Sampling()',
  'twice/sampling.Sampling.samples = 2',
  'twice/sampling.Sampling.max_new_tokens = 64',
)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--steps', type=int, default=300)
  options = parser.parse_args()
  workdir = options.workdir
  staleness.prepare(workdir)
  names = [f'{method}_{seed}' for method in METHODS for seed in SEEDS]
  for name in names:
    method, _, seed = name.rpartition('_')
    staleness.train(workdir, method, name, int(seed), options.steps, *HELD_OUT)
  printed = subprocess.run(
    [
      sys.executable, '-m', 'rlpt_jax.cli', 'fit', *names, '--json',
      '--out', 'forecasts.png',
    ],
    cwd=workdir, check=True, stdout=subprocess.PIPE,
  )  # fmt: skip
  records = [x for x in json.loads(printed.stdout) if 'run' in x]
  runs = [described(workdir, record) for record in records]
  print(json.dumps({'runs': runs, 'summary': summary(runs)}, indent=2))


def described(workdir: pathlib.Path, record: dict) -> dict:
  """Returns what one run's forecast says, from its record of `rlpt fit`."""
  name = record['run']
  refused = record.get('refused') or record['forecast'].get('refused')
  if refused:
    return {'run': name, 'refused': refused}
  made = record['forecast']
  rewards = measured(workdir / name)
  return {
    'run': name,
    'before': round(rewards[0], 3),
    'curve': made['curves'][0]['curve'],
    'predicted': round(made['predicted'], 3),
    'interval': [round(end, 3) for end in made['interval']],
    'measured': round(made['measured'], 3),
    'error': round(made['error'], 3),
    'covered': made['covered'],
    'last_three': round(
      statistics.mean(rewards[: made['measurements']][-3:]), 3
    ),
    'sigmoid_A': round(
      next(
        each['parameters']['A']
        for each in record['whole']['curves']
        if each['curve'] == 'sigmoid'
      ),
      3,
    ),
  }


def measured(run: pathlib.Path) -> list[float]:
  """Returns a run's held-out rewards, from the one before the first step on."""
  columns = logs.read_columns(run)
  values = [
    columns[f'{name}/reward'] for name in ('held_out_before', 'held_out')
  ]
  return [float(x) for x in np.concatenate(values) if np.isfinite(x)]


def summary(runs: list[dict]) -> dict:
  """Returns the errors over all runs that have a forecast."""
  made = [run for run in runs if 'refused' not in run]
  if not made:
    return {'forecasts': 0}
  return {
    'forecasts': len(made),
    'covered': sum(run['covered'] for run in made),
    'mean_absolute_error': round(
      statistics.mean(abs(run['error']) for run in made), 4
    ),
    'error_of_last_three': round(
      statistics.mean(abs(run['last_three'] - run['measured']) for run in made),
      4,
    ),
  }


if __name__ == '__main__':
  main()
