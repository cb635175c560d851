"""The static sampler: transformers' greedy tokens, the learner's numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import compilations, weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import decode
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.requests import Interruption, Request
from tests.models import references

PROMPTS = ((5, 9, 200, 31, 7), (77, 3), (11,), (4, 4, 8, 120, 6, 90, 17))
# As runs sample (tensor), and experts, over devices.
EIGHT_DEVICES = (
  ('tiny_llama', {'fsdp': 2, 'tensor': 4}),
  ('tiny_qwen3_moe', {'fsdp': 2, 'expert': 4}),
)


@functools.cache
def tiny(layout, model='tiny_llama', dtype='float32', seed=1):
  """(decoder, the learner's parameters), far from uniform."""
  config = zoo.get(model)
  params = weights.init(
    decoder_lib.specs(config), jax.random.key(seed), layout=layout
  )
  name = 'embed' if config.tied_head else 'head'
  params[name] = params[name] * 2
  return Decoder(config, Compute(dtype=dtype), layout), params


def requests(prompts=PROMPTS, **options):
  options = {'samples': 3, 'max_new_tokens': 12} | options
  return [
    Request(prompt_tokens=prompt, id=f'prompt {i}', **options)
    for i, prompt in enumerate(prompts)
  ]


def sample(decoder, params, asked):
  return decode.sample(decoder, publish(decoder, params), asked)


def flat(groups):
  return [completion for group in groups for completion in group]


def assert_same(found, expected, tolerance=1e-5):
  """The same completions; log-probabilities to a tolerance, or 0: bitwise."""
  assert len(found) == len(expected)
  for f, e in zip(found, expected, strict=True):
    for a, b in zip(f, e, strict=True):
      np.testing.assert_array_equal(a.tokens, b.tokens)
      np.testing.assert_array_equal(a.is_own, b.is_own)
      assert a.finish_reason == b.finish_reason
      for name in ('logprobs', 'policy_logprobs'):
        x, y = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=0)


@functools.partial(jax.jit, static_argnames=('decoder',))
def _score(decoder, params, row_1T, temperature):
  out = decoder_lib.forward(decoder, params, row_1T, jnp.ones_like(row_1T))
  logprobs, _ = head.score(
    decoder, params, out.hidden_BTD[:, :-1], row_1T[:, 1:],
    temperature=temperature,
  )  # fmt: skip
  return logprobs


def score(decoder, params, prompt, tokens, temperature=1.0):
  """The learner's log-probabilities of a completion, whole row at once."""
  row = np.array([[*prompt, *tokens]], np.int32)
  logprobs = _score(decoder, params, row, temperature)
  return np.asarray(logprobs)[0, len(prompt) - 1 :]


# One case of each family: what differs within one is in the forward pass, and
# tested there (huggingface_test.py).
@pytest.mark.slow
@pytest.mark.parametrize(
  'family', sorted({family for family, _ in references.CASES.values()})
)
def test_greedy_tokens_are_those_of_transformers(family, one_device, tmp_path):
  model = references.torch_model(family)
  references.save(model, tmp_path)
  lengths = (11, 4, 1, 7)
  expected = references.greedy(model, lengths, max_new_tokens=64)
  decoder, params = references.load(tmp_path, one_device)
  prompts, _ = references.ragged_batch(vocab=103, lengths=lengths)
  asked = requests(
    [tuple(row[:n].tolist()) for row, n in zip(prompts, lengths, strict=True)],
    samples=1, max_new_tokens=64, temperature=0,
  )  # fmt: skip
  found = sample(decoder, params, asked)
  for (completion,), row in zip(found, expected, strict=True):
    np.testing.assert_array_equal(completion.tokens, row)
    assert completion.finish_reason == 'length'
  # With a stop that occurs: transformers pads what comes after it.
  eos = int(expected[1, 9])
  expected = references.greedy(model, lengths, max_new_tokens=64, eos=eos)
  asked = [dataclasses.replace(request, stops=((eos,),)) for request in asked]
  for (completion,), row in zip(
    sample(decoder, params, asked), expected, strict=True
  ):
    ends = np.flatnonzero(row == eos)
    length = ends[0] + 1 if len(ends) else 64
    np.testing.assert_array_equal(completion.tokens, row[:length])
    assert completion.finish_reason == ('stop' if len(ends) else 'length')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('model', 'temperature'),
  [('tiny_llama', 1.0), ('tiny_qwen3', 0.6), ('tiny_qwen3_moe', 1.3)],
)
def test_logprobs_are_the_learners(model, temperature, one_device):
  decoder, params = tiny(one_device, model)
  asked = requests(temperature=temperature, max_new_tokens=40)
  for request, group in zip(asked, sample(decoder, params, asked), strict=True):
    for completion in group:
      scored, policy = (
        score(decoder, params, request.prompt_tokens, completion.tokens, t)
        for t in (temperature, 1.0)
      )
      np.testing.assert_allclose(completion.logprobs, scored, atol=1e-5)
      np.testing.assert_allclose(completion.policy_logprobs, policy, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_logprobs_are_near_the_learners(one_device):
  """Run with -s for the figures: what a learner's ratio is made of."""
  decoder, params = tiny(one_device, 'tiny_qwen3', 'bfloat16')
  asked = requests(max_new_tokens=64, samples=8)
  gaps = []
  for request, group in zip(asked, sample(decoder, params, asked), strict=True):
    for completion in group:
      scored = score(decoder, params, request.prompt_tokens, completion.tokens)
      gaps.append(completion.logprobs - scored)
  gaps = np.concatenate(gaps)
  # KL(sampler, learner), estimated without bias and with little variance: k3.
  kl = np.mean(np.exp(-gaps) - 1 + gaps)
  far = np.abs(gaps)
  print(
    f'\nbfloat16: |gap| mean {far.mean():.1e} p99 {np.quantile(far, 0.99):.1e} '
    f'max {far.max():.1e}, KL {kl:.1e}, {len(gaps)} tokens'
  )
  assert far.mean() < 0.01
  assert far.max() < 0.1
  assert kl < 1e-4


@pytest.mark.slow
def test_samples_differ_and_follow_from_their_key_alone(one_device):
  decoder, params = tiny(one_device)
  together = sample(decoder, params, requests())
  rows = [tuple(c.tokens) for group in together for c in group]
  assert len(set(rows)) == len(rows) == 12
  # Alone, in a larger group, from the middle of it: the same.
  assert_same(sample(decoder, params, requests()[1:2]), together[1:2])
  more = sample(decoder, params, requests(samples=5))
  assert_same([group[:3] for group in more], together)
  last = sample(decoder, params, requests(samples=2, first_sample=1))
  assert_same(last, [group[1:] for group in together])
  other = sample(decoder, params, requests(seed=1))
  assert not np.array_equal(other[0][0].tokens, together[0][0].tokens)


def test_a_stop_ends_and_belongs_to_the_completion(one_device):
  decoder, params = tiny(one_device)
  free = sample(decoder, params, requests(max_new_tokens=40))
  first, second = free[0][0].tokens.tolist(), free[1][2].tokens.tolist()
  # An end token, a sequence, one that crosses a chunk, one that never comes.
  crossing = tuple(second[decode.CHUNK - 2 : decode.CHUNK + 2])
  stops = ((first[7],), tuple(first[3:6]), crossing, (1, 2, 3, 4))
  ended = sample(decoder, params, requests(max_new_tokens=40, stops=stops))
  lengths = set()
  for found, whole in zip(flat(ended), flat(free), strict=True):
    tokens = whole.tokens.tolist()
    ends = [
      i
      for i in range(1, 41)
      if any(tuple(tokens[max(0, i - len(s)) : i]) == s for s in stops)
    ]
    length = min(ends, default=40)
    lengths.add(length)
    assert found.finish_reason == ('stop' if ends else 'length')
    assert found.tokens.tolist() == tokens[:length]
    np.testing.assert_allclose(
      found.logprobs, whole.logprobs[:length], atol=1e-5
    )
  assert {decode.CHUNK + 2, 40} < lengths


def test_each_sample_has_a_limit(one_device):
  decoder, params = tiny(one_device)
  free = sample(decoder, params, requests(max_new_tokens=40))
  limited = sample(decoder, params, requests(max_new_tokens=(1, 33, 8)))
  for found, whole in zip(limited, free, strict=True):
    for completion, full, limit in zip(found, whole, (1, 33, 8), strict=True):
      assert completion.tokens.tolist() == full.tokens[:limit].tolist()
      assert completion.finish_reason == 'length'


@pytest.mark.slow
def test_an_interruption_says_its_phrase_and_leaves_an_answer(one_device):
  decoder, params = tiny(one_device)
  asked = requests(max_new_tokens=60, temperature=0.9)
  free = sample(decoder, params, asked)
  end_of_thinking = tuple(free[0][0].tokens[4:6].tolist())
  interruption = Interruption(
    phrase=(40, 41, 42, 43), after=(20, 40), answer=5, unless=end_of_thinking
  )
  asked = [
    dataclasses.replace(request, interruption=interruption) for request in asked
  ]
  places = set()
  for request, group, whole in zip(
    asked, sample(decoder, params, asked), free, strict=True
  ):
    for i, (completion, full) in enumerate(zip(group, whole, strict=True)):
      tokens, place = completion.tokens.tolist(), request.interrupted_at(i)
      assert tokens[:place] == full.tokens[:place].tolist()
      if full is free[0][0]:  # It ended its thinking by itself.
        assert tokens == full.tokens.tolist()
        assert completion.is_own.all()
        continue
      places.add(place)
      assert tokens[place : place + 4] == [40, 41, 42, 43]
      assert len(tokens) == place + 4 + 5
      assert completion.finish_reason == 'length'
      forced = np.flatnonzero(~completion.is_own).tolist()
      assert forced == list(range(place, place + 4))
      # What it was made to say has no behavior, but the policy has a view.
      assert (completion.logprobs[place : place + 4] == 0).all()
      policy = score(decoder, params, request.prompt_tokens, tokens)
      np.testing.assert_allclose(completion.policy_logprobs, policy, atol=1e-5)
  assert len(places) > 5
  assert min(places) >= 20
  assert max(places) <= 40


def test_a_stop_ends_the_answer_after_an_interruption(one_device):
  decoder, params = tiny(one_device)
  interruption = Interruption(phrase=(40, 41), after=(3, 3), answer=30)
  asked = requests(max_new_tokens=60, interruption=interruption)
  (free, *_), *_ = sample(decoder, params, asked)
  # In the phrase a stop does not count, after it it does.
  stops = ((41,), tuple(free.tokens[8:10].tolist()))
  asked = [dataclasses.replace(request, stops=stops) for request in asked]
  (found, *_), *_ = sample(decoder, params, asked)
  assert found.tokens.tolist() == free.tokens[:10].tolist()
  assert found.finish_reason == 'stop'


@pytest.mark.slow
def test_other_batches_find_their_programs_compiled(one_device):
  decoder, params = tiny(one_device)
  params = publish(decoder, params)
  five, six = ((*PROMPTS, *PROMPTS[:n]) for n in (1, 2))
  decode.sample(decoder, params, requests(six, samples=1, max_new_tokens=30))
  with compilations.counted() as counted:
    decode.sample(decoder, params, requests(five, samples=1, seed=3))
    decode.sample(
      decoder, params,
      requests(six, samples=1, temperature=0.5, top_k=3, stops=((1, 2),)),
    )  # fmt: skip
    assert counted.count == 0
    decode.sample(decoder, params, requests(six, samples=2))
    assert counted.count > 0


def test_buckets_are_few_and_near():
  sizes = [decode.bucket(n, least=1) for n in range(1, 1025)]
  assert sorted(set(sizes)) == [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 384, 512,
    768, 1024,
  ]  # fmt: skip
  assert all(n <= size <= 1.99 * n for n, size in enumerate(sizes, 1))


def test_groups_of_one_batch_have_one_size(one_device):
  decoder, params = tiny(one_device)
  asked = [*requests(PROMPTS[:1]), *requests(PROMPTS[1:2], samples=2)]
  with pytest.raises(ValueError, match='2 samples, but the batch has 3'):
    sample(decoder, params, asked)


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'sizes'), EIGHT_DEVICES, ids=str)
def test_eight_devices_sample_what_one_does(model, sizes, one_device):
  asked = requests(samples=4)
  expected = sample(*tiny(one_device, model), asked)
  assert_same(sample(*tiny(make_layout(**sizes), model), asked), expected)
