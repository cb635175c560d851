"""Compares methods of training at equal compute, where the truth is known.

All start from one cold-started model of the small world and train until they
have spent each of three budgets of FLOPs (prompts, rollouts, judges, references
and updates; models/flops.py). At each budget, a model answers held-out
questions, 4 times each: of the documents that it has learned from, and of
longer, noisier and harder ones. Some cells go on with the same RLVR.
`method_cells.py` is the table of what is compared.

  python benchmarks/methods.py prepare --workdir /tmp/methods
  python benchmarks/methods.py run --workdir /tmp/methods --seeds 3
  python benchmarks/methods.py list

`run` does what is missing in benchmarks/results/methods, all cells with one
seed before the next seed. Stopped, by Ctrl-C, SIGTERM or kill, it goes on where
it was.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import method_cells
import method_runs
import method_world
from method_runs import COLD_ANSWERS, COLD_START, Study
from small_world import SMALL

from rlpt_jax.core import output_files
from rlpt_jax.programs.quickstart import FILES
from rlpt_jax.quickstart import stages

RESULTS = pathlib.Path(__file__).parent / 'results' / 'methods'
# The FLOPs of each budget, and those of the RLVR that follows.
BUDGETS = {'1m': (0.75e12, 1.5e12, 3e12), '5m': (3.75e12, 7.5e12, 15e12)}
RLVR = {'1m': 1.5e12, '5m': 7.5e12}
COLD_START_STEPS = 900


def main(arguments: Sequence[str] | None = None):
  options = parser().parse_args(arguments)
  with stages.sigterm_interrupts():
    try:
      sys.exit(options.command(options))
    except KeyboardInterrupt:
      print('stopped; the same command goes on', file=sys.stderr)
      sys.exit(stages.INTERRUPTED)
    except ValueError as error:
      sys.exit(str(error))


def parser() -> argparse.ArgumentParser:
  whole = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  commands = whole.add_subparsers(required=True)

  def command(name: str, function) -> argparse.ArgumentParser:
    one = commands.add_parser(name, help=function.__doc__.partition('\n')[0])
    one.set_defaults(command=function)
    one.add_argument('--scale', choices=BUDGETS, default='1m')
    one.add_argument('--results', type=pathlib.Path, default=RESULTS)
    if name != 'list':
      one.add_argument('--workdir', type=pathlib.Path, required=True)
    return one

  one = command('prepare', prepare)
  one.add_argument('--models', type=pathlib.Path, default=FILES)
  one.add_argument('--budgets', type=float, nargs='+')
  one.add_argument('--rlvr', type=float)
  one.add_argument('--cold_start_steps', type=int, default=COLD_START_STEPS)
  for name, size in vars(method_world.Sizes()).items():
    one.add_argument(f'--{name}', type=int, default=size)
  one = command('run', run)
  one.add_argument('--cells', nargs='+')
  one.add_argument('--seeds', type=int, default=3)
  one.add_argument('--jobs', type=int, default=2)
  command('list', show).add_argument('--cells', nargs='+')
  one = command('cell', cell)
  one.add_argument('--name', required=True)
  one.add_argument('--seed', type=int, required=True)
  one.add_argument('--cores', type=int, nargs='+')
  return whole


def prepare(options):
  """Makes the world and the cold-started model, and asks that."""
  folder = (options.workdir / options.scale).absolute()
  wanted = {
    'scale': options.scale,
    'budgets': list(options.budgets or BUDGETS[options.scale]),
    'rlvr': options.rlvr or RLVR[options.scale],
    'sizes': {
      name: getattr(options, name) for name in vars(method_world.Sizes())
    },
  }
  if not folder.exists():
    make_folder(folder, options.models, wanted)
  if (made := json.loads((folder / method_runs.STUDY).read_text())) != wanted:
    raise ValueError(
      f'{folder}: was made with {made}, not {wanted}. Choose another --workdir.'
    )
  study = Study.read(folder)
  questions = json.dumps(method_world.about(folder)) + '\n'
  output_files.replace(options.results / 'questions.json', [questions.encode()])
  steps = options.cold_start_steps
  method_runs.rlpt(
    folder, 'train_sft', SMALL / 'methods_cold_start.gin',
    f'train_sft.Config.num_steps = {steps}',
    f'optimizer.AdamW.num_steps = {steps}', '--workdir', 'cold_start',
  )  # fmt: skip
  asked = method_runs.ask(study, COLD_START, COLD_ANSWERS)
  start = {'budget': 0, 'flops': 0, 'seconds': 0, 'steps': 0, **asked}
  keep(options, 'start', method_runs.result(study, 'cold_start', 0, [start]))


def make_folder(folder: pathlib.Path, models: pathlib.Path, about: dict):
  """Writes the world, copies the models, and notes sizes and budgets."""
  new = folder.with_name(f'{folder.name}.new')
  shutil.rmtree(new, ignore_errors=True)
  for name in ('base', 'judge'):
    shutil.copytree(models / name, new / name)
  method_world.write(new, method_world.Sizes(**about['sizes']))
  (new / method_runs.STUDY).write_text(json.dumps(about) + '\n')
  new.rename(folder)


def run(options) -> int:
  """Runs what is missing; returns 1 if a cell has failed."""
  folder = options.workdir / options.scale
  answered = options.results / options.scale / 'start.json'
  if not answered.exists():
    raise ValueError(
      f'{answered}: no such file; expected the answers of the cold start. Run '
      'prepare with the same --results first.'
    )
  (folder / 'logs').mkdir(exist_ok=True)
  waiting, running, failed = missing(options), {}, []
  cores = shared_cores(options.jobs)
  try:
    while True:
      for job in set(range(options.jobs)) - running.keys():
        if (found := next(waiting, None)) is not None:
          running[job] = start(options, *found, cores[job])
      if not running:
        break
      time.sleep(0.5)
      for job, (process, log) in list(running.items()):
        if process.poll() is not None:
          del running[job]
          print(f'{log.stem}: ended with status {process.returncode}')
          if process.returncode:
            failed.append(log)
  finally:
    stop([process for process, _ in running.values()])
  for log in failed:
    print(f'{log.stem} failed: {last_line(log)} ({log})', file=sys.stderr)
  return 1 if failed else 0


def missing(options) -> Iterator[tuple[str, int]]:
  """Yields the cells without a result, and the seed: the first seed first."""
  for seed in range(options.seeds):
    for one in method_cells.named(options.cells):
      if not result_path(options, f'{one.name}_{seed}').exists():
        yield one.name, seed


def shared_cores(jobs: int) -> list[list[int]]:
  """Returns the cores of each job; a process alone has all of them."""
  if not hasattr(os, 'sched_getaffinity'):
    return [[]] * jobs
  cores = sorted(os.sched_getaffinity(0))
  return [cores[job::jobs] or cores for job in range(jobs)]


def start(options, name: str, seed: int, cores: Sequence[int]):
  """Starts a cell; returns its process and its log."""
  log = options.workdir / options.scale / 'logs' / f'{name}_{seed}.log'
  command = [
    sys.executable, __file__, 'cell', '--workdir', options.workdir,
    '--scale', options.scale, '--results', options.results,
    '--name', name, '--seed', seed, *(['--cores', *cores] if cores else []),
  ]  # fmt: skip
  with log.open('a') as file:
    process = subprocess.Popen(
      [*map(str, command)], stdout=file, stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C is for this process to pass on.
    )  # fmt: skip
  print(f'{log.stem}: started, see {log}', flush=True)
  return process, log


def stop(processes: Sequence[subprocess.Popen]):
  """Asks cells to save, and waits until they have."""
  for process in processes:
    process.send_signal(signal.SIGTERM)
  for process in processes:
    process.wait()


def last_line(log: pathlib.Path) -> str:
  return next(iter(log.read_text().split('\n')[-2:-1]), 'no output')


def cell(options):
  """Runs one cell with one seed, and keeps its result."""
  if options.cores:
    os.sched_setaffinity(0, options.cores)  # Before XLA starts its threads.
  study = Study.read((options.workdir / options.scale).absolute())
  (one,) = method_cells.named([options.name])
  found = method_runs.run_cell(study, one, options.seed)
  name = f'{one.name}_{options.seed}'
  keep(options, name, found)
  shutil.rmtree(study.folder / 'runs' / name)


def show(options):
  """Prints what each cell decides, and which seeds are done."""
  for one in method_cells.named(options.cells):
    paths = (options.results / options.scale).glob(f'{one.name}_*.json')
    names = (path.stem.removeprefix(f'{one.name}_') for path in paths)
    seeds = sorted((name for name in names if name.isdigit()), key=int)
    done = f'seeds {", ".join(seeds)}' if seeds else 'not run'
    print(f'{one.name:18} {done:18} {one.question}')


def keep(options, name: str, found: dict):
  text = json.dumps(found, indent=1) + '\n'
  output_files.replace(result_path(options, name), [text.encode()])


def result_path(options, name: str) -> pathlib.Path:
  return options.results / options.scale / f'{name}.json'


if __name__ == '__main__':
  main()
