"""A mixture of experts: a router picks the best few experts for each token.

Each device owns some experts (mesh axis `expert`) and sees the tokens of all
devices along that axis: tokens are gathered, each device applies its experts,
and the outputs are summed and scattered back. Sending each token only to the
devices that own its experts would save little: with 8 of 128 experts, these are
most devices anyway. No token is dropped for lack of capacity, and the result
does not depend on the layout.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from rlpt_jax.models.config import Decoder, DecoderConfig
from rlpt_jax.models.grouped import grouped_product


@struct.dataclass
class RouterStats:
  """Sums over the valid tokens, per layer; add them to join several passes."""

  assigned_LE: jax.Array  # Tokens sent to each expert.
  probability_LE: jax.Array  # Summed router probability of each expert.
  tokens_L: jax.Array  # Number of valid tokens.


def load_balance_loss(stats: RouterStats, *, experts_per_token: int):
  """The load balancing loss: 1 for an even load, usually more otherwise.

  Switch Transformer (2101.03961, equation 4), over all layers together as in
  transformers. We divide by `experts_per_token`, which transformers does not,
  so that an even load gives 1 for any number of experts per token.
  """
  total = jnp.maximum(stats.tokens_L.sum(), 1)
  num_experts = stats.assigned_LE.shape[-1]
  assigned_E = stats.assigned_LE.sum(0) / (total * experts_per_token)
  probability_E = stats.probability_LE.sum(0) / total
  return num_experts * jnp.sum(assigned_E * probability_E)


def balance_of(config: DecoderConfig):
  """The function RouterStats -> load balancing loss; None without experts."""
  if not config.num_experts:
    return None
  return functools.partial(
    load_balance_loss, experts_per_token=config.experts_per_token
  )


def moe(p, x_BTD, valid_BT, *, decoder: Decoder):
  """(output of the experts for x_BTD, this layer's RouterStats)."""
  c, layout = decoder.config, decoder.layout
  logits_BTE = jnp.einsum('BTD,DE->BTE', x_BTD, p['w_router'])
  probs_BTE = jax.nn.softmax(logits_BTE.astype(jnp.float32), axis=-1)
  weight_BTC, expert_BTC = jax.lax.top_k(probs_BTE, c.experts_per_token)
  if c.normalize_router:
    weight_BTC /= weight_BTC.sum(-1, keepdims=True)

  x_spec = layout.activation_spec(x_BTD.shape, ('batch', None, None))
  rows_split = 'expert' in layout.batch_axes(x_BTD.shape[0])
  up_spec = PartitionSpec('expert', None, 'tensor')
  down_spec = PartitionSpec('expert', 'tensor', None)
  for axis, size in (('expert', c.num_experts), ('tensor', c.mlp_dim)):
    if size % layout.mesh.shape[axis]:
      raise ValueError(
        f'Layout {axis}={layout.mesh.shape[axis]}: expected a divisor of '
        f'{size}, the {"experts" if axis == "expert" else "mlp_dim"} it splits.'
      )
  y_BTD = jax.shard_map(
    functools.partial(_experts, rows_split=rows_split, layout=layout),
    mesh=layout.mesh,
    in_specs=(x_spec, x_spec, x_spec, up_spec, up_spec, down_spec),
    out_specs=x_spec,
  )(
    x_BTD,
    weight_BTC.astype(x_BTD.dtype),
    expert_BTC,
    p['w_expert_gate'],
    p['w_expert_up'],
    p['w_expert_down'],
  )
  return y_BTD, _router_stats(probs_BTE, expert_BTC, valid_BT)


def _experts(
  x_BTD, weight_BTC, expert_BTC, w_gate_EDF, w_up_EDF, w_down_EFD, *,
  rows_split, layout,
):  # fmt: skip
  """The output of all experts for the tokens of this device.

  Each device applies its own experts to the tokens of all devices along the
  mesh axis `expert`; then their outputs are summed.

  rows_split: True if that axis also splits the rows.
  """
  product = functools.partial(grouped_product, layout=layout)
  if rows_split:
    gather = functools.partial(
      jax.lax.all_gather, axis_name='expert', tiled=True
    )
    x_BTD, weight_BTC, expert_BTC = map(gather, (x_BTD, weight_BTC, expert_BTC))
  else:
    # Say explicitly that x varies along the axis: if jax 0.10 has to infer this
    # at the indexing below, the gradient of x lacks the sum over experts.
    x_BTD = jax.lax.pcast(x_BTD, 'expert', to='varying')
  E, D, _ = w_gate_EDF.shape
  C = weight_BTC.shape[-1]
  x_MD, weight_MC = x_BTD.reshape(-1, D), weight_BTC.reshape(-1, C)

  # Each token has C (token, expert) pairs. Sort the pairs of this device's
  # experts to the front, by expert.
  own_expert_J = expert_BTC.reshape(-1) - jax.lax.axis_index('expert') * E
  is_own_J = (own_expert_J >= 0) & (own_expert_J < E)
  own_expert_J = jnp.where(is_own_J, own_expert_J, E)
  order_J = jnp.argsort(own_expert_J, stable=True)
  sizes_E = jnp.bincount(own_expert_J, length=E).astype(jnp.int32)

  # A product leaves the rows beyond its groups undefined, in its gradient too.
  # Masking its input keeps undefined gradients out of x.
  own_J1 = is_own_J[order_J][:, None]
  x_JD = jnp.where(own_J1, x_MD[order_J // C], 0)
  gate_JF = product(x_JD, w_gate_EDF, sizes_E)
  up_JF = product(x_JD, w_up_EDF, sizes_E)
  y_JD = product(jax.nn.silu(gate_JF) * up_JF, w_down_EFD, sizes_E)

  # Undo the sort.
  y_JD = jnp.where(own_J1, y_JD, 0)
  y_MCD = y_JD[jnp.argsort(order_J)].reshape(-1, C, D)
  y_MD = jnp.einsum('MCD,MC->MD', y_MCD, weight_MC)
  y_BTD = jax.lax.psum(y_MD.reshape(x_BTD.shape), 'tensor')
  if rows_split:
    return jax.lax.psum_scatter(
      y_BTD, 'expert', scatter_dimension=0, tiled=True
    )
  return jax.lax.psum(y_BTD, 'expert')


def _router_stats(probs_BTE, expert_BTC, valid_BT) -> RouterStats:
  valid_BT1 = valid_BT[..., None].astype(jnp.float32)
  chosen_BTE = jax.nn.one_hot(expert_BTC, probs_BTE.shape[-1]).sum(2)
  return RouterStats(
    assigned_LE=jnp.sum(chosen_BTE * valid_BT1, axis=(0, 1)),
    probability_LE=jnp.sum(probs_BTE * valid_BT1, axis=(0, 1)),
    tokens_L=valid_BT1.sum(),
  )
