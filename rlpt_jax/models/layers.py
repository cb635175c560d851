"""The parts of a layer besides attention: norm, rotary positions and mlp."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.models.config import DecoderConfig


def rms_norm(x_D, scale_D, *, eps: float):
  """x divided by its root mean square, computed in float32, times the scale."""
  x32_D = x_D.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(x32_D), axis=-1, keepdims=True)
  normed_D = (x32_D * jax.lax.rsqrt(mean_square + eps)).astype(x_D.dtype)
  return normed_D * scale_D.astype(x_D.dtype)


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
  """Radians per position for each pair of dimensions of a head, float32."""
  exponents = np.arange(0, config.head_dim, 2, np.float32) / config.head_dim
  frequencies = 1.0 / np.float32(config.rope_theta) ** exponents
  scaling = config.rope_scaling
  if scaling is None:
    return frequencies.astype(np.float32)
  # Frequencies with many turns within the original context stay, those with
  # few are divided by `factor`, and those between are interpolated.
  turns = scaling.original_length * frequencies / (2 * math.pi)
  ramp = (turns - scaling.low_freq_factor) / (
    scaling.high_freq_factor - scaling.low_freq_factor
  )
  keep = np.clip(ramp, 0.0, 1.0)
  stretched = keep * frequencies + (1 - keep) * frequencies / scaling.factor
  return stretched.astype(np.float32)


def rope_tables(positions_BT, config: DecoderConfig):
  """(cosines, sines) for every position, float32: [B, T, H / 2] each."""
  angles = positions_BT[..., None].astype(jnp.float32) * rope_frequencies(
    config
  )
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH, cos_BTH, sin_BTH):
  """x with each pair of dimensions (i, i + H / 2) rotated; works in float32."""
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos_BTH[:, :, None], sin_BTH[:, :, None]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


@jax.custom_vjp
def linear(x_BTD, w_DF):
  """x @ w, with a backward pass that transposes x and never the gradient.

  By default JAX computes the gradient of w as (dy^T x)^T, and XLA on CPU then
  writes dy to memory in transposed order. That is slow in an mlp, where dy is
  wider than x and is computed from five arrays: it took a fifth of the backward
  pass on one core.
  """
  return jnp.einsum('BTD,DF->BTF', x_BTD, w_DF)


def _linear_forward(x_BTD, w_DF):
  return linear(x_BTD, w_DF), (x_BTD, w_DF)


def _linear_backward(kept, dy_BTF):
  x_BTD, w_DF = kept
  dx_BTD = jnp.einsum('BTF,DF->BTD', dy_BTF, w_DF)
  return dx_BTD, jnp.einsum('BTD,BTF->DF', x_BTD, dy_BTF)


linear.defvjp(_linear_forward, _linear_backward)


def join(gate, up):
  """One array [..., D, 2, F] of the weights of the gate and those beside it."""
  return jnp.stack([gate, up], axis=-2)


def mlp(p, x_BTD, layout):
  """The gated mlp (SwiGLU)."""
  if 'w_gate_up' in p:
    both_BTCF = jnp.einsum('BTD,DCF->BTCF', x_BTD, p['w_gate_up'])
    gate_BTF, up_BTF = both_BTCF[:, :, 0], both_BTCF[:, :, 1]
  else:
    gate_BTF = linear(x_BTD, p['w_gate'])
    up_BTF = linear(x_BTD, p['w_up'])
  hidden_BTF = jax.nn.silu(gate_BTF) * up_BTF
  hidden_BTF = layout.constrain(hidden_BTF, 'batch', None, 'mlp')
  return linear(hidden_BTF, p['w_down'])
