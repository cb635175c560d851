"""Draws figures without a display. Drawing the first one loads matplotlib."""

import pathlib
from collections.abc import Iterable

import numpy as np

from rlpt_jax.analysis.histogram import Histogram

INK, MUTED, BAR = '#1c2128', '#626b76', '#8fb3d9'
MEDIAN, TAIL = '#1f4e86', '#b3541e'
STYLE = {
  'font.family': 'DejaVu Sans',  # Shipped with matplotlib.
  'font.size': 9,
  'text.color': INK,
  'text.parse_math': False,  # A dollar sign does not begin a formula.
  'axes.edgecolor': MUTED,
  'xtick.color': MUTED,
  'svg.hashsalt': 'rlpt_jax',  # Equal figures make equal files.
}
WIDTH, HEIGHT = 4.2, 2.7  # The size of a panel, in inches.


def histograms(
  columns: dict[str, Histogram | Iterable[int]],
  path: str | pathlib.Path,
  title: str,
):
  """Writes a figure with a histogram of lengths for each column.

  path: ends in .png or .svg.
  """
  import matplotlib
  from matplotlib.figure import Figure  # Not pyplot, which has global state.

  assert columns, 'no columns to plot'
  num_across = min(3, len(columns))
  num_down = -(-len(columns) // num_across)
  with matplotlib.rc_context(STYLE):
    size = (WIDTH * num_across, HEIGHT * num_down + 0.4)
    figure = Figure(figsize=size, layout='constrained')
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    figure.suptitle(title, x=0.015, ha='left', weight='bold', size=12)
    panels = figure.subplots(num_down, num_across, squeeze=False).flat
    for panel in panels[len(columns) :]:
      panel.set_axis_off()
    for panel, (name, values) in zip(panels, columns.items(), strict=False):
      _draw_lengths(panel, name, _histogram(values))
    metadata = {'Date': None} if str(path).endswith('.svg') else {}
    figure.savefig(path, dpi=150, facecolor='white', metadata=metadata)


def _histogram(values: Histogram | Iterable[int]) -> Histogram:
  if isinstance(values, Histogram):
    return values
  histogram = Histogram()
  histogram.add(values)
  return histogram


def _draw_lengths(panel, name: str, histogram: Histogram):
  panel.set_title(name, loc='left', size=10, weight='bold', pad=18)
  panel.spines[['top', 'left', 'right']].set_visible(False)
  panel.set_yticks([])  # Heights depend on the bins, so only the shape matters.
  if not histogram.count:
    panel.set_xticks([])
    panel.text(0.5, 0.5, 'none', transform=panel.transAxes, ha='center')
    return
  edges, logarithmic = plot_edges(histogram)
  counts = bar_counts(histogram, edges)
  draw_axis = _logarithmic_axis if logarithmic else _linear_axis
  edges_x = draw_axis(panel, edges)
  # Areas show counts, since rounded edges make bars of uneven width.
  widths = np.diff(np.log(edges_x) if logarithmic else edges_x)
  heights = counts / widths
  panel.stairs(heights, edges_x, fill=True, color=BAR)
  panel.set_ylim(0, heights.max() * 1.4)  # Room for two rows of labels.
  _mark_quantiles(panel, histogram)
  notes = [f'n = {histogram.count:,}', f'sum {short(histogram.total)}']
  notes.append(f'{histogram.smallest:,} to {histogram.largest:,}')
  if outside := histogram.count - round(counts.sum()):
    notes.append(f'{outside:,} not drawn')
  panel.text(
    0, 1.05, ' · '.join(notes), transform=panel.transAxes, size=8, color=MUTED
  )


def plot_edges(histogram: Histogram) -> tuple[np.ndarray, bool]:
  """Returns (edges of about 40 bars that fit the data, True if logarithmic).

  If the tail is much longer than the median, the axis is logarithmic, so it
  cannot show 0. A few lengths far from the others may be left out.
  """
  median, high = histogram.quantile(0.5), histogram.quantile(0.999)
  if high > 12 * max(median, 8):
    low = max(histogram.smallest, histogram.quantile(0.001) // 2, 1)
    edges = np.geomspace(low, histogram.largest + 1, 41)
    return np.unique(np.round(edges).astype(np.int64)), True
  low = histogram.smallest if histogram.smallest > high / 3 else 0
  end = min(histogram.largest, int(high * 1.05) + 1) + 1
  width = -(-(end - low) // 40)
  return np.arange(low, end + width, width), False


def bar_counts(histogram: Histogram, edges: np.ndarray) -> np.ndarray:
  """Returns the number of lengths between neighboring edges.

  An edge within a bin of the histogram splits the bin's count in proportion.
  """
  counts, fine = histogram.bins()
  below = np.concatenate([[0], np.cumsum(counts)])
  return np.diff(np.interp(edges, fine, below))


def _linear_axis(panel, edges: np.ndarray) -> np.ndarray:
  from matplotlib.ticker import FuncFormatter, MaxNLocator

  edges = edges - 0.5  # Between whole numbers.
  # A few bars should not fill the panel.
  spare = max(0, 8 - (len(edges) - 1)) / 2
  panel.set_xlim(max(edges[0] - spare, -0.5), edges[-1] + spare)
  panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.0f}'))
  return edges


def _logarithmic_axis(panel, edges: np.ndarray) -> np.ndarray:
  from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

  panel.set_xscale('log')
  panel.set_xlim(edges[0], edges[-1])
  decades = np.log10(edges[-1] / edges[0])
  steps = (1, 2, 5) if decades < 2.5 else (1,)
  panel.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
  panel.xaxis.set_minor_locator(NullLocator())
  panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
  return edges


def _mark_quantiles(panel, histogram: Histogram):
  """Draws lines at the median and 95th percentile, with labels beside them.

  The percentile's line and label are higher than the median's, because its
  label may extend beyond the median's line and must then pass above that line.
  """
  median, tail = histogram.quantile(0.5), histogram.quantile(0.95)
  for x, label, color, row, room in (
    (tail, f'95% up to {tail:,}', TAIL, 0.94, 0.65),
    (median, f'median {median:,}', MEDIAN, 0.80, 0.28),
  ):
    place = panel.get_xaxis_transform()
    panel.plot([x, x], [0, row], color=color, linewidth=1.4, transform=place)
    pixel = panel.transData.transform((x, 0))
    left = panel.transAxes.inverted().transform(pixel)[0] > room
    panel.annotate(
      label, (x, row), xycoords=place, textcoords='offset points',
      xytext=(-4 if left else 4, 0), ha='right' if left else 'left',
      va='center', color=color, size=8.5, weight='bold',
      bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.5},
    )  # fmt: skip


def short(number: float) -> str:
  """Formats a number to three digits: 1234 as '1.23k', -3000000 as '-3M'."""
  number = float(f'{number:.3g}')  # First, since 999,999 becomes a million.
  for size, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(number) >= size:
      return f'{number / size:.3g}{letter}'
  return f'{number:.3g}'
