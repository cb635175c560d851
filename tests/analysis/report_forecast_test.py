"""The forecast's part of the report."""

import re

import numpy as np
import pytest

from rlpt_jax.analysis import forecast as forecasts
from rlpt_jax.analysis import report_forecast
from rlpt_jax.analysis.report_page import Run

NAN = np.nan


def columns(*, n=30, noise=0.02, every=10, curve=None):
  """A run whose held-out reward is a sigmoid of its compute."""
  rng, steps = np.random.default_rng(0), n * every
  x = np.linspace(0, 1, n + 1)
  with np.errstate(divide='ignore'):
    y = 0.2 + 0.45 / (1 + (0.3 / x) ** 1.7) if curve is None else curve(x)
  y = y + rng.normal(0, noise, n + 1)
  held_out, before = np.full(steps, NAN), np.full(steps, NAN)
  held_out[every - 1 :: every], before[0] = y[1:], y[0]
  return {
    'step': np.arange(float(steps)),
    'compute/total_rollout_flops': 1e12 * np.arange(1.0, steps + 1),
    'held_out/reward': held_out,
    'held_out_before/reward': before,
  }


def test_a_panel_has_the_points_the_curve_and_a_sentence():
  found = report_forecast.section([('a <b>', columns())])
  made = forecasts.forecast(forecasts.points(columns(), 'flops'))
  assert len(re.findall('<circle class="seen"', found)) == 16
  assert len(re.findall('<circle class="unseen"', found)) == 15
  assert len(re.findall('<path class="band"', found)) == 1
  assert forecasts.sentence(made, 0.5, 'flops') in found
  assert 'a &lt;b&gt;' in found and '<b>' not in found
  assert '>1e14</text>' in found and '>FLOPs</text>' in found


def test_a_run_that_cannot_be_forecast_says_why():
  plain = {'step': np.arange(3.0)}
  assert report_forecast.section([('sft', plain)]) == ''
  flat = columns(curve=lambda x: 0.3 + 0 * x)
  found = report_forecast.section([('flat', flat), ('sft', plain)])
  assert 'no forecast: <bdi>the first 50% of the run: the held-out' in found
  assert '<figure' not in found and 'sft' not in found


def test_without_a_ledger_steps_are_the_axis():
  found = columns()
  del found['compute/total_rollout_flops']
  text = report_forecast.section([('a', found)])
  assert '16 measurements up to 150 steps' in text and '>steps</text>' in text


def test_ticks_are_round_and_inside():
  assert report_forecast.ticks(0, 1e15) == [0, 2e14, 4e14, 6e14, 8e14, 1e15]
  assert report_forecast.ticks(0.21, 0.62) == pytest.approx(
    [0.3, 0.4, 0.5, 0.6]
  )


def test_in_a_browser(show, tmp_path):
  runs = [
    Run('one', columns(), {}),
    Run('flat', columns(curve=lambda x: 0.3 + 0 * x), {}),
    Run('noisy', columns(noise=0.05), {}),
  ]
  browser = show(runs, ready="byId('rollout-note').textContent")
  found = browser.evaluate("""
    const section = byId('forecast');
    const colors = [...section.querySelectorAll('svg')].map((svg) =>
      getComputedStyle(svg.querySelector('.seen')).fill);
    const inside = [...section.querySelectorAll('svg')].every((svg) =>
      [...svg.querySelectorAll('text, circle')].every((e) => {
        const {x, y, width, height} = e.getBBox();
        return x >= -1 && y >= -1 && x + width <= 401 && y + height <= 191;
      }));
    return {panels: section.querySelectorAll('.panel').length, inside,
      links: [...document.querySelectorAll('nav a')].map((e) => e.textContent),
      different: colors[0] !== colors[1]};
  """)
  assert found == {
    'panels': 2,
    'inside': True,
    'links': ['Curves', 'Forecast', 'Settings', 'Rollouts'],
    'different': True,
  }
