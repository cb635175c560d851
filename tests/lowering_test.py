"""What learns and what decodes lowers for GPU and TPU from a machine without.

The cuDNN kernel cannot be traced without cuDNN, so 'cuda' lowers with XLA's.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, zoo
from rlpt_jax.models.config import Compute, Decoder
from rlpt_jax.sampling import caches, chunks
from rlpt_jax.sampling.table import Sizes, Table

PROMPTS, GROUP, PROMPT_LENGTH, LENGTH = 4, 4, 256, 128
CASES = [
  ('cuda', 'xla', {}),
  ('cuda', 'xla', {'fsdp': 2, 'expert': 2, 'tensor': 2}),
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


def _lower(step, platform, *arguments):
  # Refused by default, because it may change; but nothing here is kept.
  triton = jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')
  export = jax.export.export(
    jax.jit(step), platforms=[platform], disabled_checks=[triton]
  )
  return export(*arguments).mlir_module()


@pytest.mark.slow
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
    for kernel in ('grouped_product', 'grouped_gradient'):
      assert (f'name = "{kernel}"' in text) == (platform == 'cuda')
    assert ('ragged_dot' in text) == (platform == 'tpu')


@pytest.mark.parametrize('cache_dtype', ['bfloat16', 'int8'])
@pytest.mark.parametrize('model', ['tiny_qwen3', 'tiny_qwen3_moe'])
@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_prefill_and_decode_lower(platform, model, cache_dtype):
  attention = 'xla' if platform == 'cuda' else 'auto'
  decoder = _decoder(model, platform, attention, {'fsdp': 4, 'tensor': 2})
  layout, slots = decoder.layout, PROMPTS * GROUP
  params = jax.eval_shape(
    decoder_lib.unstack,
    weights.shapes(decoder_lib.specs(decoder.config), dtype='bfloat16'),
  )
  prefixes, own = (
    jax.eval_shape(
      functools.partial(caches.empty, decoder, rows, length, cache_dtype)
    )
    for rows, length in ((PROMPTS, PROMPT_LENGTH), (2 * slots, LENGTH // 2))
  )
  prompts = _ints(layout, PROMPTS, PROMPT_LENGTH)
  fill = functools.partial(chunks.prefill_into, decoder)
  rows_P = jax.ShapeDtypeStruct((PROMPTS,), jnp.int32)
  text = _lower(fill, platform, params, prefixes, prompts, prompts, rows_P)
  assert ('tpu_custom_call' in text) == (platform == 'tpu')

  readers = cache_lib.Readers(
    np.arange(slots, dtype=np.int32).reshape(PROMPTS, GROUP),
    np.arange(slots, dtype=np.int32),
  )
  table = Table(slots, Sizes()).slots(
    np.full(PROMPTS, 9, np.int32), readers,
    blocks_BM=np.zeros((slots, 2), np.int32),
  )  # fmt: skip
  step = functools.partial(chunks.decode_steps, decoder, steps=16)
  text = _lower(step, platform, params, prefixes, own, table)
  # Scores of half precision keys, in float32.
  assert re.search(r'bf16>.*bf16>\) -> tensor<[0-9x]+xf32>', text)
  assert 'f64' not in text
  if platform == 'cuda' and decoder.config.num_experts:
    assert 'name = "grouped_product"' in text


@pytest.mark.parametrize('sizes', [{}, {'data': 4, 'tensor': 2}], ids=str)
def test_decoding_on_gpus_lowers_to_the_kernel(sizes):
  decoder = _decoder('tiny_qwen3', 'cuda', 'auto', sizes)
  params = jax.eval_shape(
    decoder_lib.unstack,
    weights.shapes(decoder_lib.specs(decoder.config), dtype='bfloat16'),
  )
  prefixes, own = (
    jax.eval_shape(
      functools.partial(caches.empty, decoder, rows, length, 'bfloat16')
    )
    for rows, length in ((PROMPTS, PROMPT_LENGTH), (PROMPTS * GROUP, LENGTH))
  )
  lengths, blocks_BM = np.full(PROMPTS, 9), np.zeros((PROMPTS * GROUP, 2))
  table = Table(PROMPTS * GROUP, Sizes()).slots(
    lengths, None, blocks_BM=blocks_BM.astype(np.int32)
  )
  step = functools.partial(chunks.decode_steps, decoder, steps=16)
  traced = jax.jit(step).trace(params, prefixes, own, table)
  try:
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
  except RuntimeError as error:
    pytest.skip(f'JAX {jax.__version__} needs to see a GPU: {error}')
  assert len(re.findall('attend_to_filled', text)) >= decoder.config.num_layers
  assert 'gpu.triton' in text
