"""Time from the command to the first step of a tiny `rlpt train_rl`, by parts.

    python benchmarks/start.py --folder /tmp/start

The quickstart's base model learns for one step, from 4 prompts with 4
completions each. The texts are those of the quickstart's world, prepared
beforehand. There are three runs: with an empty compilation cache, with the
cache that the first run filled, and with the cache off. Prints a line of JSON
for each run: the seconds until the first output, until each part is over and
until the first step is logged. The line also has the CPU seconds of the whole
run, which a busy machine affects less.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

from rlpt_jax import quickstart
from rlpt_jax.quickstart import small_models

FILES = pathlib.Path(quickstart.__file__).parent
CORPUS = """
include 'settings.gin'
config.Data.corpora = [@texts/sources.Files()]
config.Data.task = @tasks.rlpt()
config.Data.cache_dir = 'cache'
tasks.rlpt.max_prompt_tokens = 96
"""
RUN = """
include 'corpus.gin'
from rlpt_jax.rollout import collecting
from rlpt_jax.programs import train_rl
from rlpt_jax.rewards import text_match
text_match.TextMatch.match = @text_match.overlap
sampling.Sampling.samples = 4
sampling.Sampling.max_new_tokens = 32
train_rl.Config.model = 'base'
train_rl.Config.data = @config.Data()
train_rl.Config.reward = @text_match.TextMatch()
train_rl.Config.optimizer = @optimizer.AdamW()
optimizer.AdamW.learning_rate = 3e-4
train_rl.Config.compute = @models.Compute()
train_rl.Config.sampling = @sampling.Sampling()
train_rl.Config.num_steps = 1
train_rl.Config.prompts = 4
train_rl.Config.max_prompt_tokens = 96
"""
# Word in a line of the run -> the part that is over when that line appears.
SAID = {
  'reading': 'libraries and model',
  'compiling:': 'data',
  '1/1': 'first step',
}


def rlpt(*arguments: str) -> list[str]:
  return [sys.executable, '-m', 'rlpt_jax.cli', *arguments]


def prepare(folder: pathlib.Path):
  """Writes the model, the texts and their cache."""
  folder.mkdir(parents=True)
  shutil.copytree(FILES / 'base', folder / 'base')
  shutil.copy(FILES / 'settings.gin', folder)
  small_models.write_world(
    folder / 'world', texts=200, demonstrations=8, held_out=8, questions=8,
    held_out_pairs=8, seed=0,
  )  # fmt: skip
  (folder / 'corpus.gin').write_text(CORPUS)
  (folder / 'run.gin').write_text(RUN)
  subprocess.run(
    rlpt('prepare', 'corpus.gin'),
    cwd=folder, check=True, stdout=subprocess.DEVNULL,
  )  # fmt: skip


def measure(folder: pathlib.Path, name: str, **environment: str) -> dict:
  """Runs `train_rl`; returns the seconds until each part in SAID is over."""
  shutil.rmtree(folder / 'run', ignore_errors=True)
  before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
  started = subprocess.Popen(
    rlpt('train_rl', 'run.gin', '--workdir', 'run'),
    cwd=folder, stdout=subprocess.PIPE, text=True,
    env={**os.environ, 'XDG_CACHE_HOME': str(folder / 'home'), **environment},
  )  # fmt: skip
  found = {'cache': name}
  with started:
    for line in started.stdout:
      found.setdefault('first output', round(time.monotonic() - start, 2))
      for word, part in SAID.items():
        if word in line.split()[:3]:
          found.setdefault(part, round(time.monotonic() - start, 2))
  assert started.returncode == 0, started.returncode
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  (timing,) = (folder / 'run' / 'timing.jsonl').read_text().splitlines()
  for part in ('rollout', 'update'):
    seconds = json.loads(timing)[f'timing/{part}_s']
    found[f'{part}, with its compilation'] = round(seconds, 2)
  found['CPU seconds'] = round(
    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2
  )
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  folder = parser.parse_args().folder
  prepare(folder)
  for name in ('JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'):
    os.environ.pop(name, None)
  print(json.dumps(measure(folder, 'empty')), flush=True)
  print(json.dumps(measure(folder, 'filled')), flush=True)
  off = {'JAX_ENABLE_COMPILATION_CACHE': '0'}
  print(json.dumps(measure(folder, 'off', **off)), flush=True)


if __name__ == '__main__':
  main()
