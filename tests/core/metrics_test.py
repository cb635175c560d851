"""A run that was killed leaves the bytes of one that was not."""

import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt_jax.core.metrics import Writer
from tests.core import events_test

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 6


def values(step: int) -> dict:
  """What a run computes at a step: the same whenever it computes it."""
  generator = random.Random(step)
  return {
    'reward': generator.random(),
    'loss': math.nan if step == 3 else generator.gauss(0, 1),
    'lengths': np.arange(step, step + 3),
    **({'held_out': generator.random()} if step % 4 == 0 else {}),
  }


def run(workdir, steps, **options):
  """Writes these steps; the clock never says the same twice."""
  options = {'tensorboard': False, 'num_steps': STEPS, **options}
  with Writer(workdir, first_step=steps.start, **options) as writer:
    for step in steps:
      timing = {'timing/step_s': time.perf_counter()}
      writer.write(step, values(step), timing)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> dict[str, bytes]:
  """The files of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp('whole')
  run(workdir, range(STEPS))
  return {path.name: path.read_bytes() for path in workdir.iterdir()}


def steps_of(path: pathlib.Path) -> list[int]:
  return [json.loads(line)['step'] for line in path.read_text().splitlines()]


def test_each_step_is_a_line(whole):
  assert sorted(whole) == ['metrics.jsonl', 'timing.jsonl']
  lines = whole['metrics.jsonl'].decode().splitlines()
  for step, line in enumerate(lines):
    expected = {**values(step), 'lengths': [step, step + 1, step + 2]}
    if step == 3:
      expected['loss'] = None  # The key stays.
    assert json.loads(line) == {'step': step, **expected}
    assert list(json.loads(line))[1:] == sorted(expected)
  times = [json.loads(line) for line in whole['timing.jsonl'].splitlines()]
  assert [line['step'] for line in times] == list(range(STEPS))
  assert all(line['timing/step_s'] > 0 for line in times)


# Stopped anywhere.


def ends(content: bytes) -> list[int]:
  """ends[n] is where the first n lines end."""
  return [0, *(i + 1 for i, byte in enumerate(content) if byte == ord('\n'))]


@pytest.mark.parametrize('first_step', [0, 3, STEPS - 1])
def test_cut_at_any_byte(whole, tmp_path, first_step, monkeypatch):
  """Whatever a kill left behind the checkpoint, byte for byte."""
  # Thousands of them; what was written outlives the process all the same.
  monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
  content = whole['metrics.jsonl']
  path, timing = tmp_path / 'metrics.jsonl', tmp_path / 'timing.jsonl'
  for size in range(ends(content)[first_step], len(content) + 1):
    path.write_bytes(content[:size])
    timing.write_bytes(whole['timing.jsonl'][: size + 7])
    if steps_of_whole_lines(timing) < first_step:
      timing.write_bytes(whole['timing.jsonl'])
    run(tmp_path, range(first_step, STEPS))
    assert path.read_bytes() == content, size
    assert steps_of(timing) == list(range(STEPS))


def steps_of_whole_lines(path: pathlib.Path) -> int:
  return path.read_bytes().count(b'\n')


def test_timing_may_be_known_only_when_the_step_has_ended(tmp_path):
  asked = []

  def timing():
    asked.append(len(asked))
    return {'timing/step_s': 7.0}

  options = {'num_steps': 3, 'tensorboard': False}
  with Writer(tmp_path, first_step=0, **options) as writer:
    writer.write(0, {'x': 1}, timing)
    assert asked == []
    writer.write(1, {'x': 1}, timing)
    assert asked == [0]
  lines = (tmp_path / 'timing.jsonl').read_text().splitlines()
  assert [json.loads(line)['timing/step_s'] for line in lines] == [7.0, 7.0]
  with (
    pytest.raises(ValueError, match="'step_s': expected keys that begin"),
    Writer(tmp_path, first_step=2, **options) as writer,
  ):
    writer.write(2, {'x': 1}, lambda: {'step_s': 7.0})


@pytest.mark.parametrize('name', ['metrics.jsonl', 'timing.jsonl'])
def test_a_step_that_is_missing_is_an_error(whole, tmp_path, name):
  """It cannot come from a kill, so nothing is touched."""
  for other, content in whole.items():
    (tmp_path / other).write_bytes(content)
  cut = whole[name][: ends(whole[name])[3] - 1]  # Half the line of step 2.
  (tmp_path / name).write_bytes(cut)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(ValueError, match=f'{name}: the line of step 2 is miss'):
    Writer(tmp_path, first_step=4, num_steps=STEPS)
  assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  run(tmp_path, range(2, STEPS))  # As the message says.
  assert (tmp_path / 'metrics.jsonl').read_bytes() == whole['metrics.jsonl']


# A run in small, without a device so that it can be forked: a checkpoint is
# the number of steps done.
WORKER = """
import os, pathlib, random, sys
from rlpt_jax.core import metrics
from tests.core import metrics_test

metrics.jax.process_index = lambda: 0
os.fsync = lambda descriptor: None  # Slow; what is written outlives a kill.
workdir, num_steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
checkpoint = workdir / 'checkpoint'
while sys.stdin.readline():
  pid = os.fork()
  if pid:
    print(pid, flush=True)
    sys.stdin.readline()  # It has been killed, if it had not ended.
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    continue
  first_step = int(checkpoint.read_text()) if checkpoint.exists() else 0
  with metrics.Writer(
    workdir, first_step=first_step, num_steps=num_steps
  ) as writer:
    for step in range(first_step, num_steps):
      timing = {'timing/step_s': random.random()}
      writer.write(step, metrics_test.values(step), timing)
      if step % 7 == 6:
        writer.sync()
        (workdir / 'saving').write_text(str(step + 1))
        (workdir / 'saving').rename(checkpoint)
  os._exit(0)
"""


def size_of(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
  num_steps, workdir = 400, tmp_path / 'killed'
  workdir.mkdir()
  path = workdir / 'metrics.jsonl'
  process = subprocess.Popen(
    [sys.executable, '-Wignore', '-c', WORKER, workdir, str(num_steps)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  generator, codes = random.Random(0), []
  with process:
    while 0 not in codes:
      process.stdin.write('start\n')
      process.stdin.flush()
      pid = int(process.stdout.readline())
      # By progress, since no machine is as fast as another.
      enough = size_of(path) + generator.randrange(5000)
      deadline = time.monotonic() + 1  # It may be the last one.
      while size_of(path) < enough and time.monotonic() < deadline:
        time.sleep(1e-4)
      os.kill(pid, signal.SIGKILL)
      process.stdin.write('killed\n')
      process.stdin.flush()
      codes.append(int(process.stdout.readline()))
      assert codes[-1] in (0, -signal.SIGKILL), 'it could not go on'
      assert len(codes) < 400, 'it does not get on'
    process.stdin.close()
  assert len(codes) > 10, 'it was hardly killed at all'
  whole = tmp_path / 'whole'
  run(whole, range(num_steps), num_steps=num_steps)
  expected = (whole / 'metrics.jsonl').read_bytes()
  assert path.read_bytes() == expected
  assert steps_of(workdir / 'timing.jsonl') == list(range(num_steps))
  assert shown_by_tensorboard(workdir, 'reward') == {
    step: np.float32(values(step)['reward']) for step in range(num_steps)
  }


# Read late.


@jax.jit
def slow(x, times):
  return jax.lax.fori_loop(0, times, lambda _, x: jnp.tanh(x @ x), x).sum()


def test_write_does_not_wait_for_its_step(tmp_path):
  x = jnp.eye(64)
  float(slow(x, 1))  # Compiled.
  path = tmp_path / 'metrics.jsonl'
  with Writer(tmp_path, first_step=0, num_steps=3) as writer:
    for step in range(3):
      # The first is quick; the others take a good part of a second.
      value = slow(x, 30_000 if step else 1)
      writer.write(step, {'x': value}, {'timing/x': value})
      assert steps_of(path) == list(range(step))  # All but this one.
      if step == 1:
        assert not value.is_ready()
    writer.sync()
    assert steps_of(path) == [0, 1, 2]


def test_sync_is_on_the_disk(tmp_path, monkeypatch):
  synced, fsync = [], os.fsync

  def spy(descriptor):
    fsync(descriptor)
    name = os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))
    synced.append((name, os.fstat(descriptor).st_size))

  with Writer(tmp_path, first_step=0, num_steps=3) as writer:
    writer.write(0, {'x': jnp.float32(1)}, {})
    monkeypatch.setattr(os, 'fsync', spy)
    writer.sync()
    assert ('metrics.jsonl', len('{"step": 0, "x": 1.0}\n')) in synced
    assert ('timing.jsonl', len('{"step": 0}\n')) in synced


def test_a_numpy_array_is_the_callers_again(tmp_path):
  with Writer(tmp_path, first_step=0, num_steps=1) as writer:
    array = np.zeros(2)
    writer.write(0, {'x': array}, {})
    array[:] = 7
  assert b'[0.0, 0.0]' in (tmp_path / 'metrics.jsonl').read_bytes()


@pytest.mark.parametrize('ready', [True, False])
def test_an_error_is_not_kept_waiting(tmp_path, ready):
  x = jnp.eye(64)
  float(slow(x, 1))
  value = slow(x, 1 if ready else 60_000)
  if ready:
    value.block_until_ready()
  with pytest.raises(KeyboardInterrupt):
    with Writer(tmp_path, first_step=0, num_steps=1) as writer:
      writer.write(0, {'x': value}, {})
      raise KeyboardInterrupt
  # What is known is written, what is not would take who knows how long.
  assert steps_of(tmp_path / 'metrics.jsonl') == ([0] if ready else [])
  assert value.is_ready() == ready


# What may be written.


def test_kinds_of_numbers(tmp_path):
  kinds = {
    'bool': (np.bool_(True), True),
    'bfloat16': (jnp.bfloat16(1.5), 1.5),
    'float8': (jnp.array(0.25, jnp.float8_e4m3fn), 0.25),
    'float16': (np.float16('inf'), None),
    'float32': (jnp.float32(0.1), 0.10000000149011612),
    'float': (0.1, 0.1),
    'int': (10**21, 10**21),
    'int32': (jnp.int32(-3), -3),
    'matrix': (np.array([[1, math.inf], [-2, 3]]), [[1, None], [-2, 3]]),
    'nan': (jnp.float32(jnp.nan), None),
    'uint8': (np.arange(3, dtype=np.uint8), [0, 1, 2]),
  }  # fmt: skip
  with Writer(tmp_path, first_step=0, num_steps=1) as writer:
    writer.write(0, {key: given for key, (given, _) in kinds.items()}, {})
  found = json.loads((tmp_path / 'metrics.jsonl').read_text())
  expected = {key: number for key, (_, number) in kinds.items()}
  assert found == {'step': 0, **expected}
  assert {k: type(v) for k, v in found.items() if k != 'step'} == {
    k: type(v) for k, v in expected.items()
  }


@pytest.mark.parametrize(
  'bad, timing, message',
  [
    ({'x': 'good'}, {}, "x: str 'good': expected a number"),
    ({'x': {'y': 1}}, {}, 'x: dict'),
    ({'x': [1, 2]}, {}, 'x: list'),
    ({'x': 1j}, {}, 'x: complex'),
    ({'x': jax.random.key(0)}, {}, 'x: PRNGKeyArray'),
    ({'x': np.array(['a'])}, {}, 'x: ndarray'),
    ({'x': np.zeros((13, 5))}, {}, r'x has shape \(13, 5\): expected '),
    ({'step': 1}, {}, "'step': expected keys"),
    # The two do not mix.
    ({'timing/step_s': 1.0}, {}, "'timing/step_s': expected keys that begin"),
    ({}, {'tokens_per_s': 1.0}, "'tokens_per_s': expected keys that begin"),
    ({}, {'timing/x': 'good'}, 'timing/x: str'),
  ],
)  # fmt: skip
def test_what_is_refused(tmp_path, bad, timing, message):
  with Writer(tmp_path, first_step=0, num_steps=1) as writer:
    with pytest.raises(ValueError, match=f'^{message}') as caught:
      writer.write(0, bad, timing)
    assert '\n' not in str(caught.value)
    writer.write(0, {'x': 1}, {})  # It was not the step's.
  assert steps_of(tmp_path / 'metrics.jsonl') == [0]


def test_steps_come_in_order(tmp_path):
  with Writer(tmp_path, first_step=0, num_steps=9) as writer:
    writer.write(0, {}, {})
    for step in (0, 2):
      with pytest.raises(AssertionError, match=f'step {step} after 0'):
        writer.write(step, {}, {})
  with pytest.raises(AssertionError, match='closed'):
    writer.write(1, {}, {})
  writer.close()  # Once more does no harm.


# Faults.


def test_a_full_disk_stops_with_one_line(tmp_path, monkeypatch):
  write, full = os.write, False

  def limited(descriptor, data):
    if full:
      write(descriptor, data[:5])
      raise OSError(28, 'No space left on device')
    return write(descriptor, data)

  monkeypatch.setattr(os, 'write', limited)
  with pytest.raises(OSError, match='step 1 could not be written'):
    with Writer(tmp_path, first_step=0, num_steps=9) as writer:
      for step in range(9):
        full = step == 2  # When step 1 is written; there is room again later.
        try:
          writer.write(step, {'x': step}, {})
        finally:
          full = False
  # Nor does the step that was under way follow the one that is not there.
  for name in ('metrics.jsonl', 'timing.jsonl'):
    assert steps_of(tmp_path / name) == [0]


def test_a_second_fault_does_not_hide_the_first(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(28, 'No space left on device')

  with pytest.raises(KeyError, match='first') as caught:
    with Writer(tmp_path, first_step=0, num_steps=9):
      monkeypatch.setattr(os, 'fsync', full)
      raise KeyError('first')
  (note,) = caught.value.__notes__
  assert 'metrics.jsonl: the last records' in note


def test_a_workdir_that_is_a_file(tmp_path):
  (tmp_path / 'workdir').write_text('')
  for first_step in (0, 1):
    with pytest.raises(ValueError, match='cannot be used') as caught:
      Writer(tmp_path / 'workdir', first_step=first_step, num_steps=2)
    assert '\n' not in str(caught.value)


class Gone:
  """Standard output whose reader has left."""

  def isatty(self):
    return False

  def write(self, text):
    raise BrokenPipeError(32, 'Broken pipe')


def test_a_terminal_that_is_gone(whole, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(sys, 'stdout', Gone())
  run(tmp_path, range(STEPS), shown=[('reward', 'reward', '.3f')])
  monkeypatch.undo()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == whole['metrics.jsonl']
  assert [r.message for r in caplog.records] == [
    'Lost the terminal ([Errno 32] Broken pipe); the run continues.'
  ]


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run(tmp_path / 'none', range(STEPS), shown=[('reward', 'reward', '.3f')])
  assert not (tmp_path / 'none').exists()
  # What is wrong is wrong on each, or the others would wait for the first.
  with Writer(tmp_path, first_step=0, num_steps=1) as writer:
    with pytest.raises(ValueError, match='x: str'):
      writer.write(0, {'x': 'good'}, {})
  assert capsys.readouterr().out == ''


# TensorBoard, the terminal.


def shown_by_tensorboard(workdir, tag: str) -> dict[int, float]:
  """By its rules: a start makes void what is from its step on."""
  found = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    for event in events_test.parsed(path.read_bytes()):
      if event.session_log.status == 1:
        found = {s: x for s, x in found.items() if s < event.step}
      for value in event.summary.value:
        if value.tag == tag:
          found[event.step] = value.simple_value
  return found


def test_tensorboard_after_a_restart(tmp_path):
  for first_step, end in ((0, 5), (3, STEPS)):
    with Writer(tmp_path, first_step=first_step, num_steps=STEPS) as writer:
      for step in range(first_step, end):
        given = values(step) | {'start': first_step}
        writer.write(step, given, {'timing/step_s': 0.5})
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2
  starts = shown_by_tensorboard(tmp_path, 'start')
  assert starts == {0: 0, 1: 0, 2: 0, 3: 3, 4: 3, 5: 3}
  losses = shown_by_tensorboard(tmp_path, 'loss')
  assert math.isnan(losses.pop(3))  # It can show one.
  assert losses == {s: np.float32(values(s)['loss']) for s in losses}
  timing = shown_by_tensorboard(tmp_path, 'timing/step_s')
  assert timing == dict.fromkeys(range(STEPS), 0.5)
  assert shown_by_tensorboard(tmp_path, 'lengths') == {}


def test_the_terminal_shows_what_is_asked_for(tmp_path, capsys):
  shown = [('loss', 'loss', '.1f'), ('time', 'timing/step_s', '.0f')]
  with Writer(
    tmp_path, first_step=0, num_steps=2, shown=shown, every_s=0
  ) as writer:
    for step, loss in enumerate((jnp.float32(0.25), math.nan)):
      writer.write(step, {'loss': loss}, {'timing/step_s': 7 + step})
  header, *rows = capsys.readouterr().out.splitlines()
  assert header.split() == ['step', 'loss', 'time', 'left']
  assert rows[0].split()[:3] == ['1/2', '0.2', '7']
  assert rows[1].split()[:3] == ['2/2', 'nan', '8']


def test_a_step_is_shown_at_once_when_it_is_flushed(tmp_path, capsys):
  shown = [('loss', 'loss', '.1f')]
  with Writer(tmp_path, first_step=0, num_steps=2, shown=shown) as writer:
    writer.write(0, {'loss': jnp.float32(0.25)}, {})
    assert capsys.readouterr().out == ''
    writer.flush()
    assert '0.2' in capsys.readouterr().out


def test_what_importing_it_loads():
  code = (
    'import sys, rlpt_jax.core.metrics\n'
    'assert not {"rich", "tensorflow", "torch"} & {*sys.modules}'
  )
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)
