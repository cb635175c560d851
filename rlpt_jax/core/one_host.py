"""Lets one host of a pod do work for all of them."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def on_one_host(function: Callable, *, called_by_all: bool = False) -> Callable:
  """Returns a function that runs on the first process; all get its result.

  If every host called the reward's server, the hosts could get different
  answers and diverge. They would also diverge if one of them saw a new file
  before the others. An exception is raised on all processes, so that none waits
  for the others.

  called_by_all: True if all processes call the function, because it computes on
    the devices of all. They still use the result of the first process: the
    function may also ask a server, like a reward that combines a local judge
    with a remote one.
  """
  if jax.process_count() == 1:
    return function

  @functools.wraps(function)
  def called(*args: Any):
    result = None
    if called_by_all or jax.process_index() == 0:
      try:
        result = function(*args)
      except Exception as error:
        result = error
    result = broadcast(result)
    if isinstance(result, Exception):
      raise result
    return result

  return called


def broadcast(value):
  """Returns the first process's value; values of the others are ignored."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  data = np.frombuffer(pickle.dumps(value), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
  # The shape must be the same on all processes.
  room = np.zeros(length, np.uint8)
  if jax.process_index() == 0:
    room[:] = data
  return pickle.loads(multihost_utils.broadcast_one_to_all(room).tobytes())
