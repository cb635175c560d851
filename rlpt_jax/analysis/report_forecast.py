"""The part of the report that forecasts each run's end from its first half."""

import math
from collections.abc import Sequence

from rlpt_jax.analysis import curves
from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis.forecast import Forecast
from rlpt_jax.analysis.page import escaped, shown
from rlpt_jax.analysis.plots import short

_SHARE = 0.5
# As in report_curves.js.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 190, 46, 8, 8, 22


def section(runs: Sequence[tuple[str, curves.Columns]]) -> str:
  """Returns a panel, or the reason why there is none, for each run.

  Returns '' if no run has held-out rewards.

  runs: (name, columns).
  """
  parts = [
    _run(i, name, columns)
    for i, (name, columns) in enumerate(runs)
    if forecasts.KEY in columns
  ]
  if not parts:
    return ''
  panels = ''.join(part for part in parts if part.startswith('<figure'))
  others = ''.join(part for part in parts if not part.startswith('<figure'))
  return (
    '<section id="forecast"><h2>Forecast</h2>\n<p class="intro">How well the '
    'first half of a run, by compute, predicts its held-out reward at the end. '
    'Curves are fitted to the filled dots alone; hollow dots were measured '
    'later. The band should hold 90% of them. <code>rlpt fit</code> says more, '
    'and forecasts beyond the end.</p>\n'
    f'{others}<div class="panels">{panels}</div></section>\n'
  )


def _run(i: int, name: str, columns: curves.Columns) -> str:
  against = 'flops' if 'compute' in curves.axes(columns) else 'steps'
  swatch = f'<span class="swatch run-{i % 8}"></span>{shown(name)}'
  try:
    made = forecasts.forecast(forecasts.points(columns, against))
  except ValueError as error:
    return f'<p class="intro">{swatch}: no forecast: {shown(str(error))}</p>\n'
  said = forecasts.sentence(made, _SHARE, against)
  return (
    f'<figure class="panel"><h3>{swatch}</h3>\n'
    f'{drawing(made, against, f"run-{i % 8}")}<p>{escaped(said)}</p></figure>\n'
  )


def drawing(made: Forecast, against: str, color: str) -> str:
  """Returns an SVG of the points, the curve and its band.

  color: a class that sets it.
  """
  along, (low, middle, high) = made.band()
  everything = [*made.seen.y, *made.unseen.y, *low, *high]
  bottom, top = min(everything), max(everything)
  room = 0.05 * (top - bottom)
  bottom = 0.0 if 0 <= bottom <= top / 2 else bottom - room
  top += room

  def at(x, y):
    across = _LEFT + x / made.end * (_WIDTH - _LEFT - _RIGHT)
    down = _TOP + (top - y) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)
    return f'{across:.1f} {down:.1f}'

  def path(classes, points, end=''):
    joined = 'L'.join(at(x, y) for x, y in points)
    return f'<path class="{classes}" d="M{joined}{end}"/>'

  marks = []
  for y in ticks(bottom, top):
    marks.append(path('grid', [(0, y), (made.end, y)]))
    _, down = at(0, y).split()
    marks.append(_text(_LEFT - 5, float(down) + 4, short(y), 'end'))
  for x in ticks(0, made.end):
    across, _ = at(x, 0).split()
    anchor = 'end' if float(across) > _WIDTH - 30 else 'middle'
    label = forecasts.amount(x, against).split()[0]
    marks.append(_text(float(across), _HEIGHT - 6, label, anchor))
  marks.append(_text(2, _HEIGHT - 6, forecasts.AXES[against][2], 'start'))
  until = made.seen.x[-1]
  edge = [
    *zip(along, low, strict=True),
    *zip(along[::-1], high[::-1], strict=True),
  ]
  marks.append(path('band', edge, 'Z'))
  marks.append(path('cross', [(until, bottom), (until, top)]))
  marks.append(path('line', zip(along, middle, strict=True)))
  for points, kind in ((made.seen, 'seen'), (made.unseen, 'unseen')):
    for x, y in zip(points.x, points.y, strict=True):
      across, down = at(x, y).split()
      marks.append(
        f'<circle class="{kind}" cx="{across}" cy="{down}" r="2.5"/>'
      )
  return (
    f'<svg class="{color}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="held-out reward, and its forecast">{"".join(marks)}</svg>'
  )


def _text(x: float, y: float, text: str, anchor: str) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}'
    '</text>'
  )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
  """Returns about `count` round numbers in a range."""
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  size = next(n for n in (1, 2, 5, 10) if n * power >= 0.75 * rough) * power
  first = math.ceil(low / size)
  return [n * size for n in range(first, math.floor(high / size) + 1)]
