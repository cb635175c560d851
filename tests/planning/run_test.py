import dataclasses

import pytest

from rlpt_jax.core.layout import Axes
from rlpt_jax.data.config import Data
from rlpt_jax.data.mask_tasks import ChooseSpan
from rlpt_jax.data.sources import Files
from rlpt_jax.models import zoo
from rlpt_jax.planning import run as run_lib
from rlpt_jax.rollout import schedules
from rlpt_jax.rollout.game import Game
from tests.planning import runs

OVERLAPPING = schedules.Pipelined(overlap=True)


def test_the_roles_of_a_policy():
  # 8 groups of 4, in 2 microbatches.
  assert run_lib.roles(runs.rl()) == [(8, 4, 32, 16, 2)]
  source = Files(name='a', files='nowhere/*')
  game = runs.rl(
    data=Data(corpora=[source], task=ChooseSpan()), collector=Game()
  )
  # 8 paragraphs with 4 spans, each predicted 4 times: the predictor comes
  # first. All microbatches have 4 groups.
  assert run_lib.roles(game) == [(32, 4, 32, 16, 8), (8, 4, 32, 16, 2)]
  assert [role.groups_at_once for role in run_lib.roles(game)] == [4, 4]


def test_rows_are_a_role_without_prompts():
  # 16 rows of 64 tokens, in 4 microbatches.
  assert run_lib.roles(runs.sft()) == [(16, 1, 0, 64, 4)]
  assert not run_lib.is_rl(runs.sft())
  assert run_lib.is_rl(runs.rl())


def test_microbatches_divide_a_batch():
  assert run_lib.possible_microbatches(runs.rl()) == [1, 2, 4, 8]
  assert run_lib.possible_microbatches(runs.sft()) == [1, 2, 4, 8, 16]
  for config in (runs.rl(), runs.sft()):
    changed = run_lib.with_microbatches(config, 8)
    assert run_lib.num_microbatches(changed) == 8
    assert run_lib.num_microbatches(config) != 8


def test_layouts_are_those_of_the_machine():
  hardware = runs.hardware(
    layout=Axes(fsdp=4, tensor=2), sampler_layout=Axes(fsdp=1, data=2, tensor=4)
  )
  run = runs.run(runs.rl(hardware=hardware), chips='tpu:v5e:2x4')
  assert run.learner.layout.mesh.shape['fsdp'] == 4
  assert run.sampler.layout.mesh.shape['tensor'] == 4
  assert run.learner.layout.platform == 'tpu'
  # Twice the groups that fill the slots.
  assert run.engine.num_prompts == 2 * 16 // 4


@pytest.mark.parametrize(
  ('hardware', 'error'),
  [
    ({'layout': Axes(fsdp=3)}, 'needs 3 devices, but there are 8|does not fit'),
    ({'sampler_layout': Axes(tensor=16)}, 'does not fit 8 devices'),
    ({'slots': 12}, 'slots=12: expected a multiple of 8'),
  ],
)
def test_what_the_run_would_refuse(hardware, error):
  config = runs.rl(hardware=runs.hardware(**hardware))
  with pytest.raises(ValueError, match=error):
    runs.run(config, chips='h100:8')


def test_where_the_machine_is_from():
  macros = {'CHIPS': 'h100:8'}
  assert run_lib.find_machine(None, macros).chips == 8
  assert run_lib.find_machine('h200:1', macros).kind == 'h200'
  with pytest.raises(ValueError, match=r'Which chips.*--chips.*CHIPS'):
    run_lib.find_machine(None, {})


def test_where_the_shape_is_from(tmp_path):
  config, macros = runs.rl(), {'SHAPE': 'qwen3_8b'}
  tiny, large = zoo.get('tiny_qwen3'), zoo.get('qwen3_8b')
  # The zoo's are always here.
  assert run_lib.find_shape(config, None, macros)[0] == tiny
  away = dataclasses.replace(config, model='models/Away')
  assert run_lib.find_shape(away, None, macros) == (
    large, 'qwen3_8b, as models/Away is not here')  # fmt: skip
  assert run_lib.find_shape(away, 'tiny_qwen3', macros)[0] == tiny
  with pytest.raises(ValueError, match=r'models/Away: no such.*--model.*SHAPE'):
    run_lib.find_shape(away, None, {})
  with pytest.raises(ValueError, match='qwen9'):
    run_lib.find_shape(away, 'qwen9', macros)
  # A download that has just begun.
  here = dataclasses.replace(config, model=str(tmp_path))
  with pytest.raises(ValueError, match=str(tmp_path)):
    run_lib.find_shape(here, None, {})
  found, origin = run_lib.find_shape(here, None, macros)
  assert found == large and origin.endswith('has no model yet')


@pytest.mark.parametrize(
  ('learner', 'sampler', 'expected'),
  [
    (Axes(devices=(0, 4)), Axes(devices=(4, 8)), True),
    (Axes(devices=4), Axes(devices=(4, 8)), True),
    (Axes(devices=(0, 4)), Axes(devices=(3, 7)), False),
    (Axes(devices=4), Axes(devices=4), False),
    (Axes(), Axes(devices=(4, 8)), False),
    (Axes(), Axes(), False),
  ],
)
def test_separate_chips(learner, sampler, expected):
  hardware = runs.apart(layout=learner, sampler_layout=sampler)
  run = runs.run(runs.rl(hardware=hardware), chips='h100:8')
  assert run.is_apart == expected
  assert not run.overlaps
  run = runs.run(
    runs.rl(hardware=hardware, schedule=OVERLAPPING), chips='h100:8'
  )
  assert run.overlaps == expected
  assert not runs.run(runs.sft()).is_apart


@pytest.mark.parametrize(
  ('schedule', 'ahead', 'overlaps'),
  [
    (schedules.synchronous, False, False),
    (OVERLAPPING, True, True),
    (schedules.Pipelined(), True, False),
    (schedules.Pipelined(max_staleness=0, overlap=True), False, False),
    (schedules.Separate(), True, True),
    (schedules.Separate(max_staleness=0), False, False),
  ],
)
def test_what_a_schedule_lets_overlap(schedule, ahead, overlaps):
  config = runs.rl(hardware=runs.apart(), schedule=schedule)
  run = runs.run(config, chips='h100:8')
  assert run.samples_ahead == ahead
  assert run.overlaps == overlaps


def test_other_jobs_have_chips_of_their_own():
  # Both layouts name the same chips, but of other machines.
  run = runs.run(runs.rl(schedule=schedules.Separate()), chips='h100:8')
  assert run.is_in_jobs and run.is_apart and run.overlaps
  assert not runs.run(runs.rl()).is_apart
  assert not runs.run(runs.sft()).is_in_jobs


def test_a_range_beyond_the_machine():
  config = runs.rl(hardware=runs.apart())
  with pytest.raises(ValueError, match=r'devices=\(4, 8\).*at most 4'):
    runs.run(config, chips='h100:4')
