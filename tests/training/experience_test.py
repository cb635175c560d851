"""Completions and rewards as arrays, by hand."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import pytest

from rlpt_jax.algorithms import reductions
from rlpt_jax.training.experience import (
  Group,
  make_batch,
  padded,
  weighted,
)


class Completion(NamedTuple):
  tokens: np.ndarray
  logprobs: np.ndarray
  is_own: np.ndarray


def completion(tokens, forced=()):
  tokens = np.array(tokens, np.int32)
  is_own = np.array([t not in forced for t in tokens])
  return Completion(tokens, -0.1 * tokens.astype(np.float32), is_own)


def batch(groups, **changes):
  options = {
    'num_prompts': 3,
    'reduction': reductions.token_mean,
    'longest': (8, 4),
  }
  return make_batch(groups, **options | changes)


GROUPS = [
  Group([7, 8], [completion([1, 2, 3]), completion([4])], np.array([1.0, 0.0])),
  Group(
    [9, 9, 9, 9, 9], [completion([5, 6], forced=[6]), completion([2, 2])],
    np.array([0.5, np.nan]),
  ),
]  # fmt: skip


def test_everything_in_its_place():
  found = batch(GROUPS)
  assert found.prompts_PS[:, :6].tolist() == [
    [7, 8, 0, 0, 0, 0], [9, 9, 9, 9, 9, 0], [0, 0, 0, 0, 0, 0],
  ]  # fmt: skip
  assert found.prompts_PS.shape == (3, 8) and found.tokens_PGT.shape == (
    3,
    2,
    4,
  )
  # A prompt that is none has a token all the same.
  assert found.prompt_mask_PS.sum(1).tolist() == [2, 5, 1]
  assert found.tokens_PGT[0].tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
  assert found.present_PGT.sum(-1).tolist() == [[3, 1], [2, 2], [0, 0]]
  # Not the forced token, nor what has no verdict.
  assert found.mask_PGT.sum(-1).tolist() == [[3, 1], [1, 0], [0, 0]]
  np.testing.assert_allclose(found.behavior_PGT[0, 0], [-0.1, -0.2, -0.3, 0])
  assert not found.advantages_PG.any()  # Of whoever learns from it.
  # Five tokens in all.
  np.testing.assert_allclose(found.weights_PGT, 0.2 * found.mask_PGT)


def test_what_is_not_to_be_learned_from_leaves_the_denominators():
  dropped = dataclasses.replace(GROUPS[1], rewards_G=np.full(2, np.nan))
  found = batch([GROUPS[0], dropped])
  assert found.mask_PGT.sum(-1).tolist() == [[3, 1], [0, 0], [0, 0]]
  np.testing.assert_allclose(found.weights_PGT.sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(found.weights_PGT[0, 0, 0], 0.25)


def test_padding_changes_nothing_else():
  small = batch(GROUPS, num_prompts=2)
  large = batch(GROUPS, longest=(16, 16), num_prompts=4)
  for name in ('tokens_PGT', 'mask_PGT', 'behavior_PGT', 'weights_PGT'):
    a, b = getattr(small, name), getattr(large, name)
    np.testing.assert_array_equal(a, b[:2, :, : a.shape[2]])
    assert not b[2:].any() and not b[:, :, a.shape[2] :].any()


@pytest.mark.parametrize(
  'longest, lengths',
  [
    (64, {16, 32, 64}),
    (96, {24, 48, 96}),
    (20, {20}),  # Shorter ones are not worth a program.
    # Only such as kernels take in blocks of 128; below that they take none.
    (8192, {16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}),
    (384, {384}),
  ],
)
def test_lengths_are_few_and_at_most_half_is_padding(longest, lengths):
  found = {n: padded(n, longest) for n in range(1, longest + 1)}
  assert set(found.values()) == lengths
  assert all(n <= room for n, room in found.items())
  if longest != 384:
    assert all(room < 2 * n for n, room in found.items() if n > min(lengths))


@pytest.mark.parametrize(
  'length, longest, expected',
  [
    # Of 32 + 2 * 16 tokens a half of the prompt would save a quarter.
    (5, (32, 16), (16, 16)),
    (17, (32, 16), (32, 16)),
    # Of 32 + 2 * 128 it would save a twentieth.
    (5, (32, 128), (32, 128)),
  ],
)
def test_prompts_are_shortened_where_that_saves_much(length, longest, expected):
  tokens = [1] * (longest[1] * 3 // 4)
  group = Group([7] * length, [completion(tokens)] * 2, np.array([1.0, 0.0]))
  found = batch([group], longest=longest)
  assert (found.prompts_PS.shape[1], found.tokens_PGT.shape[2]) == expected


def test_prompts_weigh_more_where_each_row_computes_them():
  group = Group([7] * 128, [completion([1] * 1024)] * 8, np.arange(8.0))
  for share_prompt, expected in [(True, 1024), (False, 128)]:
    found = batch([group], longest=(1024, 1024), share_prompt=share_prompt)
    assert found.prompts_PS.shape[1] == expected


def test_reductions_see_the_groups():
  constant = functools.partial(reductions.constant, max_tokens=10)
  found = batch(GROUPS, reduction=constant)
  # Three completions have tokens in the loss.
  np.testing.assert_allclose(found.weights_PGT.max(), 1 / 30)
  found = batch(GROUPS, reduction=reductions.prompt_mean)
  np.testing.assert_allclose(found.weights_PGT.sum((1, 2)), [0.5, 0.5, 0])


@pytest.mark.parametrize(
  'reduction',
  [
    reductions.token_mean, reductions.completion_mean, reductions.prompt_mean,
    functools.partial(reductions.constant, max_tokens=10),
  ],
)  # fmt: skip
def test_the_weights_of_several_batches_are_those_of_one(reduction):
  short = Group([7], [completion([1])] * 3, np.array([1.0, 0.0, 0.5]))
  parts = [
    batch(GROUPS[:1], reduction=reduction, num_prompts=2),
    batch([short], reduction=reduction, num_prompts=4, longest=(8, 2)),
  ]
  found = weighted(parts, reduction)
  assert [x.weights_PGT.shape for x in found] == [(2, 2, 4), (4, 3, 2)]
  # Of one batch, whose first group has an empty third completion.
  rows = [*GROUPS[0].completions, completion([])]
  whole = batch(
    [
      dataclasses.replace(GROUPS[0], completions=rows, rewards_G=np.zeros(3)),
      short,
    ],
    reduction=reduction,
  )  # fmt: skip
  np.testing.assert_allclose(
    found[0].weights_PGT[0], whole.weights_PGT[0, :2], rtol=1e-6
  )
  np.testing.assert_allclose(
    found[1].weights_PGT[0], whole.weights_PGT[1, :, :2], rtol=1e-6
  )
  assert not found[0].weights_PGT[1:].any()
