"""Estimates what a run will use, from the records of a small part of it.

First run a random sample of the documents, such as every hundredth; its calls
are recorded, so the whole run does not pay for them again. Prompts hold whole
documents, so what a document uses grows with its length: the estimate is that
of a line fitted to the sample, at the mean length of all documents (Cochran,
Sampling Techniques, 3rd edition, 7.1). With 200 documents it is usually within
10% of what the run uses.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from rlpt_jax.llm.budget import NOTHING, Usage
from rlpt_jax.llm.call_records import Record

MONEY, TOKENS = 'money', 'tokens'


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What all documents will use, those of the sample included.

  margin: half the width of a 95% interval, as a share of the money, or of the
    tokens if there are no prices. It is infinite for fewer than 3 documents.
  """

  by_stage: Mapping[str, Usage]
  total: Usage
  margin: float


def estimate(
  records: Iterable[Record],
  sample: Mapping[str, int],
  lengths: Sequence[int],
) -> Estimate:
  """Returns what the documents of these lengths will use.

  records: of call_records.read; those of other documents are ignored. Leave out
    those of earlier settings, such as another model or prompt.
  sample: the lengths of the sample's documents by id, in characters. They must
    have been run to their end, also if they used nothing.
  lengths: of all documents.
  """
  if not sample or not lengths:
    raise ValueError(
      f'sample: {len(sample)} of {len(lengths)} documents: expected a sample '
      'of at least one document that was run.'
    )
  used: dict[str, dict[str, Usage]] = collections.defaultdict(dict)
  for record in records:
    if 'reply' in record and record['id'] in sample:
      by_id = used[record['stage']]
      by_id[record['id']] = by_id.get(record['id'], NOTHING) + _usage(record)
  line = _Line(sample, lengths)
  by_stage = {stage: line.total(by_id) for stage, by_id in used.items()}
  of_all: dict[str, Usage] = collections.defaultdict(Usage)
  for by_id in used.values():
    for name, usage in by_id.items():
      of_all[name] += usage
  total = line.total(of_all)
  return Estimate(by_stage, total, line.margin(of_all, total))


def _usage(record: Record) -> Usage:
  usage = record['usage']
  return Usage(
    1, usage['prompt_tokens'], usage['completion_tokens'],
    record.get('money', 0.0), usage.get('estimated', False),
  )  # fmt: skip


class _Line:
  """Fits lines to what the documents of a sample used, over their lengths."""

  def __init__(self, sample: Mapping[str, int], lengths: Sequence[int]):
    self._sample, self._documents = sample, len(lengths)
    self._middle = sum(sample.values()) / len(sample)
    self._spread = sum((x - self._middle) ** 2 for x in sample.values())
    self._shift = sum(lengths) / len(lengths) - self._middle

  def total(self, used: Mapping[str, Usage]) -> Usage:
    """Returns the line's value at the mean length, times all documents."""
    mean, slope = self._fitted(used)
    total = NOTHING.plus(mean.plus(slope, self._shift), self._documents)
    return Usage(*(max(0.0, x) for x in dataclasses.astuple(total)))

  def margin(self, used: Mapping[str, Usage], total: Usage) -> float:
    """Returns `Estimate.margin`.

    Long documents scatter more about the line, so each residual stands for the
    variance at its own length (MacKinnon and White's HC1, 1985).
    """
    what, count = MONEY if total.money else TOKENS, len(self._sample)
    if count < 3 or not getattr(total, what):
      return math.inf
    (mean, slope), variance = self._fitted(used), 0.0
    for name, length in self._sample.items():
      offset = length - self._middle
      residual = used.get(name, NOTHING) - mean.plus(slope, offset)
      weight = 1 / count + self._shift * self._over_spread(offset)
      variance += (weight * getattr(residual, what)) ** 2
    # Nothing is uncertain about the documents of the sample.
    unknown = max(0.0, 1 - count / self._documents)
    error = math.sqrt(variance * count / (count - 2) * unknown)
    return 1.96 * error * self._documents / getattr(total, what)

  def _fitted(self, used: Mapping[str, Usage]) -> tuple[Usage, Usage]:
    mean = slope = NOTHING
    for name, usage in used.items():
      offset = self._sample[name] - self._middle
      mean = mean.plus(usage, 1 / len(self._sample))
      slope = slope.plus(usage, self._over_spread(offset))
    return mean, slope

  def _over_spread(self, offset: float) -> float:
    return offset / self._spread if self._spread else 0.0
