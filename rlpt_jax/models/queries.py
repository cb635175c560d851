"""The queries, keys and values of a layer, from hidden states."""

import jax.numpy as jnp

from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import layers, write_kernel
from rlpt_jax.models.config import Decoder


def join(q, k, v):
  """One array [..., K, R + 2, H] of weights (or biases) of N = K * R queries.

  For each key-value head, it has those of its queries, its key and its value.
  """
  *rest, K, H = k.shape
  q = q.reshape(*rest, K, -1, H)
  return jnp.concatenate([q, k[..., None, :], v[..., None, :]], axis=-2)


def project(decoder: Decoder, p, h_BTD, rope, rotates):
  """(queries [B, T, N, H], keys and values [B, K, T, H]) of new tokens.

  rope: (cosines, sines) of the positions, [B, T, H / 2] each.
  rotates: False in a layer without rotary positions.
  """
  c, layout = decoder.config, decoder.layout
  if 'w_qkv' in p:
    q_BTNH, k_BTKH, v_BTKH = _split(_joined(c, p, h_BTD))
  else:
    q_BTNH = jnp.einsum('BTD,DNH->BTNH', h_BTD, p['w_q'])
    k_BTKH = jnp.einsum('BTD,DKH->BTKH', h_BTD, p['w_k'])
    v_BTKH = jnp.einsum('BTD,DKH->BTKH', h_BTD, p['w_v'])
    if c.qkv_bias:
      q_BTNH, k_BTKH, v_BTKH = (
        q_BTNH + p['b_q'],
        k_BTKH + p['b_k'],
        v_BTKH + p['b_v'],
      )
  if c.qk_norm:
    q_BTNH = layers.rms_norm(q_BTNH, p['q_norm'], eps=c.norm_eps)
    k_BTKH = layers.rms_norm(k_BTKH, p['k_norm'], eps=c.norm_eps)
  rope = _rope_here(c, rope, rotates)
  q_BTNH, k_BTKH = (layers.rotate(x, *rope) for x in (q_BTNH, k_BTKH))
  q_BTNH = layout.constrain(q_BTNH, 'batch', None, 'heads', None)
  k_BKTH, v_BKTH = (
    layout.constrain(jnp.swapaxes(x, 1, 2), 'batch', 'kv_heads', None, None)
    for x in (k_BTKH, v_BTKH)
  )
  return q_BTNH, k_BKTH, v_BKTH


def project_and_write(decoder: Decoder, p, h_B1D, rope, rotates, own, column):
  """(queries [B, 1, N, H], the row's keys and values) of a decode step.

  own: (k_BKHS, v_BKSH), whose column is written.
  """
  c = decoder.config
  k_BKHS, v_BKSH = own
  if 'w_qkv' in p and write_kernel.fits(decoder, k_BKHS):
    q_BNH, *own = write_kernel.rotate_and_write(
      _joined(c, p, h_B1D)[:, 0],
      (p['q_norm'], p['k_norm']) if c.qk_norm else (),
      [x_B1H[:, 0] for x_B1H in _rope_here(c, rope, rotates)],
      k_BKHS, v_BKSH, column, layout=decoder.layout, eps=c.norm_eps,
    )  # fmt: skip
    return q_BNH[:, None], *own
  q_B1NH, k_BK1H, v_BK1H = project(decoder, p, h_B1D, rope, rotates)
  k_BKH1 = jnp.swapaxes(k_BK1H, 2, 3)
  return (
    q_B1NH,
    cache_lib.put(k_BKHS, k_BKH1, column, axis=3),
    cache_lib.put(v_BKSH, v_BK1H, column, axis=2),
  )


def _joined(c, p, h_BTD):
  joined_BTKXH = jnp.einsum('BTD,DKXH->BTKXH', h_BTD, p['w_qkv'])
  return joined_BTKXH + p['b_qkv'] if c.qkv_bias else joined_BTKXH


def _split(joined_BTKXH):
  B, T, _, _, H = joined_BTKXH.shape
  q_BTNH = joined_BTKXH[..., :-2, :].reshape(B, T, -1, H)
  return q_BTNH, joined_BTKXH[..., -2, :], joined_BTKXH[..., -1, :]


def _rope_here(c, rope, rotates):
  if not c.rope_layers:
    return rope
  # Where nothing is rotated, cos = 1 and sin = 0 change nothing.
  cos, sin = rope
  return jnp.where(rotates, cos, 1.0), jnp.where(rotates, sin, 0.0)
