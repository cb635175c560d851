"""Options outside of their bounds are refused by name."""

import math

import pytest

from rlpt_jax.completions.options import check_options


@pytest.mark.parametrize(
  ('value', 'least', 'most', 'expected'),
  [
    (0, 1, None, 'at least 1'),
    (1.5, 0, 1, 'at least 0 and at most 1'),
    (math.nan, 0, None, 'at least 0'),
  ],
)
def test_a_value_out_of_bounds(value, least, most, expected):
  with pytest.raises(ValueError, match=f'--n={value}: expected {expected}.'):
    check_options(seed=(0, 0, None), n=(value, least, most))


def test_values_in_bounds_and_none():
  check_options(n=(1, 1, 1), m=(None, 1, 2), o=(10**9, 0, None))
