"""What is proposed makes a run fit."""

import dataclasses

import pytest

from rlpt_jax.core.layout import Axes
from rlpt_jax.models.config import Compute
from rlpt_jax.planning import advice, memory
from rlpt_jax.rollout.sampling import Sampling
from tests.planning import runs


def large(model='qwen3_4b', chips='h100:8', compute=None, **hardware):
  """A run of 512 prompts of up to 2,048 tokens, 8 completions of 8,192."""
  options = {
    'layout': Axes(), 'sampler_layout': Axes(data=-1, fsdp=1, tensor=2),
    'num_microbatches': 512, 'slots': 160,
  }  # fmt: skip
  config = runs.rl(
    prompts=512, sampling=Sampling(samples=8, max_new_tokens=8192),
    max_prompt_tokens=2048, compute=compute or Compute(remat='layer'),
    hardware=runs.hardware(**options | hardware),
  )  # fmt: skip
  return runs.run(config, model, chips)


def test_a_run_that_fits_needs_no_changes():
  assert memory.fits(large())
  assert advice.proposals(large()) == []


def test_the_fewest_microbatches_that_fit():
  fewest = advice.fewest_microbatches(large())
  assert fewest == advice.fewest_microbatches(large(num_microbatches=1)) > 1

  def fits(number):
    return memory.fits(large(num_microbatches=number))

  assert fits(fewest)
  assert not fits(fewest // 2)  # Both divide 512, a power of two.


def test_each_change_alone():
  run = large(num_microbatches=1)
  assert not memory.fits(run)
  found = advice.proposals(run)
  settings = [proposal.settings for proposal in found]
  fewest = advice.fewest_microbatches(run)
  assert settings == [(f'train_rl.Hardware.num_microbatches={fewest}',)]
  assert all(memory.fits(proposal.run) for proposal in found)
  # Four settings of a sampler, each of which is enough.
  found = advice.proposals(large(slots=320))
  names = [proposal.settings[0].split('=')[0] for proposal in found]
  assert names == [
    'train_rl.Hardware.own_tokens', 'train_rl.Config.cache_dtype',
    'train_rl.Hardware.slots', 'the sampler: layout.Axes.data',
  ]  # fmt: skip
  for proposal in found:
    assert memory.fits(proposal.run)
    assert proposal.num_bytes == sum(memory.of_run(proposal.run).values())


def test_changes_together():
  compute = Compute(remat='none')
  run = large('qwen3_8b', compute=compute, num_microbatches=1, slots=1600)
  (proposal,) = advice.proposals(run)
  assert len(proposal.settings) > 2
  assert memory.fits(proposal.run)
  config = proposal.run.config
  assert config.compute.remat != 'none'
  # What a run learns stays.
  kept = 'prompts', 'sampling', 'max_prompt_tokens', 'optimizer', 'model'
  for name in kept:
    assert getattr(config, name) == getattr(run.config, name)


def test_a_learner_on_replicas():
  run = large(layout=Axes(data=-1, fsdp=1))
  assert not memory.fits(run)
  assert advice.proposals(run)[0].settings == (
    'the learner: layout.Axes.data=1, fsdp=-1',
  )


def test_a_state_that_is_too_large():
  # 8.19e9 weights of 20 bytes; nine tenths of 141 GB hold 127.
  run = large('qwen3_8b', 'h200:1', sampler_layout=Axes())
  assert advice.proposals(run) == []
  assert advice.fewest_microbatches(run) is None
  assert advice.least_chips(run) == 2
  # The same on eight chips: 164 / 72.
  assert advice.least_chips(large('qwen3_8b')) == 3
  replicas = large('qwen3_8b', layout=Axes(data=-1, fsdp=1))
  assert advice.least_chips(replicas) == 3


@pytest.mark.parametrize('number', [1, 4])
def test_rows_of_text(number):
  config = runs.sft(batch_size=4096, num_microbatches=number)
  config = dataclasses.replace(config, compute=Compute(head_chunk=64))
  run = runs.run(config, 'qwen3_06b', 'tpu:v5e:1x1')
  found = advice.proposals(run)
  assert found
  for proposal in found:
    assert memory.fits(proposal.run)
    assert not any('train_rl' in setting for setting in proposal.settings)


def test_proposals_for_separate_chips():
  hardware = runs.apart()
  run = large(
    layout=hardware.layout, sampler_layout=hardware.sampler_layout, slots=640
  )
  assert run.is_apart and not memory.fits(run)
  found = advice.proposals(run)
  assert found
  for proposal in found:
    assert memory.fits(proposal.run)
    assert proposal.run.is_apart
    assert proposal.num_bytes == memory.total(proposal.run)
  # It has four chips, not eight.
  (wider,) = advice.sampler(run)
  assert wider.settings == ('the sampler: layout.Axes.data=1, tensor=4',)
