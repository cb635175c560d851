"""The update: sums the gradients of microbatches and takes an optimizer step.

A step is skipped if the loss or gradient is not finite. Everything that depends
on the whole batch, above all the denominators of the loss, is computed before
and comes with the batch. Each microbatch adds its share, so that the result
does not depend on the number of microbatches, on padding or on the number of
devices.
"""

import functools
from collections.abc import Callable, Sequence
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
  num_microbatches: int | Sequence[int] = 1,
  shorten: Callable[[Callable], Callable] | None = None,
):
  """Returns update(state, *batches) -> (state, metrics); it donates the state.

  The loss is the sum of the losses of the batches, which may have different
  shapes. The first dimension of every array of a batch counts rows, or groups
  of rows.

  measure: gets the batch and what the loss function returned for it; if there
    are several batches, it gets tuples of these.
  num_microbatches: the parts of a batch that are computed one by one; a number
    for each batch, if there are several.
  shorten: changes the function that computes a part's loss and gradient so that
    it leaves out padding (lengths.py).
  """

  options = GPU_OPTIONS if jax.default_backend() == 'gpu' else None

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
  def update(state: State, *batches):
    (loss, rows), grads = gradients(
      loss_fn, state.params, *batches,
      num_microbatches=num_microbatches, shorten=shorten,
    )  # fmt: skip
    if len(batches) == 1:
      batches, rows = batches[0], rows[0]
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
      **measure(batches, rows),
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


def gradients(
  loss_fn: LossFn,
  params,
  *batches,
  num_microbatches: int | Sequence[int],
  shorten: Callable[[Callable], Callable] | None = None,
):
  """Returns ((loss, [loss_fn's arrays for each batch]), gradients)."""
  grad = jax.value_and_grad(loss_fn, has_aux=True)
  if shorten:
    grad = shorten(grad)
  if isinstance(num_microbatches, int):
    num_microbatches = (num_microbatches,)
  if tuple(num_microbatches) == (1,):
    (loss, rows), grads = grad(params, *batches)
    return (loss, [rows]), grads

  def add(total, microbatch):
    (loss, rows), grads = grad(params, microbatch)
    # Sum in float32: bfloat16 would lose small terms.
    return jax.tree.map(jnp.add, total, (loss, grads)), rows

  zeros = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), params)
  total, rows = (jnp.zeros(()), zeros), []
  for batch, M in zip(batches, num_microbatches, strict=True):
    parts = jax.tree.map(functools.partial(split, M=M), batch)
    total, rows_of_parts = jax.lax.scan(add, total, parts)
    rows.append(jax.tree.map(join, rows_of_parts))
  loss, grads = total
  return (loss, rows), grads


def num_rows(batch) -> int:
  return len(jax.tree.leaves(batch)[0])


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
