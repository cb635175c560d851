"""Metrics of the spans of a step, by hand."""

import numpy as np
import pytest

from rlpt_jax.core.types import Example
from rlpt_jax.data.masks import Mask
from rlpt_jax.rollout import spans
from rlpt_jax.rollout.spans import Choice

TOWN = 'The Aare is a river. The old bridge over the Aare was built in 1850.'
NAN = np.nan


def paragraph(text):
  return Example(np.zeros(3, np.int32), (text,), 'choose_span', 'c', 'd', 0)


def choice(span):
  return Choice(Mask(span, ''))


def test_spans_and_their_predictions():
  paragraphs = [paragraph(TOWN), paragraph(TOWN)]
  choices = [
    [choice('Aare'), choice('aare'), choice('old bridge'), choice('1850')],
    [choice('Aare'), choice('Aare'), Choice(None, 'x'), Choice(None, 'y/z')],
  ]
  matches = [[0, 0], [1, 1], [0, 1], [NAN, 1], [NAN, NAN]]
  found = spans.metrics(paragraphs, choices, np.array(matches))
  bins = found.pop('game/accuracies')
  assert bins.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 2]
  assert found == pytest.approx({
    'game/usable_share': 6 / 8,
    'game/unusable/x': 1 / 8, 'game/unusable/y/z': 1 / 8,
    # The same span of another paragraph is the same here.
    'game/distinct_share': 4 / 6, 'game/top_share': 4 / 6,
    'game/digit_share': 1 / 6, 'game/words': 7 / 6,
    # 'aare' is not there as such.
    'game/occurrences': (2 + 0 + 1 + 1 + 2 + 2) / 6,
    'game/nobody_share': 1 / 4, 'game/everybody_share': 2 / 4,
  })  # fmt: skip


def test_a_step_without_a_span():
  found = spans.metrics([paragraph(TOWN)], [[Choice(None, 'x')] * 2], [])
  assert found.pop('game/accuracies').sum() == 0
  assert found.pop('game/unusable/x') == 1
  assert set(found.values()) == {0}
