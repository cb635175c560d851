"""What a policy is tried on."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout import held_out_files
from rlpt_jax.rollout.held_out import HeldOut, Trial
from rlpt_jax.rollout.sampling import Sampling
from tests.programs import learning_task


def test_the_same_examples_each_time(tmp_path):
  data = learning_task.questions(learning_task.write(tmp_path), 'held_out')
  sampling, asked = Sampling(samples=2), []

  def rollouts(sampling, examples, names, timer):
    # All of it is the time of held-out evaluation.
    assert timer == 'held_out'
    asked.append((sampling, [example.id for example in examples], names))
    rewards_PG = np.array([[1, 0], [-1, np.nan], [0, 2]], np.float32)
    reasons_PG = np.full((3, 2), 'x')
    part = Scores(
      np.array([[1, 0], [0, np.nan], [0, 1]], np.float32), reasons_PG
    )
    return SimpleNamespace(
      examples=examples, scores=Scores(rewards_PG, reasons_PG, {'truth': part})
    )

  trial = Trial(HeldOut(data=data, examples=3), sampling)
  for _ in range(2):
    found = trial.metrics('before', rollouts, tmp_path / 'run', 7)
  # Five verdicts.
  assert found == {
    'before/reward': pytest.approx(0.4), 'before/pass_rate': 0.4,
    'before/reward/truth': pytest.approx(0.4),
  }  # fmt: skip
  ids = asked[0][1]
  assert held_out_files.read(tmp_path / 'run') == {
    7: dict(zip(ids, [0.5, -1.0, 1.0], strict=True))
  }
  assert asked[0] == asked[1] and asked[0][0] is sampling
  assert (
    asked[0][2] == trial.names == [f'held_out/{name}' for name in asked[0][1]]
  )
