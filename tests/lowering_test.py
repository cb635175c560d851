"""What learns and what decodes lowers for GPU and TPU from a machine without.

The cuDNN kernel cannot be traced without cuDNN, so 'cuda' lowers with XLA's.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder

PROMPTS, GROUP, PROMPT_LENGTH, LENGTH = 4, 4, 256, 128
CASES = [
  ('cuda', 'xla', {}),
  ('tpu', 'xla', {}),
  ('tpu', 'splash', {}),
  ('tpu', 'splash', {'fsdp': 4, 'tensor': 2}),
]
SIZES = {
  'embed_dim': 256, 'mlp_dim': 512, 'head_dim': 128, 'vocab_size': 1024,
}  # fmt: skip


def _decoder(model, platform, attention, sizes):
  layout = make_layout(**sizes or {'devices': jax.devices()[:1]})
  # As on the machine it is lowered for: XLA on CPU has products of its own.
  layout = dataclasses.replace(
    layout, platform={'cuda': 'gpu', 'tpu': 'tpu'}[platform]
  )
  # As a real model has them: heads of 128, which the kernels are made for.
  config = dataclasses.replace(zoo.get(model), **SIZES)
  compute = Compute(dtype='bfloat16', remat='layer', attention=attention)
  return Decoder(config, compute, layout)


def _ints(layout, *shape):
  sharding = layout.sharding(shape, ('batch', None))
  return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)


def _train_step(decoder, params, prompts, prompt_mask, tokens, mask):
  def loss(params):
    prefix = decoder_lib.forward(decoder, params, prompts, prompt_mask)
    out = decoder_lib.forward(decoder, params, tokens, mask, (prefix.cache,))
    logprobs, entropy = head.score(
      decoder, params, out.hidden_BTD, jnp.roll(tokens, -1, axis=1)
    )
    return jnp.sum((logprobs + entropy) * mask)

  return jax.value_and_grad(loss)(params)


def _decode_step(decoder, params, token_B1, prefix, own, t):
  out = decoder_lib.forward(
    decoder, params, token_B1, jnp.ones_like(token_B1), (prefix, own)
  )
  logits = head.logits(decoder, params, out.hidden_BTD)
  return jnp.argmax(logits, -1), cache_lib.write(own, out.cache, t)


def _lower(step, platform, *arguments):
  exported = jax.export.export(jax.jit(step), platforms=[platform])(*arguments)
  return exported.mlir_module()


@pytest.mark.parametrize('model', ['tiny_qwen3', 'tiny_qwen3_moe'])
@pytest.mark.parametrize(('platform', 'attention', 'sizes'), CASES, ids=str)
def test_a_train_step_lowers(platform, attention, sizes, model):
  decoder = _decoder(model, platform, attention, sizes)
  layout, B = decoder.layout, PROMPTS * GROUP
  params = weights.shapes(decoder_lib.specs(decoder.config), layout=layout)
  prompts, tokens = (
    _ints(layout, rows, length)
    for rows, length in ((PROMPTS, PROMPT_LENGTH), (B, LENGTH))
  )
  step = functools.partial(_train_step, decoder)
  text = _lower(step, platform, params, prompts, prompts, tokens, tokens)
  assert ('tpu_custom_call' in text) == (attention == 'splash')
  if decoder.config.num_experts:
    assert 'ragged_dot' in text


@pytest.mark.parametrize('model', ['tiny_qwen3', 'tiny_qwen3_moe'])
@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_a_decode_step_lowers(platform, model):
  decoder = _decoder(model, platform, 'auto', {'fsdp': 4, 'tensor': 2})
  layout, B = decoder.layout, PROMPTS * GROUP
  specs = decoder_lib.specs(decoder.config)
  params = weights.shapes(specs, layout=layout, dtype='bfloat16')
  prefix, own = (
    jax.eval_shape(
      functools.partial(
        cache_lib.empty, decoder.config, rows, length,
        dtype='bfloat16', layout=layout,
      )
    )
    for rows, length in ((PROMPTS, PROMPT_LENGTH), (B, LENGTH))
  )  # fmt: skip
  step = functools.partial(_decode_step, decoder)
  text = _lower(
    step, platform, params, _ints(layout, B, 1), prefix, own, jnp.int32(3)
  )
  # Scores of half precision keys, in float32.
  assert re.search(r'bf16>.*bf16>\) -> tensor<[0-9x]+xf32>', text)
