"""Devices, reference models and memory that tests share; what a run prints."""

import gc
import os
import pathlib
import signal
import sys

from tests import compiled

# Before jax starts: eight devices for the sharding tests, and a fast compiler.
os.environ['XLA_FLAGS'] = compiled.flags(devices=8)

# Many tests, processes of their own too, compile the same programs: once is
# enough, and the next run finds them, in another clone too.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(compiled.folder()))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
# The models of torch are tiny: its threads would only wait for each other.
os.environ['OMP_NUM_THREADS'] = '1'
# Where this is set each process compiles what it imports again.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

import hypothesis
import jax
import pytest

from rlpt_jax.core.layout import make_layout

# A shell that runs the tests in the background lets them, and all that they
# start, ignore Ctrl-C, which some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no clock: what fails, fails for everyone.
# To search for more: pytest --hypothesis-profile=search.
hypothesis.settings.register_profile('same', derandomize=True, deadline=None)
hypothesis.settings.register_profile('search', deadline=None)
hypothesis.settings.load_profile('same')

# A worker takes a file at a time. The longest begin, so that none of them is
# still running when there is nothing left for the others. Those that load
# TensorFlow end: it takes memory that compiled programs could have.
LONGEST_FIRST = (
  'install_test.py', 'notebooks_test.py', 'distributed_test.py',
  'faults_test.py', 'readme_test.py', 'programs/train_rl_test.py',
  'sampling/engine_test.py', 'models/decoder_test.py',
  'programs/generate_test.py', 'programs/evaluate_test.py',
  'programs/convert_test.py', 'rewards/math_verifier_test.py',
  'sampling/decode_test.py', 'lowering_test.py', 'experiments_test.py',
  'programs/sample_test.py', 'programs/serve_test.py',
  'programs/train_sft_test.py',
)  # fmt: skip
# Compiled programs are dropped where a process is larger than this, and has
# grown since that was last done.
MEMORY_MIB, GROWN_MIB = 1600, 150


def pytest_collection_modifyitems(items):
  here = pathlib.Path(__file__).parent
  places = {here / name: i for i, name in enumerate(LONGEST_FIRST)}
  items.sort(
    key=lambda item: (
      'tensorflow' in item.fixturenames, places.get(item.path, len(places))
    )
  )  # fmt: skip


def pytest_collection_finish():
  """What was imported stays: later collections of garbage need not visit it."""
  gc.collect()
  gc.freeze()


def memory_mib() -> float:
  """Of this process, now; 0 where that is not known."""
  about = pathlib.Path('/proc/self/statm')
  if not about.exists():
    return 0.0
  return int(about.read_text().split()[1]) * os.sysconf('SC_PAGESIZE') / 2**20


cleared_mib = pytest.StashKey[float]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
  """Some thousand compiled programs are gigabytes, and few are used again."""
  stash = item.config.stash
  if memory_mib() > max(MEMORY_MIB, stash.get(cleared_mib, 0.0) + GROWN_MIB):
    compiled.drop()
    stash[cleared_mib] = memory_mib()


def pytest_sessionfinish(session):
  import resource

  if (output := getattr(session.config, 'workeroutput', None)) is not None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    output['peak_mib'] = peak / (2**20 if sys.platform == 'darwin' else 2**10)


peaks = pytest.StashKey[list[float]]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
  del error
  found = node.config.stash.setdefault(peaks, [])
  found.append(getattr(node, 'workeroutput', {}).get('peak_mib', float('nan')))


def pytest_terminal_summary(terminalreporter, config):
  if found := config.stash.get(peaks, None):
    shown = ', '.join(f'{peak / 2**10:.2f}' for peak in found)
    terminalreporter.write_line(f'peak memory of the workers: {shown} GiB')


@pytest.fixture(scope='session')
def one_device():
  return make_layout(devices=jax.devices()[:1])


@pytest.fixture(scope='session')
def tensorflow():
  """Loads it, in half a gigabyte that compiled programs had before."""
  from rlpt_jax.data import quiet_tensorflow

  compiled.drop()
  quiet_tensorflow.load()


@pytest.fixture(scope='session')
def browser():
  """A browser that tests of pages share; see tests/browser.py."""
  from tests.browser import Browser, found

  opened = Browser(found())
  yield opened
  opened.close()
