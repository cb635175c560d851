"""Small random transformers models of every family, in shapes that hide no bug:
head_dim is not embed / heads, nothing is a multiple of anything.
"""

import numpy as np

from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface
from rlpt_jax.models.config import Compute, Decoder

SHAPES = {
  'vocab_size': 103, 'hidden_size': 36, 'intermediate_size': 55,
  'num_hidden_layers': 3, 'num_attention_heads': 3, 'num_key_value_heads': 1,
  'head_dim': 14, 'max_position_embeddings': 333, 'rms_norm_eps': 2e-5,
  'rope_theta': 1234.5, 'bos_token_id': 1, 'eos_token_id': 2,
  'pad_token_id': 0,
}  # fmt: skip
LLAMA3_SCALING = {
  'rope_type': 'llama3', 'factor': 4.0, 'low_freq_factor': 1.0,
  'high_freq_factor': 4.0, 'original_max_position_embeddings': 64,
}  # fmt: skip
MOE = {'num_experts': 5, 'num_experts_per_tok': 2, 'moe_intermediate_size': 23}
# Several key heads too: with one, their order cannot be wrong.
TWO_KV = {'num_attention_heads': 4, 'num_key_value_heads': 2}
# case -> (family, what is special about it)
CASES = {
  'llama': ('llama', {'rope_scaling': LLAMA3_SCALING}),
  'llama_tied': ('llama', {'tie_word_embeddings': True, **TWO_KV}),
  'qwen2': ('qwen2', {'tie_word_embeddings': True}),
  'qwen2_untied': ('qwen2', TWO_KV),
  'qwen3': ('qwen3', {}),
  'qwen3_tied': ('qwen3', {'tie_word_embeddings': True, **TWO_KV}),
  'qwen3_moe': ('qwen3_moe', {**MOE, 'norm_topk_prob': True}),
  'qwen3_moe_raw': ('qwen3_moe', {**MOE, 'norm_topk_prob': False, **TWO_KV}),
  'smollm3': ('smollm3', {
    'no_rope_layers': [1, 0, 1], 'tie_word_embeddings': True,
    'num_key_value_heads': 3,
  }),
}  # fmt: skip
FAMILIES = tuple(CASES)


# Plain loops: torch's grouped products refuse odd shapes.
EAGER = {'attn_implementation': 'eager', 'experts_implementation': 'eager'}


def torch_model(case):
  """A transformers model with random float32 weights, biases and norms too."""
  import torch
  import transformers

  family, special = CASES[case]
  config = transformers.AutoConfig.for_model(
    family, **SHAPES | {'tie_word_embeddings': False} | special
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


def greedy(model, lengths, *, max_new_tokens, eos=None):
  """What transformers generates for `ragged_batch`; after eos, eos again."""
  import torch

  tokens, mask = ragged_batch(vocab=103, lengths=lengths, left=True)
  with torch.no_grad():
    whole = model.generate(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(mask),
      max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=eos,
      pad_token_id=eos,
    )  # fmt: skip
  return whole[:, tokens.shape[1] :].numpy()


def load(directory, layout):
  """(decoder, parameters) of a Hugging Face directory, in float32."""
  config = huggingface.load_config(directory)
  params = huggingface.load(directory, decoder_lib.specs(config), layout=layout)
  return Decoder(config, Compute(dtype='float32'), layout), params
