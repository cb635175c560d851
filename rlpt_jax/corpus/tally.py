"""Counts what stages do to documents, and keeps a sample of it.

Tallies of parts are merged in any order with the same result: the sample has
the documents whose ids have the smallest hashes.
"""

import collections
import dataclasses
import hashlib
import heapq
import time
from collections.abc import Sequence
from typing import Any

from rlpt_jax.corpus.documents import (
  Document,
  Dropped,
  Edit,
  Outcome,
  Several,
  Stage,
  going_on,
)

CHANGED = 'text changed'  # If a stage does not say what it edited.
DOCUMENTS = 'documents'  # The name of the samples of outcomes with several.
_SHOWN = 2000  # Characters of a dropped document that a sample has.
_AROUND = 90  # Characters before and after an edit that a sample has.


@dataclasses.dataclass
class Tally:
  """The counts and samples of one stage.

  samples: the most samples that are kept of each reason and each kind of edit.
  """

  samples: int = 0
  documents: int = 0  # Documents that entered the stage.
  left: int = 0  # Documents that came out of it.
  edited: int = 0  # Documents whose text the stage changed.
  seconds: float = 0.0  # CPU seconds.
  dropped: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  edits: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  events: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  # {reason or kind: {hash of the id: sample}}
  kept: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

  def run(self, stage: Stage, document: Document) -> Outcome:
    """Returns the stage's outcome, and counts it."""
    since = time.thread_time()
    outcome = stage(document)
    self.seconds += time.thread_time() - since
    self.count(document, outcome)
    return outcome

  def count(self, before: Document, outcome: Outcome):
    self.documents += 1
    self.left += len(going_on(outcome))
    if isinstance(outcome, Several):
      self.dropped.update(each.reason for each in outcome.dropped)
      self.events.update(outcome.events)
      if outcome.sample is not None:
        self._keep(DOCUMENTS, before.id, dict(outcome.sample))
      return
    if isinstance(outcome, Dropped):
      self.dropped[outcome.reason] += 1
      text = before.text
      self._keep(
        outcome.reason,
        before.id,
        {
          'id': before.id,
          'detail': outcome.detail,
          'text': text[:_SHOWN] + ('…' if len(text) > _SHOWN else ''),
        },
      )
      return
    edits = outcome.edits[len(before.edits) :]
    if outcome.text != before.text and not edits:
      edits = (Edit(CHANGED, 0, before.text, outcome.text),)
    self.edited += bool(edits)
    text = _as_shown(before.text, edits)
    for edit in edits:
      self.edits[edit.kind] += 1
      self._keep(edit.kind, before.id, _in_context(before.id, text, edit))

  def _keep(self, name: str, id: str, sample: dict[str, Any]):
    if not self.samples:
      return
    samples = self.kept.setdefault(name, {})
    key = hashlib.blake2b(
      id.encode(errors='replace'), digest_size=8
    ).hexdigest()
    samples.setdefault(key, sample)  # Of a document, the first edit of a kind.
    if len(samples) > self.samples:
      del samples[max(samples)]

  def to_json(self) -> dict[str, Any]:
    return {
      'documents': self.documents,
      'left': self.left,
      'edited': self.edited,
      'seconds': self.seconds,
      'dropped': dict(self.dropped),
      'edits': dict(self.edits),
      'events': dict(self.events),
      'samples': self.kept,
    }

  def merge(self, other: dict[str, Any]):
    """Adds the to_json() of another tally."""
    self.documents += other['documents']
    self.left += other['left']
    self.edited += other['edited']
    self.seconds += other['seconds']
    self.dropped.update(other['dropped'])
    self.edits.update(other['edits'])
    self.events.update(other['events'])
    for name, samples in other['samples'].items():
      both = {**samples, **self.kept.get(name, {})}
      chosen = heapq.nsmallest(self.samples, both)
      self.kept[name] = {key: both[key] for key in chosen}


def _as_shown(text: str, edits: Sequence[Edit]) -> str:
  """Returns the text with each `before` in its place; it may hide something.

  Otherwise the sample of one edit would show what another one hides.
  """
  for edit in edits:
    end = edit.start + len(edit.before)
    text = f'{text[: edit.start]}{edit.before}{text[end:]}'
  return text


def _in_context(id: str, text: str, edit: Edit) -> dict[str, Any]:
  start, end = edit.start, edit.start + len(edit.before)
  first, last = max(0, start - _AROUND), end + _AROUND
  return {
    'id': id,
    'before': ('…' if first else '') + text[first:start],
    'removed': edit.before[:_SHOWN],
    'added': edit.after[:_SHOWN],
    'after': text[end:last] + ('…' if last < len(text) else ''),
  }
