"""Compiles a function in the background, before its first call.

The first update of a run needs a program that takes minutes to compile for a
TPU. Its shapes are known before the first batch is sampled, so it is compiled
meanwhile: the compiler holds no lock of Python's.
"""

import concurrent.futures
from collections.abc import Callable

import jax

from rlpt_jax.core import freed_memory


class CompiledAhead:
  """A jitted function whose first program is compiled by a thread.

  Compiling launches nothing. So several hosts still launch the same programs in
  the same order, whenever the thread of each is done.

  The thread ends once it has compiled. An interpreter that exits earlier waits
  for it, as a compiler cannot be stopped.
  """

  def __init__(self, function: Callable, *arguments):
    """Starts to compile; arguments: trees of arrays, or of their shapes."""
    self._function = function
    self._expected = _shapes(arguments)
    executor = concurrent.futures.ThreadPoolExecutor(1, 'compile')
    self._compiled = executor.submit(self._compile, *self._expected)
    executor.shutdown(wait=False)

  @property
  def is_compiling(self) -> bool:
    return self._compiled is not None and not self._compiled.done()

  def _compile(self, *arguments):
    # JAX remembers the program for the calls with these shapes.
    self._function.lower(*arguments).compile()

  def __call__(self, *arguments):
    """Calls the function; the first call waits until it is compiled.

    If the arguments have other shapes than expected, the call compiles what it
    needs itself, and does not wait.
    """
    if self._compiled:
      if _shapes(arguments) == self._expected:
        self._compiled.result()  # Raises what the compiler has raised.
      else:
        self._compile(*arguments)
      self._compiled = None
      freed_memory.give_back()
    return self._function(*arguments)


def trimmed(function: Callable) -> Callable:
  """Returns a jitted function whose first call gives back a compiler's memory.

  That is 0.4 GB for an update on a CPU, which needs memory of its own. For
  devices on which compiling ahead gains nothing.
  """
  is_compiled = False

  def call(*arguments):
    nonlocal is_compiled
    if not is_compiled:
      function.lower(*arguments).compile()
      freed_memory.give_back()
      is_compiled = True
    return function(*arguments)

  return call


def _shapes(tree):
  """The tree with all of its arrays that decides which program is used."""

  def shape(x):
    if isinstance(x, jax.ShapeDtypeStruct):
      return x
    is_placed = isinstance(x, jax.Array) and x.committed
    return jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=x.sharding if is_placed else None,
      weak_type=getattr(x, 'weak_type', False),
    )  # fmt: skip

  return jax.tree.map(shape, tree)
