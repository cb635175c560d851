"""Samples that come with tokens go on as if they had never left."""

import dataclasses

import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.sampling import begun
from rlpt_jax.sampling.begun import Begun
from rlpt_jax.sampling.blocks import Blocks
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.requests import NEVER, Interruption, Request
from rlpt_jax.sampling.sampler import SampleGroup, Sampler
from rlpt_jax.sampling.table import Table
from tests.sampling import decode_test
from tests.sampling.decode_test import assert_same, tiny
from tests.sampling.engine_test import PLAN, SHARDED, mixed, run

# Rows of 1 to 4 blocks: several lengths, and blocks that they do not use.
SMALL = dataclasses.replace(PLAN, block=16, chunk=4)


def moved(decoder, params, asked, plan, *, steps):
  """The completions, if all samples move to a new engine after some steps."""
  groups = [SampleGroup(request) for request in asked]
  with Engine(decoder, params, plan) as engine:
    sampler = Sampler(engine)
    for group in groups:
      group.enter(sampler)
    for _ in range(steps):
      sampler.step()
    for group in groups:
      group.leave()
    assert engine.is_idle
  num_tokens = [
    len(sample.completion.tokens) if sample.has_tokens else 0
    for group in groups
    for sample in group.samples
  ]
  with Engine(decoder, params, plan) as engine:
    sampler = Sampler(engine)
    for group in groups:
      if not group.is_done:
        group.enter(sampler)
    while not engine.is_idle:
      sampler.step()
    assert engine.counts['begun_tokens'] <= sum(num_tokens)
    assert (engine.counts['begun_tokens'] > 0) == (steps > 0)
  return [[sample.completion for sample in group.samples] for group in groups]


@pytest.mark.parametrize('steps', [1, 4, 11])
@pytest.mark.parametrize('model', ['tiny_llama', 'tiny_qwen3_moe'])
def test_the_tokens_are_those_of_samples_that_stayed(model, steps, one_device):
  decoder, params = tiny(one_device, model)
  asked = mixed()
  found = moved(decoder, params, asked, SMALL, steps=steps)
  assert_same(found, run(decoder, params, asked, SMALL), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'sizes'), decode_test.EIGHT_DEVICES, ids=str)
def test_the_same_on_eight_devices(model, sizes, one_device):
  plan = dataclasses.replace(SHARDED, block=16, chunk=4)
  asked = mixed()
  found = moved(*tiny(make_layout(**sizes), model), asked, plan, steps=6)
  assert_same(found, run(*tiny(one_device, model), asked), tolerance=1e-4)


def test_an_int8_cache_goes_on_with_nearly_the_same_numbers(one_device):
  decoder, params = tiny(one_device)
  asked = mixed()
  plan = dataclasses.replace(SMALL, cache_dtype='int8')
  found = moved(decoder, params, asked, plan, steps=2)
  stayed = run(decoder, params, asked, plan)
  pairs = [
    (a, b)
    for f, e in zip(found, stayed, strict=True)
    for a, b in zip(f, e, strict=True)
  ]
  gaps = []
  for a, b in pairs:
    both = min(len(a.tokens), len(b.tokens))
    same = np.cumprod(a.tokens[:both] == b.tokens[:both]).astype(bool)
    gaps += np.abs(a.policy_logprobs[:both] - b.policy_logprobs[:both])[
      same
    ].tolist()
  # Rounding to int8 changes log-probabilities by hundredths.
  assert 0 < np.mean(gaps) < 0.02 and max(gaps) < 0.3


def test_a_sample_that_has_ended_its_thinking_is_not_interrupted():
  forced = Interruption(phrase=(7,), after=(5, 5), answer=2, unless=(1, 2))
  request = Request(
    prompt_tokens=(9,), id='x', max_new_tokens=20, interruption=forced
  )
  table = Table(1, PLAN.sizes)

  def interrupted_at(*tokens):
    table.enter(0, request, 0, np.array(tokens, np.int32))
    assert table._arrays['last_BW'][0, -1] == tokens[-1]
    return table._arrays['interrupt_B'][0]

  assert interrupted_at(1, 3, 2, 1) == 5
  assert interrupted_at(4, 4, 4, 1, 2, 4) == NEVER
  # Too late: the phrase was already due.
  assert interrupted_at(4, 4, 4, 4, 1, 2) == 5


def test_rows_of_similar_length_share_a_batch():
  blocks = Blocks(8, columns=6, count=48, size=16, shards=2)
  lengths = {0: 90, 1: 5, 2: 33, 3: 17, 6: 64}
  for slot, length in lengths.items():
    blocks.enter(slot, 96)
    for _ in range(blocks.count(length)):
      blocks.grow(slot)
  rows = [
    Begun(slot, 0, 0, np.zeros(length, np.int32))
    for slot, length in lengths.items()
  ]
  # A fake limit, so that rows do not fit into one batch.
  batches = list(begun._batches(rows, blocks, tokens=128))
  found = [
    (length, [row and row.slot for row in batch]) for length, batch in batches
  ]
  # Six columns are not a power of two, but no row can be longer.
  assert found == [
    (96, [0, 6]), (64, [2, 3, None, None]), (16, [1] + [None] * 15)
  ]  # fmt: skip
