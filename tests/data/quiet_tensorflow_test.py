"""TensorFlow says nothing, and leaves the devices alone."""

import subprocess
import sys

SCRIPT = """
from rlpt_jax.data import quiet_tensorflow
quiet_tensorflow.load()
import sys
assert 'tensorflow' in sys.modules
import tensorflow as tf
assert tf.config.get_visible_devices('GPU') == []
print('to stderr', file=sys.stderr)
"""


def test_not_a_word():
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=True
  )
  assert done.stdout == ''
  assert done.stderr == 'to stderr\n'


def test_what_it_said_is_shown_if_it_cannot_be_loaded():
  script = """
import os, sys
class Broken:
  def find_spec(self, name, *_):
    if name == 'tensorflow':
      os.write(2, b'no such library')
      raise ImportError('broken')
sys.meta_path.insert(0, Broken())
from rlpt_jax.data import quiet_tensorflow
quiet_tensorflow.load()
"""
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert 'no such library' in done.stderr and 'broken' in done.stderr
