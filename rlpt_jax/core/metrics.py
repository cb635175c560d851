"""Writes a run's metrics to files, TensorBoard and the terminal.

A run that is killed and resumes from its newest checkpoint ends with the same
bytes in metrics.jsonl as a run that was never killed. This needs a fixed order:

  1. `sync` returns once the lines of all steps so far are on disk;
  2. only then may a checkpoint of these steps be saved;
  3. a run that restores a checkpoint opens a Writer at the next step. This
     removes the lines from that step on, complete or not, and the run writes
     them again.

So the files hold every step that a checkpoint covers. If a step is missing, the
files were changed from outside, and opening them raises an error.
"""

import contextlib
import logging
import os
import pathlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlpt_jax.core import append_files, events, terminal_view
from rlpt_jax.core.append_files import AppendFile
from rlpt_jax.core.run_files import METRICS, TENSORBOARD, TIMING
from rlpt_jax.core.timers import PREFIX

MAX_ELEMENTS = 64

logger = logging.getLogger(__name__)

Value = bool | int | float | np.ndarray | jax.Array
Values = Mapping[str, Value]


class Writer:
  """Writes the metrics of every step once and in order, on process 0 only.

  A line of metrics.jsonl or timing.jsonl is {"step": 0, ...} with the other
  keys sorted, and null for NaN and infinity, which JSON lacks. TensorBoard gets
  all scalars, NaN and infinity too, but no arrays.

  Metrics are read late: `write` starts to copy the metrics of its step to the
  host, but waits only for those of the previous step. So the loop is at most
  two steps ahead of the device.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    first_step: int,
    num_steps: int,
    shown: Sequence[terminal_view.Shown] = (),
    alarms: Sequence[terminal_view.Shown] = (),
    tensorboard: bool = True,
    every_s: float = 10.0,
  ):
    """Opens the files, and drops the lines of first_step and later.

    TensorBoard gets a new file at every start. Only process 0 opens files.

    first_step: the number of steps that the restored checkpoint covers; 0
      without a checkpoint.
    shown: (label, key, format) of each metric in the terminal; if empty, the
      terminal shows nothing.
    alarms: metrics that the terminal also shows while they are not 0.
    every_s: seconds between printed lines if there is no terminal that can show
      a live panel.
    """
    self._next_step, self._pending = first_step, None
    self._files, self._view, self._closed = {}, None, False
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    workdir = pathlib.Path(workdir)
    paths = workdir / METRICS, workdir / TIMING
    # Check both files before changing either.
    sizes = [append_files.size_before(path, first_step) for path in paths]
    with contextlib.ExitStack() as opened:
      for path, size in zip(paths, sizes, strict=True):
        self._files[path.name] = opened.enter_context(AppendFile(path, size))
      if tensorboard:
        path = workdir / TENSORBOARD / _events_name()
        file = opened.enter_context(AppendFile(path, 0))
        file.append(events.opening(first_step), 'its header')
        self._files[TENSORBOARD] = file
      if shown:
        self._view = terminal_view.make(
          workdir.resolve().name,
          first_step=first_step,
          num_steps=num_steps,
          shown=shown,
          alarms=alarms,
          every_s=every_s,
        )
      opened.pop_all()

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, kind, error, traceback):
    if error is None:
      self.close()
      return
    # Do not wait for a step that is still being computed: after Ctrl-C the
    # program should end soon.
    if self._pending is not None and not _is_ready(self._pending):
      self._pending = None
    try:
      self.close()
    except Exception as second:
      error.add_note(f'Closing the metrics failed too: {second}')

  def write(
    self,
    step: int,
    metrics: Values,
    timing: Values | Callable[[], Values],
  ):
    """Queues the metrics of a step, and writes those of the previous one.

    metrics: values that a repeated run reproduces bit by bit; device arrays
      need not be ready yet.
    timing: all other values: seconds, tokens per second, memory, compilations.
      Their keys begin with 'timing/'; no other keys may. If this is a function,
      it is called after the arrays of `metrics` are ready, on process 0 only.
    """
    assert not self._closed, 'the writer is closed'
    assert step == self._next_step, f'step {step} after {self._next_step - 1}'
    # Check on all processes, so that all of them raise.
    _check_all(metrics)
    if not callable(timing):
      _check_all(timing, is_timing=True)
    self._next_step += 1
    if not self._writes:
      return
    timing = timing if callable(timing) else _started(timing)
    started = step, _started(metrics), timing
    self.flush()
    self._pending = started

  def sync(self):
    """Writes all steps so far, and waits until they are on disk.

    Call it before a checkpoint is saved; see the module docstring.
    """
    self.flush()
    for file in self._files.values():
      file.sync()

  def close(self):
    """Writes what is left, and closes the files and the terminal view."""
    if self._closed:
      return
    self._closed = True
    try:
      self.sync()
    finally:
      for file in self._files.values():
        file.close()
      self._look(lambda view: view.close())

  def flush(self):
    """Writes the pending step, after waiting for its arrays."""
    # Cleared first, so that `close` does not retry a step that failed.
    pending, self._pending = self._pending, None
    if pending is not None:
      self._record(*pending)

  def _record(self, step: int, metrics: dict, timing: dict | Callable):
    metrics = {key: _read(value) for key, value in metrics.items()}
    if callable(timing):
      timing = timing()
      _check_all(timing, is_timing=True)
    timing = {key: _read(value) for key, value in timing.items()}
    numbers = {
      key: value
      for key, value in (metrics | timing).items()
      if not isinstance(value, list)
    }
    records = {
      METRICS: append_files.line(step, metrics),
      TIMING: append_files.line(step, timing),
      TENSORBOARD: events.scalars(step, numbers),
    }
    for name, file in self._files.items():
      file.append(records[name], f'step {step}')
    self._look(lambda view: view.show(step, numbers))

  def _look(self, draw: Callable[[Any], None]):
    """Updates the terminal view; a closed terminal must not end the run."""
    if self._view is None:
      return
    try:
      draw(self._view)
    except OSError as error:
      view, self._view = self._view, None
      with contextlib.suppress(OSError):
        view.close()  # Stops rich from capturing standard output.
      logger.warning('Lost the terminal (%s); the run continues.', error)


def _events_name() -> str:
  """Returns a name that is unique on this machine.

  Names sort by time, the order in which TensorBoard reads files.
  """
  return f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}'


def _started(values: Values) -> dict[str, Any]:
  """Converts host values to Python numbers; starts to copy device arrays."""
  started = {}
  for key, value in values.items():
    if isinstance(value, jax.Array):
      value.copy_to_host_async()
      started[key] = value
    else:
      # Read now: the caller may reuse a NumPy array as soon as this returns.
      started[key] = _read(value)
  return started


def _check_all(values: Values, *, is_timing: bool = False):
  for key, value in values.items():
    if key == 'step' or key.startswith(PREFIX) != is_timing:
      raise ValueError(
        f'{key!r}: expected keys that begin with {PREFIX!r} for timing metrics '
        'only, and no key "step".'
      )
    _check(key, value)


def _check(key: str, value: Value):
  if isinstance(value, bool | int | float):
    return
  kinds = (np.bool_, np.integer, np.floating)
  dtype = getattr(value, 'dtype', None)
  if dtype is None or not any(jax.dtypes.issubdtype(dtype, k) for k in kinds):
    shown = ' '.join(f'{value!r:.50}'.split())
    raise ValueError(
      f'{key}: {type(value).__name__} {shown}: expected a number or an array '
      'of numbers.'
    )
  if isinstance(value, jax.Array) and not (
    value.is_fully_addressable or value.is_fully_replicated
  ):
    raise ValueError(
      f'{key} is sharded over processes ({value.sharding}): expected an array '
      'that every process holds in full. Reduce it first.'
    )
  if value.size > MAX_ELEMENTS:
    raise ValueError(
      f'{key} has shape {value.shape}: expected at most {MAX_ELEMENTS} '
      'elements. Reduce it first.'
    )


def _read(value: Value):
  """Returns a Python number or nested lists; waits for a device array."""
  if isinstance(value, bool | int | float | list):
    return value
  return np.asarray(value).tolist()


def _is_ready(pending) -> bool:
  arrays = [x for x in jax.tree.leaves(pending) if isinstance(x, jax.Array)]
  return all(array.is_ready() for array in arrays)
