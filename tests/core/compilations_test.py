"""Compilations are counted while someone counts."""

import jax
import jax.numpy as jnp

from rlpt_jax.core import compilations


def test_each_shape_is_compiled_once():
  double = jax.jit(lambda x: 2 * x)
  arrays = [jnp.ones(n) for n in (3, 3, 5)]
  with compilations.counted() as counted:
    double(arrays[0])
    assert counted.count == 1
    double(arrays[1])
    assert counted.count == 1
    double(arrays[2])
    assert counted.count == 2
  assert counted.seconds > 0
  double(jnp.ones(7))
  assert counted.count == 2
