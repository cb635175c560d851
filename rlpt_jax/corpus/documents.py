"""What the stages of `rlpt make_corpus` take and return.

A stage is a function of one document. It returns the document, the document
with another text, or the reason why the document is dropped:

  def ascii_only(document: Document) -> Document | Dropped:
    if document.text.isascii():
      return document
    return Dropped('not ASCII', repr(first_other(document.text)))

Reasons are counted, so there must be few of them; details are shown beside a
sample of the dropped documents. What a stage returns may depend only on the
document and the stage's settings: stages run in any order, in many processes,
and again after a failure.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Edit(NamedTuple):
  """A change of a text: `before` was replaced by `after`."""

  kind: str  # For counts, such as 'e-mail'.
  start: int  # In characters of the text before the stage.
  before: str
  after: str


@dataclasses.dataclass(frozen=True)
class Document:
  """A document on its way through the stages.

  id: unique in the corpus; it says where the document came from.
  fields: its other fields, as JSON data. They are written with the text.
  edits: the changes of all stages so far, in order. They are counted, and
    shown for a sample of the documents.
  """

  id: str
  text: str
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  edits: tuple[Edit, ...] = ()


class Dropped(NamedTuple):
  """The reason why a document is left out of the corpus.

  reason: one of a few, such as 'fewer than 50 words'.
  detail: what is particular to this document, such as '12 words'.
  """

  reason: str
  detail: str = ''


class Several(NamedTuple):
  """What a stage makes of a document instead of one document: several, or none.

  documents: they go on in place of the document.
  dropped: why others were not made.
  events: what else happened, to be counted, such as 'filter: cut off'.
  sample: what to show of it, as JSON data.
  """

  documents: Sequence[Document]
  dropped: Sequence[Dropped] = ()
  events: Sequence[str] = ()
  sample: Mapping[str, Any] | None = None


Outcome = Document | Dropped | Several
Stage = Callable[[Document], Outcome]


def going_on(outcome: Outcome) -> Sequence[Document]:
  """Returns the documents that go on to the next stage."""
  if isinstance(outcome, Dropped):
    return ()
  return outcome.documents if isinstance(outcome, Several) else (outcome,)


@dataclasses.dataclass(frozen=True)
class InBatches:
  """A stage that is faster with many documents at once, such as a model.

  Any object with `judge` and `size` is such a stage.

  judge: returns the outcome of each document, in order.
  """

  judge: Callable[[Sequence[Document]], list[Outcome]]
  size: int = 64

  def __call__(self, document: Document) -> Outcome:
    return self.judge([document])[0]


def edited(document: Document, edits: Sequence[Edit]) -> Document:
  """Returns the document after edits, which must be sorted and not overlap."""
  pieces, end = [], 0
  for edit in edits:
    pieces += [document.text[end : edit.start], edit.after]
    end = edit.start + len(edit.before)
  pieces.append(document.text[end:])
  return dataclasses.replace(
    document, text=''.join(pieces), edits=(*document.edits, *edits)
  )
