"""Saves completions that still need a verdict, in a run's unjudged.npz.

A run whose judge fails saves them, with the step that sampled them. The next
start asks the judge about them, and does not sample them again. If a schedule
samples ahead, the file also has its record, in place of that of the checkpoint,
which may be older.
"""

import dataclasses
import io
import json
import logging
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlpt_jax.core import output_files
from rlpt_jax.core.append_files import not_written
from rlpt_jax.core.run_files import CONFIG, UNJUDGED
from rlpt_jax.sampling.requests import Completion

# All but the versions, which are those of the newest weights.
ARRAYS = tuple(
  field.name
  for field in dataclasses.fields(Completion)
  if field.type is np.ndarray and field.name != 'versions'
)

STREAM = 'stream/'  # Begins the names of a source's arrays.

logger = logging.getLogger(__name__)

# The name of a request -> its samples.
Groups = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class SavedSample:
  """A sampler.Sample, read back."""

  text: str
  finish_reason: str
  completion: Completion


def write(
  workdir: pathlib.Path,
  step: int,
  groups: Groups,
  record: Mapping[str, Any] | None = None,
  stream: Mapping[str, np.ndarray] | None = None,
):
  """Saves the samples of `step`, all of which come from the newest weights.

  record, stream: what a source needs to resume (`stream.Source.resume`).
  """
  if jax.process_index() != 0:
    return
  samples = [sample for group in groups.values() for sample in group]
  completions = [sample.completion for sample in samples]
  arrays = {
    name: np.concatenate([getattr(c, name) for c in completions] or [[]])
    for name in ARRAYS
  }
  about = {
    'settings': _settings(workdir),
    'step': step,
    'record': dict(record or {}),
    'groups': {name: len(group) for name, group in groups.items()},
    'samples': [
      [s.text, s.finish_reason, len(c.tokens)]
      for s, c in zip(samples, completions, strict=True)
    ],
  }
  arrays |= {STREAM + name: x for name, x in (stream or {}).items()}
  data = np.frombuffer(json.dumps(about).encode(), np.uint8)
  path = workdir / UNJUDGED
  whole = io.BytesIO()
  np.savez(whole, about=data, **arrays)
  try:
    output_files.replace(path, [whole.getbuffer()])
  except OSError as error:
    raise not_written(path, error, 'could not be written') from None


def read(workdir: pathlib.Path, step: int, version: int) -> Groups:
  """Returns the saved samples of `step`, or none if step or settings differ.

  version: the engine's current version of the weights, which sampled them.
  """
  if not (saved := _read(workdir, step)):
    return {}
  about, arrays = saved
  ends = np.cumsum([0, *(length for _, _, length in about['samples'])])
  samples = iter(
    SavedSample(
      text,
      finish_reason,
      Completion(
        **{name: arrays[name][start:end] for name in ARRAYS},
        versions=np.full(length, version, np.int32),
        finish_reason=finish_reason,
        prompt_version=version,
      ),
    )
    for (text, finish_reason, length), start, end in zip(
      about['samples'], ends, ends[1:], strict=False
    )
  )
  return {
    name: [next(samples) for _ in range(size)]
    for name, size in about['groups'].items()
  }


def read_record(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """Returns the record of a source that was saved with `step`, if any."""
  if not (saved := _read(workdir, step)) or not saved[0].get('record'):
    return {}
  about, arrays = saved
  stream = {
    name.removeprefix(STREAM): x
    for name, x in arrays.items()
    if name.startswith(STREAM)
  }
  record = about['record']
  return record | {'stream': record['stream'] | {'arrays': stream}}


def _read(workdir: pathlib.Path, step: int):
  """Returns (description, arrays); None if step or settings differ."""
  path = workdir / UNJUDGED
  try:
    with np.load(path, allow_pickle=False) as archive:
      about = json.loads(archive['about'].tobytes())
      if (about['step'], about['settings']) != (step, _settings(workdir)):
        return None
      return about, {name: archive[name] for name in archive if name != 'about'}
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    logger.warning('%s: cannot be read (%s); sampling again.', path, error)
    return None


def _settings(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the settings that may affect sampling.

  The reward is left out: if it was broken, it may change before the next start.
  """
  config = json.loads((workdir / CONFIG).read_text())
  return {name: x for name, x in config.items() if name != 'reward'}


def remove(workdir: pathlib.Path):
  """Deletes the saved completions; call it once a later step is saved."""
  if jax.process_index() == 0:
    (workdir / UNJUDGED).unlink(missing_ok=True)
