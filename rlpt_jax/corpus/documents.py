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


Outcome = Document | Dropped
Stage = Callable[[Document], Outcome]


@dataclasses.dataclass(frozen=True)
class InBatches:
  """A stage that is faster with many documents at once, such as a model.

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
