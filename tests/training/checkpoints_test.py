"""Checkpoints survive what happens to them: faults, kills, other meshes."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.layout import make_layout
from rlpt_jax.core.weights import LazyArray
from rlpt_jax.training import written
from rlpt_jax.training.checkpoints import Store


def _trees(seed=0):
  rng = np.random.default_rng(seed)
  w = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
  half = jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16)
  return {
    'params': {'layer': {'w': w, 'b': half}},
    'optimizer': (jnp.int32(seed), {'m': w * 2}),
  }


def _abstract(trees, layout=None):
  layout = layout or make_layout(devices=jax.devices()[:1])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=layout.weight_sharding(
        x.shape, ('embed', 'mlp')[: x.ndim]
      )
    ),
    trees,
  )  # fmt: skip


def _assert_equal(found, expected):
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def _saved(directory, steps=(1, 2)):
  with Store(directory, keep_last=5) as store:
    for step in steps:
      store.save(step, _trees(step), {'position': step * 10})
  return directory


def _data_files(step_directory):
  return sorted(
    (p for p in step_directory.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )


def test_what_is_saved_is_restored(tmp_path):
  _saved(tmp_path)
  with Store(tmp_path) as store:
    found = store.restore(_abstract(_trees()))
  assert (found.step, found.record) == (2, {'position': 20})
  _assert_equal(found.trees, _trees(2))


# What globs, TensorStore, JSON or a terminal would take for something else.
ODD = ('run[1]', 'bs\\x', '*?', 'logs:', 'a.__lock', 'b\nc\udcff%20#')


def test_any_path_will_do(tmp_path):
  found = _saved(tmp_path.joinpath(*ODD))
  # And none holds the files but the one that was named.
  assert [path.name for path in tmp_path.rglob('manifest.ocdbt')]
  assert [path.name for path in tmp_path.iterdir()] == ['run[1]']
  moved = shutil.move(found, tmp_path / 'plain')
  for directory in (moved, shutil.copytree(moved, found)):
    with Store(directory, read_only=True) as store:
      _assert_equal(store.restore(_abstract(_trees())).trees, _trees(2))
      _assert_equal(
        store.arrays('params', step=1)['layer/w'].load(),
        _trees(1)['params']['layer']['w'],
      )


@pytest.mark.parametrize('name', ODD[:2])
def test_a_save_that_cannot_be_read_back_is_none(name, tmp_path, monkeypatch):
  # Orbax as it is: it says of these paths that all was saved.
  monkeypatch.setattr(written, 'plain_path', contextlib.nullcontext)
  directory = tmp_path / name
  with pytest.raises(OSError) as caught:
    with Store(directory, keep_last=1) as store:
      store.save(1, _trees(1), {})
  assert str(caught.value).startswith(
    f'{directory}: step 1 could not be saved (it cannot be read back: '
  )
  with Store(directory, read_only=True) as store:
    assert store.steps() == []


def test_a_save_that_cannot_be_read_back_leaves_the_one_before(
  tmp_path, monkeypatch
):
  _saved(tmp_path, [1])

  def lost(directory, arrays):
    raise ValueError('a file is missing')

  monkeypatch.setattr(written, 'check', lost)
  with pytest.raises(
    OSError,
    match=r'step 2 could not .* \(it cannot be read back: a file is missing\)',
  ):
    with Store(tmp_path, keep_last=1) as store:
      store.save(2, _trees(2), {})
  with Store(tmp_path, read_only=True) as store:
    assert store.steps() == [1]
    _assert_equal(store.restore(_abstract(_trees())).trees, _trees(1))


def test_arrays_may_be_donated_once_save_returns(tmp_path):
  with Store(tmp_path) as store:
    trees = _trees(3)
    store.save(1, trees, {})
    burn = jax.jit(lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0)
    burn(trees)
    store.close()
    with Store(tmp_path) as again:
      _assert_equal(again.restore(_abstract(_trees())).trees, _trees(3))


def test_one_tree_can_be_restored_alone(tmp_path):
  _saved(tmp_path)
  with Store(tmp_path, read_only=True) as store:
    found = store.restore({'params': _abstract(_trees())['params']}, step=1)
  _assert_equal(found.trees['params'], _trees(1)['params'])


def test_restored_in_another_dtype(tmp_path):
  _saved(tmp_path)
  like = _abstract({'params': _trees()['params']})
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, 'float32', sharding=x.sharding),
    like,
  )
  with Store(tmp_path, read_only=True) as store:
    found = store.restore(like).trees['params']['layer']['b']
  np.testing.assert_array_equal(
    found, _trees(2)['params']['layer']['b'].astype('float32')
  )


@pytest.mark.parametrize(
  'sizes', [{'data': 8, 'fsdp': 1}, {'fsdp': 4, 'tensor': 2}]
)
def test_restored_on_another_mesh(tmp_path, sizes):
  layout = make_layout(fsdp=2, tensor=4)
  trees = _trees(5)
  placed = jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    trees,
    _abstract(trees, layout),
  )
  with Store(tmp_path) as store:
    store.save(7, placed, {})
  other = _abstract(trees, make_layout(**sizes))
  with Store(tmp_path) as store:
    found = store.restore(other).trees
  _assert_equal(found, trees)
  for x, like in zip(*map(jax.tree.leaves, (found, other)), strict=True):
    assert x.sharding == like.sharding


@pytest.mark.parametrize('damage', ['truncate', 'flip', 'delete'])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(
  tmp_path, caplog, damage
):
  _saved(tmp_path)
  # Every file in turn, data and metadata.
  count = len(_data_files(tmp_path / '2'))
  noticed = 0
  for index in range(count):
    copy = tmp_path.with_name(f'{tmp_path.name}_{index}')
    shutil.copytree(tmp_path, copy)
    file = _data_files(copy / '2')[index]
    content = bytearray(file.read_bytes())
    if damage == 'truncate':
      file.write_bytes(content[: len(content) // 2])
    elif damage == 'delete':
      file.unlink()
    elif content:
      content[len(content) // 2] ^= 16
      file.write_bytes(content)
    with Store(copy) as store:
      found = store.restore(_abstract(_trees()))
    # Some files are bookkeeping that nothing reads: then all is as it was.
    _assert_equal(found.trees, _trees(found.step))
    assert found.record == {'position': found.step * 10}
    if found.step == 1:
      noticed += 1
      assert 'step 2 is damaged' in caplog.text
      assert (copy / 'damaged_2').exists()
    caplog.clear()
    shutil.rmtree(copy)
  assert noticed >= 3, (noticed, count)


def test_what_the_file_system_returns_is_compared(tmp_path, monkeypatch):
  # Orbax sees most damage itself; here it reads other numbers than it wrote.
  _saved(tmp_path)
  with Store(tmp_path, read_only=True) as store:
    read_trees = store._read_trees

    def altered(step, *arguments):
      found = read_trees(step, *arguments)
      if step == 2:
        found['params']['layer']['w'] += 1
      return found

    monkeypatch.setattr(store, '_read_trees', altered)
    assert store.restore(_abstract(_trees())).step == 1


def test_a_step_before_the_newest_is_refused(tmp_path):
  _saved(tmp_path, steps=(1, 5))
  with Store(tmp_path) as store:
    for step in (3, 5):
      with pytest.raises(ValueError, match=f'step {step} cannot be saved'):
        store.save(step, _trees(), {})


def test_a_second_damage_of_the_same_step(tmp_path):
  _saved(tmp_path)
  for _ in range(2):
    shutil.rmtree(tmp_path / '2' / 'params')
    with Store(tmp_path, keep_last=5) as store:
      assert store.restore(_abstract(_trees())).step == 1
      store.save(2, _trees(2), {})
  assert (tmp_path / 'damaged_2_again').exists()


@contextlib.contextmanager
def _full_disk():
  """Files end after 100 bytes; tensorstore's too."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _wait_for_writers(directory):
  """Waits until nothing in a directory changes any more.

  A restarted run is another process. In this one, threads of Orbax may still
  write other arrays of a save that has failed.
  """
  before, after = None, sorted(directory.rglob('*'))
  while before != after:
    time.sleep(0.5)
    before, after = after, sorted(directory.rglob('*'))


@pytest.mark.parametrize('told_by', ['close', 'check', 'save'])
def test_a_full_disk_is_one_line_and_the_one_before_stays(told_by, tmp_path):
  directory, trees = _saved(tmp_path / 'run', [1]), _trees(2)
  store = Store(directory, keep_last=1)
  with _full_disk():
    with pytest.raises(OSError) as caught:
      store.save(2, trees, {})
      if told_by == 'check':
        for _ in range(1000):  # It does not wait.
          store.check()
          time.sleep(0.01)
      elif told_by == 'save':
        store.save(3, trees, {})
      else:
        store.close()
    with contextlib.suppress(OSError):  # As often as it is asked.
      store.close()
  assert str(caught.value) == (
    f'{directory}: step 2 could not be saved (File too large). Fix this and '
    'restart: the run resumes from the previous checkpoint.'
  )
  _wait_for_writers(directory)
  with Store(directory, keep_last=1) as store:
    assert store.steps() == [1]
    _assert_equal(store.restore(_abstract(trees)).trees, _trees(1))
    store.save(2, trees, {})
  assert sorted(p.name for p in directory.iterdir()) == ['2']


@pytest.mark.parametrize(
  'error',
  [RuntimeError('RESOURCE_EXHAUSTED: out of memory'), PermissionError('no')],
)
def test_what_the_machine_lacks_is_no_damage(error, tmp_path, monkeypatch):
  _saved(tmp_path)
  with Store(tmp_path) as store:

    def fail(*_):
      raise error

    monkeypatch.setattr(store, '_read_trees', fail)
    with pytest.raises(type(error)):
      store.restore(_abstract(_trees()))
  assert (tmp_path / '2').exists()


def test_records_and_versions_come_back(tmp_path):
  with Store(tmp_path) as store:
    # JSON has no integer keys, and sorts '10' before '9'.
    store.save(0, _trees(), {'config': 'a = 1', 'seen': {9: 1, 10: 2}})
  with Store(tmp_path, read_only=True) as store:
    found = store.restore(_abstract(_trees()))
  assert found.record == {'config': 'a = 1', 'seen': {'9': 1, '10': 2}}
  assert found.versions['jax'] == jax.__version__


def test_numpy_arrays_may_change_once_save_returns(tmp_path):
  w = np.zeros((512, 512), np.float32)
  with Store(tmp_path) as store:
    store.save(0, {'params': {'w': w}}, {})
    w[:] = 1
  with Store(tmp_path, read_only=True) as store:
    assert (store.arrays('params', step=0)['w'].load() == 0).all()


def test_a_foreign_orbax_directory(tmp_path):
  import orbax.checkpoint as ocp

  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(3, args=ocp.args.StandardSave({'x': jnp.ones(3)}))
  with Store(tmp_path, read_only=True) as store:
    with pytest.raises(ValueError, match='not written by rlpt'):
      store.restore(_abstract(_trees()))


def test_a_run_goes_on_over_a_damaged_step(tmp_path):
  _saved(tmp_path)
  for file in _data_files(tmp_path / '2' / 'params'):
    file.write_bytes(b'x' * file.stat().st_size)
  with Store(tmp_path, keep_last=5) as store:
    assert store.restore(_abstract(_trees())).step == 1
    store.save(2, _trees(22), {})
  with Store(tmp_path) as store:
    _assert_equal(store.restore(_abstract(_trees())).trees, _trees(22))


def test_nothing_intact_is_an_error_that_names_each_step(tmp_path):
  _saved(tmp_path)
  for step in ('1', '2'):
    shutil.rmtree(tmp_path / step / 'params')
  with Store(tmp_path) as store:
    with pytest.raises(
      ValueError, match=r'no checkpoint is intact: step 2: .*1:'
    ):
      store.restore(_abstract(_trees()))
  assert (tmp_path / '2').exists(), 'nothing is renamed when nothing is used'


def test_empty_foreign_and_missing_directories(tmp_path):
  with pytest.raises(ValueError, match='no such directory'):
    Store(tmp_path / 'nowhere', read_only=True)
  (tmp_path / 'notes.txt').write_text('hello')
  with Store(tmp_path, read_only=True) as store:
    with pytest.raises(
      ValueError, match=r"no checkpoint.*found \['notes.txt'\]"
    ):
      store.restore(_abstract(_trees()))


def test_another_model_is_an_error_that_names_the_array(tmp_path):
  _saved(tmp_path)
  other = {'params': {'layer': {'w': jnp.zeros((16, 9)), 'b': jnp.zeros((8,))}}}
  with Store(tmp_path, read_only=True) as store:
    with pytest.raises(ValueError, match=r'layer/w with shape \[16, 8\]'):
      store.restore(_abstract(other))
    with pytest.raises(ValueError, match='layer/b is only in the checkpoint'):
      store.restore(_abstract({'params': {'layer': {'w': jnp.zeros((16, 8))}}}))
    with pytest.raises(ValueError, match="expected 'ema' among them"):
      store.restore(_abstract({'ema': other['params']}))


def test_last_and_every_are_kept(tmp_path):
  with Store(tmp_path, keep_last=2, keep_every=4) as store:
    for step in range(10):
      store.save(step, _trees(step), {})
  with Store(tmp_path, read_only=True) as store:
    assert store.steps() == [0, 4, 8, 9]


def test_lazy_arrays_are_saved_and_read_one_by_one(tmp_path):
  arrays = {f'w{i}': np.full((3, 4), i, np.float32) for i in range(3)}
  reads = []

  def lazy(name, x):
    def read(index):
      reads.append(name)
      return x[index]

    return LazyArray(x.shape, x.dtype, read)

  tree = {'layers': {name: lazy(name, x) for name, x in arrays.items()}}
  with Store(tmp_path) as store:
    store.save(0, {'params': tree}, {})
  assert sorted(reads) == sorted(2 * list(arrays))  # Fingerprint, then write.
  with Store(tmp_path, read_only=True) as store:
    found = store.arrays('params', step=0)
    assert sorted(found) == [f'layers/{name}' for name in arrays]
    for name, x in arrays.items():
      np.testing.assert_array_equal(found[f'layers/{name}'].load(), x)


_SAVER = """
import sys, jax.numpy as jnp
from rlpt_jax.training.checkpoints import Store
with Store(sys.argv[1], keep_last=3) as store:
  step = (store.steps() or [0])[-1]
  print('ready', flush=True)
  while True:
    step += 1
    state = {'w': jnp.full((512, 1024), step, jnp.float32)}
    if step % 3 == 0:
      store.save(step, {'params': state}, {'step': step})
"""


def _start_saver(directory):
  root = pathlib.Path(__file__).parents[2]
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(_SAVER), str(directory)],
    stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': str(root)},
  )
  assert process.stdout.readline() == b'ready\n'
  return process


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_one_before(tmp_path):
  last = 0
  rng = np.random.default_rng(0)

  def found(path):
    return int(path.name) if path.name.isdigit() else 0

  for _ in range(5):
    process = _start_saver(tmp_path)
    while not any(found(path) > last for path in tmp_path.glob('[0-9]*')):
      assert process.poll() is None
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
    process.wait()
    like = {'params': {'w': jnp.zeros((512, 1024))}}
    with Store(tmp_path, read_only=True) as store:
      whole = store.restore(_abstract(like))
    assert whole.step >= last
    assert whole.record == {'step': whole.step}
    assert (np.asarray(whole.trees['params']['w']) == whole.step).all()
    last = whole.step
  assert last > 0


def test_orbaxs_own_handlers_stay_as_they_are(tmp_path):
  import orbax.checkpoint as ocp

  with Store(tmp_path):
    handler = ocp.type_handlers.get_type_handler(np.ndarray)
  assert type(handler) is ocp.type_handlers.NumpyHandler
