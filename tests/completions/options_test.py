"""Options outside of their bounds are refused by name."""

import math

import pytest

from rlpt_jax import cli
from rlpt_jax.completions.options import (
  EngineOptions,
  check_options,
  plan_for,
  split_evenly,
)
from rlpt_jax.core.layout import make_layout


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


@pytest.mark.parametrize(
  ('prompts', 'samples', 'expected'),
  [
    # No more slots than samples; a prompt is freed with its only sample.
    (3, 1, (3, 1, 3)),
    (100, 1, (16, 1, 16)),
    # Two groups for each that fits: one runs, one waits for its last samples.
    (100, 8, (16, 8, 4)),
    # Few prompts: more of their samples at once.
    (1, 64, (16, 16, 1)),
  ],
)
def test_slots_are_filled(prompts, samples, expected):
  plan = plan_for(
    EngineOptions(slots=16, own_tokens=40), prompts=prompts, samples=samples,
    max_prompt_tokens=4, max_new_tokens=4, stop_ids=0,
  )  # fmt: skip
  assert plan.own_tokens == 40
  assert (plan.slots, plan.group, plan.prompts) == expected
  even = split_evenly(plan, make_layout(data=8, fsdp=1))
  assert even.slots % 8 == even.prompts % 8 == 0
  assert even.slots - plan.slots < 8 and even.prompts - plan.prompts < 8


@pytest.mark.parametrize('program', ['generate', 'evaluate', 'serve'])
def test_options_have_no_prefix_on_the_command_line(program, capsys):
  with pytest.raises(SystemExit):
    cli.main([program, '--help'])
  text = capsys.readouterr().out
  for option in ('--slots', '--own_tokens', '--cache_dtype', '--tensor'):
    assert option in text
  assert 'options.' not in text and 'sampling.' not in text
