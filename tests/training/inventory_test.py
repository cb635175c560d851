"""What a record says of arrays, whatever holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.weights import LazyArray
from rlpt_jax.training import inventory


def test_an_array_is_described_alike_wherever_it_is():
  x = np.arange(6, dtype=np.int32).reshape(2, 3)
  lazy = LazyArray(x.shape, x.dtype, lambda index: x[index])
  tree = {'a': (jnp.asarray(x), x), 'b': {'c': lazy}, 'n': jnp.bfloat16(1)}
  found = inventory.describe(tree)
  assert found['n'][:2] == [[], 'bfloat16']
  assert found.keys() == {'a/0', 'a/1', 'b/c', 'n'}
  assert found['a/0'] == found['a/1'] == found['b/c']
  assert found['a/0'][:2] == [[2, 3], 'int32']
  inventory.check_fingerprints(found, found)
  other = inventory.describe(tree | {'n': jnp.bfloat16(2)})
  with pytest.raises(
    ValueError, match='1 arrays differ from what was saved, the first is n'
  ):
    inventory.check_fingerprints(other, found)


@pytest.mark.parametrize(
  ('leaf', 'message'),
  [
    (np.zeros(3), r'params/x is float64\[3\]: expected at most 32 bits'),
    (np.zeros((0, 2), 'f4'), r'params/x is float32\[0, 2\]'),
    (3, 'params/x is int 3: expected an array'),
    (jax.random.key(0), r'save a random key as jax\.random\.key_data'),
  ],
  ids=['wide', 'empty', 'number', 'key'],
)
def test_a_leaf_that_could_not_come_back_is_named(leaf, message):
  with pytest.raises(ValueError, match=message):
    inventory.check_leaves('params', {'x': leaf})
