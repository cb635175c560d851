"""Every family against transformers: logits, greedy tokens, files both ways."""

import copy
import functools

import jax
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head, huggingface
from rlpt_jax.models.config import Compute, Decoder
from tests.models import references

FAMILIES = references.FAMILIES


@functools.cache
def _torch_model(family):
  return references.torch_model(family)


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  for family in FAMILIES:
    references.save(_torch_model(family), root / family)
  return root


def _load(directory, layout):
  config = huggingface.load_config(directory)
  specs = decoder_lib.specs(config)
  decoder = Decoder(config, Compute(dtype='float32'), layout)
  return decoder, huggingface.load(directory, specs, layout=layout)


def _export(source, target, **options):
  config = huggingface.load_config(source)
  specs = decoder_lib.specs(config)
  lazy = huggingface.open_params(source, specs)
  arrays = [(path, x.dtype, x.load) for path, x in weights.named(lazy)]
  huggingface.save(target, config, specs, arrays, **options)
  return config


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, params, tokens_BT, segments_BT):
  out = decoder_lib.forward(decoder, params, tokens_BT, segments_BT)
  return head.logits(decoder, params, out.hidden_BTD)


@pytest.mark.parametrize('left', [False, True], ids=['right', 'left'])
@pytest.mark.parametrize('family', FAMILIES)
def test_logits_are_those_of_transformers(
  family, left, directories, one_device
):
  import torch

  tokens, mask = references.ragged_batch(vocab=103, left=left)
  with torch.no_grad():
    # generate() numbers left-padded positions like this; so do we.
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    expected = (
      _torch_model(family)(
        input_ids=torch.tensor(tokens, dtype=torch.long),
        attention_mask=torch.tensor(mask),
        position_ids=torch.tensor(positions),
      )
    ).logits.numpy()
  decoder, params = _load(directories / family, one_device)
  found = np.asarray(_logits(decoder, params, tokens, mask))
  error = np.abs(found - expected)[mask > 0].max() / np.abs(expected).max()
  print(f'{family}: relative logit error {error:.1e}')
  assert error <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('family', ['qwen3', 'qwen3_moe', 'qwen3_moe_raw'])
def test_gradients_are_those_of_transformers(
  family, directories, tmp_path, one_device
):
  import torch

  tokens, mask = references.ragged_batch(vocab=103)
  model = copy.deepcopy(_torch_model(family))
  logits_BTV = model(
    input_ids=torch.tensor(tokens, dtype=torch.long),
    attention_mask=torch.tensor(mask),
  ).logits
  (torch.sin(logits_BTV) * torch.tensor(mask)[..., None]).sum().backward()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(parameter.grad)
  # Gradients in the place of weights, so that they are read as weights are.
  _, expected = _load(references.save(model, tmp_path), one_device)

  decoder, params = _load(directories / family, one_device)

  def loss(params):
    logits_BTV = _logits(decoder, params, tokens, mask)
    return (jax.numpy.sin(logits_BTV) * mask[..., None]).sum()

  found = jax.jit(jax.grad(loss))(params)
  for (name, a), (_, b) in zip(
    weights.named(found), weights.named(expected), strict=True
  ):
    error = np.abs(a - b).max() / np.abs(b).max()
    assert error <= 2e-5, (name, error)


@pytest.mark.parametrize('family', FAMILIES)
def test_import_then_export_is_byte_identical(family, directories, tmp_path):
  source = directories / family
  config = _export(source, tmp_path, companions=source)

  before, after = huggingface.Tensors(source), huggingface.Tensors(tmp_path)
  assert set(before) == set(after)
  for name in before:
    assert before.dtype(name) == after.dtype(name)
    np.testing.assert_array_equal(*before.read(name), *after.read(name))
  assert huggingface.load_config(tmp_path) == config


@pytest.mark.parametrize('family', FAMILIES)
def test_transformers_loads_our_export(family, directories, tmp_path):
  import torch
  import transformers

  source = directories / family
  # Shards of a few kilobytes: the index is read too.
  _export(source, tmp_path, max_shard_bytes=20_000)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, output_loading_info=True, **references.EAGER
  )
  assert not any(info[key] for key in info), info
  tokens = torch.arange(3, 40)[None]
  with torch.no_grad():
    expected = _torch_model(family)(tokens).logits
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=0)
