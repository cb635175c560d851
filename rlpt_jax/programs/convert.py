"""Converts a Hugging Face directory to a checkpoint, or a checkpoint back."""

import math
import pathlib
from typing import Literal

import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import weights
from rlpt_jax.core.weights import LazyArray
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface
from rlpt_jax.programs import model_files
from rlpt_jax.training.checkpoints import DamagedCheckpoint, Store


def convert(
  src: pathlib.Path,
  dst: pathlib.Path,
  *,
  step: int | None = None,
  dtype: Literal['keep', 'float32', 'bfloat16', 'float16'] = 'keep',
  overwrite: bool = False,
):
  """Converts SRC to the other kind of model directory at DST.

  A Hugging Face directory (config.json, safetensors) becomes a directory of
  checkpoints with one step, 0; a directory of checkpoints becomes a Hugging
  Face directory. Tensors stream, so a model may be larger than memory, and DST
  appears whole or not at all.

  Args:
    src: What to convert; what it is decides the direction.
    dst: Where to, a directory that does not exist yet.
    step: Which checkpoint to export; by default the newest.
    dtype: Of the written weights; by default the one they have.
    overwrite: Replace DST where it is a model that rlpt wrote.
  """
  model = model_files.find(src, step=step)
  if dst.resolve() in (src.resolve(), *src.resolve().parents):
    raise ValueError(f'{dst}: holds {src}, which it would replace.')
  print(f'{src}: {model_files.describe(model.config)}')
  with model_files.new_directory(dst, overwrite=overwrite) as directory:
    if model.is_checkpoint:
      _to_huggingface(model, directory, dtype)
    else:
      _to_checkpoint(model, directory, dtype)
  print(f'wrote {dst}')


def _to_checkpoint(model: model_files.ModelFiles, directory, dtype: str):
  specs = decoder_lib.specs(model.config)
  params = huggingface.open_params(model.path, specs)
  params = weights.map_named(
    lambda path, array: _cast(path, array, dtype), params
  )
  with Store(directory) as store:
    store.save(0, {'params': params}, {'model': model.config.to_dict()})
  assets = directory / model_files.ASSETS
  assets.mkdir()
  huggingface.copy_companions(model.path, assets, config=True)


def _to_huggingface(model: model_files.ModelFiles, directory, dtype: str):
  with Store(model.path, read_only=True) as store:
    candidates = store.candidates(model.step)
    for step in candidates:
      try:
        _export(store, step, model, directory, dtype)
        print(f'exported step {step}')
        return
      except DamagedCheckpoint:
        # Said by the store. Damage shows while tensors stream: start again.
        if step == candidates[-1]:
          raise


def _export(store: Store, step: int, model, directory, dtype: str):
  arrays = store.arrays('params', step=step)
  cast = {path: _cast(path, array, dtype) for path, array in arrays.items()}
  huggingface.save(
    directory,
    model.config,
    decoder_lib.specs(model.config),
    [(path, array.dtype, array.load) for path, array in cast.items()],
    companions=model.assets,
  )


def _cast(path: str, array: LazyArray, dtype: str) -> LazyArray:
  """The array cast to `dtype`; raises where weights are NaN or infinite."""
  wanted = array.dtype if dtype == 'keep' else jnp.dtype(dtype)

  def read(index):
    found = array.read(index)
    if not _is_finite(found):
      raise ValueError(
        f'{path}: has weights that are no numbers, or infinite. Is the model '
        'whole?'
      )
    if wanted == found.dtype:
      return found
    with np.errstate(over='ignore'):
      cast = found.astype(wanted)
    if not _is_finite(cast):
      raise ValueError(
        f'{path}: has weights too large for {wanted}; take --dtype=bfloat16 or '
        'float32.'
      )
    return cast

  return LazyArray(array.shape, wanted, read)


def _is_finite(array: np.ndarray) -> bool:
  """Whether all numbers are; some rows at a time, for memory."""
  array = np.atleast_1d(array)
  rows = max(2**20 // max(math.prod(array.shape[1:]), 1), 1)
  return all(
    np.isfinite(array[first : first + rows]).all()
    for first in range(0, len(array), rows)
  )
