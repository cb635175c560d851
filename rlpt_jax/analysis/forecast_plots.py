"""Draws forecasts without a display; doing so loads matplotlib."""

from collections.abc import Sequence
from typing import BinaryIO

from rlpt_jax.analysis.forecast import Forecast
from rlpt_jax.analysis.plots import (
  BAR,
  HEIGHT,
  MEDIAN,
  MUTED,
  STYLE,
  TAIL,
  WIDTH,
)


def forecasts(
  runs: Sequence[tuple[str, Forecast]], unit: str, file: BinaryIO, suffix: str
):
  """Writes a figure with a panel for each run: its end, and what was forecast.

  runs: (name, forecast).
  unit: the name of what compute is measured in.
  suffix: .png or .svg.
  """
  import matplotlib
  from matplotlib.figure import Figure

  num_across = min(3, len(runs))
  num_down = -(-len(runs) // num_across)
  with matplotlib.rc_context(STYLE):
    size = (WIDTH * num_across, HEIGHT * num_down + 0.3)
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(num_down, num_across, squeeze=False).flat
    for panel in panels[len(runs) :]:
      panel.set_axis_off()
    for panel, (name, made) in zip(panels, runs, strict=False):
      _draw_forecast(panel, name, made)
    figure.supxlabel(f'compute ({unit})', size=9)
    figure.supylabel('held-out reward', size=9)
    metadata = {'Date': None} if suffix == '.svg' else {}
    figure.savefig(
      file, format=suffix[1:], dpi=150, facecolor='white', metadata=metadata
    )


def _draw_forecast(panel, name: str, made: Forecast):
  x, (low, middle, high) = made.band()
  panel.set_title(name, loc='left', size=10, weight='bold')
  panel.spines[['top', 'right']].set_visible(False)
  panel.fill_between(
    x, low, high, color=BAR, alpha=0.4, linewidth=0,
    label='90% of measurements',
  )  # fmt: skip
  panel.plot(
    x, middle, color=MEDIAN, linewidth=1.4,
    label=made.candidates[0].curve.name,
  )  # fmt: skip
  panel.axvline(made.seen.x[-1], color=MUTED, linewidth=0.8)
  panel.plot(
    made.seen.x, made.seen.y, 'o', color=MEDIAN, markersize=3, label='fitted'
  )
  panel.plot(
    made.unseen.x, made.unseen.y, 'o', color=TAIL, markersize=3,
    markerfacecolor='white', label='measured later',
  )  # fmt: skip
  panel.legend(loc='lower right', frameon=False, fontsize=7.5)
