"""Runs the stages of a long program, each of them once.

A file records the stages that are done. So an interrupted program, if started
again, resumes at the first stage that is not done.
"""

import contextlib
import json
import pathlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlpt_jax.core import output_files
from rlpt_jax.training.preemption import EXIT_PREEMPTED

NOTES = 'quickstart.json'
GOES_ON = 'the same command resumes here'
INTERRUPTED = 130  # The exit status after Ctrl-C.


class Stages:
  """Runs those stages of a folder that have not been done yet.

  Raises ValueError if the folder was begun with other settings, or if it has
  files but no record of stages.
  """

  def __init__(self, workdir: pathlib.Path, settings: dict[str, Any]):
    self._workdir, self._path = workdir, workdir / NOTES
    self._count, self._begun = 0, time.monotonic()
    self._notes = {'settings': settings, 'done': {}}
    if self._path.exists():
      self._notes = json.loads(self._path.read_text())
      recorded = self._notes['settings']
      if changed := [
        f'{name}={recorded.get(name)}, now {value}'
        for name, value in settings.items()
        if recorded.get(name) != value
      ]:
        raise ValueError(
          f'{workdir}: was begun with other settings: {"; ".join(changed)}. '
          'Restore those, or choose another folder.'
        )
    elif workdir.exists() and any(workdir.iterdir()):
      raise ValueError(
        f'{workdir}: has files but no {NOTES}; expected a new folder, or one '
        'that was begun here. Choose another folder.'
      )
    workdir.mkdir(parents=True, exist_ok=True)
    self._save()

  def do(self, title: str, work: Callable[[], Any]) -> Any:
    """Runs `work` unless this stage is done, and returns what `work` returned.

    That must be JSON data, because it is recorded.
    """
    self._announce(title)
    done = self._notes['done']
    if title not in done:
      done[title] = work()
      self._save()
    return done[title]

  def run(self, title: str, *command: str):
    """Prints `rlpt COMMAND`, and runs it in the folder unless it is done.

    The command runs in this process, so that libraries load once and later
    stages find compiled programs.
    """
    shown = shlex.join(['rlpt', *command])
    self._announce(title)
    print(f'   $ {shown}', flush=True)
    if self._notes['done'].get(title) == shown:
      print('   already done')
      return
    status = status_of(command, self._workdir)
    if status in (INTERRUPTED, EXIT_PREEMPTED):
      raise KeyboardInterrupt(GOES_ON)
    if status:
      raise ValueError(
        f'{title}: {shown} in {self._workdir} failed with status {status}; '
        'see its output above. Fix this and restart: it resumes here.'
      )
    self._notes['done'][title] = shown
    self._save()

  def _announce(self, title: str):
    self._count += 1
    seconds = time.monotonic() - self._begun
    print(f'\n{self._count}. {title}  [{seconds:.0f} s]', flush=True)

  def _save(self):
    text = json.dumps(self._notes, indent=2) + '\n'
    output_files.replace(self._path, [text.encode()])


def status_of(command: Sequence[str], folder: pathlib.Path) -> int:
  """Runs `rlpt COMMAND` in a folder and returns its exit status."""
  from rlpt_jax import cli

  with contextlib.chdir(folder), sigterm_interrupts():
    try:
      return cli.main([*command])
    except SystemExit as left:
      return left.code


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
  """Treats SIGTERM as Ctrl-C, for commands that do not handle it themselves."""

  def interrupt(number, frame):
    del number, frame
    raise KeyboardInterrupt(GOES_ON)

  before = signal.signal(signal.SIGTERM, interrupt)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
