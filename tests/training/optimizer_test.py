"""AdamW as configured, against formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.weights import ParamSpec
from rlpt_jax.training.optimizer import AdamW, learning_rates, make_optimizer

SPECS = {
  'w': ParamSpec((2, 3), ('embed', 'mlp'), fan_in=2),
  'scale': ParamSpec((3,), ('norm',), fill=1.0),
}


def _rates(steps, **options):
  schedule = learning_rates(AdamW(learning_rate=1.0, **options))
  return [float(schedule(step)) for step in range(steps)]


def test_schedules():
  np.testing.assert_allclose(_rates(3), [1, 1, 1])
  # The first step learns, the fourth has the whole rate.
  np.testing.assert_allclose(
    _rates(6, warmup_steps=4), [0.25, 0.5, 0.75, 1, 1, 1]
  )
  np.testing.assert_allclose(_rates(2, warmup_steps=1), [1, 1])
  np.testing.assert_allclose(
    _rates(6, warmup_steps=1, schedule='linear', num_steps=5, end_share=0.2),
    [1, 1, 0.8, 0.6, 0.4, 0.2],
  )
  # Half a cosine: at the middle half of the way from 1 to 0.5.
  cosine = _rates(5, schedule='cosine', num_steps=4, end_share=0.5)
  np.testing.assert_allclose(cosine[2], 0.75)
  np.testing.assert_allclose(cosine[4], 0.5)


def test_a_step_is_adamws():
  config = AdamW(
    learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.5,
    clip_norm=1.0,
  )  # fmt: skip
  optimizer = make_optimizer(config, SPECS)
  rng = np.random.default_rng(0)
  params = {
    'w': jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
    'scale': jnp.ones(3),
  }
  state = optimizer.init(params)
  expected = {name: np.asarray(x, np.float64) for name, x in params.items()}
  m, v = (dict.fromkeys(params, 0.0) for _ in range(2))
  for t in range(1, 4):
    grads = {
      name: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
      for name, x in params.items()
    }
    updates, state = optimizer.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    norm = np.sqrt(sum(np.square(g).sum() for g in grads.values()))
    for name, grad in grads.items():
      g = np.asarray(grad, np.float64) / max(norm, 1.0)
      m[name] = 0.8 * m[name] + 0.2 * g
      v[name] = 0.9 * v[name] + 0.1 * g**2
      step = (m[name] / (1 - 0.8**t)) / (np.sqrt(v[name] / (1 - 0.9**t)) + 1e-3)
      decay = 0.5 * expected[name] if name == 'w' else 0
      expected[name] = expected[name] - 0.1 * (step + decay)
  for name, x in params.items():
    np.testing.assert_allclose(x, expected[name], rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'learning_rate': -1}, 'learning_rate=-1'),
    ({'learning_rate': float('nan')}, 'learning_rate=nan'),
    ({'b1': 1.5}, 'b1=1.5: expected a number from 0 to 1'),
    ({'schedule': 'step'}, "schedule='step'"),
    ({'schedule': 'cosine'}, "schedule='cosine': expected num_steps to be set"),
    ({'num_steps': 3, 'warmup_steps': 3}, 'expected more than'),
    ({'clip_norm': 0}, 'clip_norm=0'),
  ],
)
def test_bad_values_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    AdamW(**{'learning_rate': 1e-3} | options)
