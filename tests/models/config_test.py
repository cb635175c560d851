"""Configs say what is wrong with them, and survive JSON."""

import dataclasses
import json

import pytest

from rlpt_jax.models import zoo
from rlpt_jax.models.config import Compute, Decoder, DecoderConfig


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_layers': 0}, 'num_layers=0: expected a whole number of at least 1'),
    ({'vocab_size': 1.5}, r'vocab_size=1\.5: expected a whole number'),
    ({'family': 'gpt'}, "family='gpt': expected 'llama', 'qwen2'"),
    ({'num_heads': 3}, 'num_heads=3: expected a multiple of num_kv_heads=2'),
    ({'head_dim': 7}, 'head_dim=7: expected an even size'),
    ({'rope_layers': (True,)}, 'has 1 entries, expected num_layers=2'),
    ({'experts_per_token': 3}, 'experts_per_token=3: expected 1 to'),
    ({'num_experts': 4}, 'experts_per_token=0: expected 1 to num_experts=4'),
  ],
)
def test_a_wrong_field_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(zoo.get('tiny_qwen3'), **changes)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'dtype': 'float16'}, "dtype='float16': expected 'float32' or 'bfloat16'"),
    ({'remat': 'all'}, "remat='all': expected 'none', 'layer' or 'dots'"),
    ({'head_chunk': 0}, 'head_chunk=0: expected a whole number of at least'),
  ],
)
def test_a_wrong_way_to_compute_is_named(fields, message):
  with pytest.raises(ValueError, match=message):
    Compute(**fields)


@pytest.mark.parametrize('name', zoo.MODELS)
def test_json_there_and_back(name):
  config = zoo.get(name)
  text = json.dumps(config.to_dict())
  assert DecoderConfig.from_dict(json.loads(text)) == config


def test_a_decoder_is_a_static_argument(one_device):
  first, second = (
    Decoder(zoo.get('tiny_smollm3'), Compute(), one_device) for _ in range(2)
  )
  assert first == second
  assert hash(first) == hash(second)
  assert first != dataclasses.replace(first, compute=Compute(remat='layer'))
