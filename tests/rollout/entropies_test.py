"""Entropies are those of the full distributions, however texts are packed."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.timers import Timers
from rlpt_jax.core.tokenizer import ByteTokenizer
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.rollout import entropies
from rlpt_jax.rollout.entropies import Entropies
from rlpt_jax.sampling.engine import Engine
from rlpt_jax.sampling.plan import Plan
from rlpt_jax.sampling.publish import publish
from rlpt_jax.sampling.sampler import Sampler
from tests.models.decoder_test import _decoder, _params

MODEL = 'tiny_qwen3'
PLAN = Plan(slots=8, group=2, max_prompt_tokens=32, max_new_tokens=16, chunk=4)
BYTES = ByteTokenizer()
TEXTS = [
  np.random.default_rng(i).integers(0, 256, length).tolist()
  for i, length in enumerate([9, 20, 1, 6])
]


class WithoutBos(ByteTokenizer):
  bos_id = None


@functools.partial(jax.jit, static_argnums=0)
def distributions(decoder, params, tokens_1T):
  """[T, V]: what follows each token of a text, alone and without padding."""
  out = decoder_lib.forward(
    decoder, params, tokens_1T, jnp.ones_like(tokens_1T)
  )
  return jax.nn.softmax(head.logits(decoder, params, out.hidden_BTD)[0])


def plain(decoder, params, text):
  p_TV = np.asarray(distributions(decoder, params, np.array([text])), float)
  found_T = -np.sum(p_TV * np.log(p_TV), axis=-1)
  return np.concatenate([[np.nan], found_T[:-1]])


@pytest.mark.parametrize(('row_tokens', 'devices'), [(16, 1), (64, 1), (16, 8)])
def test_entropies_are_those_of_the_full_distributions(
  row_tokens, devices, monkeypatch, one_device
):
  """It covers batches of one row, one batch, and several devices."""
  monkeypatch.setattr(entropies, 'TOKENS', 8)
  layout = one_device
  if devices > 1:
    layout = make_layout(data=4, fsdp=1, tensor=2)
  decoder, params = _decoder(MODEL, layout), _params(MODEL, layout)
  found = entropies.compute(
    decoder, publish(decoder, params), TEXTS, row_tokens=row_tokens
  )
  alone = _decoder(MODEL, one_device), _params(MODEL, one_device)
  for text, values in zip(TEXTS, found, strict=True):
    np.testing.assert_allclose(values, plain(*alone, text), atol=2e-5)


def make_sampler(layout, params):
  return Sampler(Engine(_decoder(MODEL, layout), params, PLAN))


def test_entropies_follow_the_published_weights(one_device):
  decoder, params = _decoder(MODEL, one_device), _params(MODEL, one_device)
  other = params | {'norm': params['norm'] * 3}
  texts = TEXTS[:2]
  with make_sampler(one_device, params) as sampler, Timers('rollout') as timers:
    for weights, tokenizer, begin in (
      (params, BYTES, [BYTES.bos_id]), (other, WithoutBos(), [])
    ):  # fmt: skip
      made = Entropies(sampler, tokenizer, timers, texts)
      assert made.computed == []
      for i, text in enumerate(texts):
        wanted = plain(decoder, weights, begin + text)[len(begin) :]
        # Nothing precedes the first token but BOS.
        wanted[0] = np.nan
        np.testing.assert_allclose(made.look(i), wanted, atol=2e-5)
      assert made.computed == [len(begin) + len(text) for text in texts]
      sampler.publish(other)


def test_all_texts_are_computed_at_once_in_the_time_of_rollouts(monkeypatch):
  calls, timed = [], []

  def compute(decoder, params, texts, *, row_tokens):
    calls.append([len(text) for text in texts])
    return [np.zeros(len(text)) for text in texts]

  @contextlib.contextmanager
  def timers(name):
    timed.append(name)
    yield

  class Fake:
    decoder = params = None
    plan = PLAN

  monkeypatch.setattr(entropies, 'compute', compute)
  made = Entropies(Fake(), WithoutBos(), timers, TEXTS)
  assert not calls
  assert [len(made.look(i)) for i in (3, 0, 3)] == [6, 9, 6]
  assert calls == [[9, 20, 1, 6]] and timed == ['rollout']


def test_damaged_weights_are_an_error(one_device):
  params = _params(MODEL, one_device)
  params = params | {'norm': params['norm'] * np.nan}
  with make_sampler(one_device, params) as sampler, Timers('rollout') as timers:
    with pytest.raises(FloatingPointError, match='entropies: NaN'):
      Entropies(sampler, BYTES, timers, TEXTS).look(0)


def test_all_steps_share_one_program(one_device):
  decoder = _decoder(MODEL, one_device)
  params = publish(decoder, _params(MODEL, one_device))
  sizes = []
  for texts in [[1] * 9], TEXTS, [[1] * 33] * 9:
    entropies.compute(decoder, params, texts, row_tokens=64)
    sizes.append(entropies._in_rows._cache_size())
  assert len(set(sizes)) == 1
