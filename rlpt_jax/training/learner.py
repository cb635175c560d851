"""The update: sums the gradients of microbatches and takes an optimizer step.

A step is skipped if the loss or gradient is not finite. Everything that depends
on the whole batch, above all the denominators of the loss, is computed before
and comes with the batch. Each microbatch adds its share, so that the result
does not depend on the number of microbatches, on padding or on the number of
devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

# (params, microbatch) -> (the microbatch's share of the loss, {name: an array,
# which is joined over the microbatches})
LossFn = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]
# (batch, the arrays that the loss function returned) -> metrics
Measure = Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]


# By default, XLA multiplies the states of prompts and completions by the same
# weights in one product, and copies all of them next to each other first. That
# takes 4% of an update (Qwen3-1.7B, H200, jax 0.11).
GPU_OPTIONS = {'xla_gpu_dot_merger_threshold_mb': 0}


@struct.dataclass
class State:
  """The state of training; all of it is saved."""

  params: Any
  optimizer: Any
  step: jax.Array  # Updates so far, including skipped ones.
  skipped: jax.Array  # Skipped updates so far.
  skipped_in_a_row: jax.Array


def make_state(params, optimizer: optax.GradientTransformation) -> State:
  # Use the shardings that an update returns; otherwise the second update would
  # be compiled again.
  init = jax.jit(optimizer.init, out_shardings=shardings(optimizer, params))
  counts = [
    jax.device_put(jnp.zeros((), jnp.int32), _everywhere(params))
    for _ in range(3)
  ]
  return State(params, init(params), *counts)


def shardings(optimizer: optax.GradientTransformation, params):
  """The shardings of the optimizer state; a moment has that of its parameter.

  None if the parameters have no mesh. They are set explicitly, because XLA
  cannot infer the sharding of `zeros_like`.
  """
  everywhere = _everywhere(params)
  if everywhere is None:
    return None  # One device: an uncommitted state can follow other inputs.
  return optax.tree_map_params(
    optimizer,
    lambda _, param: param.sharding,
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda _: everywhere,
  )


def _everywhere(params) -> NamedSharding | None:
  """The replicated sharding on the parameters' mesh; None without a mesh."""
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
  """Returns update(state, batch) -> (state, metrics), which donates the state.

  The first dimension of every array of a batch counts rows, or groups of rows,
  and must be a multiple of `num_microbatches`.
  """

  options = GPU_OPTIONS if jax.default_backend() == 'gpu' else None

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
  def update(state: State, batch):
    (loss, rows), grads = gradients(
      loss_fn, state.params, batch, num_microbatches=num_microbatches
    )
    norm = optax.global_norm(grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(loss)

    def step(params, opt_state):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    params, opt_state = _step_if(
      is_finite, step, (state.params, state.optimizer)
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


def _step_if(condition, step, old):
  """Returns step(*old) if the condition holds, else `old`."""

  def branch(*old):
    return jax.lax.cond(condition, step, lambda *same: same, *old)

  def select(*old):
    return jax.tree.map(
      lambda new, old: jnp.where(condition, new, old), step(*old), old
    )

  # On a GPU, XLA copies the whole state into and out of a branch (24 bytes per
  # parameter). On a CPU, it updates the state in place in a branch, but not in
  # a selection.
  return jax.lax.platform_dependent(*old, cpu=branch, default=select)


def gradients(loss_fn: LossFn, params, batch, *, num_microbatches: int):
  """Returns ((loss, rows), gradients) of a batch, one microbatch at a time.

  `rows` are the arrays that the loss function returns, joined again.
  """
  grad = jax.value_and_grad(loss_fn, has_aux=True)
  if num_microbatches == 1:
    return grad(params, batch)

  def add(total, microbatch):
    (loss, rows), grads = grad(params, microbatch)
    # Sum in float32: bfloat16 would lose small terms.
    return jax.tree.map(jnp.add, total, (loss, grads)), rows

  zeros = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), params)
  zeros = jnp.zeros(()), zeros
  parts = jax.tree.map(functools.partial(split, M=num_microbatches), batch)
  (loss, grads), rows = jax.lax.scan(add, zeros, parts)
  return (loss, jax.tree.map(join, rows)), grads


def split(x, M):
  """Returns [M, rows / M, ...]; part m has the rows m, m + M, m + 2 M, ...

  So each part has rows of every device, and no row changes its device.
  """
  rows, *rest = x.shape
  if rows % M:
    raise ValueError(
      f'num_microbatches={M}: expected a divisor of {rows}, the rows of a '
      'batch.'
    )
  return jnp.swapaxes(x.reshape(rows // M, M, *rest), 0, 1)


def join(x):
  """The inverse of `split`: [M, rows / M, ...] -> [rows, ...]."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
