"""What follows from a tree of specs."""

import jax
import numpy as np
import pytest

from rlpt_jax.core import weights
from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.weights import LazyArray, ParamSpec

SPECS = {
  'embed': ParamSpec((32, 16), ('vocab', 'embed'), fan_in=16),
  'layers': {
    'norm': ParamSpec((2, 16), ('layers', 'norm'), fill=1.0),
    'w': ParamSpec((2, 16, 64), ('layers', 'embed', 'mlp'), fan_in=16),
  },
}


def test_names_there_and_back():
  names = [path for path, _ in weights.named(SPECS)]
  assert names == ['embed', 'layers/norm', 'layers/w']
  assert weights.unnamed(dict(weights.named(SPECS))) == SPECS


def test_count():
  assert weights.count(SPECS) == 32 * 16 + 2 * 16 + 2 * 16 * 64


def test_initial_values_do_not_depend_on_the_layout(one_device):
  key = jax.random.key(3)
  params = weights.init(SPECS, key, layout=one_device)
  w = np.asarray(params['layers']['w'])
  assert abs(w.std() * 4 - 1) < 0.05  # 1 / sqrt(fan_in) = 1 / 4
  assert (np.asarray(params['layers']['norm']) == 1).all()
  layout = make_layout(fsdp=4, tensor=2)
  sharded = weights.init(SPECS, key, layout=layout)
  for a, b in zip(*map(jax.tree.leaves, (params, sharded)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert sharded['layers']['w'].addressable_shards[0].data.shape == (2, 4, 32)


def test_a_new_parameter_moves_no_other(one_device):
  more = SPECS | {'a': ParamSpec((4,), ('norm',), fan_in=1)}
  first, second = (
    weights.init(specs, jax.random.key(0), layout=one_device)
    for specs in (SPECS, more)
  )
  np.testing.assert_array_equal(first['embed'], second['embed'])


def test_shapes_tell_what_to_restore():
  layout = make_layout(fsdp=8)
  shape = weights.shapes(SPECS, layout=layout, dtype='bfloat16')['embed']
  assert (shape.shape, shape.dtype.name) == ((32, 16), 'bfloat16')
  assert shape.sharding == weights.shardings(SPECS, layout)['embed']


def test_a_lazy_array_reads_when_loaded():
  x = np.arange(6).reshape(2, 3)
  lazy = LazyArray(x.shape, x.dtype, lambda index: x[index])
  np.testing.assert_array_equal(lazy.load(), x)


@pytest.mark.parametrize('how', [{}, {'fan_in': 2, 'fill': 0.0}])
def test_a_spec_starts_in_exactly_one_way(how):
  with pytest.raises(ValueError, match='exactly one of fan_in and fill'):
    ParamSpec((2,), ('norm',), **how)


def test_a_spec_names_every_dimension():
  with pytest.raises(ValueError, match='differ in length'):
    ParamSpec((2, 3), ('norm',), fill=0.0)
