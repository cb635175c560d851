"""A picture of who works and who waits: spans of the last steps of a run."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlpt_jax.analysis.page import shown

Spans = Mapping[str, np.ndarray]  # Part -> [n, 2], (began, ended) in seconds.

STEPS = 6  # Updates in the picture.
# Lane -> the parts of a step in it. Parts in one lane never overlap.
LANES = {
  'sampler': ('rollout', 'held_out'),
  'judge': ('reward',),
  'learner': ('update',),
  'weights': ('publish',),
  'disk': ('save',),
}
MEANING = (
  'What each part of the run did in its last steps; point at a bar for its '
  'time. A gap is a wait. In synchronous training, the sampler waits for every '
  'update, and the learner for the longest completion of every batch. In '
  'asynchronous training on the same devices, the two still take turns, but '
  'the sampler stops as soon as the oldest groups are done. With devices of '
  'its own, it works while an update does. Good: few gaps in the lane of the '
  'slower of the two.'
)
_WIDTH, _LEFT, _ROW, _BAR = 1000, 70, 24, 16


def window(spans: Spans) -> tuple[float, float] | None:
  """Returns the time of the last STEPS updates; None if there are too few."""
  updates = spans.get('update', np.zeros((0, 2)))
  if len(updates) < 2:
    return None
  first = max(len(updates) - STEPS - 1, 0)
  return float(updates[first, 1]), float(updates[-1, 1])


def picture(spans: Spans, colours: Sequence[str]) -> str:
  """Returns an SVG of the spans of the last steps; '' if there are too few.

  colours: the parts in the order of the colours that the page gives them.
  """
  if not (between := window(spans)):
    return ''
  start, end = between
  spans = {**spans, 'publish': _after_updates(spans)}
  lanes = [
    lane
    for lane, parts in LANES.items()
    if any(len(spans.get(part, ())) for part in parts)
  ]
  scale = (_WIDTH - _LEFT - 10) / (end - start)
  height = _ROW * len(lanes) + 22
  drawn = []
  for row, lane in enumerate(lanes):
    y = row * _ROW
    middle = y + _ROW / 2
    drawn.append(
      f'<text x="0" y="{middle + 4:.0f}">{lane}</text><path class="grid" '
      f'd="M{_LEFT} {middle:.1f}H{_WIDTH - 10}"/>'
    )
    for part in LANES[lane]:
      colour = colours.index(part) % 8 if part in colours else 6
      for began, ended in spans.get(part, ()):
        x, x_end = (
          _LEFT + scale * (min(max(t, start), end) - start)
          for t in (began, ended)
        )
        if x_end <= x:
          continue
        drawn.append(
          f'<rect class="part run-{colour}" x="{x:.1f}" '
          f'y="{y + (_ROW - _BAR) / 2:.0f}" width="{max(x_end - x, 0.8):.1f}" '
          f'height="{_BAR}"><title>{part}: {ended - began:.3g} s</title></rect>'
        )
  drawn.append(_axis(end - start, scale, _ROW * len(lanes)))
  return (
    f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
    f'aria-label="timeline">{"".join(drawn)}</svg>'
  )


def _after_updates(spans: Spans) -> np.ndarray:
  """Returns the spans of 'publish', without their waits for an update."""
  published = np.array(spans.get('publish', np.zeros((0, 2))))
  for began, ended in spans['update']:
    waits = (published[:, 0] < ended) & (began < published[:, 1])
    published[waits, 0] = np.minimum(ended, published[waits, 1])
  return published


def _axis(seconds: float, scale: float, y: int) -> str:
  """Returns about six ticks at round times."""
  rough = seconds / 6
  size = 10 ** np.floor(np.log10(rough))
  step = next(size * n for n in (1, 2, 5, 10) if size * n >= rough)
  return ''.join(
    f'<text x="{_LEFT + scale * t:.1f}" y="{y + 16}" text-anchor="middle">'
    f'{t:.3g} s</text>'
    for t in np.arange(0, seconds, step)
  )


def section(runs: Sequence[tuple[str, Spans]], colours: Sequence[str]) -> str:
  """Returns the timelines of some runs; '' if there are none.

  runs: their names and spans.
  """
  panels = [
    f'<figure class="panel timeline"><h4><span class="swatch run-{i % 8}">'
    f'</span>{shown(name)}</h4>{svg}</figure>\n'
    for i, (name, spans) in enumerate(runs)
    if (svg := picture(spans, colours))
  ]
  if not panels:
    return ''
  present = {part for _, spans in runs for part in spans}
  legend = ''.join(
    f'<span><span class="swatch run-{i % 8}"></span>{part}</span> '
    for i, part in enumerate(colours)
    if part in present
  )
  return (
    f'<details open><summary>Timeline</summary><p class="intro">{MEANING}</p>'
    f'<p class="readout">{legend}</p>\n{"".join(panels)}</details>\n'
  )
