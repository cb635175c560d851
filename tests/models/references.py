"""Small random transformers models of every family, in shapes that hide no bug:
head_dim is not embed / heads, nothing is a multiple of anything, one kv head.
"""

import numpy as np

FAMILIES = ('llama', 'qwen2', 'qwen3', 'qwen3_moe', 'smollm3')
SHAPES = {
  'vocab_size': 103, 'hidden_size': 36, 'intermediate_size': 55,
  'num_hidden_layers': 3, 'num_attention_heads': 3, 'num_key_value_heads': 1,
  'head_dim': 14, 'max_position_embeddings': 333, 'rms_norm_eps': 2e-5,
  'rope_theta': 1234.5, 'bos_token_id': 1, 'eos_token_id': 2,
  'pad_token_id': 0,
}  # fmt: skip
OF_FAMILY = {
  'llama': {
    'tie_word_embeddings': False,
    'rope_scaling': {
      'rope_type': 'llama3', 'factor': 4.0, 'low_freq_factor': 1.0,
      'high_freq_factor': 4.0, 'original_max_position_embeddings': 64,
    },
  },
  'qwen2': {'tie_word_embeddings': True},
  'qwen3': {'tie_word_embeddings': False},
  'qwen3_moe': {
    'num_experts': 5, 'num_experts_per_tok': 2, 'moe_intermediate_size': 23,
    'norm_topk_prob': True, 'tie_word_embeddings': False,
  },
  'smollm3': {'no_rope_layers': [1, 0, 1], 'tie_word_embeddings': True},
}  # fmt: skip


# Plain loops: torch's grouped products refuse odd shapes.
EAGER = {'attn_implementation': 'eager', 'experts_implementation': 'eager'}


def torch_model(family, **changes):
  """A transformers model with random float32 weights, biases and norms too."""
  import torch
  import transformers

  config = transformers.AutoConfig.for_model(
    family, **SHAPES | OF_FAMILY[family] | changes
  )
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=torch.float32, **EAGER
  )
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      scale = 0.3 if 'norm' in name else 0.15
      parameter.add_(scale * torch.randn_like(parameter))
  return model.eval()


def save(model, directory):
  model.save_pretrained(directory)
  return directory


def ragged_batch(*, vocab, seed=0, lengths=(11, 4, 1, 7), left=False):
  """(tokens, mask) with rows padded on the right, or on the left."""
  rng = np.random.default_rng(seed)
  tokens = np.zeros((len(lengths), max(lengths)), np.int32)
  mask = np.zeros_like(tokens)
  for row, length in enumerate(lengths):
    place = slice(max(lengths) - length, None) if left else slice(length)
    tokens[row, place] = rng.integers(3, vocab, length)
    mask[row, place] = 1
  return tokens, mask
