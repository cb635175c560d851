"""Weights in a folder are those that a sampler in the process would have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.run_files import WEIGHTS
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rollout.jobs import weights_folder
from rlpt_jax.rollout.jobs.weights_folder import Publisher
from rlpt_jax.sampling.publish import publish


def decoder_of(layout, dtype='bfloat16'):
  return Decoder(zoo.get('tiny_qwen3'), Compute(dtype=dtype), layout)


def params_of(decoder, seed):
  specs = decoder_lib.specs(decoder.config)
  return weights.init(specs, jax.random.key(seed), layout=decoder.layout)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_a_sampler_gets_the_bits_that_the_learner_would_publish(
  dtype, one_device, tmp_path
):
  decoder = decoder_of(one_device, dtype)
  params = params_of(decoder, 0)
  folder = Publisher(tmp_path, 3, decoder)
  folder.publish(params, 7)
  folder.close(remove=False)
  assert weights_folder.newest(tmp_path, 3) == 7
  loaded = weights_folder.load(tmp_path, 3, 7, decoder)
  assert {x.dtype for x in jax.tree.leaves(loaded['layers'])} == {
    jnp.dtype(dtype)
  }
  found, expected = publish(decoder, loaded), publish(decoder, params)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_a_sampler_with_another_model_is_refused(one_device, tmp_path):
  """Arrays of the same shapes say nothing of it."""
  decoder = decoder_of(one_device)
  folder = Publisher(tmp_path, 0, decoder)
  folder.publish(params_of(decoder, 0), 0)
  folder.close(remove=False)
  other = dataclasses.replace(decoder.config, rope_theta=123.0)
  message = 'learner has another model: rope_theta was .*, now 123.0. Give'
  with pytest.raises(ValueError, match=message):
    weights_folder.load(
      tmp_path, 0, 0, dataclasses.replace(decoder, config=other)
    )


def test_only_the_newest_are_kept_and_those_of_other_starts_are_not(
  one_device, tmp_path
):
  decoder = decoder_of(one_device)
  assert weights_folder.newest(tmp_path, 0) is None
  folder = Publisher(tmp_path, 0, decoder)
  assert weights_folder.newest(tmp_path, 0) is None
  for version in (4, 5, 6):
    folder.publish(params_of(decoder, version), version)
  folder.close(remove=False)
  assert weights_folder.newest(tmp_path, 0) == 6
  # A sampler that is slow does not get what was deleted, and asks again.
  assert weights_folder.load(tmp_path, 0, 4, decoder) is None
  later = Publisher(tmp_path, 1, decoder)
  assert weights_folder.newest(tmp_path, 0) is None
  assert weights_folder.load(tmp_path, 0, 6, decoder) is None
  later.publish(params_of(decoder, 0), 5)
  later.close(remove=True)
  assert not (tmp_path / WEIGHTS).exists()


def test_the_newest_weights_that_are_damaged_are_an_error(one_device, tmp_path):
  decoder = decoder_of(one_device)
  folder = Publisher(tmp_path, 0, decoder)
  folder.publish(params_of(decoder, 0), 0)
  folder.close(remove=False)
  for path in (tmp_path / WEIGHTS / '0' / '0' / 'params').glob('**/*'):
    if path.is_file() and '_' not in path.name:
      path.write_bytes(b'')
  with pytest.raises(ValueError, match='no checkpoint is intact'):
    weights_folder.load(tmp_path, 0, 0, decoder)


def test_steps_that_are_deleted_while_orbax_looks_are_no_error(
  one_device, tmp_path, monkeypatch
):
  """It looks at all steps of a folder, and some may be gone by then."""
  decoder = decoder_of(one_device)
  folder = Publisher(tmp_path, 0, decoder)
  folder.publish(params_of(decoder, 0), 0)
  folder.close(remove=False)

  def gone(*_, **__):
    raise FileNotFoundError('a step')

  monkeypatch.setattr(weights_folder.Store, '__init__', gone)
  assert weights_folder.load(tmp_path, 0, 0, decoder) is None


def test_weights_that_are_being_deleted_are_no_damage(
  one_device, tmp_path, monkeypatch
):
  """A sampler may read them meanwhile."""
  decoder = decoder_of(one_device)
  folder = Publisher(tmp_path, 0, decoder)
  folder.publish(params_of(decoder, 0), 0)
  found = []

  def half_deleted(path, **_):
    for file in path.glob('0/0/params/**/*'):
      if file.is_file():
        file.unlink()
    found.append(weights_folder.load(tmp_path, 0, 0, decoder))

  monkeypatch.setattr(weights_folder.shutil, 'rmtree', half_deleted)
  folder.close(remove=True)
  assert found[-1] is None
