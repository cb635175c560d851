"""A field that we do not implement is an error that names it."""

import dataclasses
import json

import pytest

from rlpt_jax.models import zoo
from rlpt_jax.models.config import RopeScaling
from rlpt_jax.models.huggingface_config import read_config, write_config


def _json(name='qwen3_4b', **changes):
  return write_config(zoo.get(name), dtype='bfloat16') | changes


# As published: what a reader of ours meets first.
QWEN3_4B = """{
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
  "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560,
  "initializer_range": 0.02, "intermediate_size": 9728,
  "max_position_embeddings": 40960, "max_window_layers": 36,
  "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
  "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
  "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
  "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
}"""
LLAMA_32_1B = """{
  "architectures": ["LlamaForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "head_dim": 64,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
  "intermediate_size": 8192, "max_position_embeddings": 131072,
  "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
  "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
    "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": true,
  "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 128256
}"""


QWEN25_05B = """{
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
  "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
  "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
  "max_position_embeddings": 32768, "max_window_layers": 24,
  "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true,
  "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
  "use_cache": true, "use_mrope": false, "use_sliding_window": false,
  "vocab_size": 151936
}"""
QWEN3_30B_A3B = """{
  "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
  "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
  "max_position_embeddings": 40960, "max_window_layers": 48,
  "mlp_only_layers": [], "model_type": "qwen3_moe",
  "moe_intermediate_size": 768, "norm_topk_prob": true,
  "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 48, "num_key_value_heads": 4,
  "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null,
  "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
  "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
  "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
}"""
SMOLLM3_3B = """{
  "architectures": ["SmolLM3ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": null, "eos_token_id": 128012,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
  "intermediate_size": 11008, "max_position_embeddings": 65536,
  "max_window_layers": 28, "mlp_bias": false, "model_type": "smollm3",
  "no_rope_layer_interval": 4,
  "no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0,
    1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0],
  "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4,
  "pad_token_id": 128004, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 5000000.0, "sliding_window": null,
  "tie_word_embeddings": true, "torch_dtype": "bfloat16",
  "transformers_version": "4.54.0.dev0", "use_cache": false,
  "use_sliding_window": false, "vocab_size": 128256
}"""


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    (QWEN3_4B, 'qwen3_4b'),
    (LLAMA_32_1B, 'llama32_1b'),
    (QWEN25_05B, 'qwen25_05b'),
    (QWEN3_30B_A3B, 'qwen3_30b_a3b'),
    (SMOLLM3_3B, 'smollm3_3b'),
  ],
)
def test_published_files_are_the_zoo(text, name):
  assert read_config(json.loads(text)) == zoo.get(name)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model_type': 'gemma3'}, "model_type='gemma3' is not implemented"),
    ({'model_type': None}, 'model_type=None'),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu'.*expected 'silu'"),
    ({'use_sliding_window': True}, 'use_sliding_window=True'),
    ({'attention_bias': True}, 'attention_bias=True'),
    ({'attention_dropout': 0.1}, r'attention_dropout=0\.1'),
    ({'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, "'yarn'"),
    ({'rope_scaling': {'type': 'linear', 'factor': 4.0}}, "'linear'"),
    ({'rope_parameters': {'rope_type': 'dynamic'}}, "'dynamic'"),
    ({'rope_scaling': {'rope_type': 'llama3', 'factor': 4.0}}, 'expected.*low'),
    ({'partial_rotary_factor': 0.5}, r'partial_rotary_factor=0\.5'),
    ({'layer_types': ['full_attention', 'sliding_attention']}, 'sliding'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config='),
    (
      {'attn_logit_softcapping': 30.0},
      r'attn_logit_softcapping=30\.0 is unknown',
    ),
    ({'no_rope_layers': [1, 0]}, 'no_rope_layers is implemented for smollm3'),
    ({'num_attention_heads': 7}, r'num_heads=7: expected a multiple'),
    ({'hidden_size': None}, 'hidden_size missing'),
    ({'hidden_size': '2560'}, "embed_dim='2560': expected a whole number"),
    ({'num_hidden_layers': 36.0}, r'num_layers=36\.0: expected a whole number'),
    ({'rms_norm_eps': '1e-6'}, "norm_eps='1e-6': expected a number of"),
    ({'tie_word_embeddings': 'false'}, "tied_head='false': expected True or"),
    ({'rope_scaling': [4]}, 'a field has a value of the wrong type'),
  ],
  ids=str,
)
def test_what_is_not_implemented_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    read_config(_json(**changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'decoder_sparse_step': 2}, 'decoder_sparse_step=2'),
    ({'mlp_only_layers': [0]}, r'mlp_only_layers=\[0\]'),
  ],
)
def test_mixtures_with_dense_layers_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    read_config(_json('qwen3_30b_a3b', **changes))


def test_a_list_is_no_config():
  with pytest.raises(ValueError, match='expected an object'):
    read_config([])


@pytest.mark.parametrize(
  ('name', 'changes'),
  [
    ('smollm3_3b', {'rope_layers': None}),
    ('qwen3_4b', {'qkv_bias': True}),
    ('llama31_8b', {'qk_norm': True}),
  ],
)
def test_what_a_config_json_cannot_say_is_not_written(name, changes):
  config = dataclasses.replace(zoo.get(name), **changes)
  with pytest.raises(ValueError, match='cannot be written as a'):
    write_config(config, dtype='float32')


def test_features_that_are_off_are_no_reason_to_stop():
  changes = {'some_new_feature': False, 'another_one': None}
  assert read_config(_json(**changes)) == zoo.get('qwen3_4b')


def test_rope_parameters_of_transformers_5():
  fields = _json('llama31_8b')
  rope = fields.pop('rope_scaling') | {'rope_theta': fields.pop('rope_theta')}
  config = read_config(fields | {'rope_parameters': rope})
  assert config == zoo.get('llama31_8b')
  assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)


def test_head_dim_may_be_left_out():
  fields = _json('llama31_8b')
  del fields['head_dim']
  assert read_config(fields).head_dim == 4096 // 32


def test_layers_without_rope_by_interval():
  fields = _json('smollm3_3b', no_rope_layer_interval=2)
  del fields['no_rope_layers']
  layers = read_config(fields).rope_layers
  assert layers[:4] == (True, False, True, False)
