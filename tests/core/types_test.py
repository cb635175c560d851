"""Records pass through jit as what they are."""

import jax
import jax.numpy as jnp

from rlpt_jax.core.types import Rollouts


def test_rollouts_are_a_pytree_of_their_arrays():
  rollouts = Rollouts(
    tokens_BT=jnp.ones((2, 3), jnp.int32),
    logprobs_BT=jnp.zeros((2, 3)),
    length_B=jnp.array([3, 1]),
    stopped_B=jnp.array([False, True]),
  )
  doubled = jax.jit(lambda r: jax.tree.map(lambda x: x + x, r))(rollouts)
  assert isinstance(doubled, Rollouts)
  assert doubled.length_B.tolist() == [6, 2]
