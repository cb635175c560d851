"""Converts a Hugging Face directory to a checkpoint, or a checkpoint back."""

import math
import pathlib
from typing import Literal

import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import weights
from rlpt_jax.core.weights import LazyArray
from rlpt_jax.inference import model_files
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models import huggingface
from rlpt_jax.training.checkpoints import DamagedCheckpoint, Store


def convert(
  src: pathlib.Path,
  dst: pathlib.Path,
  *,
  step: int | None = None,
  dtype: Literal['keep', 'float32', 'bfloat16', 'float16'] = 'keep',
  overwrite: bool = False,
):
  """Converts a model directory to the other format.

  A Hugging Face directory (config.json, safetensors) becomes a checkpoint
  directory with a single step, 0; a checkpoint directory becomes a Hugging Face
  directory. Tensors are streamed, so a model may be larger than memory. DST is
  written completely or not at all.

  Args:
    src: The directory to convert; its format decides the direction.
    dst: The output directory. Without --overwrite, it must not exist yet.
    step: The checkpoint step to export; by default the newest.
    dtype: The dtype of the written weights; by default it stays the same.
    overwrite: Replaces DST if it is empty or a model that rlpt wrote.
  """
  model = model_files.find(src, step=step)
  if str(src).startswith(model_files.RANDOM):
    raise ValueError(
      f'{src}: a random model is on no disk; expected a Hugging Face directory '
      'or a directory of checkpoints.'
    )
  if dst.resolve() in (src.resolve(), *src.resolve().parents):
    raise ValueError(
      f'{dst}: contains {src}, which it would replace. Choose another DST.'
    )
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
        # The store has logged the damage. Damage is found only while tensors
        # are streamed, so files of this step may be written already: write all
        # of them again, from the next older step.
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
  """Returns an array that is cast to `dtype` while it is read.

  Reading raises if a weight is not finite, before or after the cast.
  """
  wanted = array.dtype if dtype == 'keep' else jnp.dtype(dtype)

  def read(index):
    values = array.read(index)
    if not _is_finite(values):
      raise ValueError(
        f'{path}: has NaN or infinite weights. Is the model damaged?'
      )
    if wanted == values.dtype:
      return values
    with np.errstate(over='ignore'):
      cast = values.astype(wanted)
    if not _is_finite(cast):
      raise ValueError(
        f'{path}: has weights too large for {wanted}; use --dtype=bfloat16 or '
        'float32.'
      )
    return cast

  return LazyArray(array.shape, wanted, read)


def _is_finite(array: np.ndarray) -> bool:
  """Returns True if all values are finite; checks a few rows at a time."""
  array = np.atleast_1d(array)
  rows = max(2**20 // max(math.prod(array.shape[1:]), 1), 1)
  return all(
    np.isfinite(array[first : first + rows]).all()
    for first in range(0, len(array), rows)
  )
