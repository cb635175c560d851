"""TensorFlow, loaded without a word and kept off the accelerators."""

import functools
import os
import sys
import tempfile


@functools.cache
def load():
  """Imports TensorFlow, once: what needs it calls this first.

  What it says while it loads goes to the file descriptor, whatever its log
  level is set to. It is shown if loading fails.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  with tempfile.TemporaryFile() as said:
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(said.fileno(), 2)
    try:
      import tensorflow as tf

      # It reads files for us; the devices, and their memory, are JAX's.
      for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
    except BaseException:
      said.seek(0)
      os.write(stderr, said.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
