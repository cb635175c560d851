"""The timeline shows the last updates, and what happened meanwhile."""

import re

import numpy as np

from rlpt_jax.analysis import timeline


def spans(updates):
  """Steps of ten seconds: sampling for seven, an update for two."""
  begins = 10.0 * np.arange(updates)[:, None]
  return {
    'rollout': begins + np.array([0, 7]),
    'update': begins + np.array([7.5, 9.5]),
    'reward': begins[:1] + np.array([7, 7.5]),  # Long ago.
  }


def bars(svg):
  return re.findall(
    r'x="([\d.]+)" y="(\d+)" width="([\d.]+)".*?<title>(\w+)', svg
  )


def test_the_window_is_that_of_the_last_updates():
  # From the end of the seventh last update to the end of the last.
  assert timeline.window(spans(20)) == (139.5, 199.5)
  assert timeline.window(spans(1)) is None
  assert timeline.picture({}, []) == ''


def test_bars_are_to_scale():
  drawn = bars(timeline.picture(spans(20), ['rollout', 'reward', 'update']))
  by_part = {}
  for x, _, width, part in drawn:
    by_part.setdefault(part, []).append((float(x), float(width)))
  assert {part: len(found) for part, found in by_part.items()} == {
    'rollout': 6, 'update': 6,
  }  # fmt: skip
  (x, rollout), (_, update) = by_part['rollout'][0], by_part['update'][0]
  np.testing.assert_allclose(rollout / update, 7 / 2, rtol=0.01)
  assert x > timeline._LEFT  # The half second after the update before.


def test_weights_are_published_after_the_update_that_made_them():
  waiting = spans(20)
  waiting['publish'] = waiting['update'] + np.array([0.5, 0.25])
  drawn = bars(timeline.picture(waiting, ['update', 'publish']))
  ends = [
    float(x) + float(width) for x, _, width, part in drawn if part == 'update'
  ]
  found = [
    (float(x), float(width)) for x, _, width, part in drawn if part == 'publish'
  ]
  # The last begins after the picture ends.
  assert len(found) == 6
  for (x, width), end in zip(found[1:], ends, strict=False):
    assert abs(x - end) < 0.3 and 0 < width < 10


def test_a_section_needs_spans():
  assert timeline.section([('a', {})], []) == ''
  page = timeline.section([('a', spans(3)), ('b', {})], ['rollout', 'update'])
  assert page.count('<svg') == 1 and '<i>' not in page
