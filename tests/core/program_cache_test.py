"""Compiled programs on disk: whole or not there, bounded, one machine's."""

import os
import stat

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache, compiler

from rlpt_jax.core import program_cache
from rlpt_jax.core.program_cache import ProgramCache

KEY = 'jit_f-0123'


@pytest.fixture
def cache(tmp_path):
  return ProgramCache(str(tmp_path / 'programs' / 'machine'))


def files(cache):
  return sorted(path.name for path in cache._folder.iterdir())


def test_what_is_put_is_found(cache):
  assert cache.get(KEY) is None
  cache.put(KEY, b'code')
  assert cache.get(KEY) == b'code' == ProgramCache(str(cache._path)).get(KEY)
  assert cache.get('jit_g-0123') is None
  assert files(cache) == [KEY + program_cache.SUFFIX]
  assert stat.S_IMODE(cache._folder.stat().st_mode) == 0o700


@pytest.mark.parametrize('damage', [b'', b'half', b'x' * 16 + b'other code'])
def test_what_is_damaged_is_made_again(cache, damage):
  cache.put(KEY, b'code')
  (cache._folder / files(cache)[0]).write_bytes(damage)
  assert cache.get(KEY) is None
  cache.put(KEY, b'code')
  assert cache.get(KEY) == b'code'


def test_what_is_not_whole_has_not_the_name(cache, monkeypatch):
  """A kill just before the rename, and a disk that is full."""

  def full(*_):
    raise OSError(28, 'No space left on device')

  cache.put(KEY, b'code')
  monkeypatch.setattr(os, 'replace', full)
  cache.put('jit_g-0123', b'code')
  assert files(cache) == [KEY + program_cache.SUFFIX]


def test_without_a_folder_it_says_so_once(tmp_path, caplog):
  (tmp_path / 'file').touch()
  cache = ProgramCache(str(tmp_path / 'file' / 'machine'))
  assert cache.get(KEY) is None
  cache.put(KEY, b'code')
  cache.put(KEY, b'code')
  (record,) = caplog.records
  assert 'Compiled programs are not kept' in record.getMessage()


def test_a_folder_that_others_write_to_is_not_used(tmp_path, caplog):
  ProgramCache(str(tmp_path)).put(KEY, b'code')
  tmp_path.chmod(0o770)
  assert ProgramCache(str(tmp_path)).get(KEY) is None
  assert 'other users can write there' in caplog.text


def test_the_least_recently_used_go(cache, monkeypatch):
  for i in range(4):
    cache.put(f'jit_f-{i}', bytes(84))  # 100 with the checksum.
    path = cache._folder / f'jit_f-{i}{program_cache.SUFFIX}'
    os.utime(path, ns=(i, i))
  cache.get('jit_f-0')
  program_cache.prune(cache._folder.parent, 250)
  assert [cache.get(f'jit_f-{i}') is None for i in range(4)] == [
    False, True, True, False,
  ]  # fmt: skip
  # What a process writes is looked at as well.
  monkeypatch.setattr(program_cache, 'MAX_BYTES', 250)
  monkeypatch.setattr(program_cache, 'CHECK_EVERY_BYTES', 0)
  for i in range(4, 8):
    cache.put(f'jit_f-{i}', bytes(84))
  assert len(files(cache)) == 2


def test_folders_of_others_are_left_where_they_are(cache):
  cache.put(KEY, b'code')
  folder = cache._folder / 'xla_gpu_per_fusion_autotune_cache_dir'
  folder.mkdir()
  program_cache.prune(cache._folder.parent, 0)
  assert files(cache) == [folder.name]


def test_machines_have_folders_of_their_own(monkeypatch):
  here = program_cache.machine()
  assert here == program_cache.machine()
  monkeypatch.setattr(program_cache.platform, 'machine', lambda: 'riscv64')
  assert here != program_cache.machine()


@pytest.fixture
def unset(monkeypatch, tmp_path):
  """JAX as it is where nobody has set anything of its cache."""
  names = (
    'jax_compilation_cache_dir', 'jax_enable_compilation_cache',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_enable_xla_caches',
  )  # fmt: skip
  before = {name: getattr(jax.config, name) for name in names}
  monkeypatch.setattr(
    compilation_cache, 'get_file_cache', compilation_cache.get_file_cache
  )
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.delenv('JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES', raising=False)
  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def square(x):
  return jax.jit(lambda x: x * x + 3)(x)


def test_jax_finds_what_was_compiled_before(unset, monkeypatch):
  monkeypatch.setattr(program_cache, 'MIN_SECONDS', 0.0)
  monkeypatch.delenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')
  hits = []

  def listener(event, **_):
    hits.append(event.endswith('/cache_hits'))

  x = jnp.arange(3.0)
  program_cache.use()
  jax.monitoring.register_event_listener(listener)
  first = square(x)
  assert not any(hits)
  (folder,) = program_cache.root().iterdir()
  assert folder.name == program_cache.machine() and any(folder.iterdir())
  compilation_cache.reset_cache()
  jax.clear_caches()
  assert square(x).tobytes() == first.tobytes()
  jax.monitoring.unregister_event_listener(listener)
  assert any(hits)


def test_jax_settings_win(unset, tmp_path):
  jax.config.update('jax_enable_compilation_cache', False)
  program_cache.use()
  assert jax.config.jax_compilation_cache_dir is None
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'theirs'))
  program_cache.use()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'theirs')
  square(jnp.arange(3.0))
  assert not program_cache.root().exists()


def test_xla_keeps_nothing_of_its_own_there(unset):
  program_cache.use()
  options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
  build = options.executable_build_options.debug_options
  assert not build.xla_gpu_per_fusion_autotune_cache_dir


def test_without_a_home_nothing_is_kept(unset, monkeypatch):
  def fails(path):
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(program_cache.pathlib.Path, 'expanduser', fails)
  program_cache.use()
  assert jax.config.jax_compilation_cache_dir is None


def test_a_jax_that_has_moved_its_cache_keeps_nothing(unset, monkeypatch):
  monkeypatch.setattr(program_cache, 'compilation_cache', None)
  program_cache.use()
  assert jax.config.jax_compilation_cache_dir is None
