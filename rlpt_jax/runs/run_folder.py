"""A run's folder: its settings, its checkpoints, and how a run resumes."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlpt_jax.core import append_files, checks, settings, weights
from rlpt_jax.core.checks import Count
from rlpt_jax.core.layout import Layout
from rlpt_jax.core.one_host import on_one_host
from rlpt_jax.core.run_files import (
  CHECKPOINTS,
  CONFIG,
  LOCK,
  METRICS,
  ROLLOUTS,
  TIMING,
)
from rlpt_jax.data.config import Data, load_tokenizer
from rlpt_jax.inference import model_files
from rlpt_jax.inference.model_files import ModelFiles
from rlpt_jax.models import decoder as decoder_lib
from rlpt_jax.training import learner
from rlpt_jax.training.checkpoints import Store
from rlpt_jax.training.learner import State, make_state

STREAM = 'stream'  # The tree of a checkpoint with a run's unfinished samples.
ADDRESS = re.compile(r'\w{2,}:/')
FRESH_ASSETS = '.assets'  # The name of ASSETS until they are complete.


@contextlib.contextmanager
def claimed(
  workdir: pathlib.Path, config: Any, may_change: Sequence[str] = ()
) -> Iterator[None]:
  """Locks a run's folder, and records the run's settings in it.

  Raises if another process uses the folder, or if steps were made there with
  other settings.

  may_change: names of settings that may differ from the recorded ones, because
    they do not affect what a step computes.
  """
  check_on_disk(workdir)
  on_one_host(_make)(workdir)
  # Lock first: settings are replaced if there is no step yet. Without the lock,
  # this could replace those of a run that another process has just begun.
  with _alone(workdir):
    check_config(workdir, config, may_change, may_replace=not has_step(workdir))
    yield


def check_on_disk(workdir: pathlib.Path):
  """Raises if the path was the address of a store, such as gs://bucket/run.

  As a path it would name a folder of this machine, 'gs:'.
  """
  if ADDRESS.match(str(workdir)):
    raise ValueError(
      f'{workdir}: expected a folder on a disk, found the address of a store. '
      'Mount a disk that all machines of the run see.'
    )


def has_step(workdir: pathlib.Path) -> bool:
  """Returns True if the folder has checkpoints, rollouts or metrics."""
  own = (model_files.ASSETS, FRESH_ASSETS)
  if any(path.name not in own for path in _inside(workdir / CHECKPOINTS)):
    return True
  if any(_inside(workdir / ROLLOUTS)):
    return True
  paths = (workdir / METRICS, workdir / TIMING)
  return any(path.exists() and path.stat().st_size for path in paths)


def has_lines(workdir: pathlib.Path, steps: int) -> bool:
  """Returns True if the metrics of the first `steps` steps were written."""
  try:
    for name in (METRICS, TIMING):
      append_files.size_before(workdir / name, steps)
  except ValueError:
    return False
  return True


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
  return list(folder.iterdir()) if folder.is_dir() else []


def check_config(
  workdir: pathlib.Path,
  config: Any,
  may_change: Sequence[str] = (),
  *,
  may_replace: bool = False,
):
  """Records settings in a folder; raises if other settings are recorded there.

  may_replace: nothing was made with the recorded settings yet, so they may
    change.
  """
  # On one host, since others would find the file that the first just wrote.
  on_one_host(_check_config)(workdir, config, may_change, may_replace)


def _check_config(
  workdir: pathlib.Path,
  config: Any,
  may_change: Sequence[str],
  may_replace: bool,
):
  wanted = _fixed(settings.describe(config), may_change)
  path = workdir / CONFIG
  if path.exists():
    try:
      recorded = json.loads(path.read_text())
    except ValueError as error:
      raise ValueError(
        f'{path}: not JSON: {error}. Choose another folder.'
      ) from error
    # The folder of a model has a config.json too.
    if not isinstance(recorded, dict) or (
      'is' not in recorded and recorded.keys() != wanted.keys()
    ):
      raise ValueError(
        f'{path}: expected the settings of a run, found something else. '
        'Choose another folder.'
      )
    # An earlier version of rlpt may have recorded settings of `may_change` too.
    changed = settings.differences(_fixed(recorded, may_change), wanted)
    if changed and not may_replace:
      raise ValueError(
        f'{workdir}: has a run with other settings: {"; ".join(changed)}. '
        'Restore those, or choose another folder.'
      )
  elif (workdir / CHECKPOINTS).exists():
    raise ValueError(
      f'{workdir}: has {CHECKPOINTS} but no {CONFIG}, so the settings of '
      'those checkpoints are unknown. Choose another folder.'
    )
  # Write even if the file exists: if the folder cannot be written to, the run
  # should fail now, and not after something has been computed.
  _make(workdir)
  with _writable(workdir):
    # A fixed name, so that the next start overwrites what a killed one left.
    fresh = path.with_suffix('.new')
    fresh.write_text(json.dumps(wanted, indent=2) + '\n')
    os.replace(fresh, path)


def check_recorded(workdir: pathlib.Path, config: Any):
  """Raises unless these are the settings that a run has recorded.

  Settings that a run may change are not recorded.
  """
  recorded = json.loads((workdir / CONFIG).read_text())
  wanted = _fixed(settings.describe(config), ())
  changed = settings.differences(
    recorded, {name: x for name, x in wanted.items() if name in recorded}
  )
  if changed:
    raise ValueError(
      f'{workdir}: its learner has other settings: {"; ".join(changed)}. '
      'Start the samplers with those of the learner.'
    )


def _make(workdir: pathlib.Path):
  with _writable(workdir):
    workdir.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _writable(workdir: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise ValueError(
      f'{workdir}: cannot be written to ({error.strerror}). Choose another '
      'workdir, or fix this one.'
    ) from error


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
  """Locks a run's folder against other processes."""
  with contextlib.ExitStack() as stack:

    def lock():
      with _writable(workdir):
        file = stack.enter_context((workdir / LOCK).open('w'))
      try:
        # lockf binds the lock to this process: children that outlive the
        # process do not hold the lock.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except (BlockingIOError, PermissionError):
        raise ValueError(
          f'{workdir}: another process is using this run folder. Wait until '
          'it ends, or choose another folder.'
        ) from None
      except OSError:
        pass  # Some network file systems do not support locks.

    on_one_host(lock)()
    yield


def _fixed(described: dict, may_change: Sequence[str]) -> dict:
  fixed = {k: v for k, v in described.items() if k not in may_change}
  return json.loads(json.dumps(fixed))  # As if read from the file.


def with_tokenizer(config: Any, files: ModelFiles) -> Any:
  """Returns the config with tokenizers set in its data and held-out data.

  Data that name no tokenizer get the model's own. Raises if a tokenizer that
  they name has other ids than the model.
  """
  changes = {}
  for name in ('data', 'held_out'):
    if part := getattr(config, name):
      # Held-out data may be inside other settings, such as HeldOut.
      data = part if isinstance(part, Data) else part.data
      source = files.tokenizer_source(data.tokenizer)
      files.check_tokenizer(load_tokenizer(source), data.tokenizer)
      data = dataclasses.replace(data, tokenizer=source)
      changes[name] = (
        data if isinstance(part, Data) else dataclasses.replace(part, data=data)
      )
  return dataclasses.replace(config, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
  """When a run saves a checkpoint, and which it keeps.

  every: steps between two checkpoints; the last step is saved too.
  keep_last: how many of the newest checkpoints are kept.
  keep_every: also keeps each checkpoint whose step is a multiple of this.
  """

  every: Count = 50
  keep_last: Count = 2
  keep_every: Count | None = None

  def __post_init__(self):
    checks.check_fields(self)


@contextlib.contextmanager
def checkpoints(
  workdir: pathlib.Path, files: ModelFiles, tokenizer: str, saving: Saving
) -> Iterator[Store]:
  """Opens the `Store` of a run's checkpoints.

  The tokenizer and the model's config.json are copied to it, so that
  `rlpt generate` and `rlpt convert` can read the checkpoints.
  """
  directory = workdir / CHECKPOINTS
  with Store(
    directory, keep_last=saving.keep_last, keep_every=saving.keep_every
  ) as store:
    assets = directory / model_files.ASSETS
    # If no step was saved, assets may be from a model that was tried before.
    if jax.process_index() == 0 and not (store.steps() and assets.exists()):
      fresh = directory / FRESH_ASSETS
      for old in (fresh, assets):
        shutil.rmtree(old, ignore_errors=True)
      fresh.mkdir()
      model_files.keep_assets(files, tokenizer, fresh)
      fresh.replace(assets)
    yield store


def start(
  store: Store, files: ModelFiles, layout: Layout, optimizer, *, seed: int
) -> tuple[State, dict[str, Any]]:
  """Returns (state, record) of the newest checkpoint, or of a new run.

  If the checkpoint has samples that no update has learned from, their arrays
  are in the record too, as record['stream']['arrays'].
  """
  if not store.steps():
    params = files.load_params(layout=layout, seed=seed)
    return make_state(params, optimizer), {}
  restored = store.restore(shapes(files, layout, optimizer), on_host=STREAM)
  trees = restored.trees
  state = State(trees['params'], trees['optimizer'], **trees['counts'])
  record = dict(restored.record)
  if STREAM in record:
    record[STREAM] = record[STREAM] | {'arrays': restored.on_host}
  return state, record


def save(
  store: Store,
  state: State,
  files: ModelFiles,
  record: dict[str, Any],
  *,
  max_skipped: int,
  stream: Mapping[str, np.ndarray] | None = None,
):
  """Starts to save a state, with the record that the run needs to resume.

  Does nothing at step 0, or if the step is saved already. Raises if the last
  `max_skipped` updates were not finite. The training loop checks one update
  late. Without the check here, it could save a state that it is about to
  reject, and a run resumed from that state would continue instead of stopping.

  stream: arrays of samples that no update has learned from, for `stream`.
  """
  step = int(state.step)
  if not step or step in store.steps():
    return
  check_skipped(max_skipped, step, state.skipped_in_a_row)
  trees = {
    'params': state.params,
    'optimizer': state.optimizer,
    'counts': {
      'step': state.step,
      'skipped': state.skipped,
      'skipped_in_a_row': state.skipped_in_a_row,
    },
  }
  if stream:
    trees[STREAM] = dict(stream)
  store.save(step, trees, {'model': files.config.to_dict(), **record})


def shapes(files: ModelFiles, layout: Layout, optimizer) -> dict[str, Any]:
  """Returns the shapes and shardings for `restore`; allocates no arrays."""
  params = weights.shapes(
    decoder_lib.specs(files.config), layout=layout, dtype='float32'
  )
  opt_state = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    jax.eval_shape(optimizer.init, params),
    learner.shardings(optimizer, params),
  )
  count = jax.ShapeDtypeStruct((), jnp.int32, sharding=layout.replicated())
  counts = dict.fromkeys(('step', 'skipped', 'skipped_in_a_row'), count)
  return {'params': params, 'optimizer': opt_state, 'counts': counts}


def check_skipped(most: int, steps: int, in_a_row: jax.Array):
  """Raises if none of the last `most` updates was finite.

  steps: the number of updates so far, for the message.
  """
  # As a number of the host: a comparison of arrays would be a program of the
  # device, which waits for the update that is running.
  if int(in_a_row) >= most:
    raise ValueError(
      f'step {steps}: {in_a_row} updates in a row had a loss or a gradient '
      'that is not finite; nothing was learned from them. Lower the learning '
      'rate, or check the data of these steps.'
    )


def memory() -> dict[str, float]:
  """Returns the peak memory of the first device, or of the process on a CPU."""
  stats = jax.local_devices()[0].memory_stats() or {}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return {'timing/peak_gib': stats.get('peak_bytes_in_use', peak) / 2**30}


def check_microbatches(config: Any, name: str, size: int):
  """Raises unless config.num_microbatches, if set, divides a batch's size.

  name: the setting that gives the size, for the message.
  """
  number = config.num_microbatches
  if number is not None and size % number:
    raise checks.setting_error(
      type(config),
      'num_microbatches',
      number,
      f'a divisor of {name}={size}, or None for the fewest that fit',
    )
