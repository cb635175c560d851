"""The batches of an update are those that a plan expects."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlpt_jax.algorithms import kl
from rlpt_jax.models import scoring
from rlpt_jax.planning import run as run_lib
from rlpt_jax.rollout import batches as lib
from rlpt_jax.rollout.collector import Collector
from tests.planning import runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Varying(Collector):
  varies = True


def _config(**changes):
  """8 prompts of 32 tokens with 4 completions of 64, in 2 microbatches."""
  config = runs.rl(**changes)
  sampling = dataclasses.replace(config.sampling, max_new_tokens=64)
  return dataclasses.replace(config, sampling=sampling)


def _experience(config):
  """Random batches as long as they can be, as of one device."""
  one = run_lib.with_hardware(config, lengths=1)
  rng = np.random.default_rng(0)
  batches = jax.tree.map(
    lambda x: rng.integers(0, 2, x.shape).astype(x.dtype),
    run_lib.batches(one, config.hardware.layout.layout()),
  )
  batches = [dataclasses.replace(x, reference_PGT=None) for x in batches]
  roles = [SimpleNamespace(batch=batch) for batch in batches]
  return SimpleNamespace(roles=roles)


@pytest.mark.parametrize('lengths', [1, 2, 3])
@pytest.mark.parametrize('parts', [1, 2])
@pytest.mark.parametrize('score', [scoring.in_groups, scoring.in_rows])
def test_a_plan_knows_their_shapes(lengths, parts, score):
  hardware = runs.hardware(lengths=lengths, num_microbatches=parts)
  config = _config(hardware=hardware, score=score)
  layout = config.hardware.layout.layout()
  found = lib.make_batches(config, layout, _experience(config), None)
  expected = run_lib.batches(config, layout)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
  split = parts > 1 and lengths > 1
  assert (found[0].mask_PGT.shape[0] > 8) == split
  assert bool(lib.shorten(config)) == split


def test_rows_that_are_not_in_the_loss_are_skipped_where_their_number_varies():
  config = _config(collector=Varying())
  assert lib.shorten(config)
  experience = _experience(config)
  for role in experience.roles:
    role.batch.mask_PGT[::2] = False
  layout = config.hardware.layout.layout()
  found = lib.make_batches(config, layout, experience, None)
  parts = config.collector.parts(config)
  for batch, role, M in zip(found, experience.roles, parts, strict=True):
    assert batch.mask_PGT.shape == role.batch.mask_PGT.shape
    used = {
      row % M for row in np.asarray(batch.mask_PGT).any((1, 2)).nonzero()[0]
    }
    assert used == set(range(M // 2))


def test_the_reference_computes_the_same_microbatches():
  class Reference:
    def with_logprobs(self, batch, num_parts):
      assert num_parts == 2 and batch.mask_PGT.shape == (32, 1, 64)
      return dataclasses.replace(batch, reference_PGT=batch.behavior_PGT)

  config = _config(hardware=runs.hardware(lengths=3), kl=kl.InLoss(weight=0.1))
  (found,) = lib.make_batches(
    config, config.hardware.layout.layout(), _experience(config), Reference()
  )
  assert found.reference_PGT is not None
