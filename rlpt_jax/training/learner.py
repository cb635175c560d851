"""One update: a batch in microbatches, gradients summed, a step or none.

Everything that depends on the batch as a whole, the denominators above all, is
in the batch when it arrives here. A microbatch adds its share, so that neither
their number nor padding nor devices change the result.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

# (params, microbatch) -> (its share of the loss, {name: an array of its rows})
LossFn = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]
# (batch, what the loss function said of its rows) -> metrics
Measure = Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What an update changes; all of it is saved."""

  params: Any
  optimizer: Any
  step: jax.Array  # Updates so far, those that were skipped included.
  skipped: jax.Array  # In all.
  skipped_in_a_row: jax.Array


def make_state(params, optimizer: optax.GradientTransformation) -> State:
  # All of it placed as an update gives it back: a second one would be compiled
  # anew for a first state that lay elsewhere.
  init = jax.jit(optimizer.init, out_shardings=shardings(optimizer, params))
  counts = [
    jax.device_put(jnp.zeros((), jnp.int32), _everywhere(params))
    for _ in range(3)
  ]
  return State(params, init(params), *counts)


def shardings(optimizer: optax.GradientTransformation, params):
  """Where the optimizer keeps its arrays: a moment beside its parameter.

  Said, for XLA would not know: zeros follow from no parameter.
  """
  everywhere = _everywhere(params)
  if everywhere is None:
    return None  # On one device, and free to move with what comes along.
  return optax.tree_map_params(
    optimizer,
    lambda _, param: param.sharding,
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda _: everywhere,
  )


def _everywhere(params) -> NamedSharding | None:
  """The whole of an array on every device of the parameters' mesh, if any."""
  some = jax.tree.leaves(params)[0].sharding
  if not isinstance(some, NamedSharding):
    return None
  return NamedSharding(some.mesh, PartitionSpec())


def make_update(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  measure: Measure,
  *,
  num_microbatches: int = 1,
):
  """update(state, batch) -> (state, metrics); the state is donated.

  The first dimension of every array of a batch is its rows, or its groups of
  rows: a multiple of `num_microbatches`.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state: State, batch):
    (loss, rows), grads = gradients(
      loss_fn, state.params, batch, num_microbatches=num_microbatches
    )
    norm = optax.global_norm(grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(loss)

    def step(params, opt_state):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    params, opt_state = jax.lax.cond(
      is_finite, step, lambda *same: same, state.params, state.optimizer
    )
    skips = (~is_finite).astype(jnp.int32)
    state = State(
      params,
      opt_state,
      step=state.step + 1,
      skipped=state.skipped + skips,
      skipped_in_a_row=(state.skipped_in_a_row + 1) * skips,
    )
    metrics = {
      'loss': loss,
      'gradient_norm': norm,
      'skipped': state.skipped,
      'skipped_in_a_row': state.skipped_in_a_row,
      **measure(batch, rows),
    }
    return state, metrics

  return update


def gradients(loss_fn: LossFn, params, batch, *, num_microbatches: int):
  """((loss, rows), gradients) of a batch, a microbatch at a time."""
  grad = jax.value_and_grad(loss_fn, has_aux=True)
  if num_microbatches == 1:
    return grad(params, batch)

  def add(total, microbatch):
    (loss, rows), grads = grad(params, microbatch)
    # In float32, which the sum is: bfloat16 would lose what is small.
    return jax.tree.map(jnp.add, total, (loss, grads)), rows

  zeros = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), params)
  zeros = jnp.zeros(()), zeros
  parts = jax.tree.map(functools.partial(split, M=num_microbatches), batch)
  (loss, grads), rows = jax.lax.scan(add, zeros, parts)
  return (loss, jax.tree.map(join, rows)), grads


def split(x, M):
  """[M, rows / M, ...]: every M-th row, so that a device keeps those it has."""
  rows, *rest = x.shape
  if rows % M:
    raise ValueError(
      f'num_microbatches={M}: expected a divisor of {rows}, the rows of a '
      'batch.'
    )
  return jnp.swapaxes(x.reshape(rows // M, M, *rest), 0, 1)


def join(x):
  """[rows, ...] of what `split` made."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
