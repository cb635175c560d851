"""Tokens and operations of steps, and since the beginning."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.models import flops, zoo
from rlpt_jax.rollout.ledger import Ledger

MODEL = zoo.get('tiny_qwen3')


def judged(*groups):
  """(length of the prompt, lengths of the completions) of each group."""
  return SimpleNamespace(
    examples=[SimpleNamespace(prompt_tokens=np.zeros(n)) for n, _ in groups],
    samples=[
      [
        SimpleNamespace(completion=SimpleNamespace(tokens=np.zeros(length)))
        for length in lengths
      ]
      for _, lengths in groups
    ],
  )


def role(judged, learned):
  return SimpleNamespace(judged=judged, learned_P=np.array(learned))


def test_steps_and_totals():
  ledger = Ledger(
    MODEL, {'rollout_tokens': 100}, remat='layer', share_prompt=True
  )
  step = judged((10, [3, 4]), (7, [2, 2]))
  found = ledger.add([role(step, [True, False])])
  assert found['compute/rollout_tokens'] == 17 + 11
  assert found['compute/total_rollout_tokens'] == 128
  assert found['compute/update_tokens'] == 17
  update = flops.update(MODEL, 10, [3, 4], remat='layer')
  rollout = flops.rollout(MODEL, 10, [3, 4]) + flops.rollout(MODEL, 7, [2, 2])
  assert found['compute/rollout_flops'] == rollout
  assert found['compute/update_flops'] == update
  again = ledger.add([role(step, [True, True])])
  assert again['compute/total_rollout_flops'] == 2 * rollout
  assert again['compute/total_update_flops'] == 2 * update + flops.update(
    MODEL, 7, [2, 2], remat='layer'
  )
  assert ledger.totals['update_flops'] == again['compute/total_update_flops']
  assert not [name for name in again if 'reference' in name]
  # Two roles in one step.
  both = ledger.add([role(step, [True, False]), role(step, [False, True])])
  assert both['compute/rollout_flops'] == 2 * rollout
  assert both['compute/update_tokens'] == 17 + 11


def test_scored_texts_count_as_rollouts():
  ledger, without = (
    Ledger(MODEL, {}, remat='layer', share_prompt=True) for _ in range(2)
  )
  roles = [role(judged((10, [3, 4])), [True])]
  found, plain = ledger.add(roles, [20, 7]), without.add(roles)
  tokens = found['compute/rollout_tokens'] - plain['compute/rollout_tokens']
  assert tokens == 20 + 7
  # A pass that predicts all tokens but the first.
  spent = found['compute/rollout_flops'] - plain['compute/rollout_flops']
  assert spent == sum(flops.forward(MODEL, n, read=n) for n in (19, 6))
  again = ledger.add(roles, [20])['compute/total_rollout_tokens']
  assert again == found['compute/rollout_tokens'] + 17 + 20


def test_what_a_judge_has_spent_is_counted_once():
  judges = [SimpleNamespace(spent=collections.Counter()) for _ in range(2)]
  ledger = Ledger(MODEL, {}, remat='layer', share_prompt=True, judges=judges)
  for judge, flops_ in zip(judges, (100, 20), strict=True):
    judge.spent.update(tokens=3, flops=flops_)
  step = judged((10, [3, 4]))
  found = ledger.add([role(step, [True])])
  assert found['compute/judge_tokens'] == 6
  assert found['compute/judge_flops'] == 120
  judges[0].spent.update(tokens=1, flops=1)
  again = ledger.add([role(step, [True])])
  assert again['compute/judge_tokens'] == 1
  assert again['compute/total_judge_flops'] == 121
  # And what they did for held-out examples, after the rest of the step.
  judges[1].spent.update(tokens=5, flops=7)
  assert ledger.add_held_out(again) == {
    'compute/judge_tokens': 6, 'compute/total_judge_tokens': 12,
    'compute/judge_flops': 8, 'compute/total_judge_flops': 128,
  }  # fmt: skip
  assert ledger.add([role(step, [True])])['compute/total_judge_flops'] == 128


@pytest.mark.parametrize('share_prompt', [True, False])
def test_a_reference_is_asked_about_what_is_learned(share_prompt):
  ledger = Ledger(
    MODEL, {'reference_tokens': 5}, remat='layer', share_prompt=share_prompt,
    has_reference=True,
  )  # fmt: skip
  found = ledger.add([role(judged((10, [3, 4]), (7, [2, 2])), [True, False])])
  assert found['compute/reference_tokens'] == 17
  assert found['compute/total_reference_tokens'] == 22
  assert found['compute/reference_flops'] == flops.score(
    MODEL, 10, [3, 4], share_prompt=share_prompt
  )
