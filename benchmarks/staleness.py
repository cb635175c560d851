"""Compares how old samples may be, at equal steps, in the small world.

From the cold start of the quickstart, each method trains with each seed:

  cispo_0           synchronous, with the loss of ScaleRL
  cispo_1, 4, 8     schedules.Pipelined(max_staleness=1), and so on
  ppo_0, ppo_8      with the loss of the quickstart

The sampler has slots for all batches of the bound, so samples are about as old
as they may be; with fewer slots they are younger. Then all predict held-out
sentences, and the truth says how many are right. Prints JSON: for each method,
the accuracy for each seed, the mean, and the difference to `cispo_0`, with a
95% interval over seeds (paired by seed); the compute relative to `cispo_0` (the
FLOPs of everything); and means over the last half of the steps.

  python benchmarks/staleness.py --workdir /tmp/staleness

A run that is done is not run again, so a benchmark that was stopped continues.
"""

import argparse
import collections
import json
import pathlib
import statistics
import sys

from small_world import accuracy, difference, rlpt, spent

BASE = 'cispo_0'
METHODS = (BASE, 'cispo_1', 'cispo_4', 'cispo_8', 'ppo_0', 'ppo_8')
PROMPTS, SAMPLES = 16, 8
SHOWN = {
  'staleness': 'staleness/mean',
  'staleness_max': 'staleness/max',
  'ratio_p99': 'sampler/ratio_p99',
  'ratio_max': 'sampler/ratio_max',
  'effective_share': 'sampler/effective_share',
  'clip_share': 'clip_share',
  'step_s': 'timing/step_s',
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--seeds', type=int, default=3, choices=range(1, 9))
  parser.add_argument('--steps', type=int, default=120)
  parser.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS)
  options = parser.parse_args()
  workdir = options.workdir
  prepare(workdir)
  found = collections.defaultdict(list)
  for seed in range(options.seeds):
    for method in dict.fromkeys([BASE, *options.methods]):
      name = f'{method}_{seed}'
      train(workdir, method, name, seed, options.steps)
      found[method].append(
        {
          'compute': spent(workdir / name),
          **accuracy(workdir, name),
          **means(workdir / name),
        }
      )
      print(f'{name}: {found[method][-1]}', file=sys.stderr, flush=True)
  print(json.dumps({'seeds': found, 'summary': summary(found)}, indent=2))


def prepare(workdir: pathlib.Path):
  """Makes the small world and a cold-started model, if they are not there."""
  if not (workdir / 'cold_start').exists():
    workdir.parent.mkdir(parents=True, exist_ok=True)
    rlpt('.', 'quickstart', workdir.absolute(), '--steps', 1)


def train(
  workdir: pathlib.Path,
  method: str,
  name: str,
  seed: int,
  steps: int,
  *settings: str,
):
  """Trains the cold-started model with a method up to a number of steps.

  settings: lines of gin for all methods.
  """
  loss, _, bound = method.partition('_')
  changes = [
    *settings,
    f'train_rl.Config.loss = @losses.{loss}',
    f'train_rl.Config.num_steps = {steps}',
    f'train_rl.Config.seed = {seed}',
    f'train_rl.Hardware.slots = {(int(bound) + 1) * PROMPTS * SAMPLES}',
  ]
  if int(bound):
    changes += [
      'train_rl.Config.schedule = @schedules.Pipelined()',
      f'schedules.Pipelined.max_staleness = {bound}',
    ]
  rlpt(workdir, 'train_rl', 'rlpt.gin', *changes, '--workdir', name)


def means(run: pathlib.Path) -> dict[str, float]:
  """Returns means over the last half of a run's steps.

  Medians would not do: with slots for several batches, all of these are sampled
  in one step, and the next steps take no time for it.
  """
  lines = [
    json.loads(metrics) | json.loads(timing)
    for metrics, timing in zip(
      *(
        (run / name).read_text().splitlines()
        for name in ('metrics.jsonl', 'timing.jsonl')
      ),
      strict=True,
    )
  ]
  last_half = lines[len(lines) // 2 :]
  return {
    name: round(statistics.mean(line[key] for line in last_half), 4)
    for name, key in SHOWN.items()
  }


def summary(found: dict[str, list[dict]]) -> dict[str, dict]:
  """Returns each method's means, and its difference to the base's accuracy."""
  base = found[BASE]
  result = {}
  for method, runs in found.items():
    values = [run['all'] for run in runs]
    result[method] = {
      'accuracy': f'{statistics.mean(values):.1%}',
      'compute': round(
        statistics.mean(
          run['compute'] / other['compute']
          for run, other in zip(runs, base, strict=True)
        ),
        3,
      ),
      **{
        name: round(statistics.mean(run[name] for run in runs), 3)
        for name in SHOWN
      },
    }
    if method != BASE and len(values) > 1:
      result[method]['difference'] = difference(
        values, [run['all'] for run in base]
      )
  return result


if __name__ == '__main__':
  main()
