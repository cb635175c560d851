"""Turns documents into verifiable questions: `rlpt make_questions FILE.gin`."""

import math
import os
import pathlib

import rich.console
import rich.progress
import rich.table

from rlpt_jax.analysis.questions_page import questions_page
from rlpt_jax.corpus import cleaning, question_sample, questions
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.corpus.tally import DOCUMENTS
from rlpt_jax.llm.budget import Usage


def make_questions(config: Corpus, *, sample: int = 0):
  """Turns documents into verifiable questions, in config.Corpus.folder.

  Models read the documents, ask questions about them, and check the questions.
  You can stop the command at any time, also by kill -9; run again, it
  continues, and no recorded reply is paid for twice.

  Args:
    sample: Ask only about this many documents, chosen at random; write a page
      with the documents and their questions side by side, and print what the
      whole run will use.
  """
  if sample < 0:
    raise ValueError(f'--sample={sample}: expected a number of documents.')
  console = rich.console.Console(highlight=False)
  stage = question_sample.stage_of(config)
  folder = pathlib.Path(config.folder)
  if sample:
    drawn = question_sample.draw(config, sample)
    expected = drawn.estimate
    print_use(
      console,
      f'all {drawn.documents:,} documents will use{interval(expected.margin)}',
      {**expected.by_stage, 'total': expected.total},
    )
    made = sum(len(outcome.documents) for outcome in drawn.outcomes)
    facts = {
      'documents': f'{len(drawn.outcomes):,} of {drawn.documents:,}',
      'questions': f'{made:,}',
    }
    samples = [outcome.sample for outcome in drawn.outcomes]
    write_page(console, folder / 'sample.html', samples, facts)
    return
  with rich.progress.Progress(
    '[progress.description]{task.description}',
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('parts'),
    rich.progress.TimeElapsedColumn(),
    console=console,
  ) as progress:
    tasks = {}

    def show(step: str, done: float, total: int):
      if step not in tasks:
        tasks[step] = progress.add_task(step)
      name = f'{step}, {questions.opened(stage).counts["asked"]:,} calls'
      progress.update(
        tasks[step], description=name, completed=done, total=total
      )

    try:
      # Models are waited for, not computed with, so one process is enough.
      manifest = cleaning.make(config, Runner(), show)
      print_use(console, 'used so far', question_sample.used(stage))
    finally:
      questions.close(stage)
  print_counts(console, manifest)
  if not manifest['written']:
    raise ValueError(f'{folder}: no question is left. See above for why.')
  samples = cleaning.read_json(config.folder, 'samples.json')
  (name,) = (name for name, one in config.named_stages() if one is stage)
  (asked,) = (each['samples'] for each in samples if each['name'] == name)
  shown = asked.get(DOCUMENTS, [])
  facts = {
    'documents': f'{manifest["documents"]:,}',
    'questions': f'{manifest["written"]:,}',
    'shown': f'{len(shown)} documents, at random',
  }
  write_page(console, folder / 'report.html', shown, facts)
  files = os.path.join(folder, 'documents', '*.jsonl.zst')
  text = f"for sources.Files.files: '{files}'"
  console.print(text, markup=False, soft_wrap=True)


def interval(margin: float) -> str:
  if math.isinf(margin):
    return ' (too few to say how exactly)'
  return f' (+- {margin:.0%}, 95%)'


def print_use(
  console: rich.console.Console, title: str, by_stage: dict[str, Usage]
):
  """Prints what the calls of each stage use."""
  table = rich.table.Table(
    'stage', 'calls', 'prompt tokens', 'answer tokens', 'money',
    title=title, box=None, title_justify='left',
  )  # fmt: skip
  for column in table.columns[1:]:
    column.justify = 'right'
  for name, use in by_stage.items():
    table.add_row(
      name, f'{use.calls:,.0f}', f'{use.prompt_tokens:,.0f}',
      f'{use.completion_tokens:,.0f}', f'{use.money:,.2f}',
    )  # fmt: skip
  console.print(table)


def print_counts(console: rich.console.Console, manifest: dict):
  """Prints what became of the documents and the questions."""
  table = rich.table.Table('stage', 'in', 'out', '', '', box=None)
  for column in table.columns[1:4]:
    column.justify = 'right'
  for stage in manifest['stages']:
    name = stage['name'].replace('_', ' ')
    counts = f'{stage["documents"]:,}', f'{stage["left"]:,}'
    table.add_row(f'[bold]{name}[/bold]', *counts, '', '')
    for word, reasons in (
      ('dropped, ', stage['dropped']), ('', stage['events']),
    ):  # fmt: skip
      for reason, count in sorted(reasons.items(), key=lambda x: -x[1]):
        table.add_row(
          '', '', '', f'{count:,}', rich.markup.escape(f'{word}{reason}')
        )
  for reason, count in sorted(manifest['faults']['counts'].items()):
    table.add_row('unusable', '', '', f'{count:,}', rich.markup.escape(reason))
  console.print(table)


def write_page(
  console: rich.console.Console,
  path: pathlib.Path,
  samples: list,
  facts: dict[str, str],
):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(questions_page(samples, facts), encoding='utf-8')
  console.print(f'page: {path}', markup=False, soft_wrap=True)
