"""How far from the reference, by hand."""

import functools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import Axes
from rlpt_jax.core.types import Batch, Example
from rlpt_jax.rewards.scores import Scores
from rlpt_jax.rollout.collect import Groups
from rlpt_jax.rollout.judged import Judged
from rlpt_jax.rollout.reference import Reference, put
from rlpt_jax.training.lengths import shortened

NAN = np.nan
LAYOUT = Axes(devices=1).layout()


def score(params, prompts_PS, prompt_mask_PS, tokens_BT, present_BT):
  """A token is as probable as the parameters say, whatever comes before."""
  logprobs_BT = params[tokens_BT]
  return logprobs_BT, jnp.zeros_like(logprobs_BT)


def reference(**options):
  params = jnp.array([0.0, -1.0, -2.0, -3.0])
  options = {'prompts': 4} | options
  return Reference(params, score, LAYOUT, **options)


def sample(tokens, forced=()):
  tokens = np.array(tokens, np.int32)
  completion = SimpleNamespace(
    tokens=tokens, logprobs=-0.5 * np.ones(len(tokens), np.float32),
    is_own=np.array([t not in forced for t in tokens]),
  )  # fmt: skip
  return SimpleNamespace(completion=completion, finish_reason='stop')


def judged():
  rewards_PG = np.array([[1, 0], [1, NAN], [0, 0]], np.float32)
  found = Scores(rewards_PG, np.full((3, 2), 'scored'))
  examples = [
    Example(np.ones(p + 1, np.int32), ('x',), 'asr', 'c', str(p), 0)
    for p in range(3)
  ]
  samples = [
    [sample([1, 2]), sample([3])],
    [sample([1, 3, 3], forced=[3]), sample([1])],
    [sample([1]), sample([2, 2])],
  ]
  left_out = np.array([[False] * 2, [False] * 2, [True] * 2])
  return Judged(examples, samples, found, rewards_PG).without(left_out)


def groups():
  return Groups(judged(), np.array([True, True, False]))


@pytest.mark.parametrize('num_prompts', [1, 2, 4])
@pytest.mark.parametrize('num_microbatches', [1, 2])
def test_the_sum_of_k1_is_taken_from_the_reward(num_prompts, num_microbatches):
  if num_prompts % num_microbatches:
    num_microbatches = 1
  found = (
    reference(prompts=num_prompts // num_microbatches)
    .penalized(groups(), weight=0.1, num_prompts=num_prompts, longest=(16, 16))
    .judged
  )
  # -0.5 less the reference's: tokens 1, 2 and 3 are 0.5, 1.5 and 2.5 more
  # probable than there: (2.0, 2.5), (0.5, no verdict), not learned from.
  expected = [[-0.2, -0.25], [-0.05, NAN], [NAN, NAN]]
  part = found.scores.parts['kl']
  np.testing.assert_allclose(part.rewards_PG, expected, rtol=1e-6)
  np.testing.assert_allclose(
    found.rewards_PG, [[0.8, -0.25], [0.95, NAN], [NAN, NAN]], rtol=1e-6
  )
  # The reward itself stays what it was.
  np.testing.assert_array_equal(
    found.scores.rewards_PG, judged().scores.rewards_PG
  )
  assert found.flat.tolist() == judged().flat.tolist()
  assert part.counts() == {'k1': 3, 'left out': 3}


@pytest.mark.parametrize('logprob', [-np.inf, NAN])
def test_what_the_reference_could_not_say_is_not_learned_from(logprob):
  params = jnp.array([0.0, -1.0, -2.0, logprob])
  found = (
    Reference(params, score, LAYOUT, prompts=4)
    .penalized(groups(), weight=0.1, num_prompts=4, longest=(16, 16))
    .judged
  )
  np.testing.assert_allclose(
    found.rewards_PG, [[0.8, NAN], [0.95, NAN], [NAN, NAN]], rtol=1e-6
  )
  assert np.isnan(found.scores.parts['kl'].rewards_PG[0, 1])


@pytest.mark.parametrize(
  'shorten', [None, functools.partial(shortened, lengths=2)]
)
def test_a_batch_with_the_logprobs_of_the_reference(shorten):
  tokens_PGT = np.array([[[1, 2], [3, 0]], [[2, 2], [1, 0]]], np.int32)
  zeros_PGT = np.zeros(tokens_PGT.shape, np.float32)
  batch = Batch(
    prompts_PS=np.ones((2, 2), np.int32),
    prompt_mask_PS=np.ones((2, 2), np.int32),
    tokens_PGT=tokens_PGT,
    present_PGT=tokens_PGT > 0,
    mask_PGT=tokens_PGT > 0,
    behavior_PGT=zeros_PGT,
    advantages_PG=zeros_PGT[..., 0],
    weights_PGT=zeros_PGT,
  )
  batch = put(LAYOUT, batch)
  found = reference(shorten=shorten).with_logprobs(batch, 2)
  assert found.tokens_PGT is batch.tokens_PGT
  np.testing.assert_array_equal(
    found.reference_PGT, -tokens_PGT.astype(np.float32)
  )
