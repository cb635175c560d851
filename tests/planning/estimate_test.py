import json
import math

import pytest

from rlpt_jax.algorithms.kl import InLoss
from rlpt_jax.core.layout import Axes
from rlpt_jax.inference.judges import Answering
from rlpt_jax.models import zoo
from rlpt_jax.planning import memory
from rlpt_jax.planning.costs import Lengths, Shares
from rlpt_jax.planning.estimate import Estimate, without_nan
from rlpt_jax.rewards.judge import ByAnswer
from rlpt_jax.rollout.schedules import Pipelined, Separate
from tests.planning import runs
from tests.planning.advice_test import large


def test_a_run_is_its_steps():
  found = Estimate(run=large(), price=2.5)
  seconds = sum(seconds for seconds, _ in found.seconds.values())
  assert found.step_seconds == seconds > 0
  # 28 steps on 8 chips.
  assert found.hours == 28 * seconds / 3600
  assert found.cost == 2.5 * 8 * found.hours
  assert Estimate(run=large()).cost is None
  assert found.total == sum(memory.of_run(large()).values())
  assert found.room == 0.9 * 80e9


def test_shares_and_lengths_change_times():
  run = large()
  usual = Estimate(run=run)
  half = Shares(usual.shares.compute / 2, usual.shares.memory / 2)
  slow = Estimate(run=run, shares=half)
  assert slow.step_seconds == pytest.approx(usual.step_seconds * 2)
  short = Estimate(run=run, lengths=Lengths(None, 1024))
  assert short.seconds['decoding'][0] < usual.seconds['decoding'][0]


def test_the_fewest_microbatches_are_faster():
  found = Estimate(run=large('qwen3_06b'))
  fewest = found.with_fewest()
  assert fewest.run.config.hardware.num_microbatches < 512
  assert fewest.fits
  update, other = (x.step['update'] for x in (found, fewest))
  assert other.moved < 0.7 * update.moved
  assert fewest.with_fewest().run == fewest.run


def test_notes_say_what_is_left_out():
  assert Estimate(run=runs.run()).notes() == []
  (note,) = Estimate(run=runs.run(chips='cpu:1')).notes()
  assert 'no times' in note
  (note,) = Estimate(run=large(chips='h100:16')).notes()
  assert 'network between hosts' in note
  judge = Answering(model='models/Away')
  (note,) = Estimate(run=runs.run(runs.rl(reward=ByAnswer(judge)))).notes()
  assert note == 'the judge models/Away is not here, so not counted'


def test_json():
  for run in (large('qwen3_8b', 'h200:1', sampler_layout=Axes()), runs.run(
    runs.sft(), chips='cpu:1')):  # fmt: skip
    found = without_nan(Estimate(run=run).to_dict())
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
  assert found['step_seconds'] is None
  assert found['fits']
  assert found['bytes']['all'] == sum(memory.of_run(run).values())
  assert without_nan({'a': math.nan, 'b': {'c': 1.0}}) == {
    'a': None, 'b': {'c': 1.0},
  }  # fmt: skip


@pytest.mark.parametrize('price', [-1, math.nan])
def test_prices(price):
  with pytest.raises(ValueError, match=r'price=.*expected 0 or more'):
    Estimate(run=runs.run(), price=price)
  assert Estimate(run=runs.run(), price=0).cost == 0


def test_models_of_the_zoo_are_planned_at_once():
  for model in zoo.MODELS:
    assert Estimate(run=runs.run(model=model, chips='h200:1')).total > 0


def test_separate_chips_work_at_the_same_time():
  def found(**changes):
    config = runs.rl(hardware=runs.apart(), kl=InLoss(weight=0.1), **changes)
    return Estimate(run=runs.run(config, 'qwen3_06b', 'h100:8'), price=1)

  waiting, overlapping = found(), found(schedule=Pipelined(overlap=True))
  assert waiting.seconds == overlapping.seconds
  seconds = {name: each[0] for name, each in waiting.seconds.items()}
  assert waiting.step_seconds == pytest.approx(sum(seconds.values()))
  learning = seconds['reference'] + seconds['update']
  sampling = seconds['prompts'] + seconds['decoding']
  assert overlapping.step_seconds == pytest.approx(max(learning, sampling))
  # All eight chips are paid for.
  assert overlapping.cost == 8 * overlapping.hours
  assert set(overlapping.to_dict()['bytes_of_sides']) == {'learner', 'sampler'}
  assert overlapping.total == max(overlapping.sides.values())


def test_as_many_samplers_as_keep_up():
  # Few slots, so that sampling takes longer than an update.
  config = runs.rl(schedule=Separate(), hardware=runs.hardware(slots=4))
  found = Estimate(run=runs.run(config, 'qwen3_06b', 'h100:4'), price=1)
  seconds = {name: each[0] for name, each in found.seconds.items()}
  sampling = seconds['prompts'] + seconds['decoding']
  jobs = found.sampler_jobs
  assert jobs > 1
  assert (jobs - 1) * seconds['update'] < sampling <= jobs * seconds['update']
  assert found.step_seconds == seconds['update']
  # The learner's chips, and those of each sampler.
  assert found.cost == (4 + 4 * jobs) * found.hours
  assert found.to_dict()['sampler_jobs'] == jobs
