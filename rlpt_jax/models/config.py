"""What a decoder is (`DecoderConfig`), how it is computed (`Compute`), and
both with the place it runs (`Decoder`).
"""

import dataclasses
import typing
from typing import Any, Literal

from rlpt_jax.core.layout import Layout

Family = Literal['llama', 'qwen2', 'qwen3', 'qwen3_moe', 'smollm3']


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3's stretching of the slow rotations to a longer context."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """The mathematics of a decoder. A family is a choice of these fields."""

  family: Family
  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int  # Of each expert, where there are experts.
  max_length: int  # Positions seen in training; nothing enforces it.
  norm_eps: float = 1e-6
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  rope_layers: tuple[bool, ...] | None = None  # Which rotate; None: all.
  tied_head: bool = False
  qkv_bias: bool = False
  qk_norm: bool = False
  num_experts: int = 0
  experts_per_token: int = 0
  normalize_router: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type in (bool, float) and not isinstance(value, field.type):
        raise ValueError(
          f'{field.name}={value!r}: expected a {field.type.__name__}.'
        )
      least = 0 if field.name in ('num_experts', 'experts_per_token') else 1
      if field.type is int and (not isinstance(value, int) or value < least):
        raise ValueError(
          f'{field.name}={value!r}: expected an integer of at least {least}.'
        )
    if self.family not in typing.get_args(Family):
      raise ValueError(
        f'family={self.family!r}: expected one of {typing.get_args(Family)}.'
      )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads}: expected a multiple of '
        f'num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim}: expected an even size, rotary positions '
        'turn pairs.'
      )
    if self.rope_layers and len(self.rope_layers) != self.num_layers:
      raise ValueError(
        f'rope_layers names {len(self.rope_layers)} layers, expected '
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
    """Plain values, for JSON; `from_dict` reads them."""
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
  """How a decoder is computed; no field changes what it computes.

  dtype: of activations and of the matrix products. Parameters keep their own,
    and the head is float32 always (ScaleRL: 0.52 -> 0.61 asymptotic reward).
  remat: what the backward pass recomputes: 'none', 'layer' (all but the input
    of each layer) or 'dots' (all but the matrix products).
  attention: the kernel, see attention.KERNELS; 'auto' picks by platform.
  unroll: layers one by one instead of a scan, to look at them one by one.
  head_chunk: positions of each row whose logits exist at the same time.
  """

  dtype: Literal['float32', 'bfloat16'] = 'bfloat16'
  remat: Literal['none', 'layer', 'dots'] = 'none'
  attention: str = 'auto'
  unroll: bool = False
  head_chunk: int = 128

  def __post_init__(self):
    for name, kind in typing.get_type_hints(type(self)).items():
      value, allowed = getattr(self, name), typing.get_args(kind)
      if allowed and value not in allowed:
        raise ValueError(f'{name}={value!r}: expected one of {allowed}.')
    if self.head_chunk < 1:
      raise ValueError(f'head_chunk={self.head_chunk}: expected at least 1.')

  @property
  def precision(self) -> str:
    """Of matrix products: float32 means float32 on TPU and GPU too."""
    return 'highest' if self.dtype == 'float32' else 'default'


@dataclasses.dataclass(frozen=True)
class Decoder:
  """All that is static about a forward pass: the argument jit's cache sees."""

  config: DecoderConfig
  compute: Compute
  layout: Layout
