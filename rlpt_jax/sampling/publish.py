"""The learner's weights, as the sampler wants them."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Decoder


def publish(decoder: Decoder, params):
  """Copies of the parameters on the sampler's devices, layer by layer.

  What the layers round to the type of their products anyway is rounded now;
  embedding, head and the last norm stay as they are. Always copies: the
  learner's next update donates its own.
  """
  shardings = weights.shardings(
    decoder_lib.specs(decoder.config), decoder.layout
  )
  layers = {}
  # One weight after the other, so that one at most exists twice.
  for name, stacked in params['layers'].items():
    sharding = shardings['layers'][name]
    one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    placed = jax.device_put(stacked.astype(decoder.compute.dtype), sharding)
    layers[name] = _unstack(placed, one_layer)
  # device_put alone may hand on the learner's memory; with may_alias=False too,
  # from an array on many devices to fewer of them.
  rest = {
    name: jnp.copy(jax.device_put(params[name], shardings[name]))
    for name in params
    if name != 'layers'
  }
  L = decoder.config.num_layers
  per_layer = tuple(
    {name: w[i] for name, w in layers.items()} for i in range(L)
  )
  return {**rest, 'layers': per_layer}


def _unstack(stacked, sharding):
  shardings = (sharding,) * stacked.shape[0]
  return jax.jit(tuple, out_shardings=shardings)(stacked)
