"""Draws lines with bands as SVG, in the style of `rlpt report`."""

import dataclasses
from collections.abc import Callable, Sequence

from rlpt_jax.analysis.page import escaped, shown
from rlpt_jax.analysis.report_forecast import ticks

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 230, 40, 10, 10, 24
# So that lines can be told apart without their colours.
_DASHES = ('', '7 3', '2 3', '9 3 2 3', '12 4', '4 2', '1 3')

Point = tuple[float, float, float | None, float | None]  # x, y, low, high.


@dataclasses.dataclass(frozen=True)
class Line:
  """A line through points with intervals; the band lacks where they do."""

  name: str
  points: Sequence[Point]
  smooth: Sequence[tuple[float, float]] = ()  # A curve instead of the line.


def extent(lines: Sequence[Line]) -> tuple[float, float]:
  """Returns the range of what is drawn, intervals included, with some room."""
  values = [
    value
    for line in lines
    for _, *rest in line.points
    for value in rest
    if value is not None
  ]
  if not values:
    return 0.0, 1.0
  low, high = min(values), max(values)
  room = max(0.05 * (high - low), 0.005)
  return max(low - room, 0.0), min(high + room, 1.0)


def panel(
  title: str,
  lines: Sequence[Line],
  unit: str,
  x_label: Callable[[float], str],
  *,
  note: str = '',
  bounds: tuple[float, float] | None = None,
) -> str:
  """Returns a figure of lines: shares along x, from 0 to the largest x.

  bounds: the lowest and highest share; by default, what the lines need.
  """
  end = max(x for line in lines for x, *_ in line.points)
  low, high = bounds or extent(lines)

  def at(x, y):
    across = _LEFT + x / end * (_WIDTH - _LEFT - _RIGHT)
    down = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
    return f'{across:.1f} {down:.1f}'

  marks = [_axes(end, low, high, unit, x_label, at)]
  marks += [_band(i, line, at) for i, line in enumerate(lines)]
  marks += [_line(i, line, at) for i, line in enumerate(lines)]
  names = ''.join(
    f'<span><svg class="sample run-{i % 8}" viewBox="0 0 24 10">'
    f'<path class="line" d="M0 5L24 5"{_dash(i)}/></svg>{shown(line.name)}'
    '</span>'
    for i, line in enumerate(lines)
  )
  said = several_lines(lines)
  return (
    f'<figure class="panel"><h3>{shown(title)}</h3>'
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{escaped(said)}">{"".join(marks)}</svg>'
    f'<figcaption class="names">{names}</figcaption>'
    f'{f"<p>{escaped(note)}</p>" if note else ""}</figure>\n'
  )


def several_lines(lines: Sequence[Line]) -> str:
  """Says where each line ends, for those who do not see it."""
  return '; '.join(
    f'{line.name} ends at {line.points[-1][1]:.1%}' for line in lines
  )


def _axes(end, low, high, unit, x_label, at) -> str:
  marks = []
  for y in ticks(low, high):
    marks.append(f'<path class="grid" d="M{at(0, y)}L{at(end, y)}"/>')
    down = float(at(0, y).split()[1])
    marks.append(_text(_LEFT - 5, down + 4, f'{100 * y:.3g}%', 'end'))
  for x in ticks(0, end)[1:]:
    across = float(at(x, low).split()[0])
    anchor = 'end' if across > _WIDTH - 30 else 'middle'
    marks.append(_text(across, _HEIGHT - 6, x_label(x), anchor))
  marks.append(_text(2, _HEIGHT - 6, unit, 'start'))
  return ''.join(marks)


def _band(i: int, line: Line, at) -> str:
  known = [point for point in line.points if point[2] is not None]
  if len(known) < 2:
    return ''
  edge = [at(x, low) for x, _, low, _ in known]
  edge += [at(x, high) for x, _, _, high in reversed(known)]
  return f'<path class="band run-{i % 8}" d="M{"L".join(edge)}Z"/>'


def _line(i: int, line: Line, at) -> str:
  along = line.smooth or [(x, y) for x, y, *_ in line.points]
  marks = [
    f'<path class="line" d="M{"L".join(at(x, y) for x, y in along)}"'
    f'{_dash(i)}/>'
  ]
  for x, y, *_ in line.points:
    across, down = at(x, y).split()
    marks.append(f'<circle class="seen" cx="{across}" cy="{down}" r="2.5"/>')
  return f'<g class="run-{i % 8}">{"".join(marks)}</g>'


def _dash(i: int) -> str:
  dash = _DASHES[i % len(_DASHES)]
  return f' stroke-dasharray="{dash}"' if dash else ''


def _text(x: float, y: float, text: str, anchor: str) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}'
    '</text>'
  )
