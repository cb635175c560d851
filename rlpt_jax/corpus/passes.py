"""A pass over a corpus: documents in, stages, documents out, part by part.

A pass reads each part of its input, runs its stages, and writes one file of
documents for each part. What a stage needs to know of all documents cannot be
found out in the same pass, so each stage that compares documents ends a pass:
the pass writes their sketches, and the next pass begins with the decisions.

Documents travel through Beam in blocks: consecutive documents of a part, of
about a megabyte. A stage that asks a model sees a block at once. A block
becomes a compressed frame, and the frames of a part are joined in the order in
which the documents were read. So the files are the same with any runner and any
number of workers.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlpt_jax.corpus import pipelines, sketches
from rlpt_jax.corpus.documents import Document, Stage, going_on
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.corpus.sketches import AcrossDocuments, Decide
from rlpt_jax.corpus.tally import Tally
from rlpt_jax.data import files, readers, sources
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.readers import Part
from rlpt_jax.data.sources import Source

ID = 'document'  # The field with a document's id, in the files we write.
TEXT = 'text'
BLOCK_BYTES = 1 << 20
BLOCK_DOCUMENTS = 512
MAX_DEPTH = 100  # Of fields, since pickling and writing them is recursive.


@dataclasses.dataclass(frozen=True)
class Input:
  """A part to read: of a source, or of the pass before if source is None."""

  source: Source | None
  part: Part
  size: int  # In bytes, about.


@dataclasses.dataclass(frozen=True)
class Pass:
  """One pass.

  folder: gets the documents; `facts` gets what is known of each part.
  stages: named functions of one document, in order.
  before: the stage that compared the documents of the input, its name, and the
    folder with its decisions.
  after: the stage that will compare the documents of the output, and the folder
    for their sketches.
  """

  inputs: Sequence[Input]
  folder: str
  facts: str
  stages: Sequence[tuple[str, Stage]]
  before: tuple[str, AcrossDocuments, str] | None = None
  after: tuple[AcrossDocuments, str] | None = None
  samples: int = 20
  strict: bool = False

  def document_path(self, part: int) -> str:
    return os.path.join(self.folder, f'{part:05d}.jsonl.zst')

  def facts_path(self, part: int) -> str:
    return os.path.join(self.facts, f'{part:05d}.json')

  def block_path(self, part: int, index: int, kind: str) -> str:
    return os.path.join(self.block_folder(part), f'{index:05d}.{kind}')

  def block_folder(self, part: int) -> str:
    return os.path.join(self.facts, f'blocks-{part:05d}')

  def progress(self) -> float:
    """Returns how many parts are done, counting the blocks of others."""
    there = files.names(self.facts)
    done = {name[:5] for name in there if name.endswith('.json')}
    total = float(len(done))
    for name in there:
      part = name.removeprefix('blocks-')
      if part != name and part not in done:
        blocks = files.names(os.path.join(self.facts, name))
        finished = sum(block.endswith('.json') for block in blocks)
        expected = self.inputs[int(part)].size / BLOCK_BYTES + 1
        total += min(1.0, finished / expected)
    return total

  def missing(self) -> list[int]:
    """Returns the parts without facts, which are written last."""
    there = set(files.names(self.facts))
    parts = range(len(self.inputs))
    return [i for i in parts if f'{i:05d}.json' not in there]

  def all_facts(self) -> dict[str, Any]:
    """Returns the sums of the facts of all parts."""
    facts = map(self.facts_of, range(len(self.inputs)))
    return merged(facts, self.names(), self.samples)

  def facts_of(self, part: int) -> dict[str, Any]:
    return _read_json(self.facts_path(part))

  def outputs(self) -> list[Input]:
    """Returns the parts that this pass wrote, as inputs of the next."""
    inputs = []
    for i in range(len(self.inputs)):
      path = self.document_path(i)
      size = self.facts_of(i)['written_characters']
      inputs.append(Input(None, Part(os.path.basename(path), path), size))
    return inputs

  def names(self) -> list[str]:
    before = [self.before[0]] if self.before else []
    return [*before, *(name for name, _ in self.stages)]


def run(pass_: Pass, runner: Runner):
  """Runs a pass on the parts that are missing.

  A ValueError of a worker, from strict=True or a model that does not answer, is
  raised again; its message went through a file, since a runner would change it.
  """
  import apache_beam as beam

  missing = pass_.missing()
  if not missing:
    return

  def build(pipeline):
    parts = pipelines.numbers(pipeline, missing)
    blocks = parts | beam.FlatMap(read_blocks, pass_)
    done = blocks | beam.Map(run_block, pass_)
    _ = done | beam.GroupByKey() | beam.Map(write_part, pass_)

  failed = os.path.join(pass_.facts, 'failed')
  files.remove_folder(failed)
  try:
    runner.run(build)
  except Exception:
    for name in files.names(failed):
      with files.open_file(os.path.join(failed, name)) as file:
        status, _, message = file.read().decode().partition(' ')
      error = ValueError(message)
      error.exit_status = int(status)  # See cli.py.
      raise error from None
    raise


@contextlib.contextmanager
def _reporting_errors(part: int, pass_: Pass) -> Iterator[None]:
  """Writes errors that are for the user to a file, for `run`."""
  try:
    yield
  except (ValueError, OSError, readers.Unreadable) as error:
    path = os.path.join(pass_.facts, 'failed', f'{part:05d}.txt')
    status = getattr(error, 'exit_status', 2)
    files.write(path, f'{status} {error}'.encode(errors='replace'))
    raise


@dataclasses.dataclass
class Block:
  """Consecutive documents of a part; the last block also has its faults."""

  part: int
  index: int
  rows: list[int]
  documents: list[Document]
  faults: dict[str, Any] | None = None


def read_blocks(part: int, pass_: Pass) -> Iterator[Block]:
  """Yields the documents of a part in blocks."""
  faults = Faults(strict=pass_.strict)
  documents = read_documents(pass_.inputs[part], faults)
  block, size = Block(part, 0, [], []), 0
  with _reporting_errors(part, pass_):
    for row, document in enumerate(documents):
      block.rows.append(row)
      block.documents.append(document)
      size += len(document.text)
      if size > BLOCK_BYTES or len(block.rows) == BLOCK_DOCUMENTS:
        yield block
        block, size = Block(part, block.index + 1, [], []), 0
  block.faults = faults.to_json()
  yield block


def read_documents(input: Input, faults: Faults) -> Iterator[Document]:
  if input.source is None:
    for read in readers.read_jsonl(input.part, 1 << 40, faults):
      fields = dict(read.fields)
      yield Document(fields.pop(ID), fields.pop(TEXT), fields)
    return
  names = sources.fields(input.source.text)
  for read in input.source.read(input.part, faults):
    texts = [sources.text_of(read, name, faults) for name in names]
    if None in texts:  # Counted as a fault.
      continue
    fields = {k: v for k, v in read.fields.items() if k not in names}
    if TEXT in fields:  # A field of this name that is not the text.
      fields['other_text'] = fields.pop(TEXT)
    if is_deep(fields):  # It could be neither sent to a worker nor written.
      faults.add(f'fields nested in more than {MAX_DEPTH} levels', read.where)
      continue
    # Half of a surrogate pair can be escaped in JSON, but not be written.
    id = str(fields.pop(ID, f'{input.source.name}/{read.id}'))
    id = id.encode(errors='replace').decode()
    yield Document(id, '\n'.join(texts), fields)


def is_deep(value: Any) -> bool:
  """Returns whether lists and dicts are nested more than MAX_DEPTH deep."""
  level = [value]
  for _ in range(MAX_DEPTH + 1):
    inner = []
    for each in level:
      if isinstance(each, Mapping):
        inner += each.values()
      elif isinstance(each, list | tuple):
        inner += each
    if not inner:
      return False
    level = inner
  return True


def run_block(block: Block, pass_: Pass) -> tuple[int, int]:
  """Runs the stages on a block, and writes its files, unless they are there.

  Returns (part, index of the block). The files are joined when all blocks of
  the part are written, so that Beam need not hold documents in memory.
  """
  if files.size(pass_.block_path(block.part, block.index, 'json')) is None:
    with _reporting_errors(block.part, pass_):
      _run_block(block, pass_)
  return block.part, block.index


def _run_block(block: Block, pass_: Pass):
  faults = Faults(strict=pass_.strict)
  tallies = {name: Tally(pass_.samples) for name in pass_.names()}
  documents = block.documents
  if pass_.before:
    name, stage, folder = pass_.before
    decide = _decide(stage, folder, block.part)
    outcomes = map(decide, block.rows, documents)
    documents = _counted(tallies[name], documents, outcomes)
  for name, stage in pass_.stages:
    documents = after(name, stage, documents, tallies[name], faults)
  lines = [_line(document) for document in documents]
  frame = files.zstd(b''.join(lines)) if lines else b''
  where = functools.partial(pass_.block_path, block.part, block.index)
  files.write(where('zst'), frame)
  if pass_.after:
    stage, _ = pass_.after
    sketches.save(where('npz'), stage.sketch(documents))
  facts = {
    'documents': len(block.documents),
    'characters': sum(len(document.text) for document in block.documents),
    'written': len(documents),
    'written_characters': sum(len(document.text) for document in documents),
    'faults': [block.faults, faults.to_json()],
    'stages': {name: tally.to_json() for name, tally in tallies.items()},
  }
  _write_json(where('json'), facts)


_decisions: dict[tuple[str, int], Decide] = {}


def _decide(stage: AcrossDocuments, folder: str, part: int) -> Decide:
  """Returns the decisions about a part; those of the last part are kept."""
  if (folder, part) not in _decisions:
    _decisions.clear()
    _decisions[folder, part] = stage.decide(folder, part)
  return _decisions[folder, part]


def after(
  name: str,
  stage: Stage,
  documents: list[Document],
  tally: Tally,
  faults: Faults,
) -> list[Document]:
  """Returns the documents that a stage keeps."""
  if hasattr(stage, 'judge'):
    since, outcomes = time.thread_time(), []
    for start in range(0, len(documents), stage.size):
      outcomes += stage.judge(documents[start : start + stage.size])
    tally.seconds += time.thread_time() - since
    return _counted(tally, documents, outcomes)
  kept = []
  for document in documents:
    try:
      outcome = tally.run(stage, document)
    except Exception as error:
      # A stage should not fail; if it does, one document must not stop a run
      # of many hours.
      faults.add(f'{name} failed', document.id, f'{error!r:.200}')
      continue
    kept += going_on(outcome)
  return kept


def _counted(tally: Tally, documents, outcomes) -> list[Document]:
  kept = []
  for document, outcome in zip(documents, outcomes, strict=True):
    tally.count(document, outcome)
    kept += going_on(outcome)
  return kept


def _line(document: Document) -> bytes:
  own = {ID: document.id, TEXT: document.text}
  # First for the reader's eye, and again so that no other field replaces them.
  fields = {**own, **document.fields, **own}
  # Dates and bytes of parquet become text.
  try:
    line = json.dumps(fields, ensure_ascii=False, default=str).encode()
  except UnicodeEncodeError:  # Half of a surrogate pair in another field.
    line = json.dumps(fields, default=str).encode()
  return line + b'\n'


def write_part(group: tuple[int, Iterable[int]], pass_: Pass):
  """Joins the blocks of a part: documents, sketches and, last, the facts."""
  part, blocks = group
  # A runner may have tried a block again.
  blocks = sorted(set(blocks))
  facts = [_read_json(pass_.block_path(part, i, 'json')) for i in blocks]
  frames = [files.read(pass_.block_path(part, i, 'zst')) for i in blocks]
  files.write(pass_.document_path(part), b''.join(frames) or files.zstd(b''))
  if pass_.after:
    paths = [pass_.block_path(part, i, 'npz') for i in blocks]
    pieces = zip((each['written'] for each in facts), paths, strict=True)
    _, folder = pass_.after
    sketches.save(sketches.path(folder, part), sketches.joined(pieces))
  together = merged(facts, pass_.names(), pass_.samples)
  _write_json(pass_.facts_path(part), together)
  files.remove_folder(pass_.block_folder(part))


def _read_json(path: str) -> Any:
  return json.loads(files.read(path))


def _write_json(path: str, value: Any):
  data = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
  files.write(path, data.encode(errors='replace'))


def merged(
  all_facts: Iterable[dict[str, Any]], stages: Sequence[str], samples: int
) -> dict[str, Any]:
  """Returns the sums of the facts of blocks or parts."""
  faults, tallies = Faults(), {name: Tally(samples) for name in stages}
  names = 'documents', 'characters', 'written', 'written_characters'
  total = dict.fromkeys(names, 0)
  for facts in all_facts:
    for name in names:
      total[name] += facts[name]
    for each in filter(None, facts['faults']):
      faults.merge(each)
    for name, tally in facts['stages'].items():
      tallies[name].merge(tally)
  together = {name: tally.to_json() for name, tally in tallies.items()}
  return {**total, 'faults': [faults.to_json()], 'stages': together}
