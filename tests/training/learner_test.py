"""An update does not depend on how the batch was cut or where it lay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlpt_jax.core import compilations
from rlpt_jax.core.layout import make_layout
from rlpt_jax.training import learner as lib

ROWS = 12


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'x': rng.normal(size=(ROWS, 4)).astype(np.float32),
    'y': rng.normal(size=(ROWS,)).astype(np.float32),
    'weights': np.full(ROWS, 1 / ROWS, np.float32),
  }


def _loss(params, batch):
  error = batch['x'] @ params['w'] - batch['y']
  return jnp.sum(batch['weights'] * error**2), {'error': error}


def _measure(batch, rows):
  # In the order of the batch, whatever the microbatches were.
  return {'largest': jnp.abs(rows['error'] - batch['y']).max()}


def _part(batch, rows):
  return {name: x[rows] for name, x in batch.items()}


def _params():
  return {'w': jnp.arange(4.0)}


def _run(batches, num_microbatches=1, place=lambda x: x):
  optimizer = optax.adam(0.1)
  update = lib.make_update(
    _loss, optimizer, _measure, num_microbatches=num_microbatches
  )
  state, history = lib.make_state(_params(), optimizer), []
  for batch in batches:
    state, metrics = update(state, place(batch))
    history.append(jax.device_get(metrics))
  return jax.device_get(state), history


def _assert_close(found, expected, tolerance=1e-6):
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_an_update_is_the_optimizers_step():
  batch, params = _batch(), _params()
  found, (metrics,) = _run([batch])
  (loss, rows), grads = jax.value_and_grad(_loss, has_aux=True)(params, batch)
  optimizer = optax.adam(0.1)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  _assert_close(found.params, optax.apply_updates(params, updates))
  assert metrics['loss'] == pytest.approx(float(loss), rel=1e-6)
  norm = optax.global_norm(grads)
  assert metrics['gradient_norm'] == pytest.approx(float(norm), rel=1e-6)
  largest = np.abs(rows['error'] - batch['y']).max()
  assert metrics['largest'] == pytest.approx(float(largest), rel=1e-6)
  assert found.step == 1


@pytest.mark.parametrize('num_microbatches', [2, 3, 12])
def test_microbatches_change_nothing(num_microbatches):
  batches = [_batch(seed) for seed in range(3)]
  _assert_close(_run(batches, num_microbatches), _run(batches))


def test_eight_devices_change_nothing():
  layout = make_layout(fsdp=4, devices=jax.devices()[:4])

  def place(batch):
    return {
      name: layout.put(x, 'batch', *[None] * (x.ndim - 1))
      for name, x in batch.items()
    }

  batches = [_batch(seed) for seed in range(3)]
  _assert_close(_run(batches, 3, place), _run(batches))


def test_microbatches_divide_the_batch():
  with pytest.raises(ValueError, match='num_microbatches=5: expected a div'):
    _run([_batch()], 5)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('num_microbatches', [1, 3])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
  bad, num_microbatches
):
  good, broken = _batch(), _batch(1)
  broken['x'][5, 2] = bad
  state, metrics = _run([good, broken, broken, good], num_microbatches)
  expected, _ = _run([good, good], num_microbatches)
  _assert_close(state.params, expected.params)
  _assert_close(state.optimizer, expected.optimizer)
  assert [m['skipped_in_a_row'] for m in metrics] == [0, 1, 2, 0]
  assert [m['skipped'] for m in metrics] == [0, 1, 2, 2]
  assert (state.step, state.skipped) == (4, 2)
  assert not np.isfinite(metrics[1]['loss'])


def test_the_state_is_donated():
  optimizer = optax.adam(0.1)
  update = lib.make_update(_loss, optimizer, _measure)
  state = lib.make_state(_params(), optimizer)
  update(state, _batch())
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_a_second_update_is_not_compiled_again(one_device):
  optimizer = optax.adam(0.1)
  update = lib.make_update(_loss, optimizer, _measure)
  params = {'w': one_device.put(jnp.arange(4.0), None)}
  state, _ = update(lib.make_state(params, optimizer), _batch())
  with compilations.counted() as compiled:
    update(state, _batch())
  assert compiled.count == 0


def test_gpus_compile_with_options_of_their_own(monkeypatch):
  expected = _run([_batch()])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  _assert_close(_run([_batch()]), expected)  # XLA knows the options.
  monkeypatch.setattr(lib, 'GPU_OPTIONS', {'xla_no_such_option': 0})
  with pytest.raises(Exception, match='xla_no_such_option'):
    _run([_batch()])


def test_gradients_of_microbatches_are_added_in_float32():
  # A microbatch at a time in bfloat16 would lose what is small.
  params = {'w': jnp.ones(4, jnp.bfloat16)}
  run = functools.partial(lib.gradients, _loss, params, _batch())
  whole, parts = run(num_microbatches=1), run(num_microbatches=12)
  assert parts[1]['w'].dtype == jnp.float32
  _assert_close(
    parts[1]['w'], whole[1]['w'].astype(jnp.float32), tolerance=0.02
  )


@pytest.mark.parametrize('num_microbatches', [(1, 1), (4, 2)])
def test_several_batches_are_one(num_microbatches):
  whole = _batch()
  optimizer = optax.adam(0.1)

  def measure(batches, rows):
    assert [len(each['error']) for each in rows] == [8, 4]
    return {
      'largest': jnp.maximum(
        *(
          _measure(*pair)['largest'] for pair in zip(batches, rows, strict=True)
        )
      )
    }

  update = lib.make_update(
    _loss, optimizer, measure, num_microbatches=num_microbatches
  )
  found = update(
    lib.make_state(_params(), optimizer),
    _part(whole, slice(8)), _part(whole, slice(8, None)),
  )  # fmt: skip
  expected, (metrics,) = _run([whole])
  _assert_close(found, (expected, metrics))


@pytest.mark.parametrize('num_microbatches', [1, 4])
def test_the_gradient_of_each_part_may_be_computed_in_another_way(
  num_microbatches,
):
  def shorten(grad):
    def halved(params, part):
      assert len(part['y']) == ROWS // num_microbatches
      return grad(params, part | {'weights': part['weights'] / 2})

    return halved

  (loss, _), grads = lib.gradients(
    _loss, _params(), _batch(), num_microbatches=num_microbatches,
    shorten=shorten,
  )  # fmt: skip
  (expected, _), whole = lib.gradients(
    _loss, _params(), _batch(), num_microbatches=1
  )
  _assert_close(loss, expected / 2)
  _assert_close(grads['w'], whole['w'] / 2)
