"""What a run says of itself: files, TensorBoard, the terminal.

Kill a run at any moment, start it again at its newest checkpoint, and its
metrics.jsonl has the bytes of a run that nobody killed. That rests on an order:

  1. `sync` returns when the lines of all steps so far are on the disk;
  2. only then may a checkpoint of these steps be saved;
  3. a run that restores it opens a Writer at the step after them, which cuts
     off every later line, whole or half, to be written again.

So a checkpoint never knows of a step that the files do not. Files that lack one
all the same were tampered with, and are refused.
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
from rlpt_jax.core.timers import PREFIX

METRICS, TIMING, TENSORBOARD = 'metrics.jsonl', 'timing.jsonl', 'tensorboard'
MAX_ELEMENTS = 64

logger = logging.getLogger(__name__)

Value = bool | int | float | np.ndarray | jax.Array


class Writer:
  """The metrics of every step, each once and in order, on process 0 only.

  A line of metrics.jsonl is {"step": 0, ...} with the other keys sorted; NaN
  and infinity are null there, for JSON has neither, and themselves elsewhere.
  timing.jsonl is alike. TensorBoard gets the numbers, not the arrays.

  Steps are read late: `write` starts the copies of its step and waits for the
  step before it, so the loop is at most two steps ahead of its metrics.
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
    """Goes on at first_step: as many steps as the restored checkpoint has done.

    shown: (label, key, format) of what the terminal shows; without any it
      shows nothing.
    alarms: What it shows beside that where it is not 0.
    every_s: Between two lines where standard output is not a terminal.
    """
    self._next_step, self._pending = first_step, None
    self._files, self._view, self._closed = {}, None, False
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    workdir = pathlib.Path(workdir)
    paths = workdir / METRICS, workdir / TIMING
    # Both are looked at before either is touched.
    sizes = [append_files.size_before(path, first_step) for path in paths]
    with contextlib.ExitStack() as opened:
      for path, size in zip(paths, sizes, strict=True):
        self._files[path.name] = opened.enter_context(AppendFile(path, size))
      if tensorboard:
        path = workdir / TENSORBOARD / _events_name()
        file = opened.enter_context(AppendFile(path, 0))
        file.append(events.opening(first_step), 'its head')
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
    # What broke the loop matters, and nobody waits for a step after Ctrl-C.
    if self._pending is not None and not _is_ready(self._pending):
      self._pending = None
    try:
      self.close()
    except Exception as second:
      error.add_note(f'And while the metrics were closed: {second}')

  def write(
    self,
    step: int,
    metrics: Mapping[str, Value],
    timing: Mapping[str, Value],
  ):
    """Takes what a step computed, and apart from it what the clock said.

    metrics: What a repeated run computes again bit by bit; may still be under
      way on the device.
    timing: All else: seconds, tokens per second, memory, compilations. Its keys
      begin with 'timing/', and no others do.
    """
    assert not self._closed, 'the writer is closed'
    assert step == self._next_step, f'step {step} after {self._next_step - 1}'
    # On all processes, so that they stop together.
    _check_keys(metrics, timing)
    for key, value in (*metrics.items(), *timing.items()):
      _check(key, value)
    self._next_step += 1
    if not self._writes:
      return
    started = step, _started(metrics), _started(timing)
    self.flush()
    self._pending = started

  def sync(self):
    """Returns when all steps so far are on the disk.

    Before a checkpoint is saved, never after: see the head of this file.
    """
    self.flush()
    for file in self._files.values():
      file.sync()

  def close(self):
    """Writes what is left, and lets go of the files and of the terminal."""
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
    """Writes the newest step; a loop that has waited for it may do so."""
    # Taken first: nothing may follow a step that could not be written.
    pending, self._pending = self._pending, None
    if pending is not None:
      self._record(*pending)

  def _record(self, step: int, metrics: dict, timing: dict):
    metrics = {key: _read(value) for key, value in metrics.items()}
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
    """A terminal that is gone must not end a run."""
    if self._view is None:
      return
    try:
      draw(self._view)
    except OSError as error:
      view, self._view = self._view, None
      with contextlib.suppress(OSError):
        view.close()  # Standard output is its owner's again.
      logger.warning('The terminal is gone (%s); the run goes on.', error)


def _events_name() -> str:
  """Sorts by time, as TensorBoard reads files; unique on this machine."""
  return f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}'


# From what a program has to Python's numbers.


def _started(values: Mapping[str, Value]) -> dict[str, Any]:
  """Python's numbers, and of what is on a device the copy under way."""
  started = {}
  for key, value in values.items():
    if isinstance(value, jax.Array):
      value.copy_to_host_async()
      started[key] = value
    else:
      # Now: a numpy array may be written to as soon as this returns.
      started[key] = _read(value)
  return started


def _check_keys(metrics: Mapping[str, Value], timing: Mapping[str, Value]):
  wrong = [key for key in metrics if key == 'step' or key.startswith(PREFIX)]
  wrong += [key for key in timing if not key.startswith(PREFIX)]
  if wrong:
    raise ValueError(
      f'{wrong[0]!r}: expected keys that begin with {PREFIX!r} for what the '
      'clock says and for nothing else, and none that is "step".'
    )


def _check(key: str, value: Value):
  if isinstance(value, bool | int | float):
    return
  kinds = (np.bool_, np.integer, np.floating)
  dtype = getattr(value, 'dtype', None)
  if dtype is None or not any(jax.dtypes.issubdtype(dtype, k) for k in kinds):
    said = ' '.join(f'{value!r:.50}'.split())
    raise ValueError(
      f'{key}: {type(value).__name__} {said}: expected a number or an array of '
      'numbers.'
    )
  if isinstance(value, jax.Array) and not (
    value.is_fully_addressable or value.is_fully_replicated
  ):
    raise ValueError(
      f'{key} is spread over processes ({value.sharding}): expected an array '
      'that each has all of. Reduce it first.'
    )
  if value.size > MAX_ELEMENTS:
    raise ValueError(
      f'{key} has shape {value.shape}: expected at most {MAX_ELEMENTS} '
      'elements. Reduce it first.'
    )


def _read(value: Value):
  """A Python number, or lists of them; of a device array, once it is there."""
  if isinstance(value, bool | int | float | list):
    return value
  return np.asarray(value).tolist()


def _is_ready(pending) -> bool:
  arrays = [x for x in jax.tree.leaves(pending) if isinstance(x, jax.Array)]
  return all(array.is_ready() for array in arrays)
