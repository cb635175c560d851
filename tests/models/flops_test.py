"""Operations in plain arithmetic, against what XLA counts."""

import jax
import jax.numpy as jnp
import pytest

from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import flops, head, scoring, zoo
from rlpt_jax.models.config import Compute, Decoder


def counted(function, *arguments):
  """Operations of a compiled program, by XLA."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()['flops']


def decoder_and_params(model, layout):
  config = zoo.get(model)
  # One by one: XLA counts the body of a loop once.
  decoder = Decoder(config, Compute(dtype='float32', unroll=True), layout)
  specs = decoder_lib.specs(config)
  params = weights.init(specs, jax.random.key(0), layout=layout)
  return decoder, decoder_lib.unstack(params)


def test_plain_arithmetic():
  # tiny_llama: 2 layers of width 64; q 64x128, k and v 64x64, o 128x64, and an
  # mlp of 3 x 64 x 128.
  config = zoo.get('tiny_llama')
  assert flops.layer_weights(config) == 2 * (
    64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 128
  )
  assert flops.head(config) == 2 * 259 * 64
  # Three tokens after ten see 11, 12 and 13 keys, in 2 layers of 4 heads of 32.
  expected = 3 * 2 * flops.layer_weights(config) + 4 * 2 * 4 * 32 * 36
  assert flops.forward(config, 3, context=10) == expected
  assert flops.forward(config, 3, context=10, read=3) == (
    expected + 3 * flops.head(config)
  )
  # Two of four experts.
  dense, moe = zoo.get('tiny_qwen3'), zoo.get('tiny_qwen3_moe')
  mlp = 2 * 3 * 64 * 128
  assert flops.layer_weights(moe) == (
    flops.layer_weights(dense) + mlp + 2 * 64 * 4
  )


def test_a_rollout_and_an_update_by_hand():
  config = zoo.get('tiny_llama')
  W, h = 2 * flops.layer_weights(config), flops.head(config)
  key = 4 * 2 * 4 * 32
  # A prompt of 3: two tokens see 1 and 2 keys. A completion of 2: two steps
  # that see 3 and 4.
  rollout = 2 * W + 3 * key + 2 * (W + h) + 7 * key
  assert flops.rollout(config, 3, [2]) == rollout
  # All 3 of the prompt, 1 of the completion, 2 tokens that are read.
  layers = 3 * W + 6 * key + W + 4 * key
  assert flops.update(config, 3, [2]) == 3 * layers + 4 * 2 * h
  assert flops.update(config, 3, [2], remat='layer') == 4 * layers + 8 * h
  # Forward alone, and tokens that are read once.
  assert flops.score(config, 3, [2]) == layers + 2 * h
  assert flops.score(config, 3, [2, 2]) == layers + W + 4 * key + 4 * h
  assert flops.score(config, 3, [2, 2], share_prompt=False) == (
    2 * flops.score(config, 3, [2])
  )
  shared = flops.update(config, 3, [2, 2])
  alone = flops.update(config, 3, [2, 2], share_prompt=False)
  assert alone == 2 * flops.update(config, 3, [2])
  assert alone - shared == 3 * (3 * W + 6 * key)


@pytest.mark.parametrize('model', ['tiny_llama', 'tiny_smollm3'])
def test_a_forward_pass_is_what_xla_counts(model, one_device):
  decoder, params = decoder_and_params(model, one_device)
  B, T = 4, 48

  def passed(params, tokens_BT):
    out = decoder_lib.forward(
      decoder, params, tokens_BT, jnp.ones_like(tokens_BT)
    )
    return head.logits(decoder, params, out.hidden_BTD)

  found = counted(passed, params, jnp.zeros((B, T), jnp.int32))
  c = decoder.config
  # XLA computes the keys that a mask leaves out, too.
  unseen = 4 * c.num_layers * c.num_heads * c.head_dim * T * (T - 1) // 2
  expected = B * (flops.forward(c, T, read=T) + unseen)
  # The rest is norms, rotations, softmax and activations.
  assert expected < found < 1.15 * expected


@pytest.mark.slow
def test_an_update_is_what_xla_counts(one_device):
  decoder, params = decoder_and_params('tiny_llama', one_device)
  P, G, S, T = 2, 4, 32, 32

  def loss(params, prompts_PS, tokens_BT):
    logprobs_BT, *_ = scoring.in_groups(
      decoder, params, prompts_PS, jnp.ones_like(prompts_PS), tokens_BT,
      jnp.ones_like(tokens_BT),
    )  # fmt: skip
    return logprobs_BT.sum()

  found = counted(
    jax.grad(loss), params, jnp.zeros((P, S), jnp.int32),
    jnp.zeros((P * G, T), jnp.int32),
  )  # fmt: skip
  c = decoder.config
  key = 4 * c.num_layers * c.num_heads * c.head_dim
  unseen = key * (S * (S - 1) // 2 + G * T * (T - 1) // 2)
  expected = P * (flops.update(c, S, [T] * G) + 3 * unseen)
  assert 0.95 * expected < found < 1.25 * expected
