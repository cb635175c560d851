"""A cache of compiled programs on disk.

JAX's own cache writes files in place: a killed process leaves a truncated
program, which causes a warning at every later start and is never replaced; and
with a size limit, every read takes a lock. This one writes files atomically,
verifies them when it reads them, and needs no lock.
"""

import hashlib
import logging
import os
import pathlib
import platform
import stat

import jax

from rlpt_jax.core import output_files

# JAX has no public way to set a cache. If these names move, nothing is cached.
try:
  from jax._src import compilation_cache
  from jax._src.compilation_cache import CacheInterface, get_file_cache
except ImportError:
  compilation_cache, CacheInterface = None, object

# The limit for all folders together. Beyond it, the programs that were used
# least recently are removed.
MAX_BYTES = 1 << 30
CHECK_EVERY_BYTES = MAX_BYTES // 16  # Bytes written between checks of the size.
MIN_SECONDS = 0.01  # Programs that compile faster are not cached.
SUFFIX = '.program'
_CHECK_BYTES = 16

logger = logging.getLogger(__name__)


def use():
  """Caches compiled programs in the user's cache folder from now on.

  JAX's settings take precedence: JAX_COMPILATION_CACHE_DIR selects JAX's own
  cache, and JAX_ENABLE_COMPILATION_CACHE=0 disables both.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  if not jax.config.jax_enable_compilation_cache:
    return
  if compilation_cache is None:
    return
  try:
    path = str(root() / machine())
  except RuntimeError:  # The user has no home directory.
    return

  def ours_or_jaxs(requested: str):
    if requested == path:
      return ProgramCache(path), path
    return get_file_cache(requested)

  compilation_cache.get_file_cache = ours_or_jaxs
  jax.config.update('jax_compilation_cache_dir', path)
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_SECONDS)
  if 'JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES' not in os.environ:
    # On GPUs, XLA would keep its own subfolder here, of unlimited size.
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')


def root() -> pathlib.Path:
  """The cache folder, with a subfolder for each kind of machine."""
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(caches).expanduser() / 'rlpt_jax' / 'programs'


def machine() -> str:
  """Returns a hash of this kind of processor; machine code runs on no other.

  JAX's keys already include the versions of JAX and the compiler, XLA's flags
  and the accelerators.
  """
  about = [platform.system(), platform.machine(), str(_num_cpus())]
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    with cpuinfo.open() as lines:
      for line in lines:
        if not line.strip():
          break  # The other processors are the same.
        if line.lower().startswith(_TELLING):
          about.append(line.strip())
  else:
    about += [platform.processor(), platform.node()]
  return hashlib.sha256('\n'.join(about).encode()).hexdigest()[:16]


# Lines of /proc/cpuinfo that identify a processor; others vary over time.
_TELLING = (
  'vendor_id', 'cpu family', 'model', 'flags', 'features', 'isa',
  'cpu implementer', 'cpu architecture', 'cpu variant', 'cpu part',
)  # fmt: skip


def _num_cpus() -> int:
  """The number of CPUs this process may use; compiled code varies with it."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class ProgramCache(CacheInterface):
  """A folder with one file per program, behind JAX's cache interface."""

  def __init__(self, path: str):
    self._path = self._folder = pathlib.Path(path)
    self._usable = True
    # This makes the first write check the total size.
    self._written = CHECK_EVERY_BYTES
    try:
      about = self._folder.stat()
    except OSError:
      return  # It does not exist yet; `put` creates it.
    # Cached programs are executed, so no other user may be able to write here.
    others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if about.st_uid != os.getuid() or others_write:
      self._give_up(f'{path}: other users can write there')

  def get(self, key: str) -> bytes | None:
    """Returns the program of a key; None if it is missing or damaged."""
    if not self._usable:
      return None
    path = self._file(key)
    try:
      data = path.read_bytes()
      if data[:_CHECK_BYTES] != _check(data[_CHECK_BYTES:]):
        path.unlink(missing_ok=True)
        return None
      os.utime(path)
    except FileNotFoundError:
      return None
    except OSError as error:
      self._give_up(error)
      return None
    return data[_CHECK_BYTES:]

  def put(self, key: str, value: bytes):
    """Stores a program; on an OSError warns and disables the cache."""
    if not self._usable:
      return
    try:
      self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
      output_files.replace(self._file(key), [_check(value), value])
      self._written += len(value)
      if self._written > CHECK_EVERY_BYTES:
        self._written = 0
        prune(self._folder.parent, MAX_BYTES)
    except OSError as error:
      self._give_up(error)

  def _file(self, key: str) -> pathlib.Path:
    return self._folder / f'{key}{SUFFIX}'

  def _give_up(self, error: OSError | str):
    """Disables the cache and logs one warning; the run continues without it."""
    if self._usable:
      self._usable = False
      logger.warning(
        'Compiled programs are not kept (%s). Set XDG_CACHE_HOME to another '
        'folder for them, or JAX_ENABLE_COMPILATION_CACHE=0 to do without.',
        error,
      )


def prune(folder: pathlib.Path, most: int):
  """Removes the least recently used files until at most `most` bytes remain."""
  files = []
  for path in folder.glob('*/*'):
    try:
      about = path.lstat()
    except FileNotFoundError:
      continue  # Another process removed it.
    if not stat.S_ISREG(about.st_mode):
      continue  # A folder of XLA's own cache, if the user enabled that.
    files.append((about.st_mtime_ns, about.st_size, path))
  total = sum(size for _, size, _ in files)
  for _, size, path in sorted(files):
    if total <= most:
      return
    path.unlink(missing_ok=True)
    total -= size


def _check(value: bytes) -> bytes:
  return hashlib.blake2b(value, digest_size=_CHECK_BYTES).digest()
