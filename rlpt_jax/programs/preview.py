"""Shows examples in readable form: `rlpt preview FILE.gin`."""

import itertools
import pathlib
from collections.abc import Iterable, Iterator

from rlpt_jax.analysis import page, preview_page, terminal
from rlpt_jax.analysis.views import View
from rlpt_jax.core import output_files
from rlpt_jax.data.config import Component, Data, describe, load_tokenizer
from rlpt_jax.data.loader import Loader
from rlpt_jax.data.records import Record

# The display role of each placeholder in a prompt.
ROLES = {'prompt': 'context', 'next_step': 'shown', 'question': 'context'}
MASK = '<MASK>'


def preview(
  config: Data,
  *,
  n: int = 5,
  html: pathlib.Path | None = None,
  full: bool = False,
  seqio: str | None = None,
):
  """Shows the first examples that a run would read.

  They come from config.Data.cache_dir if it is set, else from the corpora.

  Args:
    n: The number of examples.
    html: Writes a page to this file instead of the terminal.
    full: Shows long texts in full.
    seqio: Shows examples of this SeqIO task or mixture instead. The data are
      registered as CORPUS_asr, CORPUS_msr, CORPUS_rlpt, ...
  """
  if n < 1:
    raise ValueError(f'-n={n}: expected at least 1.')
  if html:
    output_files.check(html, page.BEGINNING.encode())
  faults = []
  if seqio:
    views, names = list(itertools.islice(seqio_views(config, seqio), n)), seqio
  else:
    loader = Loader(config, batch_size=1)
    views = [
      view(component, record, i, loader)
      for component, record, i in itertools.islice(different(loader.items()), n)
    ]
    if len(views) < n:
      print(f'{len(views):,} examples; then the data end, or begin again')
    names = ', '.join(component.name for component in loader.components)
    faults = loader.faults()
    loader.close()
  if config.tokenizer is None:
    print('using bytes as tokens: config.Data.tokenizer is not set')
  if html is None:
    terminal.print_views(views, names, full=full)
  else:
    facts = {
      'tokenizer': config.tokenizer or 'bytes',
      'segments': describe(config.segmenter),
      'read from': config.cache_dir or 'the corpora (nothing is prepared)',
      'seed': str(config.seed),
    }
    shown = preview_page.preview_page(views, names, facts)
    output_files.replace(html, [shown.encode()])
    print(f'wrote {html}')
  for line in faults:
    print(f'dropped: {line}')


def different(
  items: Iterable[tuple[Component, Record, int]],
) -> Iterator[tuple[Component, Record, int]]:
  """Yields items up to the first that comes again."""
  seen = set()
  for component, record, i in items:
    key = component.name, record['document'], i
    if key in seen:
      return
    seen.add(key)
    yield component, record, i


def view(component: Component, record: Record, i: int, loader: Loader) -> View:
  """Returns a view of item i of a record: what the model reads, decoded."""
  task, tokenizer = component.task, loader.tokenizer
  tokens = task.pieces(record, i, tokenizer)
  counts = {'tokens': sum(len(ids) for _, ids in tokens)}
  place = f'{component.source.name} · {record["document"]}'
  references = ()
  if not task.packed:
    example = task.example(record, component.source.name, i, tokenizer)
    references = example.references
    if len(record.get('ends', ())):
      place += f' · segment {example.segment + 1} of {len(record["ends"])}'
    counts = {
      'prompt tokens': len(example.prompt_tokens),
      'target tokens': len(tokenizer.encode(references[0])),
      'reference tokens': len(tokenizer.encode(''.join(references))),
    }
  pieces = []
  for role, ids in tokens:
    text = tokenizer.decode(ids, keep_special=True)
    # The gap to fill is the piece that has only <MASK>. The instruction has
    # <MASK> too, but among other text.
    role = 'mask' if text.strip() == MASK else ROLES.get(role, role)
    pieces.append((role, text))
  return View(
    title=task.name,
    place=place,
    pieces=tuple(pieces),
    target=references[0] if references else '',
    references=references,
    counts=counts,
  )


def seqio_views(config: Data, name: str) -> Iterator[View]:
  """Yields a view of each example of a SeqIO task or mixture of the data."""
  from rlpt_jax.data import seqio_tasks  # Loads TensorFlow and SeqIO.

  names = seqio_tasks.register(config)
  if name not in names:
    raise ValueError(f'--seqio={name}: expected one of {", ".join(names)}.')
  tokenizer = load_tokenizer(config.tokenizer)
  for example in seqio_tasks.examples(config, name):
    if 'prompt_tokens' in example:
      ids, references = example['prompt_tokens'], example['references']
      text = tokenizer.decode(ids.tolist(), keep_special=True)
      yield View(
        title=example['kind'],
        place=f'{example["corpus"]} · {example["document"]}',
        pieces=(('context', text),),
        target=references[0] if references else '',
        references=references,
        counts={'prompt tokens': len(ids)},
      )
      continue
    pieces = []
    pairs = zip(example['tokens'], example['loss'] > 0, strict=True)
    for is_learned, some in itertools.groupby(pairs, lambda pair: pair[1]):
      ids = [int(token) for token, _ in some]
      text = tokenizer.decode(ids, keep_special=True)
      pieces.append(('loss' if is_learned else 'plain', text))
    yield View(
      title=name,
      place='packed',
      pieces=tuple(pieces),
      target='',
      references=(),
      counts={'tokens': len(example['tokens'])},
    )
