"""The decoder: maps token ids to hidden states and a cache.

There are three ways in, over the same layers:

  forward   whole rows, for learning
  prefill   whole rows, for the cache of their keys and values
  decode    one token per row, written into a cache of earlier ones

The context is a tuple of caches that tokens see besides their own row. A group
of rollouts is scored in two passes, `prefix = prefill(prompts)`, then
`forward(rollouts, context=(prefix,))`, and gradients flow through both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlpt_jax.core.weights import ParamSpec
from rlpt_jax.models import cache as cache_lib
from rlpt_jax.models import cudnn, head, layers, queries
from rlpt_jax.models.attention import Part, attention, decode_attention
from rlpt_jax.models.cache import Cache, per_row
from rlpt_jax.models.config import Compute, Decoder, DecoderConfig
from rlpt_jax.models.moe import RouterStats, moe

# Weights that share their input, and how the sampler may join them: on a GPU,
# one large product takes less time than several small ones. For each joined
# weight: (function of the parts, their names, the axes of a layer's).
JOINED = {
  'w_gate_up': (layers.join, ('w_gate', 'w_up'), ('embed', None, 'mlp')),
  'w_qkv': (
    queries.join,
    ('w_q', 'w_k', 'w_v'),
    ('embed', 'kv_heads', None, 'head_dim'),
  ),
  'b_qkv': (
    queries.join, ('b_q', 'b_k', 'b_v'), ('kv_heads', None, 'head_dim')
  ),
}  # fmt: skip


@struct.dataclass
class Output:
  hidden_BTD: jax.Array  # float32, after the final norm: input of the head.
  cache: Cache  # Of these tokens; from `decode`: its cache with them added.
  router: RouterStats | None  # None without experts.


def specs(c: DecoderConfig) -> dict:
  """The parameter specs of a decoder, as a nested dict."""
  V, D = c.vocab_size, c.embed_dim
  tree = {
    'embed': ParamSpec((V, D), ('vocab', 'embed'), fan_in=D),
    'norm': ParamSpec((D,), ('norm',), fill=1.0),
    'layers': {**_attention_specs(c), **_mlp_specs(c)},
  }
  if not c.tied_head:
    tree['head'] = ParamSpec((V, D), ('vocab', 'embed'), fan_in=D)
  return tree


def _attention_specs(c: DecoderConfig) -> dict[str, ParamSpec]:
  L, D, N, K, H = (
    c.num_layers, c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim
  )  # fmt: skip
  q, kv = ('heads', 'head_dim'), ('kv_heads', 'head_dim')
  tree = {
    'attention_norm': ParamSpec((L, D), ('layers', 'norm'), fill=1.0),
    'w_q': ParamSpec((L, D, N, H), ('layers', 'embed', *q), fan_in=D),
    'w_k': ParamSpec((L, D, K, H), ('layers', 'embed', *kv), fan_in=D),
    'w_v': ParamSpec((L, D, K, H), ('layers', 'embed', *kv), fan_in=D),
    'w_o': ParamSpec((L, N, H, D), ('layers', *q, 'embed'), fan_in=N * H),
  }
  if c.qkv_bias:
    tree['b_q'] = ParamSpec((L, N, H), ('layers', *q), fill=0.0)
    tree['b_k'] = ParamSpec((L, K, H), ('layers', *kv), fill=0.0)
    tree['b_v'] = ParamSpec((L, K, H), ('layers', *kv), fill=0.0)
  if c.qk_norm:
    tree['q_norm'] = ParamSpec((L, H), ('layers', 'norm'), fill=1.0)
    tree['k_norm'] = ParamSpec((L, H), ('layers', 'norm'), fill=1.0)
  return tree


def _mlp_specs(c: DecoderConfig) -> dict[str, ParamSpec]:
  L, D, F, E = c.num_layers, c.embed_dim, c.mlp_dim, c.num_experts
  tree = {'mlp_norm': ParamSpec((L, D), ('layers', 'norm'), fill=1.0)}
  if not E:
    up = ('layers', 'embed', 'mlp')
    return tree | {
      'w_gate': ParamSpec((L, D, F), up, fan_in=D),
      'w_up': ParamSpec((L, D, F), up, fan_in=D),
      'w_down': ParamSpec((L, F, D), ('layers', 'mlp', 'embed'), fan_in=F),
    }
  up = ('layers', 'experts', 'embed', 'mlp')
  down = ('layers', 'experts', 'mlp', 'embed')
  return tree | {
    'w_router': ParamSpec((L, D, E), ('layers', 'embed', 'router'), fan_in=D),
    'w_expert_gate': ParamSpec((L, E, D, F), up, fan_in=D),
    'w_expert_up': ParamSpec((L, E, D, F), up, fan_in=D),
    'w_expert_down': ParamSpec((L, E, F, D), down, fan_in=F),
  }


def forward(
  decoder: Decoder,
  params,
  tokens_BT,
  segments_BT,
  context: tuple[Cache, ...] = (),
  *,
  packed: bool = True,
) -> Output:
  """Runs the decoder on whole rows of tokens, given a context of caches.

  segments_BT: 0 for padding, which may be anywhere. The tokens of a segment are
    contiguous, and each sees those before it. Several segments pack several
    texts into a row.
  context: caches with one row per row of tokens, or per group of rows. With a
    context, every row must be one segment, followed by padding.
  packed: False promises, in a call without a context, that every row is one
    segment, followed by padding. Some kernels then do without a mask.
  """

  def attend(inputs, *, parts, own):
    assert own is None, 'whole rows have no earlier tokens'
    q_BTNH, k_BKTH, v_BKTH = queries.project(decoder, *inputs)
    attended_BTNH = attention(
      q_BTNH, k_BKTH, v_BKTH, segments_BT, parts,
      kernel=decoder.compute.attention, layout=decoder.layout,
      packed=packed and not context,
    )  # fmt: skip
    return attended_BTNH, (jnp.swapaxes(k_BKTH, 2, 3), v_BKTH)

  mask_BT = segments_BT > 0
  positions_BT = token_positions(segments_BT, context)
  hidden_BTD, (k_LBKHS, v_LBKSH), router = _run(
    decoder, params, tokens_BT, mask_BT, positions_BT, context, attend
  )
  return Output(hidden_BTD, Cache(k_LBKHS, v_LBKSH, mask_BT), router)


def prefill(decoder: Decoder, params, tokens_PS, segments_PS) -> Cache:
  """Returns the keys and values of prompts, padded on the right."""
  return forward(decoder, params, tokens_PS, segments_PS, packed=False).cache


def decode(
  decoder: Decoder,
  params,
  tokens_B1,
  valid_B1,
  context: tuple[Cache, ...],
  cache: Cache,
  column,
) -> Output:
  """Runs the decoder on one token per row.

  valid_B1: 1 for a token, 0 for padding.
  context: caches of earlier tokens, as in `forward`.
  cache: holds the tokens of each row that come after the context. The output
    has the updated cache.
  column: the position of the cache that the new token is written to, in every
    row. The token is written before the cache is read, so that a loop can
    update the cache in place.
  """
  mask_BS = cache_lib.put(cache.mask_BS, valid_B1 > 0, column, axis=1)
  filled_B = cache.filled_B
  if filled_B is not None:
    filled_B = jnp.where(valid_B1[:, 0] > 0, column + 1, filled_B)

  def attend(inputs, *, parts, own):
    q_BTNH, k_BKHS, v_BKSH = queries.project_and_write(
      decoder, *inputs, own, column
    )
    parts = [*parts, Part(k_BKHS, v_BKSH, mask_BS, filled_P=filled_B)]
    attended_BTNH = decode_attention(
      q_BTNH, parts, kernel=decoder.compute.attention, layout=decoder.layout
    )
    return attended_BTNH, (k_BKHS, v_BKSH)

  positions_B1 = token_positions(valid_B1, (*context, cache))
  hidden_B1D, (k_LBKHS, v_LBKSH), router = _run(
    decoder, params, tokens_B1, valid_B1 > 0, positions_B1, context, attend,
    own=(cache.k_LBKHS, cache.v_LBKSH),
  )  # fmt: skip
  return Output(
    hidden_B1D, Cache(k_LBKHS, v_LBKSH, mask_BS, filled_B=filled_B), router
  )


def _run(
  decoder, params, tokens_BT, mask_BT, positions_BT, context, attend, own=None
):
  """Runs all layers; returns (hidden states, keys and values, RouterStats).

  attend: (inputs of `queries.project`, parts, own) -> (attended values, the
    keys and values to return), for one layer. `parts` are that layer's keys and
    values in the context.
  own: keys and values of the rows' own earlier tokens, in arrays with an entry
    per layer; `attend` gets the entries of its layer.
  """
  with jax.default_matmul_precision(decoder.compute.precision):
    c = decoder.config
    x_BTD = head.embed(params, tokens_BT)
    x_BTD = x_BTD.astype(jnp.dtype(decoder.compute.dtype))
    x_BTD = decoder.layout.constrain(x_BTD, 'batch', None, 'embed')
    rope = layers.rope_tables(positions_BT, c)

    def body(x_BTD, layer):
      p, rotates, seen, own = layer
      parts = [
        # All layers share masks, readers and tables of blocks.
        Part(
          *(k, v, part.mask_BS, k_scale, v_scale),
          *(part.readers, part.filled_B, part.blocks_BM),
        )
        for part, (k, v, k_scale, v_scale) in zip(context, seen, strict=True)
      ]
      attend_here = functools.partial(attend, parts=parts, own=own)
      return _layer(decoder, x_BTD, p, rotates, rope, mask_BT, attend_here)

    rotates_L = np.asarray(c.rope_layers or (True,) * c.num_layers)
    seen = [part.layers for part in context]
    per_layer = (params['layers'], rotates_L, seen, own)
    if isinstance(params['layers'], tuple):
      x_BTD, outputs = _one_by_one(body, x_BTD, per_layer)
    else:
      x_BTD, outputs = jax.lax.scan(
        _remat(body, decoder.compute),
        x_BTD,
        per_layer,
        unroll=decoder.compute.unroll,
      )
    kept, router = outputs
    # The final norm returns float32: the head must not see rounded states.
    hidden_BTD = layers.rms_norm(
      x_BTD.astype(jnp.float32), params['norm'], eps=c.norm_eps
    )
    return hidden_BTD, kept, router


def unstack(params):
  """The parameters with a tuple of layers instead of stacked arrays.

  Decoding needs this: slicing a stacked weight would copy it at every step.
  With such parameters, caches are tuples of layers too.
  """
  L = params['layers']['attention_norm'].shape[0]

  def layer(i):
    return jax.tree.map(lambda w: w[i], params['layers'])

  return {**params, 'layers': tuple(layer(i) for i in range(L))}


def _one_by_one(body, x_BTD, per_layer):
  """Runs the layers of a tuple; returns what a scan over them would return."""
  layers, rotates_L, seen, own = per_layer
  outputs = []
  for i, p in enumerate(layers):
    parts = [tuple(None if x is None else x[i] for x in part) for part in seen]
    own_i = own and tuple(x[i] for x in own)
    x_BTD, output = body(x_BTD, (p, rotates_L[i], parts, own_i))
    outputs.append(output)
  kept, routers = zip(*outputs, strict=True)
  router = jax.tree.map(lambda *stats: jnp.stack(stats), *routers)
  return x_BTD, (tuple(zip(*kept, strict=True)), router)


def _layer(decoder: Decoder, x_BTD, p, rotates, rope, mask_BT, attend):
  """(x_BTD after one layer, (its keys and values, its router statistics))."""
  c, layout = decoder.config, decoder.layout
  p = jax.tree.map(lambda w: w.astype(x_BTD.dtype), p)

  h_BTD = layers.rms_norm(x_BTD, p['attention_norm'], eps=c.norm_eps)
  attended_BTNH, kept = attend((p, h_BTD, rope, rotates))
  # Flattened: contracting two dimensions makes XLA on CPU copy the weights.
  attended_BTX = attended_BTNH.reshape(*x_BTD.shape[:2], -1)
  x_BTD += attended_BTX @ p['w_o'].reshape(-1, c.embed_dim)
  x_BTD = layout.constrain(x_BTD, 'batch', None, 'embed')

  h_BTD = layers.rms_norm(x_BTD, p['mlp_norm'], eps=c.norm_eps)
  router = None
  if c.num_experts:
    y_BTD, router = moe(p, h_BTD, mask_BT, decoder=decoder)
  else:
    y_BTD = layers.mlp(p, h_BTD, layout)
  x_BTD = layout.constrain(x_BTD + y_BTD, 'batch', None, 'embed')
  return x_BTD, (kept, router)


def token_positions(segments_BT, context: tuple[Cache, ...] = ()):
  """Position of each token in its text, counting the tokens of the context."""
  B, T = segments_BT.shape
  index_T = jnp.arange(T)
  starts_BT = segments_BT != jnp.pad(segments_BT, ((0, 0), (1, 0)))[:, :-1]
  start_BT = jax.lax.cummax(jnp.where(starts_BT, index_T, 0), axis=1)
  positions_BT = index_T - start_BT
  for part in context:
    length_P = part.mask_BS.sum(1, dtype=jnp.int32)
    positions_BT += per_row(length_P, B, part.readers)[:, None]
  return positions_BT


def _remat(body, compute: Compute):
  policy = compute.remat
  if policy == 'none':
    return body
  policies = jax.checkpoint_policies
  dots = policies.save_from_both_policies(
    policies.dots_with_no_batch_dims_saveable,
    policies.save_only_these_names(cudnn.ATTENDED),
  )
  # Without a loop over layers, XLA would merge the recomputation with the
  # forward pass, and keep everything.
  return jax.checkpoint(
    body,
    policy=dots if policy == 'dots' else None,
    prevent_cse=compute.unroll,
  )
