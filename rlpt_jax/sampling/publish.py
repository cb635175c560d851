"""Copies the learner's weights into the form that the sampler uses."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlpt_jax.core import weights
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import head
from rlpt_jax.models.config import Decoder


def publish(decoder: Decoder, params, *, consume: bool = False):
  """Copies of the parameters on the sampler's devices, with a tuple of layers.

  Does once the casts that a forward pass would repeat at every step, with the
  same results: layers to the dtype of their products, the head to float32 or to
  bfloat16 parts (`head.split`). The copies never share memory with
  `params`, because the learner's next update donates those.

  consume: frees each parameter once copied; for callers that do not learn.
  """
  shardings = weights.shardings(
    decoder_lib.specs(decoder.config), decoder.layout
  )
  layers = {}
  # One weight at a time, so that with `consume` at most one exists twice.
  for name, stacked in params['layers'].items():
    sharding = shardings['layers'][name]
    one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    placed = jax.device_put(stacked.astype(decoder.compute.dtype), sharding)
    layers[name] = _unstack(placed, one_layer)
    if consume:
      jax.block_until_ready(layers[name])
      stacked.delete()
  # The rest is copied: device_put alone may share the learner's memory, even
  # with may_alias=False if the array moves to fewer devices.
  rest = {}
  # In the order of the dict: all hosts of a pod must launch the same programs.
  for name in [name for name in params if name != 'layers']:
    is_rounded = name == 'embed' and not decoder.config.tied_head
    dtype = decoder.compute.dtype if is_rounded else jnp.float32
    placed = jax.device_put(params[name].astype(dtype), shardings[name])
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


def _unstack(stacked, sharding):
  shardings = (sharding,) * stacked.shape[0]
  return jax.jit(tuple, out_shardings=shardings)(stacked)
