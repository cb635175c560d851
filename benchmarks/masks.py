"""Compares who chooses what is hidden, at equal compute, in the small world.

Most sentences of its documents cannot be predicted, so most masks teach
nothing. One cold start shows a small model how to play PretrainZero's game and
how to answer RLPT's prompts. From there, for each seed, each method trains
until it has spent the FLOPs that the game spends in `--steps` steps:

  pretrain_zero         the policy chooses sentences, and predicts them
  random_sentences      they are chosen by chance, and the policy predicts them
  uncertain_sentences   it predicts those whose words surprise it most
  rlpt                  it predicts the conclusions, which a person has chosen
  ntp                   next-token training on the same documents

All but `ntp` are rewarded by the truth, without a judge. Then all are asked for
conclusions of held-out documents: for the next sentence, and for a middle one.
Prints JSON: for each method, the accuracy for each seed, the mean, and the
difference to the game's, with a 95% interval over seeds (paired by seed).

  python benchmarks/masks.py --workdir /tmp/masks

A method that is done is not run again, so a run that was stopped continues.
"""

import argparse
import collections
import functools
import json
import pathlib
import shutil
import statistics
import sys

from small_world import (
  SMALL,
  accuracy,
  difference,
  is_made,
  rlpt,
  spent,
  train_to,
)
from small_world import train as train_by

from rlpt_jax.programs.quickstart import FILES
from rlpt_jax.quickstart import mask_lessons, small_models
from rlpt_jax.quickstart.world import Dials
from rlpt_jax.rollout import rollout_files

GAME = 'pretrain_zero'
METHODS = ('random_sentences', 'uncertain_sentences', 'rlpt', 'ntp')
DIALS = Dials(whims=2)  # Sentences of a document that nobody can predict.
LAST = 10  # Steps at the end of a run whose sentences are counted.


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--seeds', type=int, default=3, choices=range(1, 9))
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--questions', type=int, default=300)
  parser.add_argument('--methods', nargs='+', default=METHODS, choices=METHODS)
  options = parser.parse_args()
  workdir = options.workdir
  make_world(workdir, options.questions)
  rlpt(
    workdir, 'train_sft', SMALL / 'cold_start.gin', '--workdir', 'cold_start'
  )
  found = collections.defaultdict(list)
  for seed in range(options.seeds):
    game = f'{GAME}_{seed}'
    train(workdir, GAME, game, seed, options.steps)
    budget, steps = spent(workdir / game), {GAME: options.steps}
    for method in options.methods:
      name = f'{method}_{seed}'
      steps[method] = train_to(
        budget,
        workdir / name,
        functools.partial(train, workdir, method, name, seed),
      )
    for method, step in steps.items():
      run = workdir / f'{method}_{seed}'
      found[method].append(
        {
          'compute': round(spent(run, step) / budget, 3),
          **accuracy(workdir, run.name, step=step),
          'sentences': sentences(run),
        }
      )
      print(f'{run.name}: {found[method][-1]}', file=sys.stderr, flush=True)
  result = {
    'cold_start': accuracy(workdir, 'cold_start'),
    'seeds': found,
    'summary': summary(found),
  }
  print(json.dumps(result, indent=2))


def make_world(workdir: pathlib.Path, questions: int):
  """Writes the documents and demonstrations, and copies the small models."""
  world, new = workdir / 'world', workdir / 'new'
  if is_made(world, questions=questions):
    return
  shutil.copytree(FILES / 'base', workdir / 'base', dirs_exist_ok=True)
  small_models.write_world(
    new, texts=20_000, demonstrations=20_000, questions=questions, dials=DIALS
  )
  mask_lessons.write(new, choices=20_000, predictions=20_000, dials=DIALS)
  new.rename(world)


def train(workdir: pathlib.Path, method: str, name: str, seed: int, steps: int):
  """Trains the cold-started model with a method up to a number of steps."""
  program = 'train_sft' if method == 'ntp' else 'train_rl'
  train_by(workdir, program, method, name, seed, steps)


def sentences(run: pathlib.Path) -> dict[str, str]:
  """Counts what a run predicted in its last steps, by the kind of sentence.

  Returns {kind: its share of the predictions, and the share of right ones}.
  """
  right = collections.defaultdict(list)
  for path in sorted((run / 'rollouts').glob('*.jsonl.gz'))[-LAST:]:
    for line in rollout_files.read(path):
      if line['kind'] != 'choose_span':
        kind = mask_lessons.sentence_kind(line['references'][0])
        right[kind].append(line['reward'] == 1)
  count = sum(map(len, right.values()))
  return {
    kind: f'{len(flags) / count:.0%}, {sum(flags) / len(flags):.0%} right'
    for kind, flags in sorted(right.items())
  }


def summary(found: dict[str, list[dict]]) -> dict[str, str]:
  """Returns each method's mean, and its difference to the game's.

  The 95% interval of the difference is Student's, over the seeds.
  """
  game = [each['all'] for each in found[GAME]]
  lines = {}
  for method, results in found.items():
    values = [each['all'] for each in results]
    lines[method] = f'{statistics.mean(values):.1%}'
    if method != GAME and len(values) > 1:
      lines[method] += f', {difference(values, game)}'
  return lines


if __name__ == '__main__':
  main()
