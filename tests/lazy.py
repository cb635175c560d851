"""Libraries that only some tests need: imported when they are first used.

Each worker imports all test files before it runs one. TensorFlow alone takes
half a gigabyte, which the programs that other tests compile could have.
"""

import importlib
from typing import Any


class Module:
  """Stands for the module of this name."""

  def __init__(self, name: str):
    self._name = name

  def __getattr__(self, attribute: str) -> Any:
    if attribute.startswith('_'):  # What pytest looks for in every object.
      raise AttributeError(attribute)
    return getattr(importlib.import_module(self._name), attribute)
