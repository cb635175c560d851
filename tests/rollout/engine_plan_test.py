"""The engine of a run has room for all that it samples."""

import contextlib
import dataclasses

import numpy as np
import pytest

from rlpt_jax.rollout.engine_plan import plan_for
from rlpt_jax.rollout.sampling import Sampling
from rlpt_jax.rollout.schedules import Pipelined
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.requests import Request
from rlpt_jax.sampling.sampler import Sampler
from tests.programs import learning_task
from tests.sampling import decode_test


def test_a_stream_has_room_for_more_prompts(tmp_path):
  config = learning_task.learning(tmp_path, 'random:tiny_qwen3')
  ahead = dataclasses.replace(config, schedule=Pipelined())
  # 16 prompts of 8 samples fill the slots.
  assert plan_for(config).num_prompts == 2 * 16
  assert plan_for(ahead).num_prompts == 4 * 16


@pytest.mark.parametrize('samples', [8, 16])
def test_slots_stay_full_if_one_completion_in_sixteen_is_long(
  samples, tmp_path, one_device
):
  """Stragglers keep their prompts, but do not keep other groups out."""
  config = learning_task.learning(
    tmp_path, 'random:tiny_llama', schedule=Pipelined(),
    sampling=Sampling(samples=samples, max_new_tokens=64),
    hardware=learning_task.hardware(slots=64),
  )  # fmt: skip
  plan = dataclasses.replace(plan_for(config), chunk=4, block=32)
  rng = np.random.default_rng(0)

  def requests():
    for i in range(10**6):
      lengths = np.where(rng.random(samples) < 1 / 16, 64, 8)
      yield Request(
        prompt_tokens=(1, 2, 3), id=f'{i}', samples=samples,
        max_new_tokens=tuple(lengths.tolist()),
      )  # fmt: skip

  with Engine(*decode_test.tiny(one_device), plan) as engine:
    sampler = Sampler(engine)
    with contextlib.closing(sampler.run(requests())) as groups:
      for _ in range(8):
        next(groups)
      sampler.take_slots_in_use()
      for _ in range(24):
        next(groups)
      assert sampler.take_slots_in_use() > 0.95
