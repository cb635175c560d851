"""PretrainZero's game on a report: its curves, and spans in their paragraphs.

In the game, the policy hides a span of a paragraph, and then predicts it
(rollout/game.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpt_jax.analysis.curves import Columns, Curve
from rlpt_jax.analysis.glossary import SPANS

# Fields of a rollout file's lines that only a game writes.
FIELDS = ('paragraph', 'passage', 'chosen_by', 'text')

CURVES = (
  Curve(
    'chooser/reward/mean', 'Reward of spans',
    'What a chosen span earns: the share of its predictions that are wrong, '
    'but 0 if all are wrong. Good: it stays above 0 while predictions get '
    'better; at 0, spans are unusable, too easy or unknowable.',
  ),
  Curve(
    'game/nobody_share', 'Spans that nobody predicted',
    'The share of the predicted spans that no prediction got right. Good: it '
    'falls; near 1, the policy hides what nobody can know.',
  ),
  Curve(
    'game/everybody_share', 'Spans that everybody predicted',
    'The share of the predicted spans that all predictions got right. Good: '
    'well below 1, since such spans teach nothing.',
  ),
  Curve(
    'game/words', 'Span length',
    'The mean number of words of a usable span. Good: steady; if it grows, '
    'spans are hard only because they are long.',
  ),
  Curve(
    'game/occurrences', 'Span frequency',
    'How often a usable span occurs in its paragraph, on average. Good: near '
    '1; a frequent span is often a word that says little.',
  ),
  Curve(
    'game/distinct_share', 'Different spans',
    'The share of usable spans left when equal spans of a paragraph count '
    'once. Good: near 1; if it falls, the policy repeats one choice.',
  ),
  Curve(
    'game/top_share', 'The most common span',
    'The share of usable spans that are the same text, in all paragraphs of a '
    'step. Good: low; if it rises, the policy hides the same word everywhere.',
  ),
  Curve(
    'game/digit_share', 'Spans with digits',
    'The share of usable spans with a digit. Good: steady; if it rises, the '
    'policy hides numbers, which can often only be guessed.',
  ),
)  # fmt: skip

# Plots of shares that sum to 1 -> their titles and meanings.
PLOTS = {
  'validity': (
    'Usable spans',
    'The share of chosen spans that are usable, and of the others by what is '
    'wrong with them. Good: almost all are usable.',
  ),
  'accuracy': (
    'Difficulty',
    'Predicted spans by how many of their predictions are right: none '
    '(orange), more and more (blue), or all (gray). A chooser earns nothing '
    'for none and for all. Good: mostly blue.',
  ),
}
# The bins of game/accuracies: none, up to an eighth, ..., below 1, all.
BINS = (
  'none right', *(f'up to {n}/8' for n in range(1, 8)), 'almost all', 'all',
)  # fmt: skip


def plots(runs: Sequence[Columns]) -> dict[str, dict[str, Any]]:
  """Returns the plots of shares as dicts; `order` names all of their parts."""
  found = {name for run in runs for name in shares(run).get('validity', ())}
  known = ['usable', *SPANS]
  orders = {
    'validity': sorted(found, key=lambda x: ((*known, x).index(x), x)),
    'accuracy': BINS,
  }
  return {
    name: {'title': title, 'meaning': meaning, 'order': orders[name]}
    for name, (title, meaning) in PLOTS.items()
  }


def shares(columns: Columns) -> dict[str, dict[str, np.ndarray]]:
  """Returns {name of a plot: {part: its share at each step}} of a game's run.

  A share is NaN at a step that has no such spans.
  """
  usable = columns.get('game/usable_share')
  if usable is None:
    return {}
  start = 'game/unusable/'
  validity = {'usable': usable} | {
    key.removeprefix(start): np.where(
      np.isfinite(usable), np.nan_to_num(values), np.nan
    )
    for key, values in columns.items()
    if key.startswith(start)
  }
  counts = [columns.get(f'game/accuracies/{i}') for i in range(len(BINS))]
  if any(each is None for each in counts):
    return {'validity': validity}
  total = np.sum(counts, axis=0)
  accuracy = {
    name: each / np.where(total > 0, total, np.nan)
    for name, each in zip(BINS, counts, strict=True)
    if np.nansum(each) > 0
  }
  return {'validity': validity, 'accuracy': accuracy}


def place(groups: Sequence[dict[str, Any]]):
  """Adds to the groups of a game where their spans are in their paragraphs.

  A group of predictions gets `places`: the (start, end) of each hidden span in
  the paragraph, in UTF-16 units, as a script counts; and `ends`, True if the
  passage ends with the span. If spans are chosen by chance, no group of a
  chooser has the paragraph. Its predictions have it as `text`, and only the
  first of them keeps it.
  """
  texts = {}
  for group in groups:
    if is_chooser(group):
      (texts[group['paragraph']],) = group['references']
  for group in groups:
    if 'passage' in group:
      text = group.pop('text', '')
      if group['paragraph'] not in texts:
        texts[group['paragraph']] = group['text'] = text
      group['places'] = _places(group, texts[group['paragraph']])
      group['ends'] = not group.pop('passage')[-1]


def is_chooser(group: dict[str, Any]) -> bool:
  """Returns True for completions that chose spans."""
  return 'paragraph' in group and 'chosen_by' not in group


def _places(group: dict[str, Any], text: str) -> list[list[int]]:
  """Returns where the span is hidden; [] if that cannot be told.

  It cannot if the passage is not a part of the paragraph.
  """
  span, *_ = [*group['references'], '']
  *before, rest = group['passage']
  places, end = [], text.find(before[0]) if before else -1
  for piece in before:
    start = end + len(piece)
    if end < 0 or not text.startswith(piece, end):
      return []
    # The space before a token is hidden too, and is no part of the span.
    start += len(text[start:]) - len(text[start:].lstrip())
    start = start if text.startswith(span, start) else end + len(piece)
    end = start + len(span)
    if text[start:end] != span:
      return []
    places.append([utf16_length(text[:i]) for i in (start, end)])
  return places if text.startswith(rest, end) else []


def utf16_length(text: str) -> int:
  """Returns the length that a text has in JavaScript."""
  return len(text.encode('utf-16-le', 'surrogatepass')) // 2
