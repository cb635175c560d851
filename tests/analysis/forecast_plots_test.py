"""Pictures of forecasts."""

import io

import numpy as np
import pytest

from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis import forecast_plots
from tests.analysis import forecast_test


@pytest.mark.parametrize(
  ('suffix', 'beginning'), [('.png', b'\x89PNG'), ('.svg', b'<?xml')]
)
def test_a_picture_has_a_panel_for_each_run(suffix, beginning):
  made = forecasts.forecast(forecast_test.run(np.random.default_rng(5)))
  pictures = []
  for names in (['a'], ['a', '$b', 'c', 'd'], ['a']):
    file = io.BytesIO()
    forecast_plots.forecasts([(x, made) for x in names], 'FLOPs', file, suffix)
    pictures.append(file.getvalue())
  one, four, again = pictures
  assert one.startswith(beginning) and len(four) > 1.3 * len(one)
  assert one == again  # Equal figures make equal files.
