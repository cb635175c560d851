"""A thread compiles what the first call needs, and only that."""

import functools
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core import compilations, freed_memory
from rlpt_jax.core import compiled_ahead as lib
from rlpt_jax.core.compiled_ahead import CompiledAhead
from rlpt_jax.core.layout import make_layout


@functools.partial(jax.jit, donate_argnums=0)
def add(state, batch):
  total = batch['x'].sum()
  return jax.tree.map(lambda w: w + total, state), total


@pytest.fixture
def threads():
  """The thread of each compilation of `add`."""
  found = []

  def listen(event, duration, **more):
    if event == compilations.EVENT and more.get('fun_name') == 'jit(add)':
      found.append(threading.current_thread())

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


def batch(rows, put=jnp.asarray):
  return {'x': put(np.ones((rows, 4), np.float32))}


@pytest.mark.parametrize('devices', [None, 1, 4])
def test_the_first_call_compiles_nothing(devices, threads):
  put, state = jnp.asarray, {'w': jnp.arange(4.0)}
  if devices:
    layout = make_layout(devices=jax.devices()[:devices])
    put = functools.partial(_put, layout)
    state = {'w': layout.put(np.arange(4.0, dtype=np.float32), None)}
  jax.clear_caches()
  function = CompiledAhead(add, state, batch(8, put))
  old = state['w']
  for times in (1, 2, 3):
    state, total = function(state, batch(8, put))
    assert total == 32
    np.testing.assert_array_equal(state['w'], np.arange(4.0) + 32 * times)
  assert old.is_deleted()  # Donated, as by the function itself.
  (thread,) = threads
  assert thread is not threading.main_thread()


def _put(layout, x):
  return layout.put(x, 'batch', *[None] * (x.ndim - 1))


def test_another_shape_is_compiled_by_the_call(threads):
  jax.clear_caches()
  function = CompiledAhead(add, {'w': jnp.zeros(3)}, batch(8))
  _, total = function({'w': jnp.zeros(3)}, batch(2))
  assert total == 8
  assert threading.main_thread() in threads
  _, total = function({'w': jnp.zeros(3)}, batch(8))
  assert total == 32


class Slow:
  """A function whose compiler waits, and then may fail."""

  def __init__(self, error=None):
    self.go, self.error = threading.Event(), error

  def lower(self, x):
    return types.SimpleNamespace(compile=functools.partial(self.compile, x))

  def compile(self, x):
    if x.shape == (3,):
      assert self.go.wait(10)
      if self.error:
        raise self.error

  def __call__(self, x):
    assert self.go.is_set() or x.shape == (2,)
    return x.shape


def test_a_call_waits_for_its_own_program_only():
  slow = Slow()
  function = CompiledAhead(slow, np.zeros(3))
  threading.Timer(0.2, slow.go.set).start()
  assert function(np.zeros(3)) == (3,)  # Slow checks that this has waited.
  slow = Slow()
  assert CompiledAhead(slow, np.zeros(3))(np.zeros(2)) == (2,)
  slow.go.set()


def test_an_error_of_the_compiler_is_raised_by_the_call():
  slow = Slow(RuntimeError('no room for the program'))
  slow.go.set()
  function = CompiledAhead(slow, np.zeros(3))
  with pytest.raises(RuntimeError, match='no room'):
    function(np.zeros(3))


@pytest.mark.parametrize('ahead', [True, False])
def test_memory_is_returned_before_the_first_call(ahead, monkeypatch, threads):
  trims = []
  give_back = freed_memory.give_back
  monkeypatch.setattr(
    freed_memory, 'give_back', lambda: trims.append(give_back())
  )
  jax.clear_caches()
  state = {'w': jnp.zeros(5)}
  function = CompiledAhead(add, state, batch(4)) if ahead else lib.trimmed(add)
  for _ in range(2):
    state, total = function(state, batch(4))
    assert total == 16
  assert trims == [None]
  assert len(threads) == 1
