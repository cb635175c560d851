"""The engine of a run has room for all that it samples."""

import dataclasses

from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.rollout.schedules import Pipelined
from tests.programs import learning_task


def test_a_stream_has_room_for_more_prompts(tmp_path):
  config = learning_task.learning(tmp_path, 'random:tiny_qwen3')
  ahead = dataclasses.replace(config, schedule=Pipelined())
  # 16 prompts of 8 samples fill the slots.
  assert plan_for(config).num_prompts == 2 * 16
  assert plan_for(ahead).num_prompts == 4 * 16
