"""Compares RLPT, NTP and SFT at the same cost in the world of the quickstart.

For each seed, runs the quickstart: a cold start by SFT on demonstrations, then
RL. The FLOPs of the RL, with those of rollouts and judge, are read from the
metrics. The same FLOPs are then spent in two other ways:

  ntp   trains the base model on raw text, then runs the same cold start
  sft   trains the cold-started model on more such demonstrations

The answers of all models to the same held-out questions are checked against the
ground truth. Prints JSON: the accuracies, as mean and range over the seeds.

  python benchmarks/quickstart.py --workdir /tmp/quickstart
"""

import argparse
import json
import pathlib
import subprocess
import sys

from rlpt_jax.inference import model_files
from rlpt_jax.models import flops
from rlpt_jax.programs.quickstart import FILES, generate_command, quickstart
from rlpt_jax.quickstart import small_models, truth

ROW_TOKENS, ROWS = 128, 16


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--questions', type=int, default=200)
  options = parser.parse_args()
  found = [
    one_seed(options.workdir / f'seed{seed}', seed, options)
    for seed in range(options.seeds)
  ]
  arms = {
    name: summary([of_seed[name] for of_seed in found]) for name in found[0]
  }
  print(json.dumps({'steps': options.steps, 'arms': arms}, indent=2))


def one_seed(workdir: pathlib.Path, seed: int, options) -> dict[str, float]:
  """Returns the accuracy of each arm."""
  quickstart(
    workdir, steps=options.steps, questions=options.questions, seed=seed
  )
  last = (workdir / 'rlpt' / 'metrics.jsonl').read_text().splitlines()[-1]
  spent = sum(
    count
    for name, count in json.loads(last).items()
    if name.startswith('compute/total_') and name.endswith('_flops')
  )
  # A packed row has about 120 tokens, in texts of about 50.
  config = model_files.find(FILES / 'base').config
  row = 3 * flops.forward(config, 50) / 50 + 4 * flops.head(config)
  steps = round(spent / (row * ROWS * 0.95 * ROW_TOKENS))
  # New data, enough for all steps.
  small_models.write_world(
    workdir / 'more', texts=steps * ROWS * 3,
    demonstrations=steps * ROWS * 3, seed=seed + 1000,
  )  # fmt: skip

  def train(recipe: str, model: str, name: str, *bindings: str):
    command = [
      'train_sft', recipe, f"train_sft.Config.model = '{model}'", *bindings,
      '--workdir', name,
    ]  # fmt: skip
    rlpt(workdir, *command)

  longer = (
    f'train_sft.Config.num_steps = {steps}',
    f'train_sft.Config.batch_size = {ROWS}',
    f'train_sft.Config.seed = {seed}',
    f'optimizer.AdamW.num_steps = {steps}',
    'optimizer.AdamW.warmup_steps = 5',
  )
  train(
    'base.gin', 'base', 'ntp_first', *longer,
    "texts/sources.Files.files = 'more/texts.jsonl'",
    'learned/config.Data.corpora = [@texts/sources.Files()]',
    "optimizer.AdamW.schedule = 'constant'",
    'optimizer.AdamW.learning_rate = 3e-4',
    'train_sft.Config.held_out = None',
    "config.Data.tokenizer = 'base'",
  )  # fmt: skip
  train(
    'cold_start.gin', 'ntp_first/checkpoints', 'ntp',
    f'train_sft.Config.seed = {seed}',
  )  # fmt: skip
  train(
    'cold_start.gin', 'cold_start/checkpoints', 'sft', *longer,
    "demonstrations/sources.Files.files = 'more/demonstrations.jsonl'",
  )  # fmt: skip
  for name in ('ntp', 'sft'):
    rlpt(workdir, *generate_command(name))
  questions = workdir / 'world' / 'questions.jsonl'
  print(f'seed {seed}: {steps} steps of ntp and of sft', flush=True)
  found = {}
  for name in ('cold_start', 'rlpt', 'ntp', 'sft'):
    both = questions, workdir / name / 'answers.jsonl'
    shares = truth.accuracy(*both)
    shown = ', '.join(f'{kind} {share:.1%}' for kind, share in shares.items())
    print(
      f'   {name}: {shown}\n      {truth.thinking_stats(*both)}', flush=True
    )
    found[name] = shares['all']
  return found


def rlpt(workdir: pathlib.Path, *command: str):
  print('$ rlpt', *command, file=sys.stderr, flush=True)
  subprocess.run(
    [sys.executable, '-m', 'rlpt_jax.cli', *command],
    cwd=workdir, check=True, stdout=sys.stderr,
  )  # fmt: skip


def summary(values: list[float]) -> dict[str, float]:
  return {
    'mean': sum(values) / len(values), 'least': min(values),
    'most': max(values),
  }  # fmt: skip


if __name__ == '__main__':
  main()
