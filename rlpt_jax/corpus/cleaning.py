"""Makes a corpus: documents of any source through stages, in the order of gin.

  FOLDER/
    documents/00003.jsonl.zst   the documents of part 3; what data/ reads
    manifest.json               counts of every stage, files and checksums
    samples.json                samples of what was dropped and edited
    signatures/STAGE/           what a later corpus is compared with
    plan.json                   the sources and the settings

While it is made, the folder also has `pass-1`, `compared-1` and so on. A file
is written under another name and then renamed, and the facts of a part are
written after the part. So a run can be killed at any time, and continues with
what is missing.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlpt_jax.core import checks, settings
from rlpt_jax.core.checks import Name, Natural
from rlpt_jax.corpus import passes, pipelines, sketches
from rlpt_jax.corpus.documents import Document, Stage
from rlpt_jax.corpus.passes import Input, Pass
from rlpt_jax.corpus.pipelines import Runner
from rlpt_jax.corpus.sketches import AcrossDocuments, Sketches
from rlpt_jax.data import files
from rlpt_jax.data.faults import Faults
from rlpt_jax.data.pipeline import every_second
from rlpt_jax.data.sources import Source

_TEMPORARY = re.compile(r'(pass|compared|sketches)-\d')
# Every stage is tried with it before a run.
TRIAL = Document(
  'trial', 'A short text of two sentences.\n\nThis one is the second of them.'
)
# (name of the step, parts that are done, parts in all)
Progress = Callable[[str, float, int], None]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The sources, the stages and the folder of a corpus.

  stages: functions of one document (rules, personal, contamination, ...) and
    stages that compare documents (duplicates, paragraphs), in order.
  samples: of each reason to drop a document, and of each kind of edit, this
    many are kept to be looked at.
  strict: an unusable document raises an error; by default it is counted and
    left out.
  """

  sources: Sequence[Source]
  stages: Sequence[Stage | AcrossDocuments]
  folder: Name
  samples: Natural = 20
  strict: bool = False

  def __post_init__(self):
    checks.check_fields(self)
    for name in ('sources', 'stages'):
      if not getattr(self, name):
        raise checks.setting_error(
          type(self), name, getattr(self, name), 'at least one'
        )
    folder = os.path.expanduser(self.folder)
    object.__setattr__(self, 'folder', folder)
    names = [source.name for source in self.sources]
    if twice := {name for name in names if names.count(name) > 1}:
      raise ValueError(
        f'Corpus.sources: two sources are named {", ".join(sorted(twice))}: '
        'give each its own name.'
      )

  def named_stages(self) -> list[tuple[str, Any]]:
    """Returns (name, stage) of each; the second of a name is NAME_2."""
    named, seen = [], {}
    for stage in self.stages:
      name = stage_name(stage)
      seen[name] = seen.get(name, 0) + 1
      named.append((name if seen[name] == 1 else f'{name}_{seen[name]}', stage))
    return named


def stage_name(stage: Any) -> str:
  """Returns the name of a function, or of a class in that form."""
  stage = getattr(stage, 'judge', stage)
  if inspect.ismethod(stage):  # A stage that has a method `judge`.
    stage = stage.__self__
  function = getattr(stage, 'func', stage)
  name = getattr(function, '__name__', type(function).__name__)
  return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()


def compares(stage: Any) -> bool:
  return hasattr(stage, 'compare')


def make(corpus: Corpus, runner: Runner, show: Progress) -> dict[str, Any]:
  """Makes the corpus, or what is missing of it; returns the manifest."""
  with files.locked(corpus.folder):
    return _make(corpus, runner, show)


def _make(corpus: Corpus, runner: Runner, show: Progress) -> dict[str, Any]:
  inputs = source_inputs(corpus)
  _check_folder(corpus, inputs)
  plan = write_plan(corpus, inputs)
  if 'manifest.json' in files.names(corpus.folder):
    _remove_passes(corpus)
    return read_json(corpus.folder, 'manifest.json')
  for name, stage in corpus.named_stages():
    _try_out(name, stage)
  pipelines.load_beam()
  done: list[Pass] = []
  for pass_ in _passes(corpus, inputs):
    if done:
      pass_ = dataclasses.replace(pass_, inputs=done[-1].outputs())
      _compare(pass_, done[-1], runner, show)
    number = f'pass {len(done) + 1}'
    total = len(pass_.inputs)

    def shown(pass_=pass_, number=number, total=total):
      show(number, pass_.progress(), total)

    with every_second(shown):
      passes.run(pass_, runner)
    shown()
    done.append(pass_)
  return _write_manifest(corpus, plan, done)


def source_inputs(corpus: Corpus) -> list[Input]:
  inputs = [
    Input(source, part, _size(source, part))
    for source in corpus.sources
    for part in source.parts()
  ]
  if not inputs:
    places = ', '.join(source.place() for source in corpus.sources)
    raise ValueError(f'{places}: the files are empty. Expected documents.')
  return inputs


def _check_folder(corpus: Corpus, inputs: Sequence[Input]):
  """Raises if the folder holds the sources, or files of unknown origin."""
  folder = os.path.abspath(corpus.folder) + os.sep
  for each in inputs:
    if os.path.abspath(each.part.file).startswith(folder):
      raise ValueError(
        f'{each.part.file}: a source in the folder of the corpus itself. Set '
        'cleaning.Corpus.folder to another one.'
      )
  for _, stage in corpus.named_stages():
    for earlier in getattr(stage, 'earlier', ()):
      if os.path.abspath(earlier) + os.sep == folder:
        raise ValueError(
          f'earlier={earlier!r}: is the folder of the corpus itself. Expected '
          'that of a corpus made before.'
        )
      _earlier(earlier, stage)  # Raises if it cannot be compared.
  names = files.names(corpus.folder)
  if 'plan.json' not in names:
    for name in names:
      if name in ('documents', 'signatures') or _TEMPORARY.match(name):
        raise ValueError(
          f'{os.path.join(corpus.folder, name)}: of another corpus, whose '
          'plan.json is missing. Choose another folder, or remove this one.'
        )


def texts(corpus: Corpus) -> Iterator[str]:
  """Yields the texts of all sources."""
  for each in source_inputs(corpus):
    for document in passes.read_documents(each, Faults()):
      yield document.text


def _size(source: Source, part: Any) -> int:
  """Returns about how many bytes of text a part has."""
  if part.file.endswith('.jsonl') or part.file.endswith('.txt'):
    end = files.size(part.file) if part.end is None else part.end
    return (end or 0) - part.start
  # Compressed, or not a file: text is about three times as large.
  whole = (files.size(part.file) or 0) * 3 if part.end is None else 0
  return max(whole, getattr(source, 'part_bytes', 0) * 3)


def write_plan(corpus: Corpus, inputs: Sequence[Input]) -> dict[str, Any]:
  """Writes what the corpus is made from; raises if it was something else."""
  plan = {
    'sources': {
      source.name: {
        'files': _summary(source.fingerprint()),
        'read': source.settings(),
        'text': settings.describe(source.text),
      }
      for source in corpus.sources
    },
    'parts': len(inputs),
    # An earlier corpus that is made again may have other documents in a part.
    'earlier': {
      earlier: _made(earlier)
      for _, stage in corpus.named_stages()
      for earlier in getattr(stage, 'earlier', ())
    },
    'stages': {
      name: settings.describe(stage) for name, stage in corpus.named_stages()
    },
    'order': [name for name, _ in corpus.named_stages()],
    'samples': corpus.samples,
  }
  if 'plan.json' in files.names(corpus.folder):
    there = read_json(corpus.folder, 'plan.json')
    if changes := settings.differences(there, plan):
      raise ValueError(
        f'{corpus.folder}: was made with other settings: {changes[0]}'
        f'{f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""}. '
        'Choose another folder, or remove this one.'
      )
  else:
    write_json(corpus.folder, 'plan.json', plan)
  return plan


def _made(folder: str) -> str:
  """Returns a checksum of the sources and stages of an earlier corpus."""
  plan = read_json(os.path.expanduser(folder), 'manifest.json')['plan']
  text = json.dumps(plan, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _summary(fingerprint: dict[str, list]) -> dict[str, Any]:
  text = json.dumps(fingerprint, sort_keys=True)
  return {
    'files': len(fingerprint),
    'bytes': sum(max(0, size) for size, _ in fingerprint.values()),
    'checksum': hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
  }


def _try_out(name: str, stage: Any):
  """Runs a stage on a short text, so that its mistakes are found at once."""
  try:
    judge = getattr(stage, 'judge', None)
    if compares(stage):
      stage.sketch([TRIAL])
    elif try_out := getattr(judge, 'try_out', None):
      try_out()
    elif check := getattr(stage, 'check', None):
      check()
    else:
      stage(TRIAL)
  except (ValueError, ImportError) as error:
    raise ValueError(f'{name}: {error}') from error
  except Exception:
    # It may need a field that the trial lacks. A run counts such failures.
    return


def _passes(corpus: Corpus, inputs: Sequence[Input]) -> list[Pass]:
  """Returns the passes; the inputs of all but the first are not yet known."""
  groups, before = [[]], [None]
  for name, stage in corpus.named_stages():
    if compares(stage):
      groups.append([])
      before.append((name, stage))
    else:
      groups[-1].append((name, stage))
  made = []
  for i, stages in enumerate(groups):
    is_last = i == len(groups) - 1
    folder = os.path.join(corpus.folder, f'pass-{i + 1}')
    compared = os.path.join(corpus.folder, f'compared-{i}')
    after = None if is_last else before[i + 1]
    made.append(
      Pass(
        inputs=inputs,
        folder=os.path.join(corpus.folder, 'documents') if is_last else folder,
        facts=f'{folder}-facts',
        stages=stages,
        before=(*before[i], compared) if before[i] else None,
        after=after and (after[1], _sketch_folder(corpus, i, *after)),
        samples=corpus.samples,
        strict=corpus.strict,
      )
    )
  return made


def _sketch_folder(corpus: Corpus, i: int, name: str, stage: Any) -> str:
  """Returns where sketches go: they are kept if a later corpus can use them."""
  if hasattr(stage, 'earlier'):
    return signatures_folder(corpus.folder, name)
  return os.path.join(corpus.folder, f'sketches-{i}')


def signatures_folder(folder: str, name: str) -> str:
  return os.path.join(folder, 'signatures', name)


def _compare(pass_: Pass, before: Pass, runner: Runner, show: Progress):
  """Compares the documents of a pass, before the next one."""
  name, stage, folder = pass_.before
  if pipelines.is_done(folder):
    return
  _, sketch_folder = before.after
  parts = len(before.inputs)
  paths = [sketches.path(sketch_folder, part) for part in range(parts)]
  for earlier in getattr(stage, 'earlier', ()):
    paths += _earlier(earlier, stage)
  show(name, 0, 1)
  stage.compare(Sketches(paths, parts), folder, runner)
  pipelines.mark_done(folder)
  show(name, 1, 1)


def _earlier(folder: str, stage: AcrossDocuments) -> list[str]:
  """Returns the sketches that the same stage made of an earlier corpus."""
  folder = os.path.expanduser(folder)
  plan = read_json(folder, 'manifest.json')['plan']
  wanted = settings.describe(stage)
  for name, there in plan['stages'].items():
    same = isinstance(there, dict) and there.get('is') == wanted['is']
    if same and there.get('shingles') == wanted.get('shingles'):
      where = signatures_folder(folder, name)
      return [sketches.path(where, part) for part in range(plan['parts'])]
  raise ValueError(
    f'earlier={folder!r}: was not made with a stage like this one '
    f'({wanted["is"]}, with the same shingles), so it cannot be compared. Make '
    'it with one.'
  )


def _write_manifest(
  corpus: Corpus, plan: dict[str, Any], done: Sequence[Pass]
) -> dict[str, Any]:
  """Writes the samples and the manifest, and removes what is not needed."""
  stages, samples, seconds, faults = [], [], {}, Faults()
  for number, pass_ in enumerate(done):
    facts = pass_.all_facts()
    faults.merge(facts['faults'][0])
    for name in pass_.names():
      tally = facts['stages'][name]
      seconds[name] = tally.pop('seconds')
      found = {
        reason: [sample for _, sample in sorted(some.items())]
        for reason, some in sorted(tally.pop('samples').items())
      }
      if pass_.before and name == pass_.before[0]:
        _add_kept(found, done[number - 1])
      stages.append({'name': name, **tally})
      samples.append({'name': name, 'samples': found})
  first, last = done[0].all_facts(), done[-1]
  written = []
  for i in range(len(last.inputs)):
    facts, path = last.facts_of(i), last.document_path(i)
    with files.open_file(path) as file:
      data = file.read()
    written.append(
      {
        'name': os.path.basename(path),
        'documents': facts['written'],
        'bytes': len(data),
        'checksum': hashlib.blake2b(data, digest_size=16).hexdigest(),
      }
    )
  manifest = {
    'plan': plan,
    'documents': first['documents'],
    'characters': first['characters'],
    'written': sum(each['documents'] for each in written),
    'written_characters': last.all_facts()['written_characters'],
    'stages': stages,
    'faults': {'counts': faults.counts, 'first': faults.first},
    'files': written,
  }
  write_json(corpus.folder, 'samples.json', samples)
  write_json(corpus.folder, 'seconds.json', seconds)
  write_json(corpus.folder, 'manifest.json', manifest)
  _remove_passes(corpus)
  return manifest


def _remove_passes(corpus: Corpus):
  for name in files.names(corpus.folder):
    if _TEMPORARY.match(name):
      files.remove_folder(os.path.join(corpus.folder, name))


def _add_kept(found: dict[str, list[dict[str, Any]]], before: Pass):
  """Adds the kept document to the samples of documents that repeat it."""
  wanted: dict[int, dict[int, list]] = {}
  for sample in (sample for some in found.values() for sample in some):
    if match := re.fullmatch(r'(\d+):(\d+)', sample.get('detail', '')):
      part, row = map(int, match.groups())
      wanted.setdefault(part, {}).setdefault(row, []).append(sample)
  outputs = before.outputs()
  for part, rows in wanted.items():
    documents = passes.read_documents(outputs[part], Faults())
    for row, document in enumerate(documents):
      for sample in rows.get(row, ()):
        sample['detail'] = f'kept: {document.id}'
        sample['kept'] = document.text[: len(sample['text'])]


def read_json(folder: str, name: str) -> Any:
  path = os.path.join(folder, name)
  try:
    with files.open_file(path) as file:
      return json.loads(file.read())
  except (OSError, ValueError) as error:
    why = str(error).splitlines()[0]
    raise ValueError(
      f'{path}: missing or damaged ({why:.80}). Expected the folder of a '
      'corpus that `rlpt make_corpus` made.'
    ) from error


def write_json(folder: str, name: str, value: Any):
  text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + '\n'
  files.write(os.path.join(folder, name), text.encode(errors='replace'))
