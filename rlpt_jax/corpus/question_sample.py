"""Tries a question stage on a few documents, and estimates the whole run.

The documents are a random sample that follows from their ids, so a larger
sample contains a smaller one. Their calls are kept, and the whole run does not
pay for them again.
"""

import dataclasses
import heapq
from collections.abc import Iterator
from typing import Any

from rlpt_jax.corpus import cleaning, passes
from rlpt_jax.corpus.cleaning import Corpus
from rlpt_jax.corpus.documents import Document, Several
from rlpt_jax.corpus.questions import Questions, chance, close, opened
from rlpt_jax.corpus.tally import Tally
from rlpt_jax.data.faults import Faults
from rlpt_jax.llm import call_records
from rlpt_jax.llm.estimate import Estimate, estimate


@dataclasses.dataclass(frozen=True)
class Sample:
  """What the models said about a few documents.

  documents: how many would be asked about in all.
  """

  documents: int
  outcomes: list[Several]
  estimate: Estimate


def stage_of(corpus: Corpus) -> Questions:
  """Returns the stage that asks, or raises if there is not exactly one."""
  found = [stage for stage in corpus.stages if isinstance(stage, Questions)]
  if len(found) != 1:
    raise ValueError(
      f'cleaning.Corpus.stages: expected one @questions.Questions(), found '
      f'{len(found)}.'
    )
  before = corpus.stages[: list(corpus.stages).index(found[0])]
  if compared := [stage for stage in before if cleaning.compares(stage)]:
    raise ValueError(
      f'cleaning.Corpus.stages: {cleaning.stage_name(compared[0])} compares '
      'documents before questions are asked. Do that with `rlpt make_corpus`, '
      'and read the corpus that it makes.'
    )
  if asking := [stage for stage in before if hasattr(stage, 'judge')]:
    raise ValueError(
      f'cleaning.Corpus.stages: {cleaning.stage_name(asking[0])} asks a model '
      'about every document before questions are asked, even for a sample. Do '
      'that with `rlpt make_corpus`, and read the corpus that it makes.'
    )
  return found[0]


def draw(corpus: Corpus, size: int) -> Sample:
  """Asks about a sample of the documents, and estimates the use of all."""
  stage = stage_of(corpus)
  lengths, chosen = [], []
  for n, document in enumerate(_reaching(corpus, stage)):
    lengths.append(min(len(document.text), stage.max_characters))
    # The number settles ties between equal ids.
    heapq.heappush(chosen, (-chance(document.id), n, document))
    if len(chosen) > size:
      heapq.heappop(chosen)
  if not chosen:
    raise ValueError(
      f'{", ".join(source.place() for source in corpus.sources)}: no document '
      'reaches the questions.'
    )
  documents = [document for *_, document in sorted(chosen, reverse=True)]
  try:
    outcomes = stage.judge(documents)
    names = {one.id: min(len(one.text), stage.max_characters)
             for one in documents}  # fmt: skip
    # Not those of earlier settings, which may be in the file, too.
    keys = opened(stage).keys
    records = (
      one for one in call_records.read(stage.records) if one['key'] in keys
    )
    expected = estimate(records, names, lengths)
  finally:
    close(stage)
  return Sample(len(lengths), outcomes, expected)


def _reaching(corpus: Corpus, stage: Questions) -> Iterator[Document]:
  """Yields the documents that come through the stages before the questions."""
  stages = corpus.named_stages()[: list(corpus.stages).index(stage)]
  for each in cleaning.source_inputs(corpus):
    for document in passes.read_documents(each, Faults()):
      left = [document]
      for name, one in stages:
        left = passes.after(name, one, left, Tally(), Faults())
      yield from left


def used(stage: Questions) -> dict[str, Any]:
  """Returns what the calls of all runs have used, by stage."""
  calls = opened(stage)
  return {**calls.account.by_stage, 'total': calls.account.total}
