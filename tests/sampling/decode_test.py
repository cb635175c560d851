"""The static sampler: transformers' greedy tokens, the learner's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, huggingface, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode
from tests.models import references

NO_END = ()


def _load(directory, layout):
  config = huggingface.load_config(directory)
  decoder = Decoder(config, Compute(dtype='float32'), layout)
  specs = decoder_lib.specs(config)
  return decoder, huggingface.load(directory, specs, layout=layout)


@functools.cache
def _tiny(layout, model='tiny_llama'):
  config = zoo.get(model)
  params = weights.init(
    decoder_lib.specs(config), jax.random.key(1), layout=layout
  )
  # Scaled up, so that the distribution is far from uniform.
  params['head'] = params['head'] * 2
  return Decoder(config, Compute(dtype='float32'), layout), params


@pytest.mark.parametrize(
  'family',
  [
    # One case of each family is quick enough for every run.
    case if case == family else pytest.param(case, marks=pytest.mark.slow)
    for case, (family, _) in references.CASES.items()
  ],
)
def test_greedy_tokens_are_those_of_transformers(family, one_device, tmp_path):
  import torch

  model = references.torch_model(family)
  references.save(model, tmp_path)
  lengths = (11, 4, 1, 7)
  left, left_mask = references.ragged_batch(
    vocab=103, lengths=lengths, left=True
  )
  with torch.no_grad():
    expected = model.generate(
      input_ids=torch.tensor(left, dtype=torch.long),
      attention_mask=torch.tensor(left_mask),
      max_new_tokens=64, do_sample=False, eos_token_id=None,
    )[:, left.shape[1] :]  # fmt: skip

  decoder, params = _load(tmp_path, one_device)
  right, mask = references.ragged_batch(vocab=103, lengths=lengths)
  for prompts, segments in ((right, mask), (left, left_mask)):
    found = decode.sample(
      decoder, params, prompts, segments,
      decode.sample_keys(0, np.arange(4), 1), 0.0,
      max_new_tokens=64, eos_ids=NO_END,
    )  # fmt: skip
    np.testing.assert_array_equal(found.tokens_BT, expected.numpy())
    assert (np.asarray(found.length_B) == 64).all()


def _sample(decoder, params, prompts, mask, *, group=3, seed=0, ids=None,
            temperature=1.0, max_new_tokens=12, eos_ids=NO_END):  # fmt: skip
  ids = np.arange(len(prompts)) if ids is None else ids
  return decode.sample(
    decoder, params, prompts, mask, decode.sample_keys(seed, ids, group),
    temperature, max_new_tokens=max_new_tokens, eos_ids=eos_ids,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('model', 'temperature'),
  [('tiny_llama', 1.0), ('tiny_llama', 0.6), ('tiny_qwen3_moe', 0.6)],
)
def test_behavior_logprobs_are_the_learners(model, temperature, one_device):
  decoder, params = _tiny(one_device, model)
  prompts, mask = references.ragged_batch(vocab=259, lengths=(9, 5))
  rollouts = _sample(decoder, params, prompts, mask, temperature=temperature)
  prefix = decoder_lib.forward(decoder, params, prompts, mask)
  ones = jnp.ones_like(rollouts.tokens_BT)
  out = decoder_lib.forward(
    decoder, params, rollouts.tokens_BT, ones, (prefix.cache,)
  )
  last = jnp.take_along_axis(
    prefix.hidden_BTD, (mask.sum(1) - 1)[:, None, None], axis=1
  )
  hidden = jnp.concatenate([jnp.repeat(last, 3, 0), out.hidden_BTD[:, :-1]], 1)
  scored, _ = head.score(
    decoder, params, hidden, rollouts.tokens_BT, temperature=temperature
  )
  np.testing.assert_allclose(rollouts.logprobs_BT, scored, atol=1e-5)


def test_samples_differ_and_follow_from_their_key_alone(one_device):
  decoder, params = _tiny(one_device)
  prompts, mask = references.ragged_batch(vocab=259, lengths=(9, 5, 2))
  together = _sample(decoder, params, prompts, mask)
  tokens = np.asarray(together.tokens_BT).reshape(3, 3, -1)
  assert len({tuple(row) for row in tokens.reshape(9, -1)}) == 9
  # Alone, in other company, in a wider batch: the same.
  alone = _sample(decoder, params, prompts[1:2], mask[1:2], ids=np.array([1]))
  np.testing.assert_array_equal(alone.tokens_BT, tokens[1])
  more = _sample(decoder, params, prompts, mask, group=5)
  more = np.asarray(more.tokens_BT).reshape(3, 5, -1)
  np.testing.assert_array_equal(more[:, :3], tokens)
  other = _sample(decoder, params, prompts, mask, seed=1)
  assert not np.array_equal(other.tokens_BT, together.tokens_BT)


def test_an_end_token_ends_and_belongs_to_the_completion(one_device):
  decoder, params = _tiny(one_device)
  prompts, mask = references.ragged_batch(vocab=259, lengths=(9, 5))
  free = _sample(decoder, params, prompts, mask)
  tokens = np.asarray(free.tokens_BT)
  ends = (int(tokens[0, 4]), int(tokens[3, 2]))
  ended = _sample(decoder, params, prompts, mask, eos_ids=ends)
  for row in range(6):
    places = np.flatnonzero(np.isin(tokens[row], ends))
    length = places[0] + 1 if len(places) else 12
    assert ended.length_B[row] == length
    assert bool(ended.stopped_B[row]) == bool(len(places))
    np.testing.assert_array_equal(
      ended.tokens_BT[row, :length], tokens[row, :length]
    )
    assert (np.asarray(ended.tokens_BT)[row, length:] == 0).all()
    assert (np.asarray(ended.logprobs_BT)[row, length:] == 0).all()


def test_samples_have_the_distribution_of_the_model(one_device):
  decoder, params = _tiny(one_device)
  prompts = np.array([[5, 6, 7]], np.int32)
  count = 20_000
  rollouts = _sample(
    decoder, params, prompts, np.ones_like(prompts), group=count,
    max_new_tokens=1, temperature=0.7,
  )  # fmt: skip
  out = decoder_lib.forward(decoder, params, prompts, np.ones_like(prompts))
  logits = head.logits(decoder, params, out.hidden_BTD)[0, -1]
  probs = np.asarray(jax.nn.softmax(logits / 0.7), np.float64)
  seen = np.bincount(np.asarray(rollouts.tokens_BT)[:, 0], minlength=259)
  expected = probs / probs.sum() * count
  # Bins that expect at least 5; chi-squared of n bins has mean n - 1 and
  # variance 2 (n - 1).
  big = expected >= 5
  seen = np.append(seen[big], seen[~big].sum())
  expected = np.append(expected[big], expected[~big].sum())
  chi_squared = np.sum((seen - expected) ** 2 / np.maximum(expected, 1e-9))
  freedom = len(seen) - 1
  assert abs(chi_squared - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.slow
def test_eight_devices_sample_what_one_does(one_device):
  prompts, mask = references.ragged_batch(vocab=259, lengths=(9, 5, 2, 7))
  expected = _sample(*_tiny(one_device), prompts, mask, group=4)
  layout = make_layout(fsdp=2, tensor=4)
  decoder, params = _tiny(layout)
  found = _sample(
    decoder, params, layout.put(prompts, 'batch', None),
    layout.put(mask, 'batch', None), group=4,
  )  # fmt: skip
  np.testing.assert_array_equal(found.tokens_BT, expected.tokens_BT)
  np.testing.assert_allclose(found.logprobs_BT, expected.logprobs_BT, atol=1e-5)
