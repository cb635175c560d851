"""The published sizes, by their published parameter counts."""

import pytest

from rlpt_jax.core import weights
from rlpt_jax.models import decoder, zoo
from rlpt_jax.models.huggingface_config import read_config, write_config

# As the model cards or the safetensors metadata of the published files say; a
# tied head counts once (the files of Qwen3-0.6B and 1.7B store it twice).
PUBLISHED = {
  'llama32_1b': 1_235_814_400,
  'llama32_3b': 3_212_749_824,
  'llama31_8b': 8_030_261_248,
  'qwen25_05b': 494_032_768,
  'qwen25_15b': 1_543_714_304,
  'qwen25_3b': 3_085_938_688,
  'qwen25_7b': 7_615_616_512,
  'qwen3_06b': 596_049_920,
  'qwen3_17b': 1_720_574_976,
  'qwen3_4b': 4_022_468_096,
  'qwen3_8b': 8_190_735_360,
  'qwen3_30b_a3b': 30_532_122_624,
  'smollm3_3b': 3_075_098_624,
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
  specs = decoder.specs(zoo.get(name))
  assert weights.count(specs) == PUBLISHED[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_transformers_counts_the_same(name):
  import torch
  import transformers

  fields = write_config(zoo.get(name), dtype='bfloat16')
  config = transformers.AutoConfig.for_model(**fields)
  with torch.device('meta'):
    model = transformers.AutoModelForCausalLM.from_config(config)
  assert model.num_parameters() == PUBLISHED[name]


def test_every_published_size_is_counted():
  assert {n for n in zoo.MODELS if not n.startswith('tiny')} == set(PUBLISHED)


@pytest.mark.parametrize('name', zoo.MODELS)
def test_config_json_there_and_back(name):
  config = zoo.get(name)
  assert read_config(write_config(config, dtype='float32')) == config


def test_an_unknown_name_lists_the_names():
  with pytest.raises(ValueError, match=r"'gpt5': expected one of llama32_1b,"):
    zoo.get('gpt5')
