"""Lets one host of a pod do work for all of them."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def on_one_host(function: Callable, *, called_by_all: bool = False) -> Callable:
  """Wraps `function` so that every process gets the first process's result.

  All processes must call the wrapper, but only the first calls `function`. If
  every host asked the server of a reward, the hosts could get different answers
  and diverge. They would also diverge if one of them saw a new file before the
  others. An exception is raised on all processes, so that none waits for the
  others.

  called_by_all: if True, all processes call `function`, because it computes on
    the devices of all. They still use the result of the first process, because
    the function may also ask a server, like a reward that combines a local
    judge with a remote one.
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
