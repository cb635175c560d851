"""The spans that a game hides in a step, and how good they are."""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlpt_jax.core.types import Example
from rlpt_jax.data import masks
from rlpt_jax.data.masks import Mask

# Borders of the bins of accuracies: 0, above 0 to 1/8, ..., below 1, 1.
ACCURACIES = np.array([0, 1e-6, *(np.arange(1, 8) / 8 + 1e-6), 1 - 1e-6, 1.1])


class Choice(NamedTuple):
  """The span that a sample chose; `reason` says why it is not usable.

  prompt: the tokens that ask for the hidden span.
  """

  mask: Mask | None
  reason: str = ''
  prompt: Sequence[int] = ()


def metrics(
  paragraphs: Sequence[Example],
  choices: Sequence[Sequence[Choice]],
  matches: Sequence[np.ndarray],
) -> dict[str, Any]:
  """Returns the metrics of a step's spans.

  `usable_share` is the share of usable spans, `unusable/...` of the others, by
  reason. These are of the usable spans: their mean numbers of `words` and
  `occurrences`, and the shares of different ones (`distinct_share`), of the
  most common one (`top_share`), and of those with digits (`digit_share`).
  These are of the predicted spans: `nobody_share` and `everybody_share`, the
  shares that none and all of the predictions got right, and `accuracies`, their
  number by the share of right predictions, from none to all.

  Together they show how a game goes wrong: spans that nobody can know, one span
  over and over, spans that are hard only for their length.
  """
  usable = [
    (example.references[0], choice.mask.span)
    for example, group in zip(paragraphs, choices, strict=True)
    for choice in group
    if choice.mask
  ]
  spans = [span for _, span in usable]
  reasons = collections.Counter(
    choice.reason for group in choices for choice in group if not choice.mask
  )
  count, total = max(len(spans), 1), sum(map(len, choices))
  common = collections.Counter(span.casefold() for span in spans)
  rates = np.array([np.nanmean(x) for x in matches if not np.isnan(x).all()])
  histogram = np.histogram(rates, ACCURACIES)[0]
  return {
    'game/usable_share': len(spans) / total,
    **{f'game/unusable/{x}': n / total for x, n in sorted(reasons.items())},
    'game/distinct_share': len(set(usable)) / count,
    'game/top_share': max(common.values(), default=0) / count,
    'game/digit_share': sum(map(_has_digit, spans)) / count,
    'game/words': sum(map(masks.num_words, spans)) / count,
    'game/occurrences': sum(text.count(span) for text, span in usable) / count,
    'game/nobody_share': float(np.sum(rates == 0)) / max(len(rates), 1),
    'game/everybody_share': float(np.sum(rates == 1)) / max(len(rates), 1),
    'game/accuracies': histogram,
  }


def _has_digit(span: str) -> bool:
  return any(map(str.isdigit, span))
