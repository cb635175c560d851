"""Imports TensorFlow silently and keeps it off the accelerators."""

import functools
import os
import sys
import tempfile


@functools.cache
def load():
  """Imports TensorFlow; call this before any other import of it.

  Captures file descriptor 2, since TensorFlow writes there while it loads, at
  any log level. Shows the captured output if the import fails.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  with tempfile.TemporaryFile() as output:
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(output.fileno(), 2)
    try:
      import tensorflow as tf

      # We need it only for files; JAX needs the devices and their memory.
      for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
    except BaseException:
      output.seek(0)
      os.write(stderr, output.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
