"""An update without most of its padding is the update with all of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.algorithms import kl, losses, policy, reductions
from rlpt_jax.core import weights as weights_lib
from rlpt_jax.core.layout import Axes
from rlpt_jax.core.types import Batch
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import scoring, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.rollout.reference import put
from rlpt_jax.training import learner
from rlpt_jax.training import lengths as lib

P, G, S, T, V = 8, 4, 3, 128, 11


def score(params, prompts_PS, prompt_mask_PS, tokens_BT, present_BT):
  """The next token depends on the prompt, the last token and their number."""
  del prompt_mask_PS
  G = len(tokens_BT) // len(prompts_PS)
  before_BT = jnp.pad(tokens_BT, ((0, 0), (1, 0)))[:, :-1]
  prompts_B1 = jnp.repeat(prompts_PS[:, :1], G, axis=0)
  seen_BT = jnp.cumsum(before_BT, axis=1)
  logits_BTV = params['prompt'][prompts_B1] + params['before'][before_BT]
  logits_BTV += jnp.sin(seen_BT)[..., None] * params['seen']
  # As a model's, results are meaningless where there is no token.
  logprobs_BTV = jax.nn.log_softmax(logits_BTV)
  entropies_BT = -jnp.sum(jnp.exp(logprobs_BTV) * logprobs_BTV, axis=-1)
  taken_BT1 = jnp.take_along_axis(logprobs_BTV, tokens_BT[..., None], axis=-1)
  return jnp.where(present_BT, taken_BT1[..., 0], 7.0), entropies_BT


def params():
  rng = np.random.default_rng(9)
  shapes = {'prompt': (V, V), 'before': (V, V), 'seen': (V,)}
  return {
    name: jnp.array(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }


def batch(seed=0, longest=T) -> Batch:
  """Lengths with a tail, a completion without a verdict, a group that is left
  out, and one that is padding.
  """
  rng = np.random.default_rng(seed)
  lengths_PG = rng.integers(1, 20, (P, G))
  lengths_PG[[1, 4, 4], [2, 0, 3]] = longest, longest, 50
  lengths_PG[7] = 0
  present_PGT = np.arange(T) < lengths_PG[..., None]
  mask_PGT = present_PGT & (rng.random((P, G, T)) < 0.8)
  mask_PGT[1, 2, longest - 1] = True
  mask_PGT[3] = mask_PGT[5, 1] = False
  weights_BT = reductions.completion_mean(mask_PGT.reshape(P * G, T), G)
  return Batch(
    prompts_PS=rng.integers(0, V, (P, S)).astype(np.int32),
    prompt_mask_PS=np.ones((P, S), np.int32),
    tokens_PGT=rng.integers(0, V, (P, G, T)).astype(np.int32) * present_PGT,
    present_PGT=present_PGT,
    mask_PGT=mask_PGT,
    behavior_PGT=(rng.normal(size=(P, G, T)) - 2.0).astype(np.float32),
    advantages_PG=rng.normal(size=(P, G)).astype(np.float32),
    weights_PGT=np.asarray(weights_BT, np.float32).reshape(P, G, T),
    reference_PGT=(rng.normal(size=(P, G, T)) - 2.0).astype(np.float32),
  )


def gradients(loss_fn, *batches, parts=1, lengths=1, place=lambda x: x):
  @jax.jit
  def of(params, *batches):
    shorten = functools.partial(lib.shortened, lengths=lengths)
    (loss, stats), grads = learner.gradients(
      loss_fn, params, *batches, num_microbatches=parts,
      shorten=None if lengths == 1 else shorten,
    )  # fmt: skip
    if len(batches) == 1:
      return loss, grads, policy.measure(*batches, *stats)
    measure = policy.of_roles(['', 'other'])
    return loss, grads, measure(batches, stats)

  return jax.device_get(of(params(), *map(place, batches)))


def assert_close(found, expected):
  for path, x in jax.tree_util.tree_leaves_with_path(expected):
    y = functools.reduce(_get, path, found)
    np.testing.assert_allclose(y, x, rtol=2e-6, atol=1e-6, err_msg=str(path))


def _get(tree, key):
  return tree[getattr(key, 'key', getattr(key, 'idx', None))]


@functools.cache
def whole(loss):
  loss_fn = policy.make_loss(score, loss, kl=kl.InLoss(weight=0.3))
  return loss_fn, gradients(loss_fn, batch())


@pytest.mark.parametrize('loss', [losses.ppo, losses.cispo])
@pytest.mark.parametrize(
  'parts, together, lengths', [(1, 4, 2), (2, 2, 3), (4, 1, 4), (8, 4, 4)]
)
def test_short_microbatches_change_nothing(loss, parts, together, lengths):
  loss_fn, expected = whole(loss)
  arranged = lib.arrange(batch(), parts=parts, together=together)
  assert_close(
    gradients(loss_fn, arranged, parts=parts, lengths=lengths), expected
  )


def test_two_roles():
  first, second = batch(), batch(1, longest=33)
  loss_fn = policy.make_loss(score, losses.ppo)
  expected = gradients(loss_fn, first, second, parts=(1, 1))
  found = gradients(
    loss_fn,
    lib.arrange(first, parts=8, together=4),
    lib.arrange(second, parts=4, together=1),
    parts=(8, 4), lengths=3,
  )  # fmt: skip
  assert_close(found, expected)


def test_on_eight_devices():
  layout = Axes().layout()
  assert layout.batch_size == 8
  loss_fn = policy.make_loss(score, losses.ppo)
  arranged = lib.arrange(batch(), parts=4, together=1)
  found = gradients(
    loss_fn, arranged, parts=4, lengths=3, place=functools.partial(put, layout)
  )
  assert_close(found, gradients(loss_fn, batch()))


def test_the_shortest_length_that_holds_a_microbatch_is_computed():
  made, seen = batch(longest=70), []

  def loss_fn(params, part):
    length = part.tokens_PGT.shape[-1]
    total = jnp.sum(part.mask_PGT) * params
    jax.debug.callback(lambda: seen.append(length))
    return total, {'logprobs_PGT': jnp.ones_like(part.behavior_PGT)}

  arranged = lib.arrange(made, parts=8, together=1)
  (_, (stats,)), grads = jax.jit(
    functools.partial(
      learner.gradients, loss_fn, num_microbatches=8,
      shorten=functools.partial(lib.shortened, lengths=3),
    )
  )(1.0, arranged)  # fmt: skip
  jax.effects_barrier()
  # Of 32 completions, 22 have tokens in the loss: 70, 70, 50, and 19 or fewer.
  # The last two microbatches of four have none.
  assert seen == [128, 32, 32, 32, 32, 32]
  assert grads == made.mask_PGT.sum()
  assert stats['logprobs_PGT'].shape == arranged.mask_PGT.shape
  assert stats['logprobs_PGT'].sum() == 4 * (128 + 5 * 32)


def test_completions_stay_with_their_prompt_and_their_numbers():
  made = batch()
  for together in (1, 2, 4):
    found = lib.arrange(made, parts=2, together=together)
    assert found.mask_PGT.shape == (P * G // together, together, T)
    rows = {
      (tuple(made.tokens_PGT[p, g]), made.advantages_PG[p, g]): p
      for p in range(P)
      for g in range(G)
    }
    for p, g in np.ndindex(P * G // together, together):
      old = rows.pop((tuple(found.tokens_PGT[p, g]), found.advantages_PG[p, g]))
      assert (found.prompts_PS[p] == made.prompts_PS[old]).all()
    assert not rows


def test_groups_fill_as_few_parts_as_possible():
  made = batch()
  made = dataclasses.replace(
    made, mask_PGT=made.mask_PGT & (np.arange(P) < 3)[:, None, None]
  )
  found = lib.arrange(made, parts=4, together=G)
  # Four parts of two rows; part m has the rows m and m + 4.
  assert found.mask_PGT.any((1, 2)).nonzero()[0].tolist() == [0, 1, 4]
  # The group with the longest completion comes first, each in its order.
  np.testing.assert_array_equal(found.tokens_PGT[0], made.tokens_PGT[1])


def test_without_a_token_in_the_loss_nothing_is_computed():
  """Its loss is NaN here, which would be seen."""
  made = batch()
  empty = dataclasses.replace(
    made, mask_PGT=made.mask_PGT & False,
    behavior_PGT=made.behavior_PGT * np.nan,
    weights_PGT=made.weights_PGT * np.nan,
  )  # fmt: skip
  loss_fn = policy.make_loss(score, losses.ppo)
  loss, _, _ = gradients(loss_fn, empty)
  assert np.isnan(loss)
  loss, grads, _ = gradients(loss_fn, empty, lengths=2)
  assert loss == 0 and not any(x.any() for x in jax.tree.leaves(grads))


def _together(groups=16, prompt=64, parts=4, axes=None, **changes):
  options = {'lengths': 4, 'share_prompt': True} | changes
  layout = (axes or Axes(devices=1)).layout()
  return lib.samples_together(
    groups, 8, prompt, 512, parts=parts, layout=layout, **options
  )


def test_groups_are_split_unless_prompts_cost_too_much():
  # The shortest length is 64.
  assert _together(prompt=64) == 1
  assert _together(prompt=65) == _together(prompt=128) == 2
  assert _together(prompt=128, lengths=3) == 1
  assert _together(prompt=1024) == 8
  assert _together(prompt=1024, share_prompt=False) == 1
  assert _together(lengths=1) == _together(parts=1) == 8


def test_groups_are_split_over_the_devices_of_a_batch():
  eight = functools.partial(_together, axes=Axes())
  # A microbatch of 8 groups is one for each device: 8 * 64 tokens at least.
  assert [eight(parts=2, prompt=n) for n in (64, 128, 256, 512)] == [1, 2, 4, 8]
  # Of four groups, or one, each device computes all prompts anyway: 32 prompts
  # are no more than four for each.
  assert eight(prompt=1024) == eight(prompt=1024, parts=16) == 1


@pytest.mark.parametrize(
  'longest, expected',
  [(512, [512, 256, 128, 64, 32, 16]), (96, [96, 48, 24]), (20, [20]),
   (384, [384])],
)  # fmt: skip
def test_halves(longest, expected):
  assert lib.halves(longest) == expected


@pytest.mark.parametrize('score', [scoring.in_groups, scoring.in_rows])
def test_the_update_of_a_model(score):
  model = dataclasses.replace(zoo.get('tiny_qwen3'), num_layers=1)
  decoder = Decoder(
    model, Compute(dtype='float32'), Axes(devices=1).layout()
  )  # fmt: skip
  made = jax.tree.map(
    lambda x: x[..., :64] if x.ndim == 3 else x, batch(longest=60)
  )
  loss_fn = policy.make_loss(functools.partial(score, decoder), losses.cispo)
  weights = weights_lib.init(
    decoder_lib.specs(model), jax.random.key(0), layout=decoder.layout
  )

  def of(batch, **options):
    return jax.jit(
      functools.partial(learner.gradients, loss_fn, **options)
    )(weights, batch)  # fmt: skip

  (loss, _), grads = of(made, num_microbatches=1)
  (found, _), short = of(
    lib.arrange(made, parts=4, together=1), num_microbatches=4,
    shorten=functools.partial(lib.shortened, lengths=3),
  )  # fmt: skip
  np.testing.assert_allclose(found, loss, rtol=1e-6)
  for path, x in jax.tree_util.tree_leaves_with_path(grads):
    y = functools.reduce(_get, path, short)
    np.testing.assert_allclose(y, x, atol=1e-6, err_msg=str(path))
