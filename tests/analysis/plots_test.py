import warnings

import matplotlib.image
import numpy as np
import pytest

from rlpt_jax.analysis import plots
from rlpt_jax.analysis.histogram import Histogram


def lengths(sigma: float, n: int = 2000) -> np.ndarray:
  return np.random.default_rng(0).lognormal(4, sigma, n).astype(int)


def histogram(values) -> Histogram:
  made = Histogram()
  made.add(values)
  return made


def test_a_png_with_a_panel_for_each_column(tmp_path):
  columns = {
    'words': lengths(0.5),
    'tokens': histogram(lengths(2)),
    'zero or one $5$': [0, 1, 1],
    'one': [123456],
    'none': [],
  }
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    plots.histograms(columns, tmp_path / 'lengths.png', 'Lengths')
  pixels = matplotlib.image.imread(tmp_path / 'lengths.png')[..., :3]
  height, width, _ = pixels.shape
  assert width > 1500 and height > 800
  blue = np.abs(pixels - [0x8F / 255, 0xB3 / 255, 0xD9 / 255]).max(-1) < 0.02
  for row, column, bars in (
    (0, 0, True), (0, 1, True), (0, 2, True), (1, 0, True), (1, 1, False),
    (1, 2, False),
  ):  # fmt: skip
    panel = blue[
      row * height // 2 : (row + 1) * height // 2,
      column * width // 3 : (column + 1) * width // 3,
    ]
    assert (panel.sum() > 1000) == bars, (row, column)


def test_an_svg_is_the_same_each_time(tmp_path):
  for name in ('a.svg', 'b.svg'):
    plots.histograms({'words': lengths(0.5)}, tmp_path / name, 'Lengths')
  first = (tmp_path / 'a.svg').read_bytes()
  assert b'<svg' in first
  assert first == (tmp_path / 'b.svg').read_bytes()


def test_labels_say_the_quantiles_and_do_not_overlap(monkeypatch):
  from matplotlib.figure import Figure

  figures = []
  monkeypatch.setattr(
    Figure, 'savefig', lambda figure, *_, **__: figures.append(figure)
  )
  columns = {
    'short': lengths(0.5), 'long': lengths(2.5), 'small': [2, 3, 3, 3, 9],
    'constant': [7] * 9, 'cut': np.minimum(lengths(1), 100),
  }  # fmt: skip
  plots.histograms(columns, 'never.png', 'Lengths')
  figure = figures[0]
  figure.canvas.draw()
  for panel, values in zip(figure.axes, columns.values(), strict=False):
    median = histogram(values).quantile(0.5)
    texts = [*panel.texts, panel.title, panel._left_title]
    labels = [text.get_text() for text in texts]
    assert f'median {median:,}' in labels
    # A name such as 'from $1 to $2' is no formula.
    assert not any(text.get_parse_math() for text in texts)
    boxes = [t.get_window_extent() for t in texts if t.get_text()]
    for i, box in enumerate(boxes):
      assert not any(box.overlaps(other) for other in boxes[:i]), labels


def test_a_long_tail_gets_a_logarithmic_axis():
  assert not plots.plot_edges(histogram(lengths(0.5)))[1]
  assert plots.plot_edges(histogram(lengths(2)))[1]


def test_few_far_away_do_not_squeeze_the_others():
  values = [*range(20, 60)] * 100 + [5000]
  edges, logarithmic = plots.plot_edges(histogram(values))
  assert not logarithmic and edges[-1] < 70
  # 4000 lengths are drawn, 1 is not.
  assert plots.bar_counts(histogram(values), edges).sum() == 4000


@pytest.mark.parametrize('values', [[0], [7], [0, 1], [5, 10**6], [10**9] * 3])
def test_every_length_is_in_a_bar(values):
  h = histogram(values)
  edges, _ = plots.plot_edges(h)
  assert (np.diff(edges) > 0).all()
  counts = plots.bar_counts(h, edges)
  # A bar's share of a wide bin is a share.
  assert counts.sum() == pytest.approx(len(values))


def test_bars_count_exactly_where_bins_are_exact():
  values = np.random.default_rng(0).integers(0, 200, 500)
  edges = np.arange(0, 204, 4)
  expected, _ = np.histogram(values, edges)
  np.testing.assert_allclose(
    plots.bar_counts(histogram(values), edges), expected
  )


def test_short_numbers():
  assert [plots.short(x) for x in (0, 7, 999, 1200, 3e6, 2.5e9)] == [
    '0', '7', '999', '1.2k', '3M', '2.5G',
  ]  # fmt: skip


def test_short_numbers_that_round_up_to_the_next_letter():
  assert [plots.short(x) for x in (999.9, 999_499, 999_999, 999.6e9)] == [
    '1k', '999k', '1M', '1T',
  ]  # fmt: skip


def test_short_negative_numbers():
  assert [plots.short(x) for x in (-7, -5000, -999_999)] == ['-7', '-5k', '-1M']
