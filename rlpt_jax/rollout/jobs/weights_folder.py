"""The weights that a learner publishes in a folder for samplers elsewhere.

They are checkpoints, so they appear whole or not at all. Each start of the
learner has a folder of its own: a run that resumes makes other weights than
those that were lost, but with the same numbers.

Samplers do not use Orbax's `checkpoints_iterator`: it blocks while there is
nothing new, and it releases the snapshots of other readers when it starts.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from rlpt_jax.core import settings, weights
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.core.run_files import WEIGHTS
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.models.config import Decoder, DecoderConfig
from rlpt_jax.training.checkpoints import Store

PARAMS, MODEL = 'params', 'model'
OLD = f'.{WEIGHTS}.old'  # The name of weights that are being deleted.
# A sampler that still reads the last but one has time for one more update.
KEPT = 2


class Publisher:
  """Writes weights in the background, one version at a time."""

  def __init__(self, workdir: pathlib.Path, start: int, decoder: Decoder):
    """start: the number of the learner's start; removes weights of others."""
    self._workdir, self._decoder = workdir, decoder
    on_one_host(_remove)(workdir)
    self._store = Store(_folder(workdir, start), keep_last=KEPT)

  def publish(self, params, version: int):
    """Returns once `params` may be donated; raises if the last write failed."""
    dtype = self._decoder.compute.dtype
    # The sampler rounds the layers in any case (sampling/publish.py).
    layers = jax.tree.map(lambda x: x.astype(dtype), params['layers'])
    record = {MODEL: self._decoder.config.to_dict()}
    self._store.save(version, {PARAMS: params | {'layers': layers}}, record)

  def close(self, *, remove: bool):
    """remove: no sampler needs the weights any more."""
    self._store.close()
    if remove:
      on_one_host(_remove)(self._workdir)


def newest(workdir: pathlib.Path, start: int) -> int | None:
  """Returns the newest version that is complete; None if there is none."""
  try:
    names = [path.name for path in _folder(workdir, start).iterdir()]
  except FileNotFoundError:
    return None
  return max((int(name) for name in names if name.isdigit()), default=None)


def load(workdir: pathlib.Path, start: int, version: int, decoder: Decoder):
  """Returns the parameters of a version; None if it was deleted meanwhile."""
  specs = decoder_lib.specs(decoder.config)
  shapes = weights.shapes(specs, layout=decoder.layout)
  shapes['layers'] = weights.shapes(
    specs['layers'], layout=decoder.layout, dtype=decoder.compute.dtype
  )
  try:
    with Store(_folder(workdir, start), read_only=True) as store:
      _check_model(workdir, store.record(step=version)[1], decoder.config)
      return store.restore({PARAMS: shapes}, step=version).trees[PARAMS]
  except FileNotFoundError:  # Orbax looks at all steps, some just deleted.
    return None
  except ValueError:
    if version == newest(workdir, start):
      raise
    return None


def _check_model(
  workdir: pathlib.Path, record: Mapping[str, Any], config: DecoderConfig
):
  """Raises if files of the same name are another model here."""
  wanted = json.loads(json.dumps(config.to_dict()))  # As if read from the file.
  if changed := settings.differences(record[MODEL], wanted):
    raise ValueError(
      f'{workdir}: its learner has another model: {"; ".join(changed)}. Give '
      'this sampler the same files.'
    )


def _remove(workdir: pathlib.Path):
  old = workdir / OLD
  shutil.rmtree(old, ignore_errors=True)
  # First out of the way, whole: samplers see no weights that are half gone.
  with contextlib.suppress(FileNotFoundError):
    (workdir / WEIGHTS).rename(old)
  shutil.rmtree(old, ignore_errors=True)


def _folder(workdir: pathlib.Path, start: int) -> pathlib.Path:
  return workdir / WEIGHTS / str(start)
