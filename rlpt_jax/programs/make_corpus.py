"""Cleans text into a corpus: `rlpt make_corpus FILE.gin`."""

import os
import pathlib

import rich.console
import rich.progress
import rich.table

from rlpt_jax.analysis.corpus_page import corpus_page
from rlpt_jax.corpus import cleaning
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.contamination import Decontaminate
from rlpt_jax.corpus.pipelines import DIRECT, Runner
from rlpt_jax.corpus.quality import ByModel, cost


def make_corpus(
  config: Corpus,
  *,
  workers: int = 1,
  runner: str = DIRECT,
  beam: tuple[str, ...] = (),
  estimate: bool = False,
  prompt_price: float = 0.0,
  answer_price: float = 0.0,
):
  """Cleans text into a corpus, in config.Corpus.folder.

  Documents pass through stages that the gin file chooses and orders; what each
  dropped, and why, is counted and shown on a page, report.html. You can stop
  the command at any time; run again, it continues with what is missing.

  Args:
    workers: Processes on this machine, for Beam's DirectRunner.
    runner: Any runner of Apache Beam, for example DataflowRunner.
    beam: Options for Beam, for example --beam=--project=mine.
    estimate: Print about what a model's filter will cost, if it is asked about
      all documents, and stop.
    prompt_price: The price of a million tokens of prompts.
    answer_price: The price of a million tokens of answers.
  """
  if workers < 1:
    raise ValueError(f'--workers={workers}: expected at least 1.')
  console = rich.console.Console(highlight=False)
  if estimate:
    if not models(config):
      raise ValueError('--estimate: no stage asks a model (@quality.ByModel).')
    prices = {'prompt_price': prompt_price, 'answer_price': answer_price}
    for judge in models(config):
      expected = cost(judge, map(len, cleaning.texts(config)), **prices)
      console.print(f"the model's filter will use about {expected}")
    return
  if workers > 1 and runner != DIRECT:
    raise ValueError(
      f'--workers={workers}: only the {DIRECT} has workers on this machine. '
      f'Expected options of {runner} in --beam.'
    )
  for _, stage in config.named_stages():
    if isinstance(stage, Decontaminate):
      console.print('\n'.join(stage.found()), markup=False)
  columns = (
    '[progress.description]{task.description}',
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('parts'),
    rich.progress.TimeElapsedColumn(),
  )
  with rich.progress.Progress(*columns, console=console) as progress:
    tasks = {}

    def show(step: str, done: float, total: int):
      if step not in tasks:
        tasks[step] = progress.add_task(step.replace('_', ' '))
      progress.update(tasks[step], completed=done, total=total)

    engine = Runner(runner, beam, workers=workers)
    manifest = cleaning.make(config, engine, show)
  report(console, manifest)
  if '://' not in config.folder:
    page = pathlib.Path(config.folder) / 'report.html'
    samples = cleaning.read_json(config.folder, 'samples.json')
    page.write_text(corpus_page(manifest, samples), encoding='utf-8')
    console.print(f'\nsamples of each: {page}', markup=False, soft_wrap=True)
  files = os.path.join(config.folder, 'documents', '*.jsonl.zst')
  text = f"for sources.Files.files: '{files}'"
  console.print(text, markup=False, soft_wrap=True)
  if not manifest['written']:
    raise ValueError(
      f'{config.folder}: no document is left. See above for what the stages '
      'dropped.'
    )


def models(config: Corpus) -> list[ByModel]:
  """Returns the filters of a corpus that ask a model."""
  judges = (getattr(stage, 'judge', None) for stage in config.stages)
  return [judge for judge in judges if isinstance(judge, ByModel)]


def report(console: rich.console.Console, manifest: dict):
  """Prints how many documents each stage got, dropped and edited, and why."""
  table = rich.table.Table('stage', 'documents', '', '', box=None)
  table.columns[1].justify = table.columns[2].justify = 'right'
  table.add_row(
    '[bold]read[/bold]', f'{manifest["documents"]:,}', '',
    f'{manifest["characters"]:,} characters',
  )  # fmt: skip
  for reason, count in sorted(manifest['faults']['counts'].items()):
    first = manifest['faults']['first'][reason]
    table.add_row(
      '', '', f'[yellow]{count:,}[/yellow]',
      rich.markup.escape(f'left out, {reason}: {first[0]}'),
    )  # fmt: skip
  for stage in manifest['stages']:
    table.add_row(
      f'[bold]{stage["name"].replace("_", " ")}[/bold]',
      f'{stage["documents"]:,}', '', '',
    )  # fmt: skip
    for word, counts in (('dropped', stage['dropped']), ('', stage['edits'])):
      for reason, count in sorted(counts.items(), key=lambda x: -x[1]):
        text = rich.markup.escape(f'{word} {reason}'.strip())
        table.add_row('', '', f'{count:,}', text)
  table.add_row(
    '[bold]written[/bold]', f'{manifest["written"]:,}', '',
    f'{manifest["written_characters"]:,} characters',
  )  # fmt: skip
  console.print(table)
