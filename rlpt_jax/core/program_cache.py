"""Compiled programs on disk: what a machine has compiled once starts at once.

JAX has such a cache. It writes its files in place, so a process that is killed
leaves half a program, which is warned of at every later start and never made
again; and where its size is bounded, every read takes a lock. Here a file is
there whole or not at all, is checked when it is read, and needs no lock.
"""

import hashlib
import logging
import os
import pathlib
import platform
import stat
import tempfile

import jax

# Nothing public takes a cache. A JAX that has moved these keeps nothing.
try:
  from jax._src import compilation_cache
  from jax._src.compilation_cache import CacheInterface, get_file_cache
except ImportError:
  compilation_cache, CacheInterface = None, object

MAX_BYTES = 1 << 30  # Of all folders together; the least recently used go.
LOOK_AGAIN = MAX_BYTES // 16  # Bytes written between two looks at the size.
MIN_SECONDS = 0.01  # Of compilation; what is faster is not worth a file.
SUFFIX = '.program'
_CHECK_BYTES = 16

logger = logging.getLogger(__name__)


def use():
  """Keeps what is compiled from now on under the user's cache folder, and finds
  there what was compiled before.

  JAX's settings win: with JAX_COMPILATION_CACHE_DIR its own cache is used, and
  JAX_ENABLE_COMPILATION_CACHE=0 switches either off.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  if not jax.config.jax_enable_compilation_cache:
    return
  if compilation_cache is None:
    return
  try:
    path = str(root() / machine())
  except RuntimeError:  # A user without a home has no cache.
    return

  def ours_or_jaxs(asked: str):
    if asked == path:
      return ProgramCache(path), path
    return get_file_cache(asked)

  compilation_cache.get_file_cache = ours_or_jaxs
  jax.config.update('jax_compilation_cache_dir', path)
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_SECONDS)
  if 'JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES' not in os.environ:
    # On GPUs XLA would keep a folder of its own in ours, without any bound.
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')


def root() -> pathlib.Path:
  """Where the programs of all machines are, a folder for each kind."""
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(caches).expanduser() / 'rlpt_jax' / 'programs'


def machine() -> str:
  """A name for processors like this one: machine code runs on no others.

  The versions of JAX and of the compiler, XLA's flags and the accelerators are
  in JAX's own keys.
  """
  about = [platform.system(), platform.machine(), str(_num_cpus())]
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    with cpuinfo.open() as lines:
      for line in lines:
        if not line.strip():
          break  # The others are alike.
        if line.lower().startswith(_TELLING):
          about.append(line.strip())
  else:
    about += [platform.processor(), platform.node()]
  return hashlib.sha256('\n'.join(about).encode()).hexdigest()[:16]


# Of a processor in /proc/cpuinfo; other lines change with the clock.
_TELLING = (
  'vendor_id', 'cpu family', 'model', 'flags', 'features', 'isa',
  'cpu implementer', 'cpu architecture', 'cpu variant', 'cpu part',
)  # fmt: skip


def _num_cpus() -> int:
  """Those that this process may use: XLA cuts its loops into as many."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class ProgramCache(CacheInterface):
  """A folder with a file for each program, as JAX asks for them."""

  def __init__(self, path: str):
    self._path = self._folder = pathlib.Path(path)
    self._usable = True
    # As if much had been written: the first program looks at the size of all.
    self._written = LOOK_AGAIN
    try:
      about = self._folder.stat()
    except OSError:
      return  # None yet; whether one can be made, `put` finds out.
    # A program is run as it is: no one else may have put it there.
    others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if about.st_uid != os.getuid() or others_write:
      self._give_up(f'{path}: others can write there')

  def get(self, key: str) -> bytes | None:
    """The program of a key; None where there is none, or none that is whole."""
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
    """Keeps a program, if that is possible."""
    if not self._usable:
      return
    try:
      self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
      with tempfile.NamedTemporaryFile(
        dir=self._folder, prefix='.', delete=False
      ) as file:
        try:
          file.write(_check(value) + value)
          file.close()
          os.replace(file.name, self._file(key))
        except BaseException:
          pathlib.Path(file.name).unlink(missing_ok=True)
          raise
      self._written += len(value)
      if self._written > LOOK_AGAIN:
        self._written = 0
        prune(self._folder.parent, MAX_BYTES)
    except OSError as error:
      self._give_up(error)

  def _file(self, key: str) -> pathlib.Path:
    return self._folder / f'{key}{SUFFIX}'

  def _give_up(self, error: OSError | str):
    """Says once that nothing is kept: a run does without."""
    if self._usable:
      self._usable = False
      logger.warning(
        'Compiled programs are not kept (%s). XDG_CACHE_HOME names another '
        'folder for them; JAX_ENABLE_COMPILATION_CACHE=0 does without.',
        error,
      )


def prune(folder: pathlib.Path, most: int):
  """Removes the files below a folder that were used least recently, until no
  more than `most` bytes are left.
  """
  found = []
  for path in folder.glob('*/*'):
    try:
      about = path.lstat()
    except FileNotFoundError:
      continue  # Another process was faster.
    if not stat.S_ISREG(about.st_mode):
      continue  # Not ours: XLA has a folder here where a user asks for one.
    found.append((about.st_mtime_ns, about.st_size, path))
  total = sum(size for _, size, _ in found)
  for _, size, path in sorted(found):
    if total <= most:
      return
    path.unlink(missing_ok=True)
    total -= size


def _check(value: bytes) -> bytes:
  return hashlib.blake2b(value, digest_size=_CHECK_BYTES).digest()
