"""Segments and tokenizes corpora once: `rlpt prepare FILE.gin`."""

import os
import pathlib

import rich.console
import rich.progress
import rich.table

from rlpt_jax.analysis import plots
from rlpt_jax.analysis.histogram import Histogram
from rlpt_jax.data import pipeline
from rlpt_jax.data.config import Data, describe


def prepare(
  config: Data,
  *,
  workers: int = 1,
  runner: str = 'DirectRunner',
  beam: tuple[str, ...] = (),
):
  """Segments and tokenizes corpora once, into config.Data.cache_dir.

  You can stop the command at any time; run again, it continues with what is
  missing.

  Args:
    workers: Processes on this machine, for Beam's DirectRunner.
    runner: Any runner of Apache Beam, for example DataflowRunner.
    beam: Options for Beam, for example --beam=--project=mine.
  """
  if workers < 1:
    raise ValueError(f'--workers={workers}: expected at least 1.')
  if config.tokenizer is None:
    raise ValueError(
      'Data.tokenizer is not set, and prepared data fit one tokenizer only: '
      'set it to the directory of the model that will read them, or to '
      "'bytes'."
    )
  console = rich.console.Console(highlight=False)
  options = ['--default_sdk_harness_log_level=ERROR', *beam]
  if workers > 1:
    options += [
      f'--direct_num_workers={workers}',
      '--direct_running_mode=multi_processing',
    ]
  columns = (
    '[progress.description]{task.description}',
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('parts'),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  console.print(f'segments: {describe(config.segmenter)}', markup=False)
  prepared = []
  for plan in pipeline.plans(config):
    name = os.path.basename(plan.folder)
    with rich.progress.Progress(*columns, console=console) as progress:
      task = progress.add_task(name)

      def show(done: int, total: int, progress=progress, task=task):
        progress.update(task, completed=done, total=total)

      manifest = pipeline.run(
        plan, runner=runner, beam_options=options, on_progress=show
      )
    prepared.append((plan, manifest))
  for plan, manifest in prepared:
    report(console, plan.folder, manifest)
    plot_lengths(plan.folder, manifest)
  table = rich.table.Table('task', 'examples', 'from documents', box=None)
  for column in table.columns[1:]:
    column.justify = 'right'
  counts = pipeline.counts(config)
  for name, (items, used, records) in counts.items():
    table.add_row(name, f'{items:,}', f'{used:,} of {records:,}')
  console.print(table)
  if none := [name for name, (items, *_) in counts.items() if not items]:
    raise ValueError(
      f'{", ".join(none)}: no document gives an example. See above for what '
      'was left out; the options of a task are its limits.'
    )


def report(console: rich.console.Console, folder: str, manifest: dict):
  """Prints how many documents were read, kept and dropped, and why."""
  console.print(f'\n[bold]{os.path.basename(folder)}[/bold]  {folder}')
  faulty = sum(manifest['faults']['counts'].values())
  size = sum(shard['bytes'] for shard in manifest['shards'])
  source = manifest['source']
  console.print(
    f'  {source["files"]:,} files, {source["bytes"] / 1e6:,.1f} MB: '
    f'{manifest["records"] + faulty:,} documents in, '
    f'{manifest["records"]:,} kept, {size / 1e6:,.1f} MB cached'
  )
  for reason, count in sorted(manifest['left_out'].items()):
    if count:
      console.print(f'  {count:>10,} left out: {reason}', markup=False)
  for reason, count in sorted(manifest['faults']['counts'].items()):
    first = manifest['faults']['first'][reason]
    more = ', ...' if count > len(first) else ''
    text = f'  {count:>10,} dropped, {reason}: {", ".join(first)}{more}'
    console.print(text, style='yellow', markup=False)


def plot_lengths(folder: str, manifest: dict):
  """Plots histograms of lengths, such as 'tokens of a document'.

  They go to lengths.png in the folder, if the folder is local.
  """
  columns = {}
  for name, counts in manifest['lengths'].items():
    columns[name] = Histogram()
    columns[name].add(map(int, counts), times=list(counts.values()))
  if '://' in folder:
    return
  path = pathlib.Path(folder) / 'lengths.png'
  plots.histograms(columns, path, os.path.basename(folder))
