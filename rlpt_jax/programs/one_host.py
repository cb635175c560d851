"""What one host of a pod does for all of them."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def on_one_host(function: Callable, *, called_by_all: bool = False) -> Callable:
  """The function, called by the first process; the others hear what it gives.

  A reward's server would be asked by every host otherwise, and hosts that hear
  different answers part ways, as do hosts of which one sees a file sooner. What
  it raises, all raise: none waits for the others.

  called_by_all: the others call it too, for it computes on their devices, but
    take what the first has: beside a local judge there may be a server.
  """
  if jax.process_count() == 1:
    return function

  @functools.wraps(function)
  def called(*args: Any):
    found = None
    if called_by_all or jax.process_index() == 0:
      try:
        found = function(*args)
      except Exception as error:
        found = error
    found = broadcast(found)
    if isinstance(found, Exception):
      raise found
    return found

  return called


def broadcast(value):
  """What the first process has; of the others nothing is looked at."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  data = np.frombuffer(pickle.dumps(value), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
  # Of one shape on all of them.
  room = np.zeros(length, np.uint8)
  if jax.process_index() == 0:
    room[:] = data
  return pickle.loads(multihost_utils.broadcast_one_to_all(room).tobytes())
