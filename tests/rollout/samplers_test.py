"""A run's schedule decides which sampler is opened."""

import dataclasses

import pytest

from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.inference import model_files
from rlpt_jax.rollout import samplers
from rlpt_jax.rollout.jobs.sampler_jobs import SamplerJobs
from rlpt_jax.rollout.jobs.starts import Contact
from rlpt_jax.rollout.schedules import Separate
from rlpt_jax.sampling.sampler import Sampler
from tests.programs import learning_task


@pytest.mark.parametrize('held_out', [True, False])
def test_the_learner_of_separate_samplers_has_one_for_held_out_examples_only(
  held_out, tmp_path
):
  folder = learning_task.write(tmp_path / 'task')
  contact = Contact(host='localhost')
  config = learning_task.learning(
    folder, 'random:tiny_qwen3', schedule=Separate(),
    hardware=learning_task.hardware(contact=contact),
  )  # fmt: skip
  if not held_out:
    config = dataclasses.replace(config, held_out=None)
  files = model_files.find(config.model)
  layout = config.hardware.layout.layout()
  params = files.load_params(layout=layout)
  opened = samplers.open_sampler(
    config, files, params, ByteTokenizer(), workdir=tmp_path, version=3
  )
  with opened as jobs:
    assert isinstance(jobs, SamplerJobs) and jobs.version == 3
    assert jobs.is_apart_from(layout)
    assert (jobs._own is not None) == held_out
  own = samplers.open_own_sampler(config, files, params, ByteTokenizer(), 3)
  with own as sampler:
    assert isinstance(sampler, Sampler) and sampler.version == 3
    assert not sampler.is_apart_from(layout)
