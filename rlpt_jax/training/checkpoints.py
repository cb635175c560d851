"""Checkpoints that are complete or absent, and verified when written and read.

The checkpoint of a step holds named trees of arrays (say, params and optimizer)
and a record of plain JSON. With the record it keeps a fingerprint of every
array, computed on the array's devices when saving and compared after reading.
So a flipped bit anywhere on the way is detected, whatever mesh reads it.
"""

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import logging
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocp_policies

from rlpt_jax.core import freed_memory
from rlpt_jax.core.weights import LazyArray
from rlpt_jax.training import inventory, written

RECORD = 'record'
CHUNK_BYTES = 2**26  # Size of the chunks in which a LazyArray is written.
PACKAGES = ('rlpt_jax', 'jax', 'jaxlib', 'orbax-checkpoint', 'numpy')

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
  step: int
  trees: dict[str, Any]
  record: dict[str, Any]
  versions: dict[str, str]  # Package versions when it was written.
  # The arrays of the tree that `restore` was asked for as `on_host`.
  on_host: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class DamagedCheckpoint(ValueError):
  """A checkpoint cannot be read, or differs from what was written."""


class Store:
  """The checkpoints of one directory.

  Saving continues in the background; `close`, or leaving a `with` block, waits
  for it.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    keep_last: int = 2,
    keep_every: int | None = None,
    read_only: bool = False,
  ):
    self.directory = pathlib.Path(directory).absolute()
    if not read_only:
      self.directory.mkdir(parents=True, exist_ok=True)
    elif not self.directory.is_dir():
      raise ValueError(f'{directory}: no such directory of checkpoints.')
    keep = [ocp_policies.LatestN(keep_last)]
    if keep_every:
      keep.append(ocp_policies.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp_policies.AnyPreservationPolicy(keep),
      read_only=read_only,
      create=False,
      async_options=ocp.AsyncOptions(
        post_finalization_callback=self._check_written
      ),
      # Two stores of a run may save the same step at the same time. Processes
      # wait for each other by this name.
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        barrier_sync_key_prefix=self.directory.name
      ),
      # A save that was killed leaves a temporary directory. It is not listed as
      # a step, so removing it loses no checkpoint.
      cleanup_tmp_directories=not read_only,
    )
    self._read_only = read_only
    self._saving = None  # Step of the last save, perhaps in progress.
    with contextlib.ExitStack() as opened:
      # Orbax and TensorStore must get this path, never self.directory, in which
      # they may misread characters.
      self._path = opened.enter_context(written.plain_path(self.directory))
      self._manager = ocp.CheckpointManager(
        self._path, options=options, handler_registry=_handlers()
      )
      self._opened = opened.pop_all()
    self._handler = _tree_handler()

  def __enter__(self) -> 'Store':
    return self

  def __exit__(self, *exc_info):
    self.close()

  def close(self):
    """Waits for the last save and closes the directory."""
    with (
      self._opened,
      contextlib.closing(self._handler),
      self._explained_errors(),
    ):
      self._manager.close()

  def steps(self) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, trees: dict[str, Any], record: dict[str, Any]):
    """Starts a save; the arrays may be donated once this returns."""
    newest = max(self.steps(), default=-1)
    if step <= newest:
      raise ValueError(
        f'{self.directory}: step {step} cannot be saved, because step '
        f'{newest} already exists. A run that goes back needs a new '
        'directory, or those steps removed.'
      )
    for name, tree in trees.items():
      inventory.check_leaves(name, tree)
    # The record as it will be read back: JSON turns keys that are numbers into
    # strings. These sort in another order, on which the checksum depends.
    record = json.loads(json.dumps(record))
    content = {
      'arrays': {
        name: inventory.describe(tree) for name, tree in trees.items()
      },
      'versions': {name: _version(name) for name in PACKAGES},
      'record': record,
    }
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
    items[RECORD] = ocp.args.JsonSave(
      {'content': content, 'crc32': _crc32(content)}
    )
    with self._explained_errors():
      self._manager.wait_until_finished()
      self._saving = step
      if not self._manager.save(step, args=ocp.args.Composite(**items)):
        raise ValueError('orbax refused to save')

  def check(self):
    """Raises if a save in the background has failed; does not wait for one.

    Otherwise the failure would only show at the next save, many steps later.
    """
    if not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self):
    """Waits for the last save; raises if it has failed."""
    with self._explained_errors():
      self._manager.wait_until_finished()

  def _check_written(self):
    """Raises if what was written cannot be read back.

    Orbax then does not rename the new step, and keeps the earlier ones.
    """
    try:
      (fresh,) = (
        path
        for path in self._path.iterdir()
        if path.name.startswith(f'{self._saving}.')
      )
      content = self._read_content(fresh)
      for name, arrays in content['arrays'].items():
        written.check(fresh / name, arrays)
    except Exception as error:
      raise ValueError(f'it cannot be read back: {error}') from error

  @contextlib.contextmanager
  def _explained_errors(self) -> Iterator[None]:
    """Turns an error of a save into one line that says what to do."""
    try:
      yield
    except (OSError, ValueError) as error:
      raise OSError(
        f'{self.directory}: step {self._saving} could not be saved '
        f'({_why(error)}). Fix this and restart: the run resumes from the '
        'previous checkpoint.'
      ) from error

  def restore(
    self,
    trees: dict[str, Any],
    *,
    step: int | None = None,
    on_host: str | None = None,
  ) -> Restored:
    """Restores the newest intact checkpoint, or that of `step`.

    Renames damaged checkpoints that it skips, unless the store is read-only.
    Raises DamagedCheckpoint if none is intact.

    trees: named trees of jax.ShapeDtypeStruct, with the sharding and the dtype
      that each array gets. Both may differ from those it was saved with. Only
      these trees of the checkpoint are read.
    on_host: a tree of any shapes, to be read as numpy arrays; it need not
      exist.
    """
    damage = {}
    for candidate in self.candidates(step):
      content = self._try(damage, self._read_record, candidate)
      if content is None:
        continue
      inventory.check_shapes(
        self.directory / str(candidate), trees, content['arrays']
      )
      loaded = self._try(damage, self._read_trees, candidate, trees, content)
      # In a `_try` of its own: this collective computation must start on all
      # processes or on none. If reading fails on any, `loaded` is None on all.
      if loaded is None or not self._try(
        damage, self._verify, candidate, loaded, content
      ):
        continue
      hosted = self._try(
        damage, self._read_on_host, candidate, on_host, content
      )
      if hosted is None:
        continue
      if not self._read_only:
        self._set_aside(damage)
      cast = jax.tree.map(lambda x, like: x.astype(like.dtype), loaded, trees)
      return Restored(
        candidate, cast, content['record'], content['versions'], hosted
      )
    raise self._all_damaged(damage)

  def record(self, *, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """Returns (step, record) of the newest checkpoint with an intact record.

    If `step` is given, returns those of that checkpoint.
    """
    damage = {}
    for candidate in self.candidates(step):
      content = self._try(damage, self._read_record, candidate)
      if content is not None:
        return candidate, content['record']
    raise self._all_damaged(damage)

  def trees(self, *, step: int) -> list[str]:
    """The names of the trees of a step; empty if its record is damaged."""
    content = self._try({}, self._read_record, step)
    return sorted(content['arrays']) if content else []

  def arrays(self, tree: str, *, step: int) -> dict[str, LazyArray]:
    """Returns {path: array} of one tree, which must consist of nested dicts.

    An array is read only when it is loaded. Both this method and loading an
    array can raise DamagedCheckpoint.
    """
    damage = {}
    content = self._try(damage, self._read_record, step)
    if content is None:
      raise self._all_damaged(damage)
    entries = content['arrays'].get(tree)
    if entries is None:
      raise ValueError(
        f'{self.directory}: step {step} holds {sorted(content["arrays"])}, '
        f'expected {tree!r} among them.'
      )

    def lazy(path, shape, dtype):
      def read(index):
        array = self._try(damage, self._read_array, step, tree, path, content)
        if array is None:
          raise self._all_damaged(damage)
        _return_memory(array.nbytes)
        return array[index]

      return LazyArray(tuple(shape), jnp.dtype(dtype), read)

    return {path: lazy(path, *entry[:2]) for path, entry in entries.items()}

  def candidates(self, step: int | None) -> list[int]:
    """Returns the steps to try: only `step` if given, else all, newest first.

    Raises a ValueError if there is no such checkpoint.
    """
    if not self.steps():
      there = sorted(p.name for p in self.directory.iterdir())[:5]
      raise ValueError(
        f'{self.directory}: no checkpoint found, expected directories named '
        f'by their step; found {there or "nothing"}.'
      )
    if not any(
      (self.directory / str(s) / RECORD).exists() for s in self.steps()
    ):
      raise ValueError(
        f'{self.directory}: its steps {self.steps()} have no {RECORD!r}, so '
        'they were not written by rlpt.'
      )
    if step is None:
      return self.steps()[::-1]
    if step not in self.steps():
      raise ValueError(
        f'{self.directory}: no step {step}, expected one of {self.steps()}.'
      )
    return [step]

  def _try(self, damage: dict[int, str], read, step: int, *arguments):
    """Returns read(step, ...); None if that fails on any process.

    Notes the failure in `damage`. Raises errors that are the machine's fault.
    """
    result, why = None, 'another process could not read it'
    try:
      result = read(step, *arguments)
    except Exception as error:
      if isinstance(error, (MemoryError, PermissionError)) or (
        'RESOURCE_EXHAUSTED' in str(error)
      ):
        raise  # The machine's fault, not the checkpoint's.
      # The step was once written, so any other error is damage.
      why = str(error).splitlines()[0][:200] if str(error) else repr(error)
    if _all_processes(result is not None):
      return result
    damage[step] = why
    logger.warning('%s: step %s is damaged: %s', self.directory, step, why)
    return None

  def _all_damaged(self, damage: dict[int, str]) -> DamagedCheckpoint:
    steps = '; '.join(f'step {step}: {why}' for step, why in damage.items())
    return DamagedCheckpoint(
      f'{self.directory}: no checkpoint is intact: {steps}'
    )

  def _read_record(self, step: int) -> dict[str, Any]:
    return self._read_content(self._path / str(step))

  def _read_content(self, path: pathlib.Path) -> dict[str, Any]:
    saved = ocp.JsonCheckpointHandler().restore(path / RECORD)
    if saved['crc32'] != _crc32(saved['content']):
      raise ValueError('its record does not match its checksum')
    return saved['content']

  def _read_trees(self, step: int, trees, content) -> dict[str, Any]:
    loaded = {}
    for name, tree in trees.items():
      # Read in the saved dtype: the fingerprint is that of the saved array.
      like = inventory.with_saved_dtypes(tree, content['arrays'][name])
      restore_args = ocp.checkpoint_utils.construct_restore_args(like)
      loaded[name] = self._read(step, name, like, restore_args)
    return loaded

  def _read(self, step: int, tree: str, like, restore_args, **options):
    # We do not read with the manager: it would wait for all processes, and a
    # process that fails to read never arrives.
    return self._handler.restore(
      self._path / str(step) / tree,
      args=ocp.args.PyTreeRestore(like, restore_args, **options),
    )

  def _read_on_host(self, step: int, tree: str | None, content):
    return {
      path: self._read_array(step, tree, path, content)
      for path in content['arrays'].get(tree, {})
    }

  def _verify(self, step: int, loaded: dict[str, Any], content) -> bool:
    for name, tree in loaded.items():
      inventory.check_fingerprints(
        inventory.describe(tree), content['arrays'][name]
      )
    return True

  def _read_array(self, step: int, tree: str, path: str, content):
    shape, dtype, _ = content['arrays'][tree][path]
    item = jax.ShapeDtypeStruct(shape, dtype)
    for name in reversed(path.split('/')):
      item = {name: item}
    restore_args = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item
    )
    loaded = self._read(step, tree, item, restore_args, partial_restore=True)
    described = inventory.describe(loaded)
    inventory.check_fingerprints(
      described, {path: content['arrays'][tree][path]}
    )
    (array,) = jax.tree.leaves(loaded)
    return array

  def _set_aside(self, damage: dict[int, str]):
    """Renames damaged steps, since the run will reach and save them again."""
    if not damage:
      return
    if jax.process_index() == 0:
      for step in damage:
        path = self.directory / str(step)
        aside = path.with_name(f'damaged_{step}')
        while aside.exists():  # Damaged before, too.
          aside = aside.with_name(f'{aside.name}_again')
        path.rename(aside)
    _all_processes(True)  # Wait until process 0 has renamed.
    self._manager.reload()


def _all_processes(ok: bool) -> bool:
  """True if `ok` is True on every process; every process must call this."""
  if jax.process_count() == 1:
    return ok
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(ok)).all())


def _why(error: Exception) -> str:
  """The file system's message, without what tensorstore adds to it."""
  message = getattr(error, 'strerror', None) or str(error).splitlines()[0]
  match = re.search(r"([^:]+) \[os_error_code='\d+'", message)
  return match[1].strip() if match else message[:200]


def _crc32(content) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'


# How LazyArrays, which are not in memory yet, are written.


class _LazyArrayHandler(ocp.type_handlers.NumpyHandler):
  """Writes numpy arrays, and LazyArrays one at a time."""

  def __init__(self):
    super().__init__()
    # Nothing else uses the arrays we load, so they need no copy before writing.
    self._owned = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)

  async def serialize(self, values, infos, args=None):
    lazy = [isinstance(value, LazyArray) for value in values]
    if not any(lazy):
      return await super().serialize(values, infos, args)
    # Without chunks, the encoder would hold several copies of a whole array.
    args = [ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)] * len(values)
    for value, info, arg in zip(values, infos, args, strict=True):
      loaded = [value.load() if isinstance(value, LazyArray) else value]
      for future in await self._owned.serialize(loaded, [info], [arg]):
        future.result()
      # Free the array before the next is read; the future holds it too.
      num_bytes = loaded[0].nbytes
      del loaded, future
      _return_memory(num_bytes)
    return []


def _return_memory(num_bytes: int):
  """Returns freed memory to the system; otherwise the C library keeps it.

  Measured: without this, the library kept as much as the largest array takes.
  """
  if num_bytes < CHUNK_BYTES:
    return  # Small arrays are not worth the time of garbage collection.
  gc.collect()
  freed_memory.give_back()


def _tree_handler() -> ocp.PyTreeCheckpointHandler:
  """Returns a handler for our trees; leaves Orbax's global handlers alone."""
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler())
  )
  registry.add(
    np.ndarray,
    _LazyArrayHandler(),
    func=lambda kind: issubclass(kind, (np.ndarray, LazyArray)),
  )
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Returns the handler of each kind of item; the items may have any name."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  trees, record = _tree_handler(), ocp.JsonCheckpointHandler()
  for args, handler in (
    (ocp.args.PyTreeSave, trees),
    (ocp.args.PyTreeRestore, trees),
    (ocp.args.JsonSave, record),
    (ocp.args.JsonRestore, record),
  ):
    registry.add(None, args, handler)
  return registry
