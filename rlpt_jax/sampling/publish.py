"""Copies the learner's weights into the form that the sampler uses."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlpt_jax.core import transfer, weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.config import Decoder


def publish(decoder: Decoder, params, *, consume: bool = False):
  """Copies of the parameters on the sampler's devices, with a tuple of layers.

  Does once the casts that a forward pass would repeat at every step, with the
  same results: layers to the dtype of their products, the head to float32 or to
  bfloat16 parts (`head.split`). The copies never share memory with
  `params`, because the learner's next update donates those. The sampler may
  have other devices than the learner: weights are cast where they are, and go
  from device to device. `params` need not be computed yet, but the host waits
  for them if a device has more programs to start than JAX lets it queue (32,
  and `_unstack` has one for each layer of each weight).

  consume: frees each parameter once copied; for callers that do not learn.
  """
  shardings = weights.shardings(
    decoder_lib.specs(decoder.config), decoder.layout
  )
  layers = {}
  # A few weights at a time, so that with `consume` only they exist twice.
  for name, parts in _weights_of_layers(decoder, params['layers']).items():
    placed = [
      transfer.put(
        params['layers'][part].astype(decoder.compute.dtype),
        shardings['layers'][part],
      )
      for part in parts
    ]
    if len(parts) == 1:
      layers[name] = _unstack(*placed, shardings['layers'][name])
    else:
      layers[name] = _join(name, decoder.layout, *placed)
    if consume:
      jax.block_until_ready(layers[name])
      for part in parts:
        params['layers'][part].delete()
  # The rest is copied, because `transfer.put` may share the learner's memory.
  rest = {}
  # In the order of the dict: all hosts of a pod must launch the same programs.
  for name in [name for name in params if name != 'layers']:
    is_rounded = name == 'embed' and not decoder.config.tied_head
    dtype = decoder.compute.dtype if is_rounded else jnp.float32
    placed = transfer.put(params[name].astype(dtype), shardings[name])
    if name == head.name_of_weights(decoder) and head.is_split(decoder):
      rest[name] = jax.jit(head.split)(placed)
    else:
      rest[name] = jnp.copy(placed)
    if consume:
      params[name].delete()
  L = decoder.config.num_layers
  per_layer = tuple(
    {name: w[i] for name, w in layers.items()} for i in range(L)
  )
  return {**rest, 'layers': per_layer}


def _weights_of_layers(decoder: Decoder, layers) -> dict[str, tuple[str, ...]]:
  """The weights to publish, and which of the learner's make each.

  Joined ones come first: they exist twice when little else is there.
  """
  layout, heads = decoder.layout, decoder.config.num_kv_heads
  is_even = heads % layout.mesh.shape['tensor'] == 0
  joined = {
    name: parts
    for name, (_, parts, axes) in decoder_lib.JOINED.items()
    # Joined queries are split over chips by the heads of their keys.
    if parts[0] in layers and (is_even or 'kv_heads' not in axes)
  }
  if not layout.has_small_kernels:
    joined = {}
  taken = {part for parts in joined.values() for part in parts}
  return joined | {name: (name,) for name in layers if name not in taken}


def _unstack(stacked, sharding):
  one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
  # One program for every layer: one with all of them takes longer to compile.
  layer = jax.jit(
    jax.lax.dynamic_index_in_dim,
    static_argnums=(2, 3),
    out_shardings=one_layer,
  )
  return tuple(layer(stacked, i, 0, False) for i in range(stacked.shape[0]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _join(name, layout, *stacked):
  join, _, axes = decoder_lib.JOINED[name]
  joined = (join(*parts) for parts in zip(*stacked, strict=True))
  return tuple(
    jax.lax.with_sharding_constraint(w, layout.weight_sharding(w.shape, axes))
    for w in joined
  )
