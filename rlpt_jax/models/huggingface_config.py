"""Converts between Hugging Face's config.json and DecoderConfig.

Each field of a config.json must be one that we read, one whose value must equal
what we implement, or one known to have no effect. Any other field is an error,
unless it is null, false or empty: failing to load is better than computing
something else.
"""

from typing import Any

from rlpt_jax.models.config import DecoderConfig, RopeScaling

# Our field -> theirs. Fields that a config.json may omit have defaults below.
FIELDS = {
  'vocab_size': 'vocab_size',
  'embed_dim': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'head_dim': 'head_dim',
  'mlp_dim': 'intermediate_size',
  'max_length': 'max_position_embeddings',
  'norm_eps': 'rms_norm_eps',
  'tied_head': 'tie_word_embeddings',
}
MOE_FIELDS = {
  'mlp_dim': 'moe_intermediate_size',
  'num_experts': 'num_experts',
  'experts_per_token': 'num_experts_per_tok',
  'normalize_router': 'norm_topk_prob',
}
ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'qwen3_moe': 'Qwen3MoeForCausalLM',
  'smollm3': 'SmolLM3ForCausalLM',
}
# Newer name of a field -> the name we read.
ALIASES = {'num_local_experts': 'num_experts'}
# Values that transformers assumes if a family's config.json omits the field.
DEFAULTS = {
  'llama': {'tie_word_embeddings': False, 'rope_theta': 10_000.0},
  'qwen2': {'tie_word_embeddings': False, 'rope_theta': 10_000.0},
  'qwen3': {
    'tie_word_embeddings': False, 'rope_theta': 10_000.0, 'head_dim': 128,
  },
  'qwen3_moe': {
    'tie_word_embeddings': False, 'rope_theta': 10_000.0,
    'norm_topk_prob': False,
  },
  'smollm3': {'tie_word_embeddings': True, 'rope_theta': 2_000_000.0},
}  # fmt: skip

# Fields that, if present and not null, must have the one value we implement.
REQUIRED = {
  'hidden_act': 'silu',
  'attention_bias': False,
  'mlp_bias': False,
  'attention_dropout': 0.0,
  'use_sliding_window': False,
  'partial_rotary_factor': 1.0,
  'decoder_sparse_step': 1,
  'mlp_only_layers': [],
  'is_encoder_decoder': False,
  'add_cross_attention': False,
  'quantization_config': None,
}
# Fields that do not affect what is computed: bookkeeping, generation defaults,
# training options, and window sizes, which REQUIRED keeps unused.
HARMLESS = {
  '_name_or_path', 'architectures', 'auto_map', 'bos_token_id', 'dtype',
  'eos_token_id', 'id2label', 'initializer_range', 'label2id',
  'max_window_layers', 'model_type', 'output_router_logits', 'pad_token_id',
  'pretraining_tp', 'router_aux_loss_coef', 'sliding_window', 'torch_dtype',
  'transformers_version', 'use_cache', 'written_by',
}  # fmt: skip
ROPE_FIELDS = {
  'rope_parameters', 'rope_scaling', 'rope_theta', 'no_rope_layers',
  'no_rope_layer_interval', 'layer_types',
}  # fmt: skip


def read_config(json: dict[str, Any], *, where: str = 'config.json'):
  """The DecoderConfig that a parsed config.json describes."""
  if not isinstance(json, dict):
    raise ValueError(f'{where}: expected an object of fields.')
  try:
    return _read_config(json, where)
  except (AttributeError, TypeError, ZeroDivisionError) as error:
    raise ValueError(
      f'{where}: a field has a value of the wrong type: {error}.'
    ) from error


def _read_config(json: dict[str, Any], where: str) -> DecoderConfig:
  family = json.get('model_type')
  if family not in ARCHITECTURES:
    raise ValueError(
      f'{where}: model_type={family!r} is not implemented, expected one of '
      f'{", ".join(ARCHITECTURES)}.'
    )
  fields = FIELDS | (MOE_FIELDS if family == 'qwen3_moe' else {})
  json = {ALIASES.get(name, name): value for name, value in json.items()}
  known = {
    *FIELDS.values(),
    *fields.values(),
    *REQUIRED,
    *HARMLESS,
    *ROPE_FIELDS,
  }
  for name, value in json.items():
    if name in REQUIRED and value not in (REQUIRED[name], None):
      raise ValueError(
        f'{where}: {name}={value!r} is not implemented, expected '
        f'{REQUIRED[name]!r}.'
      )
    # An unknown feature is harmless if it is off.
    if name not in known and value not in (None, False, [], {}):
      raise ValueError(
        f'{where}: {name}={value!r} is unknown to rlpt_jax and may change '
        'what the model computes. If it does not, add it to HARMLESS in '
        f'{__name__}.'
      )
  json = DEFAULTS[family] | {k: v for k, v in json.items() if v is not None}
  if 'num_attention_heads' in json:
    json.setdefault('num_key_value_heads', json['num_attention_heads'])
  if 'head_dim' not in json and 'hidden_size' in json:
    json['head_dim'] = json['hidden_size'] // json['num_attention_heads']
  missing = [theirs for theirs in fields.values() if theirs not in json]
  if missing:
    raise ValueError(f'{where}: {", ".join(missing)} missing.')
  theta, scaling = _read_rope(json, where)
  sizes = {ours: json[theirs] for ours, theirs in fields.items()}
  if isinstance(sizes['norm_eps'], int):
    sizes['norm_eps'] = float(sizes['norm_eps'])
  return DecoderConfig(
    family=family,
    qkv_bias=family == 'qwen2',
    qk_norm=family in ('qwen3', 'qwen3_moe'),
    rope_theta=theta,
    rope_scaling=scaling,
    rope_layers=_read_rope_layers(json, where),
    **sizes,
  )


def _read_rope(json, where) -> tuple[float, RopeScaling | None]:
  # transformers 5 writes rope_parameters; 4 writes rope_theta and rope_scaling.
  rope = {'rope_theta': json['rope_theta']}
  rope |= json.get('rope_scaling') or {}
  rope |= json.get('rope_parameters') or {}
  theta = float(rope.pop('rope_theta'))
  kind = rope.pop('rope_type', None) or rope.pop('type', None) or 'default'
  rope.pop('type', None)  # Some files have both keys.
  if rope.pop('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(f'{where}: partial_rotary_factor is not implemented.')
  if kind == 'default':
    expected = set()
  elif kind == 'llama3':
    expected = {
      'factor', 'low_freq_factor', 'high_freq_factor',
      'original_max_position_embeddings',
    }  # fmt: skip
  else:
    raise ValueError(
      f'{where}: rope_type={kind!r} is not implemented, expected default or '
      'llama3.'
    )
  if set(rope) != expected:
    raise ValueError(
      f'{where}: rope_type={kind!r} has {sorted(rope)}, expected '
      f'{sorted(expected)}.'
    )
  if kind == 'default':
    return theta, None
  return theta, RopeScaling(
    float(rope['factor']),
    float(rope['low_freq_factor']),
    float(rope['high_freq_factor']),
    rope['original_max_position_embeddings'],
  )


def _read_rope_layers(json, where) -> tuple[bool, ...] | None:
  L, family = json['num_hidden_layers'], json['model_type']
  for kind in json.get('layer_types', []):
    if kind != 'full_attention':
      raise ValueError(
        f'{where}: layer_types has {kind!r}, which is not implemented; '
        "expected 'full_attention' everywhere."
      )
  named = [k for k in ('no_rope_layers', 'no_rope_layer_interval') if k in json]
  if family != 'smollm3':
    if named:
      raise ValueError(f'{where}: {named[0]} is implemented for smollm3 only.')
    return None
  # Despite the name, 1 means that the layer has rotary positions.
  interval = json.get('no_rope_layer_interval', 4)
  layers = json.get('no_rope_layers') or [(i + 1) % interval for i in range(L)]
  return tuple(bool(rotates) for rotates in layers[:L])


def write_config(c: DecoderConfig, *, dtype: str) -> dict[str, Any]:
  """The config.json with which transformers 4 and 5 load this model."""
  fields = FIELDS | (MOE_FIELDS if c.family == 'qwen3_moe' else {})
  json = {
    'architectures': [ARCHITECTURES[c.family]],
    'model_type': c.family,
    'hidden_act': 'silu',
    'attention_bias': False,
    'torch_dtype': dtype,
    # Unset explicitly: transformers has default ids for some families.
    'bos_token_id': None,
    'eos_token_id': None,
    'pad_token_id': None,
    'rope_theta': c.rope_theta,
    'rope_scaling': None,
    **{theirs: getattr(c, ours) for ours, theirs in fields.items()},
  }
  if c.family == 'qwen3_moe':
    # Both describe dense layers; step 1 means that there are none.
    json |= {'intermediate_size': c.mlp_dim, 'decoder_sparse_step': 1}
  if c.family == 'qwen2':
    del json['attention_bias']  # Qwen2 has no such field: its biases are fixed.
  if c.rope_scaling:
    json['rope_scaling'] = {
      'rope_type': 'llama3',
      'factor': c.rope_scaling.factor,
      'low_freq_factor': c.rope_scaling.low_freq_factor,
      'high_freq_factor': c.rope_scaling.high_freq_factor,
      'original_max_position_embeddings': c.rope_scaling.original_length,
    }
  if c.rope_layers:
    json['no_rope_layers'] = [int(rotates) for rotates in c.rope_layers]
  if read_config(json) != c:
    raise ValueError(
      f'{c}: cannot be written as a {c.family} config.json, which has no '
      'fields for features of other families.'
    )
  return json
