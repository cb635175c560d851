"""Peak memory and speed of `rlpt convert` in both directions.

    python benchmarks/convert.py --model qwen3_17b --folder /tmp/convert

The weights are random. Prints JSON. Memory is the increase of VmHWM, the
kernel's peak of resident memory, over that of an interpreter with everything
imported.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time

import ml_dtypes
import numpy as np

from rlpt_jax.core import weights
from rlpt_jax.models import decoder, huggingface, zoo

CONVERT = r"""
import logging, re, sys
logging.getLogger('absl').setLevel(logging.ERROR)
from rlpt_jax import cli
from rlpt_jax.programs import convert
def peak():  # Not getrusage: a child inherits what its parent has reached.
  return int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1])
before = peak()
assert cli.main(['convert', *sys.argv[1:]]) == 0
print(peak() - before)
"""


def make_random(directory: pathlib.Path, config):
  """Writes a Hugging Face directory of random bfloat16 weights."""
  specs = decoder.specs(config)
  dtype = np.dtype(ml_dtypes.bfloat16)
  rng = np.random.default_rng(0)

  def read(spec):
    # Random numbers below two in magnitude; their bits do not compress.
    bits = rng.integers(0, 2**14, spec.shape, np.uint16)
    bits |= rng.integers(0, 2, spec.shape, np.uint16) << 15
    return bits.view(dtype)

  arrays = [
    (path, dtype, lambda spec=spec: read(spec))
    for path, spec in weights.named(specs)
  ]
  huggingface.save(directory, config, specs, arrays)


def measure(source, target) -> dict:
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, '-c', CONVERT, str(source), str(target)],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return {
    'peak_mib': int(done.stdout.split()[-1]) // 1024,
    'seconds': round(time.perf_counter() - start, 1),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', default='qwen3_17b', choices=zoo.MODELS)
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--sizes', type=json.loads, default={}, help='JSON')
  args = parser.parse_args()
  config = dataclasses.replace(zoo.get(args.model), **args.sizes)
  args.folder.mkdir(parents=True)
  source, there, back = (args.folder / x for x in ('hf', 'checkpoint', 'back'))
  make_random(source, config)
  sizes = [
    2 * np.prod(spec.shape, dtype=int)
    for _, spec in weights.named(decoder.specs(config))
  ]
  result = {
    'model': args.model,
    'weights_mib': sum(sizes) >> 20,
    'largest_array_mib': max(sizes) >> 20,
    'to_checkpoint': measure(source, there),
    'to_huggingface': measure(there, back),
  }
  for name in sorted(path.name for path in source.glob('*.safetensors')):
    command = ['cmp', str(source / name), str(back / name)]
    subprocess.run(command, check=True)
  result['byte_identical'] = True
  shutil.rmtree(args.folder)
  print(json.dumps(result, indent=2, default=int))


if __name__ == '__main__':
  main()
