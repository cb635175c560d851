"""Configurations of published models by name, and tiny ones of each family."""

from rlpt_jax.models.config import DecoderConfig, RopeScaling


def llama3(*, factor: float, **sizes) -> DecoderConfig:
  """A Llama 3 of given sizes; `factor` divides its low rotary frequencies."""
  defaults = {'vocab_size': 128_256, 'max_length': 131_072}
  return DecoderConfig(
    **defaults | sizes,
    family='llama',
    norm_eps=1e-5,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(factor, 1.0, 4.0, 8192),
  )


def qwen2(**sizes) -> DecoderConfig:
  """A Qwen2.5 of given sizes; it has biases on queries, keys and values."""
  defaults = {'vocab_size': 151_936, 'max_length': 32_768}
  return DecoderConfig(
    **defaults | sizes, family='qwen2', rope_theta=1e6, qkv_bias=True
  )


def qwen3(**sizes) -> DecoderConfig:
  """A Qwen3 of given sizes; it normalises queries and keys."""
  defaults = {
    'family': 'qwen3', 'vocab_size': 151_936, 'max_length': 40_960,
    'rope_theta': 1e6,
  }  # fmt: skip
  return DecoderConfig(**defaults | sizes, qk_norm=True)


def qwen3_moe(**sizes) -> DecoderConfig:
  """A Qwen3-MoE of given sizes: Qwen3 with experts in every layer."""
  return qwen3(family='qwen3_moe', normalize_router=True, **sizes)


def smollm3(**sizes) -> DecoderConfig:
  """A SmolLM3 of given sizes; every fourth layer has no rotary positions."""
  defaults = {'vocab_size': 128_256, 'max_length': 65_536}
  rotates = tuple((i + 1) % 4 != 0 for i in range(sizes['num_layers']))
  return DecoderConfig(
    **defaults | sizes, family='smollm3', rope_theta=5e6, rope_layers=rotates
  )


def _sizes(layers, embed, mlp, heads, kv_heads, head_dim, **more):
  return {
    'num_layers': layers, 'embed_dim': embed, 'mlp_dim': mlp,
    'num_heads': heads, 'num_kv_heads': kv_heads, 'head_dim': head_dim, **more,
  }  # fmt: skip


_TIED = {'tied_head': True}
# The byte tokenizer has 259 tokens.
_TINY = {**_sizes(2, 64, 128, 4, 2, 32), 'vocab_size': 259, 'max_length': 512}

MODELS = {
  'llama32_1b': llama3(
    **_sizes(16, 2048, 8192, 32, 8, 64), **_TIED, factor=32.0),
  'llama32_3b': llama3(
    **_sizes(28, 3072, 8192, 24, 8, 128), **_TIED, factor=32.0),
  'llama31_8b': llama3(**_sizes(32, 4096, 14_336, 32, 8, 128), factor=8.0),
  'qwen25_05b': qwen2(**_sizes(24, 896, 4864, 14, 2, 64), **_TIED),
  'qwen25_15b': qwen2(**_sizes(28, 1536, 8960, 12, 2, 128), **_TIED),
  'qwen25_3b': qwen2(**_sizes(36, 2048, 11_008, 16, 2, 128), **_TIED),
  'qwen25_7b': qwen2(
    **_sizes(28, 3584, 18_944, 28, 4, 128), vocab_size=152_064,
    max_length=131_072),
  'qwen3_06b': qwen3(**_sizes(28, 1024, 3072, 16, 8, 128), **_TIED),
  'qwen3_17b': qwen3(**_sizes(28, 2048, 6144, 16, 8, 128), **_TIED),
  'qwen3_4b': qwen3(**_sizes(36, 2560, 9728, 32, 8, 128), **_TIED),
  'qwen3_8b': qwen3(**_sizes(36, 4096, 12_288, 32, 8, 128)),
  'qwen3_30b_a3b': qwen3_moe(
    **_sizes(48, 2048, 768, 32, 4, 128), num_experts=128, experts_per_token=8),
  'smollm3_3b': smollm3(**_sizes(36, 2048, 11_008, 16, 4, 128), **_TIED),
  # For the quickstart, whose tokenizer has 748 tokens.
  'tiny_world': qwen3(
    **_sizes(3, 128, 384, 8, 8, 16), **_TIED, vocab_size=800, max_length=512,
    rope_theta=1e4),
  'tiny_llama': llama3(**_TINY, factor=8.0),
  'tiny_qwen2': qwen2(**_TINY, **_TIED),
  'tiny_qwen3': qwen3(**_TINY, **_TIED),
  'tiny_qwen3_moe': qwen3_moe(**_TINY, num_experts=4, experts_per_token=2),
  'tiny_smollm3': smollm3(**_TINY | {'num_layers': 4}, **_TIED),
}  # fmt: skip


def get(name: str) -> DecoderConfig:
  """The configuration of the named model; an unknown name raises an error."""
  if name not in MODELS:
    raise ValueError(f'{name!r}: expected one of {", ".join(MODELS)}.')
  return MODELS[name]
