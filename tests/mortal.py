"""Runs that die where a test wants them to, each a process of its own.

A server imports everything once and forks for every run, which is half of what
a run would cost. The run tells when it enters and leaves a part; the server
then kills it, after a drawn time in that part or, at the latest, at its end.

  with mortal.running() as run:
    end = run('train_rl', folder, workdir, Fate('rollout', 3, after_s=0.02))
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
RANDOM = 'random:tiny_qwen3'


@dataclasses.dataclass(frozen=True)
class Fate:
  """What happens in the first part of this name that step `step` comes to.

  KILL: kill -9. TERM: it is told to leave. FULL: from then on, no file becomes
  longer than 100 bytes: what a full disk does, also to libraries in C++.
  """

  part: str
  step: int | None  # None: before there is one.
  after_s: float = 0.0
  kind: Literal['KILL', 'TERM', 'FULL'] = 'KILL'


class Span(NamedTuple):
  """A part that a run was in; `end_s` is infinite where it was killed."""

  part: str
  step: int | None
  start_s: float
  end_s: float


@dataclasses.dataclass(frozen=True)
class End:
  """How a run ended: its status, as subprocess has it, and what it said."""

  status: int
  spans: list[Span]
  error: str  # What `rlpt` would print.
  stderr: str


@contextlib.contextmanager
def running() -> Iterator[Callable[..., End]]:
  """Yields run(program, folder, workdir, fate=None)."""
  server = subprocess.Popen(
    [sys.executable, '-m', __name__], cwd=ROOT, stdin=subprocess.PIPE,
    stdout=subprocess.PIPE, text=True,
  )  # fmt: skip

  def run(program, folder, workdir, fate: Fate | None = None) -> End:
    job = [program, str(folder), str(workdir)]
    job.append(dataclasses.asdict(fate) if fate else None)
    print(json.dumps(job), file=server.stdin, flush=True)
    status, told, stderr = json.loads(server.stdout.readline())
    spans, errors = _spans(told)
    return End(status, spans, ''.join(errors), stderr)

  try:
    yield run
  finally:
    server.stdin.close()
    server.wait()
    server.stdout.close()


def _spans(told: list) -> tuple[list[Span], list[str]]:
  open_, found = {}, []
  for word, part, step, at in told:
    if word == 'leaves':
      found.append(Span(part, step, open_.pop((part, step)), at))
    elif word != 'raises':
      open_[part, step] = at
  found += [Span(*key, at, float('inf')) for key, at in open_.items()]
  return found, [part for word, part, *_ in told if word == 'raises']


# The run. What follows is in the server and its children.


class Watch:
  """Tells of the parts of a run, and lets its fate come."""

  def __init__(self, fate: Fate | None, descriptor: int):
    self._fate, self._descriptor = fate, descriptor
    self.writer = self.store = None

  def tell(self, word: str, part: str, step: int | None = None):
    line = json.dumps([word, part, step, time.monotonic()])
    os.write(self._descriptor, f'{line}\n'.encode())

  def step(self) -> int | None:
    """The one under way: what has no line yet."""
    return self.writer._next_step if self.writer else None

  @contextlib.contextmanager
  def part(self, name: str, step: int | None):
    fate = self._fate
    if not fate or (fate.part, fate.step) != (name, step):
      fate = None
    else:
      self._fate = None  # Once.
    self.tell('meets its fate in' if fate else 'enters', name, step)
    if fate and fate.kind == 'FULL':
      if name != 'commit' and self.store:
        # Or a save that goes on behind the loop fails first, where it is slow.
        self.store._manager.wait_until_finished()
      resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
      yield
    finally:
      self.tell('leaves', name, step)
      if fate and fate.kind == 'KILL':
        os.kill(os.getpid(), signal.SIGKILL)

  def around(self, owner, name: str, part: str, step: Callable):
    """Calls of owner.name are that part."""
    call = getattr(owner, name)

    @functools.wraps(call)
    def watched(*args, **options):
      with self.part(part, step(*args)):
        return call(*args, **options)

    setattr(owner, name, watched)


def watch_parts(watch: Watch):
  """All that a run does is a part of some name."""
  from orbax.checkpoint import CheckpointManager

  from rlpt_jax.core.metrics import Writer
  from rlpt_jax.core.timers import Timers
  from rlpt_jax.rollout import rollout_files
  from rlpt_jax.runs import run_folder as runs
  from rlpt_jax.training.checkpoints import Store

  timed, made, opened = Timers.__call__, Writer.__init__, Store.__init__

  @contextlib.contextmanager
  def timer(self, name):
    with watch.part(name, watch.step()), timed(self, name):
      yield

  def make(self, *args, **options):
    watch.writer = self
    made(self, *args, **options)

  def open_(self, *args, **options):
    opened(self, *args, **options)
    watch.store = self

  Timers.__call__, Writer.__init__, Store.__init__ = timer, make, open_
  watch.around(runs, 'start', 'start', lambda *_: None)
  watch.around(
    rollout_files, 'write', 'rollout file', lambda _, step, *__: step
  )
  watch.around(Writer, '_record', 'metrics', lambda _, step, *__: step)
  watch.around(Writer, 'sync', 'sync', lambda self: self._next_step - 1)
  # A checkpoint is named by how many steps it has seen.
  watch.around(Store, 'save', 'checkpoint', lambda _, step, *__: step - 1)
  watch.around(
    CheckpointManager, '_finalize', 'commit', lambda _, step, *__: step - 1
  )


def train(program: str, folder: pathlib.Path, workdir: pathlib.Path):
  """A few steps with everything in them that a run may be killed in."""
  from rlpt_jax.data import masks
  from rlpt_jax.programs.train_rl import train_rl
  from rlpt_jax.programs.train_sft import train_sft
  from rlpt_jax.rollout.sampling import Sampling
  from rlpt_jax.runs.run_folder import Saving
  from tests.programs import learning_task
  from tests.rollout import game_test

  if program == 'game':
    config = game_test.config(folder, saving=Saving(every=1))
    by_chance = dataclasses.replace(
      config.collector, random_steps=2, random_choose=masks.uncertain_token
    )
    config = dataclasses.replace(config, collector=by_chance)
    return train_rl(config, workdir=workdir)
  if program in ('train_rl', 'pipelined', 'overlapped'):
    config = learning_task.short(
      folder, RANDOM, reward=learning_task.by_length,
      # Of two, every other group is flat, and replaced.
      sampling=Sampling(samples=2, max_new_tokens=3),
    )  # fmt: skip
    if program != 'train_rl':
      config = learning_task.pipelined(config, overlap=program == 'overlapped')
    return train_rl(config, workdir=workdir)
  cold = learning_task.cold_start(
    folder,
    num_steps=6,
    saving=Saving(every=2),
    held_out_every=3,
    held_out_rows=8,
  )
  cold = dataclasses.replace(cold, held_out=cold.data)
  return train_sft(cold, workdir=workdir)


def _child(job, descriptor: int):
  program, folder, workdir, fate = job
  watch = Watch(Fate(**fate) if fate else None, descriptor)
  try:
    import jax

    # Where so much is compiled again, what is small counts too.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    watch_parts(watch)
    train(program, pathlib.Path(folder), pathlib.Path(workdir))
  except (ValueError, OSError) as error:
    watch.tell('raises', str(error))
    os._exit(2)
  except SystemExit as left:
    os._exit(left.code)
  except BaseException:
    import traceback

    traceback.print_exc()
    os._exit(1)
  os._exit(0)


def _fork(job) -> list:
  """[status, what it told, what it printed]."""
  fate = Fate(**job[-1]) if job[-1] else None
  with tempfile.TemporaryFile() as printed:
    ours, its = os.pipe()
    pid = os.fork()
    if not pid:
      os.close(ours)
      os.dup2(printed.fileno(), 2)
      os.dup2(2, 1)
      _child(job, its)
    os.close(its)
    told = []
    with os.fdopen(ours) as lines:
      for line in lines:
        told.append(json.loads(line))
        if told[-1][0].startswith('meets') and fate.kind != 'FULL':
          time.sleep(fate.after_s)
          os.kill(pid, getattr(signal, f'SIG{fate.kind}'))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    printed.seek(0)
    return [status, told, printed.read().decode(errors='replace')]


def _serve():
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  # Before it forks, so that it has not to be done again; no device is opened.
  from rlpt_jax.programs import train_rl, train_sft  # noqa: F401
  from tests.programs import learning_task  # noqa: F401
  from tests.rollout import game_test  # noqa: F401

  for line in sys.stdin:
    print(json.dumps(_fork(json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
  _serve()
