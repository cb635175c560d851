"""The configuration of a decoder: its mathematics (`DecoderConfig`), how it is
computed (`Compute`), and both together with a layout (`Decoder`).
"""

import dataclasses
from typing import Any, Literal

from rlpt_jax.core import checks
from rlpt_jax.core.checks import Count, Natural, NonNegative, Positive
from rlpt_jax.core.layout import Layout

Family = Literal['llama', 'qwen2', 'qwen3', 'qwen3_moe', 'smollm3']


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's extension to long contexts, which slows down low frequencies."""

  factor: Positive
  low_freq_factor: Positive
  high_freq_factor: Positive
  original_length: Count

  def __post_init__(self):
    checks.check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """A decoder's architecture; `family` only matters for its files."""

  family: Family
  vocab_size: Count
  embed_dim: Count
  num_layers: Count
  num_heads: Count
  num_kv_heads: Count
  head_dim: Count
  mlp_dim: Count  # With experts: the size of each expert.
  max_length: Count  # Longest length seen in training; not enforced.
  norm_eps: NonNegative = 1e-6
  rope_theta: Positive = 10_000.0
  rope_scaling: RopeScaling | None = None
  rope_layers: tuple[bool, ...] | None = None  # Which are rotary; None: all.
  tied_head: bool = False
  qkv_bias: bool = False
  qk_norm: bool = False
  num_experts: Natural = 0
  experts_per_token: Natural = 0
  normalize_router: bool = False

  def __post_init__(self):
    checks.check_fields(self)
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads}: expected a multiple of '
        f'num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim}: expected an even size, because rotary '
        'embeddings rotate pairs.'
      )
    if self.rope_layers and len(self.rope_layers) != self.num_layers:
      raise ValueError(
        f'rope_layers has {len(self.rope_layers)} entries, expected '
        f'num_layers={self.num_layers}.'
      )
    if not self.experts_per_token <= self.num_experts or (
      self.num_experts and not self.experts_per_token
    ):
      raise ValueError(
        f'experts_per_token={self.experts_per_token}: expected 1 to '
        f'num_experts={self.num_experts}.'
      )

  def to_dict(self) -> dict[str, Any]:
    """Plain values for JSON; `from_dict` is the inverse."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: dict[str, Any]) -> 'DecoderConfig':
    fields = dict(fields)
    if fields.get('rope_scaling'):
      fields['rope_scaling'] = RopeScaling(**fields['rope_scaling'])
    if fields.get('rope_layers'):
      fields['rope_layers'] = tuple(fields['rope_layers'])
    return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Compute:
  """Options of the computation; they change rounding, speed and memory only.

  dtype: of activations and matrix products. Parameters keep their own dtype,
    and the head's logits are always float32 (in ScaleRL, a float32 head raised
    the asymptotic reward from 0.52 to 0.61).
  remat: what the backward pass recomputes: 'none' (nothing), 'layer'
    (everything but the input of each layer) or 'dots' (everything but the
    results of products with weights other than experts', and of cuDNN's
    attention with a prefix). On a CPU, XLA keeps everything if `unroll` is set.
  attention: a kernel of attention.KERNELS, or 'auto' to pick by platform.
  unroll: compiles each layer separately instead of a loop over layers. A loop
    compiles faster, but copies what the backward pass keeps of each layer.
  head: how the head's float32 products are computed, see head.PRODUCTS.
  head_chunk: positions of each row whose logits are computed at a time.
  """

  dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
  remat: Literal['none', 'layer', 'dots'] = 'none'
  attention: str = 'auto'
  unroll: bool = False
  head: Literal['highest', 'bf16_x6', 'bf16_x3'] = 'bf16_x3'
  head_chunk: Count = 128

  def __post_init__(self):
    checks.check_fields(self)

  @property
  def precision(self) -> str:
    """Matmul precision; float32 means full float32, on TPU and GPU too."""
    return 'highest' if self.dtype == 'float32' else 'default'


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Everything static about a forward pass, as one static argument of jit."""

  config: DecoderConfig
  compute: Compute
  layout: Layout
